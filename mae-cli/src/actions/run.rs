//! What every action has: its results folder, its reports, its device, its processes.

use std::fs;
use std::rc::Rc;
use std::time::Instant;

use mae_core::engine::{Collective, SingleProcess};
use mae_dist::{Environment, GlooCollective, GlooCollectiveOptions, Role};
use tch::Device;

use super::signals::Interrupt;
use super::{End, device};
use crate::error::{Error, Result};
use crate::report;
use crate::report::progress::Progress;
use crate::report::status::StatusFile;
use crate::spec::{Action, Plan};

/// An action under way.
pub struct Run {
    /// Bars or lines for the person who watches.
    pub progress: Progress,
    /// `status.json`; silent on all ranks but the first.
    pub status: StatusFile,
    /// Where tensors live.
    pub device: Device,
    collective: Rc<dyn Collective>,
    interrupt: Interrupt,
    /// When `train.max_time` is over.
    deadline: Option<Instant>,
}

impl Run {
    /// Watches for signals, makes the results folder, writes `experiment.yaml`, opens `status.json`, finds the device and the other
    /// processes, and tells the user what is worth knowing.
    ///
    /// # Errors
    /// When the folder cannot be written, or a device or process is missing.
    pub fn start(plan: &Plan) -> Result<Self> {
        let watched = Interrupt::watch();
        let interrupt = watched.map_err(unwatched)?;
        let limit = if plan.action() == Action::Train { plan.max_time() } else { None };
        let deadline = limit.and_then(|limit| Instant::now().checked_add(limit));
        let environment = Environment::resolve(&Environment::variables(), None)?;
        let first = match &environment.role {
            Role::Worker(worker) => worker.rank == 0,
            Role::Alone | Role::NodeLauncher(_) => true,
        };
        let folder = plan.results_dir();
        fs::create_dir_all(folder).map_err(|source| Error::File {
            key: "results_dir".into(),
            problem: format!("the folder {} cannot be made: {source}", folder.display()),
            help: "name a folder below one that you can write to".into(),
        })?;
        let progress = if first { Progress::detect() } else { Progress::silent() };
        let mut status = if first {
            write_atomically(&folder.join("experiment.yaml"), plan.to_yaml().as_bytes())?;
            StatusFile::open(folder, plan.action())?
        } else {
            StatusFile::silent(plan.action())
        };
        status.starting()?;
        for note in plan.notes().iter().cloned().chain(plan.differences_from_tao()) {
            progress.say(&format!("note: {note}"));
        }
        match Self::connect(plan, &environment, &progress) {
            Ok((device, collective)) => Ok(Run { progress, status, device, collective, interrupt, deadline }),
            Err(error) => {
                status.fail(error.failure(), &error.to_string())?;
                Err(error)
            }
        }
    }

    /// The processes of this run.
    pub fn collective(&self) -> &dyn Collective {
        &*self.collective
    }

    /// The same, to be held while the run's reports are in use.
    pub fn collective_handle(&self) -> Rc<dyn Collective> {
        Rc::clone(&self.collective)
    }

    /// Whether the user or the system asked the run to end, or its time is over.
    pub fn is_interrupted(&self) -> bool {
        self.interrupt.is_asked() || self.is_time_over()
    }

    /// Whether `train.max_time` is over.
    pub fn is_time_over(&self) -> bool {
        self.deadline.is_some_and(|deadline| Instant::now() >= deadline)
    }

    /// Whether this process writes the run's files.
    pub fn is_first(&self) -> bool {
        self.collective.rank() == 0
    }

    /// Writes the last line of `status.json`.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn finish(self, result: &Result<End>) -> Result<()> {
        match result {
            Ok(End::Done) => self.status.succeed()?,
            Ok(End::Interrupted) => self.status.interrupted()?,
            Err(error) => self.status.fail(error.failure(), &error.to_string())?,
        }
        Ok(())
    }

    fn connect(
        plan: &Plan,
        environment: &Environment,
        progress: &Progress,
    ) -> Result<(Device, Rc<dyn Collective>)> {
        match &environment.role {
            Role::Alone => {
                if plan.num_gpus() > 1 {
                    let (action, count) = (plan.action().name(), plan.num_gpus());
                    return Err(Error::Core(mae_core::Error::Setting {
                        key: format!("{action}.num_gpus"),
                        problem: format!("{count} processes are asked for, and this version starts one only"),
                        remedy: format!(
                            "set it to 1, or start the processes with torchrun --no-python --nproc-per-node {count} \
                             mae {action} …"
                        ),
                    }));
                }
                Ok((device::choose(plan, progress)?, Rc::new(SingleProcess)))
            }
            Role::Worker(worker) => {
                let device = device::choose(plan, progress)?;
                if device != Device::Cpu && worker.world_size > 1 {
                    return Err(Error::Device {
                        problem: "several processes on CUDA devices need NCCL, which this version does not have".into(),
                        help: "set device=cpu, or start one process".into(),
                    });
                }
                let group = GlooCollective::connect(worker, &GlooCollectiveOptions::default())?;
                Ok((device, Rc::new(group)))
            }
            Role::NodeLauncher(_) => Err(Error::Device {
                problem: "WORLD_SIZE, NODE_RANK and MASTER_ADDR ask for several nodes, which this version cannot launch \
                          itself"
                    .into(),
                help: "start the workers with torchrun --no-python, or unset these variables".into(),
            }),
        }
    }
}

/// Signals cannot be watched.
pub(super) fn unwatched(error: std::io::Error) -> Error {
    Error::Device {
        problem: format!("SIGINT and SIGTERM cannot be watched: {error}"),
        help: "start mae in an environment that lets a program handle its signals".into(),
    }
}

/// Writes a file whole or not at all.
pub(super) fn write_atomically(path: &std::path::Path, bytes: &[u8]) -> Result<()> {
    use std::io::Write;
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
    let folder = folder.unwrap_or(std::path::Path::new("."));
    let write = || -> std::io::Result<()> {
        // Readable by whom the umask lets read it, as any file that a program writes.
        let permissions = std::os::unix::fs::PermissionsExt::from_mode(0o666);
        let mut file = tempfile::Builder::new().permissions(permissions).tempfile_in(folder)?;
        file.write_all(bytes)?;
        file.as_file().sync_all()?;
        file.persist(path)?;
        Ok(())
    };
    write().map_err(|source| report::Error::Write { path: path.to_owned(), source })?;
    Ok(())
}

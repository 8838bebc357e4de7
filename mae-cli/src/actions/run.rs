//! What every action has: its results folder, its reports, its device, its processes.

use std::fs;
use std::rc::Rc;
use std::time::{Duration, Instant};

use mae_core::engine::{Collective, CollectiveError, SingleProcess};
use mae_core::params::Sharding;
use mae_dist::fault::Faults;
use mae_dist::{Environment, Fsdp, GlooCollective, GlooCollectiveOptions, Role};
use tch::Device;

use super::signals::Interrupt;
use super::{End, agreement, device};
use crate::error::{Error, Result};
use crate::report::progress::Progress;
use crate::report::status::StatusFile;
use crate::report::write_atomically;
use crate::spec::{Action, Plan};

/// The processes of a run.
struct Group {
    collective: Rc<dyn Collective>,
    /// The same, where there are several.
    gloo: Option<Rc<GlooCollective>>,
    faults: Faults,
}

impl Group {
    fn alone() -> Self {
        Group { collective: Rc::new(SingleProcess), gloo: None, faults: Faults::default() }
    }
}

/// An action under way.
pub struct Run {
    /// Bars or lines for the person who watches.
    pub progress: Progress,
    /// `status.json`; silent on all ranks but the first.
    pub status: StatusFile,
    /// Where tensors live.
    pub device: Device,
    group: Group,
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
    pub fn start(plan: &Plan, environment: &Environment) -> Result<Self> {
        let interrupt = Interrupt::watch()?;
        let limit = if plan.action() == Action::Train { plan.max_time() } else { None };
        let deadline = limit.and_then(|limit| Instant::now().checked_add(limit));
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
        let progress = if first {
            Progress::detect().logged(&|name| std::env::var(name).ok())
        } else {
            Progress::silent()
        };
        progress.say(&format!("{} results will be saved at: {}", plan.action().title(), folder.display()));
        let mut status = if first {
            write_atomically(&folder.join("experiment.yaml"), plan.to_yaml().as_bytes())?;
            let cloud = std::env::var("CLOUD_BASED").is_ok_and(|value| value == "True");
            StatusFile::open(folder, plan.action())?.uploaded_by_the_starter(cloud)
        } else {
            StatusFile::silent(plan.action())
        };
        status.starting()?;
        for note in plan.notes().iter().cloned().chain(plan.differences_from_tao()) {
            progress.say(&format!("note: {note}"));
        }
        for warning in &environment.warnings {
            progress.say(&format!("note: {warning}"));
        }
        match Self::connect(plan, environment, &progress) {
            Ok((device, group)) => Ok(Run { progress, status, device, group, interrupt, deadline }),
            Err(error) => {
                status.fail(error.failure(), &error.to_string())?;
                Err(error)
            }
        }
    }

    /// The processes of this run.
    pub fn collective(&self) -> &dyn Collective {
        &*self.group.collective
    }

    /// The same, to be held while the run's reports are in use.
    pub fn collective_handle(&self) -> Rc<dyn Collective> {
        Rc::clone(&self.group.collective)
    }

    /// What keeps a model in shares, one on each of several processes; nothing where there is one.
    ///
    /// # Errors
    /// When the group has failed.
    pub fn sharding(&self) -> Result<Option<Rc<dyn Sharding>>> {
        let Some(group) = &self.group.gloo else { return Ok(None) };
        let sharding = Fsdp::new(Rc::clone(group)).map_err(mae_core::Error::from)?;
        Ok(Some(self.group.faults.in_sharding(Rc::new(sharding))))
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
        self.group.collective.rank() == 0
    }

    /// Gives the other processes this long for each operation from now on.
    ///
    /// # Errors
    /// When the group has failed.
    pub fn set_timeout(&self, seconds: usize) -> Result<(), CollectiveError> {
        match &self.group.gloo {
            Some(group) => group.set_timeout(Duration::from_secs(seconds as u64)),
            None => Ok(()),
        }
    }

    /// Writes the last line of `status.json`.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn finish(mut self, plan: &Plan, result: &Result<End>) -> Result<()> {
        // Rank 0 may be the one that is lost.
        if result.is_err()
            && !self.is_first()
            && self.group.gloo.as_ref().is_some_and(|group| group.speaks_for_the_run())
        {
            self.status = StatusFile::open(plan.results_dir(), plan.action())?;
        }
        match result {
            Ok(End::Done) => self.status.succeed()?,
            Ok(End::Interrupted) => self.status.interrupted()?,
            Err(error) => self.status.fail(error.failure(), &error.to_string())?,
        }
        Ok(())
    }

    fn connect(plan: &Plan, environment: &Environment, progress: &Progress) -> Result<(Device, Group)> {
        // One process of one node needs no group, whoever started it.
        let Role::Worker(worker) = &environment.role else {
            return Ok((device::choose(plan, 0, progress)?, Group::alone()));
        };
        let device = device::choose(plan, worker.local_rank, progress)?;
        // Until the first step is done, and around checkpoints, the others are waited for longer.
        let patience = Duration::from_secs(plan.train.init_timeout as u64);
        let options = GlooCollectiveOptions {
            rendezvous_timeout: patience,
            timeout: patience,
            cuda: match device {
                Device::Cuda(index) if worker.world_size > 1 => Some(index),
                _ => None,
            },
            ..GlooCollectiveOptions::default()
        };
        let gloo = Rc::new(GlooCollective::connect(worker, &options)?);
        let faults = Faults::of(worker)?;
        let collective = faults.in_group(Rc::clone(&gloo) as Rc<dyn Collective>);
        agreement::on_the_spec(plan, &*collective)?;
        Ok((device, Group { collective, gloo: Some(gloo), faults }))
    }
}

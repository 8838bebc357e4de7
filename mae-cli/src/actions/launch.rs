//! One process or many: what the environment and the spec ask for, and the node's launcher.
//!
//! A process that finds `LOCAL_RANK` is a worker, whoever started it. Any other runs the action itself when one process
//! is enough, else it starts one worker for each device of this node with its own command line, and supervises them.

use std::fs::{self, File};
use std::io::{IsTerminal as _, Read as _, Seek as _, SeekFrom};
use std::path::PathBuf;

use mae_dist::c10d::Nccl;
use mae_dist::{DistError, Ended, Environment, Line, LocalLauncher, NodeLauncher, Role, Stream};
use tch::{Cuda, Device};

use super::signals::Interrupt;
use super::{End, device};
use crate::error::{Error, Result};
use crate::report::progress::Progress;
use crate::report::status::{Failure, StatusFile};
use crate::spec::{Action, Plan};

/// Exit codes after which the same command would only fail again: the spec, the data, an interrupt.
const FINAL_CODES: [i32; 3] = [1, 3, 4];

/// Who runs the action.
pub(super) enum Placement {
    /// This process, with what the environment says of it.
    Here(Environment),
    /// The workers of this launcher.
    Workers(Box<LocalLauncher>),
}

/// Finds out what this process is to do.
///
/// # Errors
/// Variables or fields that contradict each other, or a device that cannot be used.
pub(super) fn place(plan: &Plan) -> Result<Placement> {
    let silent = Progress::silent();
    // A worker chooses its device later, and says so.
    let variables = Environment::variables();
    let gpus = match device::choose(plan, 0, &silent) {
        Ok(Device::Cuda(_)) => Some(usize::try_from(Cuda::device_count()).unwrap_or(0)),
        Ok(_) | Err(_) => None,
    };
    let environment = Environment::resolve(&variables, gpus)?;
    let (workers, node) = match &environment.role {
        _ if plan.action() == Action::Export => return Ok(Placement::Here(environment)),
        Role::Worker(_) => return Ok(Placement::Here(environment)),
        Role::Alone if plan.num_nodes() > 1 => return Err(several_nodes(plan)),
        Role::Alone => (plan.num_gpus(), None),
        Role::NodeLauncher(node) => {
            node.check_network()?;
            (node.gpus_per_node.or(gpus).unwrap_or_else(|| plan.num_gpus()), Some(node))
        }
    };
    let nodes = node.map_or(1, |node| node.nodes);
    if workers * nodes == 1 {
        return Ok(Placement::Here(environment));
    }
    if let Some(gpus) = gpus {
        if workers > gpus {
            return Err(Error::Device {
                problem: format!("{workers} devices are asked for, and this machine has {gpus}"),
                help: format!("set {}.num_gpus={gpus}, or device=cpu", plan.action().name()),
            });
        }
        // Said once, before each worker finds out.
        Nccl::load().map_err(|reason| DistError::Nccl { reason })?;
    }
    environment.warnings.iter().for_each(|warning| say(&format!("note: {warning}")));
    Ok(Placement::Workers(Box::new(launcher(plan, workers, node)?)))
}

fn several_nodes(plan: &Plan) -> Error {
    let (action, nodes) = (plan.action().name(), plan.num_nodes());
    mae_core::Error::Setting {
        key: format!("{action}.num_nodes"),
        problem: format!("{nodes} machines are asked for, and nothing says which one this is or where they meet"),
        remedy: format!(
            "start mae on every machine with WORLD_SIZE={nodes}, NODE_RANK (0 to {}), MASTER_ADDR and MASTER_PORT set, or \
             with torchrun --no-python; for one machine set {action}.num_nodes=1",
            nodes - 1
        ),
    }
    .into()
}

fn launcher(plan: &Plan, workers: usize, node: Option<&NodeLauncher>) -> Result<LocalLauncher> {
    let program = std::env::current_exe().map_err(|error| Error::Device {
        problem: format!("the path of this program is unknown: {error}"),
        help: "start mae by its full path, or start the workers with torchrun --no-python".into(),
    })?;
    let mut launcher = LocalLauncher::new(program, std::env::args_os().skip(1).collect(), workers);
    if let Some(node) = node {
        (launcher.node_rank, launcher.nodes) = (node.node_rank, node.nodes);
        launcher.master.clone_from(&node.master);
    }
    if plan.action() == Action::Train {
        launcher.max_restarts = plan.train.max_restarts;
    }
    launcher.final_codes = FINAL_CODES.to_vec();
    launcher.first_draws = std::io::stderr().is_terminal();
    Ok(launcher)
}

/// Runs the action on this node's workers, to their end.
///
/// # Errors
/// The failure of the first worker that failed; `status.json` has a line for it.
pub(super) fn supervise(plan: &Plan, launcher: &LocalLauncher) -> Result<End> {
    let interrupt = Interrupt::watch()?;
    let status = StatusTail::new(plan);
    let node = match launcher.nodes {
        1 => String::new(),
        nodes => format!(" of node {} of {nodes}", launcher.node_rank),
    };
    say(&format!("Starting {} processes{node}, each with {}", launcher.workers, threads(launcher.workers)));
    let restarting = |error: &DistError| {
        say(&format!("{error}\nStarting all processes again from the last checkpoint"));
    };
    let ended = launcher.run(interrupt.flag(), pass_on, restarting);
    match ended {
        Ok(Ended::Done) => Ok(End::Done),
        Ok(Ended::Stopped) => Ok(End::Interrupted),
        Err(error) => {
            if launcher.node_rank == 0 {
                status.fail_unless_said(plan, &error)?;
            }
            Err(error.into())
        }
    }
}

/// Compute threads of each worker: what the user asks for, else its part of the machine.
fn threads(workers: usize) -> String {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let asked = std::env::var("OMP_NUM_THREADS").ok().and_then(|text| text.trim().parse().ok());
    match asked.unwrap_or((cores / workers.max(1)).max(1)) {
        1 => "one thread".to_owned(),
        threads => format!("{threads} threads"),
    }
}

/// What a worker wrote, on the stream that it wrote it to.
fn pass_on(line: &Line) {
    match line.stream {
        Stream::Stderr => say(&line.to_string()),
        Stream::Stdout => print(&line.to_string()),
    }
}

#[expect(clippy::print_stderr, reason = "what workers write is passed on")]
fn say(line: &str) {
    eprintln!("{line}");
}

#[expect(clippy::print_stdout, reason = "what workers write is passed on")]
fn print(line: &str) {
    println!("{line}");
}

/// The part of `status.json` that this run writes.
struct StatusTail {
    path: PathBuf,
    start: u64,
}

impl StatusTail {
    fn new(plan: &Plan) -> Self {
        let path = plan.results_dir().join("status.json");
        let start = fs::metadata(&path).map_or(0, |data| data.len());
        Self { path, start }
    }

    /// Writes the line that a killed worker could not write.
    fn fail_unless_said(&self, plan: &Plan, error: &DistError) -> Result<()> {
        let mut text = String::new();
        let read = File::open(&self.path).and_then(|mut file| {
            file.seek(SeekFrom::Start(self.start))?;
            file.read_to_string(&mut text)
        });
        let said =
            read.is_ok() && text.lines().last().is_some_and(|line| line.contains("\"status\": \"FAILURE\""));
        if said || !plan.results_dir().is_dir() {
            return Ok(());
        }
        let status = StatusFile::open(plan.results_dir(), plan.action())?;
        status.fail(Failure::Runtime, &error.to_string())?;
        Ok(())
    }
}

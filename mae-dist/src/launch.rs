//! Starts a node's workers, passes on their output, and leaves no orphan behind.
//!
//! The launcher serves the store itself, as torchrun's agent does: the port is known to be free, and
//! the workers can still say who is missing when it is rank 0. Each worker leads a process group of its
//! own, so that what it starts ends with it; and a worker that has called [`follow_launcher`] is ended
//! by the kernel when its launcher dies.
#![forbid(unsafe_code)]

mod workers;

use std::ffi::OsString;
use std::fmt;
use std::net::{Ipv4Addr, TcpListener};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::RecvTimeoutError;
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, getppid, set_parent_process_death_signal};

use crate::c10d::{Store, StoreRole, TcpStoreOptions};
use crate::error::{DistError, Failure, Origin};
use workers::Workers;

/// The variable that tells a worker who its launcher is.
const LAUNCHER_PID: &str = "MAE_LAUNCHER_PID";

/// How often the launcher looks whether a worker has ended.
const POLL: Duration = Duration::from_millis(20);

/// How to start the workers of one node.
#[derive(Debug, Clone)]
pub struct LocalLauncher {
    /// The program to run, usually this one ([`std::env::current_exe`]).
    pub program: PathBuf,
    /// Its arguments.
    pub args: Vec<OsString>,
    /// Variables to set besides those of the rendezvous.
    pub variables: Vec<(OsString, OsString)>,
    /// Workers on this node, and on every other.
    pub workers: usize,
    /// Index of this node.
    pub node_rank: usize,
    /// Number of nodes.
    pub nodes: usize,
    /// Where the launcher of node 0 serves the store. `None` on a single node: a free port on loopback.
    pub master: Option<(String, u16)>,
    /// How long the others may go on after one has failed, to say why they fail too.
    pub report_timeout: Duration,
    /// How long a worker may take to end after it was asked to (SIGTERM) before it is killed.
    pub grace: Duration,
}

/// How a node's workers ended, if none failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ended {
    /// All exited with code 0.
    Done,
    /// They were asked to stop, and all have ended.
    Stopped,
}

/// Which of a worker's streams a line is from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stream {
    /// Standard output.
    Stdout,
    /// Standard error.
    Stderr,
}

/// A line that a worker wrote; displays with its rank in front.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Line {
    /// The worker's rank in the run.
    pub rank: usize,
    /// The stream it wrote to.
    pub stream: Stream,
    /// The text, without the end of the line.
    pub text: String,
}

impl fmt::Display for Line {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "[rank {}] {}", self.rank, self.text)
    }
}

impl LocalLauncher {
    /// A launcher for `workers` workers on this machine alone.
    #[must_use]
    pub fn new(program: PathBuf, args: Vec<OsString>, workers: usize) -> Self {
        Self {
            program,
            args,
            variables: Vec::new(),
            workers,
            node_rank: 0,
            nodes: 1,
            master: None,
            report_timeout: Duration::from_secs(5),
            grace: Duration::from_secs(10),
        }
    }

    /// Runs the workers to their end, on the calling thread, which must live as long as they do. Gives
    /// every line they write to `output`. Once `stop` is set, asks them to stop.
    ///
    /// When one fails, the others get `report_timeout` to end by themselves; what is left then, and
    /// what is left when this function returns or panics, is ended by force.
    ///
    /// # Errors
    /// [`DistError::Store`], [`DistError::Spawn`], or [`DistError::Worker`] for the worker that failed
    /// first.
    pub fn run(&self, stop: &AtomicBool, mut output: impl FnMut(&Line)) -> Result<Ended, DistError> {
        let (_store, address, port) = self.serve_store()?;
        let mut workers = Workers::spawn(self, &address, port)?;
        let mut failed = None;
        // Set once the workers are to end; what still runs then is asked to, and later made to.
        let mut deadline: Option<Instant> = None;
        let mut asked = false;
        loop {
            match workers.lines.recv_timeout(POLL) {
                Ok(line) => {
                    output(&line);
                    workers.note(line);
                    // Output first; but a worker that never stops writing must not hide that one failed.
                    if !workers.due() {
                        continue;
                    }
                }
                Err(RecvTimeoutError::Timeout) => {}
                // All streams are closed; the processes may still run.
                Err(RecvTimeoutError::Disconnected) => thread::sleep(POLL),
            }
            let failure = workers.reap();
            if deadline.is_none() {
                if failure.is_some() {
                    failed = failure;
                    deadline = Some(Instant::now() + self.report_timeout);
                } else if stop.load(Ordering::Relaxed) {
                    deadline = Some(Instant::now());
                }
            }
            if workers.all_ended() {
                break;
            }
            if let Some(time) = &mut deadline
                && Instant::now() >= *time
            {
                workers.signal(if asked { Signal::KILL } else { Signal::TERM });
                asked = true;
                *time = Instant::now() + self.grace;
            }
        }
        workers.drain(&mut output);
        match failed {
            Some(failed) => Err(workers.error(&failed)),
            None if deadline.is_some() => Ok(Ended::Stopped),
            None => Ok(Ended::Done),
        }
    }

    /// Node 0's launcher serves the store that all workers join.
    fn serve_store(&self) -> Result<(Option<Store>, String, u16), DistError> {
        let mut options = TcpStoreOptions {
            host: Ipv4Addr::LOCALHOST.to_string(),
            port: 0,
            role: StoreRole::Server,
            world_size: None,
            wait_for_workers: false,
            timeout: Duration::from_secs(60),
            rank: None,
        };
        match &self.master {
            Some((address, port)) => {
                options.host.clone_from(address);
                options.port = *port;
                let store = if self.node_rank == 0 { Some(Store::tcp(&options)?) } else { None };
                Ok((store, address.clone(), *port))
            }
            None => {
                // Bound here, so that nobody outside of this machine can reach it.
                let listener =
                    TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).map_err(|error| DistError::Store {
                        operation: "TCPStore",
                        address: "127.0.0.1".into(),
                        origin: Origin { rank: None, host: crate::host_name() },
                        failure: Failure::Rendezvous,
                        reason: error.to_string(),
                    })?;
                let store = Store::serve(listener, &options)?;
                let port = store.port()?;
                Ok((Some(store), options.host, port))
            }
        }
    }
}

/// To be called first thing in a worker: from then on, the kernel kills this process when the launcher
/// that started it dies. Does nothing in a process that has no launcher of ours.
///
/// Returns `false` if the launcher is gone already; the worker should then end at once.
#[must_use]
pub fn follow_launcher() -> bool {
    let launcher = std::env::var(LAUNCHER_PID).ok().and_then(|pid| pid.parse().ok()).and_then(Pid::from_raw);
    let Some(launcher) = launcher else { return true };
    // Without this (an unusual kernel), orphans end when their connections break.
    let _ = set_parent_process_death_signal(Some(Signal::KILL));
    getppid() == Some(launcher)
}

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
use crate::collective::report_end;
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
    /// How long a worker may take to end after it was asked to (SIGTERM) because another failed, before it is killed.
    pub grace: Duration,
    /// The same when the user asks: the workers then finish their step and save.
    pub stop_grace: Duration,
    /// How often the workers are started again after one failed.
    pub max_restarts: usize,
    /// Exit codes of workers that would only fail again.
    pub final_codes: Vec<i32>,
    /// Whether the standard error of this node's first worker is that of the launcher, instead of being passed on
    /// line by line: on a terminal it can then draw a progress bar.
    pub first_draws: bool,
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
            // With the three seconds in which ranks say that they failed, a run ends within ten of the first error.
            report_timeout: Duration::from_secs(4),
            grace: Duration::from_secs(2),
            stop_grace: Duration::from_secs(600),
            max_restarts: 0,
            final_codes: Vec::new(),
            first_draws: false,
        }
    }

    /// Runs the workers to their end, on the calling thread, which must live as long as they do. Gives
    /// every line they write to `output`. Once `stop` is set, asks them to stop.
    ///
    /// When one fails, the others get `report_timeout` to end by themselves; what is left then, and
    /// what is left when this function returns or panics, is ended by force. Up to `max_restarts` times, all are then
    /// started again, which `restarting` is told with the failure; with several nodes, each launcher restarts its own.
    ///
    /// # Errors
    /// [`DistError::Store`], [`DistError::Spawn`], or [`DistError::Worker`] for the worker that failed
    /// first.
    pub fn run(
        &self,
        stop: &AtomicBool,
        mut output: impl FnMut(&Line),
        mut restarting: impl FnMut(&DistError),
    ) -> Result<Ended, DistError> {
        let meeting = self.serve_store()?;
        let mut attempt = 0;
        for left in (0..=self.max_restarts).rev() {
            match self.attempt(&meeting, attempt, stop, &mut output) {
                Err(error) if left > 0 && self.may_restart(&error) && !stop.load(Ordering::Relaxed) => {
                    attempt = self.next_attempt(&meeting, attempt)?;
                    restarting(&error);
                }
                end => return end,
            }
        }
        Ok(Ended::Stopped)
    }

    fn may_restart(&self, error: &DistError) -> bool {
        match error {
            DistError::Worker { code, .. } => code.is_none_or(|code| !self.final_codes.contains(&code)),
            _ => false,
        }
    }

    /// The number of the next attempt, on which all nodes agree even if one has lost count.
    fn next_attempt(&self, meeting: &Meeting, attempt: usize) -> Result<usize, DistError> {
        const KEY: &str = "launch/attempt";
        let next = attempt + 1;
        if self.nodes == 1 {
            return Ok(next);
        }
        let client;
        let store = match &meeting.store {
            Some(store) => store,
            None => {
                client = Store::tcp(&TcpStoreOptions {
                    role: StoreRole::Client,
                    ..store_options(&meeting.address, meeting.port)
                })?;
                &client
            }
        };
        let others = if store.contains(KEY)? { store.get(KEY)? } else { Vec::new() };
        let others = String::from_utf8_lossy(&others).parse().unwrap_or(0);
        let next = next.max(others);
        store.set(KEY, next.to_string().as_bytes())?;
        Ok(next)
    }

    fn attempt(
        &self,
        meeting: &Meeting,
        attempt: usize,
        stop: &AtomicBool,
        mut output: impl FnMut(&Line),
    ) -> Result<Ended, DistError> {
        let mut workers = Workers::spawn(self, &meeting.address, meeting.port, attempt)?;
        let mut stopping = false;
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
            let failure = workers.reap(|rank| {
                if let Some(store) = &meeting.store {
                    // Without it, the others wait for this one's report as they would for a silent one's.
                    let _ = report_end(store, attempt, rank);
                }
            });
            if deadline.is_none() {
                if failure.is_some() {
                    failed = failure;
                    deadline = Some(Instant::now() + self.report_timeout);
                } else if stop.load(Ordering::Relaxed) {
                    stopping = true;
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
                *time = Instant::now() + if stopping { self.stop_grace } else { self.grace };
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
    fn serve_store(&self) -> Result<Meeting, DistError> {
        match &self.master {
            Some((address, port)) => {
                let serves = self.node_rank == 0;
                let store = serves.then(|| Store::tcp(&store_options(address, *port))).transpose()?;
                Ok(Meeting { store, address: address.clone(), port: *port })
            }
            None => {
                // Bound here, so that nobody outside of this machine can reach it.
                let address = Ipv4Addr::LOCALHOST.to_string();
                let listener =
                    TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).map_err(|error| DistError::Store {
                        operation: "TCPStore",
                        address: address.clone(),
                        origin: Origin { rank: None, host: crate::host_name() },
                        failure: Failure::Rendezvous,
                        reason: error.to_string(),
                    })?;
                let store = Store::serve(listener, &store_options(&address, 0))?;
                let port = store.port()?;
                Ok(Meeting { store: Some(store), address, port })
            }
        }
    }
}

/// Where the workers meet, for as long as the launcher lives.
struct Meeting {
    /// On node 0, which serves it.
    store: Option<Store>,
    address: String,
    port: u16,
}

fn store_options(host: &str, port: u16) -> TcpStoreOptions {
    TcpStoreOptions {
        host: host.to_owned(),
        port,
        role: StoreRole::Server,
        world_size: None,
        wait_for_workers: false,
        timeout: Duration::from_secs(60),
        rank: None,
    }
}

/// Whether a launcher of ours started this process.
#[must_use]
pub fn has_launcher() -> bool {
    std::env::var_os(LAUNCHER_PID).is_some()
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

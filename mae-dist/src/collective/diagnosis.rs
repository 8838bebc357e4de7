//! Who is missing after a failure.
//!
//! A broken connection shows the address of a peer, and a timeout nothing at all. But every rank that
//! still runs fails too, since failed groups close their connections; each then leaves a note in the
//! store. Those without a note are the ones to look at. The launcher that serves the store writes there which of
//! its workers have ended: one that did so without a note is the cause, and is not waited for.

use std::cell::Cell;
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use crate::c10d::Store;
use crate::env::Worker;
use crate::error::DistError;

/// The ranks of a run and how to hear from them.
#[derive(Debug)]
pub(super) struct Members {
    store: Store,
    rank: usize,
    world_size: usize,
    patience: Duration,
    /// The lowest rank that reported a failure, once this one has.
    first: Cell<Option<usize>>,
}

impl Members {
    /// Leaves this rank's host name in the store.
    pub(super) fn register(store: &Store, worker: &Worker, patience: Duration) -> Result<Self, DistError> {
        let store = of_attempt(store, worker.restart_count)?;
        store.set(&host_key(worker.rank), crate::host_name().as_bytes())?;
        Ok(Self { store, rank: worker.rank, world_size: worker.world_size, patience, first: Cell::new(None) })
    }

    /// Reports that this rank has failed, waits for the others' reports, and says which are missing.
    /// `None` if every rank reported.
    pub(super) fn missing(&self) -> Option<String> {
        let (sender, receiver) = mpsc::channel();
        let store = self.store.share().ok()?;
        let (rank, world_size, patience) = (self.rank, self.world_size, self.patience);
        // On a thread of its own: a store whose process is stopped never answers.
        thread::spawn(move || {
            let _ = sender.send(missing_ranks(&store, rank, world_size, patience));
        });
        match receiver.recv_timeout(patience + Duration::from_secs(1)) {
            Ok(Ok(missing)) => {
                let reported = |rank: &usize| !missing.contains(*rank);
                self.first.set((0..world_size).find(reported));
                missing.blame(patience)
            }
            Ok(Err(_)) | Err(_) => {
                // Rank 0 may have served the store; the next one speaks then, unless all are gone from its view.
                self.first.set(Some(rank.min(1)));
                Some(format!(
                    "the store at {} does not answer: look first at the process that serves it (the launcher, or \
                     rank 0)",
                    self.store.address()
                ))
            }
        }
    }

    /// Whether this rank is the lowest of those that reported; `false` before it has.
    pub(super) fn speaks_for_the_run(&self) -> bool {
        self.first.get() == Some(self.rank)
    }
}

/// Writes down that a worker has ended, for the others of its attempt.
pub(crate) fn report_end(store: &Store, restart_count: usize, rank: usize) -> Result<(), DistError> {
    of_attempt(store, restart_count)?.set(&ended_key(rank), b"")
}

/// The ranks that did not report a failure, with their hosts.
struct Missing {
    /// Those that have ended, as their launcher says.
    ended: Vec<(usize, String)>,
    /// Those that were silent for as long as this rank waited.
    silent: Vec<(usize, String)>,
}

fn missing_ranks(
    store: &Store,
    rank: usize,
    world_size: usize,
    patience: Duration,
) -> Result<Missing, DistError> {
    let until = Instant::now() + patience;
    store.set(&failed_key(rank), b"")?;
    let mut silent: Vec<_> = (0..world_size).filter(|other| *other != rank).collect();
    let mut ended = Vec::new();
    loop {
        let mut still = Vec::new();
        for other in silent {
            // Asked in this order, because a rank reports before it ends.
            let has_ended = store.contains(&ended_key(other))?;
            if !store.contains(&failed_key(other))? {
                if has_ended { &mut ended } else { &mut still }.push(other);
            }
        }
        silent = still;
        if silent.is_empty() || Instant::now() >= until {
            return Ok(Missing { ended: with_hosts(store, ended)?, silent: with_hosts(store, silent)? });
        }
        thread::sleep(Duration::from_millis(20));
    }
}

impl Missing {
    /// Whom to look at: nobody if all reported.
    fn blame(&self, patience: Duration) -> Option<String> {
        let names = |ranks: &[(usize, String)]| {
            ranks.iter().map(|(rank, host)| format!("rank {rank} on {host}")).collect::<Vec<_>>().join(", ")
        };
        if !self.ended.is_empty() {
            return Some(format!(
                "no report, but an early end, from {}: look there first",
                names(&self.ended)
            ));
        }
        let within = format!("within {:.1} s of this failure", patience.as_secs_f64());
        (!self.silent.is_empty())
            .then(|| format!("no report {within} from {}: look there first", names(&self.silent)))
    }

    fn contains(&self, rank: usize) -> bool {
        self.ended.iter().chain(&self.silent).any(|(other, _)| *other == rank)
    }
}

fn with_hosts(store: &Store, ranks: Vec<usize>) -> Result<Vec<(usize, String)>, DistError> {
    let host = |rank: usize| {
        let key = host_key(rank);
        let host = if store.contains(&key)? { store.get(&key)? } else { b"an unknown host".to_vec() };
        Ok((rank, String::from_utf8_lossy(&host).into_owned()))
    };
    ranks.into_iter().map(host).collect()
}

/// What ranks and launchers tell each other during one attempt at the run.
fn of_attempt(store: &Store, restart_count: usize) -> Result<Store, DistError> {
    store.prefix(&format!("mae/{restart_count}"))
}

fn ended_key(rank: usize) -> String {
    format!("ended/{rank}")
}

fn host_key(rank: usize) -> String {
    format!("host/{rank}")
}

fn failed_key(rank: usize) -> String {
    format!("failed/{rank}")
}

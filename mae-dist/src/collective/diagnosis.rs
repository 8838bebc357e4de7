//! Who is missing after a failure.
//!
//! A broken connection shows the address of a peer, and a timeout nothing at all. But every rank that
//! still runs fails too, since failed groups close their connections; each then leaves a note in the
//! store. Those without a note are the ones to look at.

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
        let store = store.prefix(&format!("mae/{}", worker.restart_count))?;
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
                let reported = |rank: &usize| missing.iter().all(|(other, _)| other != rank);
                self.first.set((0..world_size).find(reported));
                if missing.is_empty() {
                    return None;
                }
                let within = format!("within {:.1} s of this failure", patience.as_secs_f64());
                let names: Vec<_> =
                    missing.iter().map(|(rank, host)| format!("rank {rank} on {host}")).collect();
                Some(format!("no report {within} from {}: look there first", names.join(", ")))
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

fn missing_ranks(
    store: &Store,
    rank: usize,
    world_size: usize,
    patience: Duration,
) -> Result<Vec<(usize, String)>, DistError> {
    let until = Instant::now() + patience;
    store.set(&failed_key(rank), b"")?;
    let mut missing: Vec<_> = (0..world_size).filter(|other| *other != rank).collect();
    loop {
        let mut still = Vec::new();
        for other in missing {
            if !store.contains(&failed_key(other))? {
                still.push(other);
            }
        }
        missing = still;
        if missing.is_empty() || Instant::now() >= until {
            break;
        }
        thread::sleep(Duration::from_millis(20));
    }
    missing
        .into_iter()
        .map(|other| {
            let key = host_key(other);
            let host = if store.contains(&key)? { store.get(&key)? } else { b"an unknown host".to_vec() };
            Ok((other, String::from_utf8_lossy(&host).into_owned()))
        })
        .collect()
}

fn host_key(rank: usize) -> String {
    format!("host/{rank}")
}

fn failed_key(rank: usize) -> String {
    format!("failed/{rank}")
}

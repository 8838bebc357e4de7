//! Faults on purpose, to see what the other processes make of them.
//!
//! `MAE_FAULT=KIND@RANK:OPERATION` makes one rank fail at its collective operation of that number, counted from 0 from
//! the first after the group was formed. It strikes in the first life of a group only, so that a restart can be
//! watched. Without the variable nothing here is in the way.
#![forbid(unsafe_code)]

use std::cell::Cell;
use std::rc::Rc;
use std::str::FromStr;
use std::time::Duration;

use mae_core::engine::{Collective, CollectiveError};
use rustix::process::{Signal, getpid, kill_process};
use tch::Tensor;

use crate::env::Worker;
use crate::error::DistError;

/// The variable that asks for a fault.
const VARIABLE: &str = "MAE_FAULT";

/// What happens to a rank.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// SIGKILL: no last words.
    Kill,
    /// SIGSTOP: alive, but silent.
    Stop,
    /// The process exits with code 7.
    Exit,
    /// The operation is an error on this rank alone.
    Exception,
    /// The thread sleeps, and the process does nothing any more.
    Hang,
}

/// Which rank fails, when and how.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Fault {
    kind: Kind,
    rank: usize,
    operation: u64,
}

impl FromStr for Fault {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let (kind, place) = text.split_once('@').ok_or(())?;
        let (rank, operation) = place.split_once(':').ok_or(())?;
        let kind = match kind {
            "kill" => Kind::Kill,
            "stop" => Kind::Stop,
            "exit" => Kind::Exit,
            "exception" => Kind::Exception,
            "hang" => Kind::Hang,
            _ => return Err(()),
        };
        let (rank, operation) = (rank.parse().map_err(drop)?, operation.parse().map_err(drop)?);
        Ok(Self { kind, rank, operation })
    }
}

/// The group itself or, when [`MAE_FAULT`](self) asks for it, one that fails.
///
/// # Errors
/// [`DistError::Variable`] when the variable cannot be understood.
pub fn with_faults(group: Rc<dyn Collective>, worker: &Worker) -> Result<Rc<dyn Collective>, DistError> {
    let Some(text) = std::env::var_os(VARIABLE) else { return Ok(group) };
    let text = text.to_string_lossy();
    let fault = text.parse::<Fault>().map_err(|()| DistError::Variable {
        variable: VARIABLE,
        found: text.clone().into_owned(),
        message: "Expected KIND@RANK:OPERATION".into(),
        expected: "KIND is kill, stop, exit, exception or hang; for example kill@1:20".into(),
    })?;
    if fault.rank != worker.rank || worker.restart_count > 0 {
        return Ok(group);
    }
    Ok(Rc::new(Faulty { group, fault, operations: Cell::new(0) }))
}

/// A group that fails once.
struct Faulty {
    group: Rc<dyn Collective>,
    fault: Fault,
    operations: Cell<u64>,
}

impl Faulty {
    fn strike(&self, operation: &'static str) -> Result<(), CollectiveError> {
        let now = self.operations.replace(self.operations.get() + 1);
        if now != self.fault.operation {
            return Ok(());
        }
        tracing::warn!("{VARIABLE}: {:?} at operation {now}, {operation}", self.fault.kind);
        let signal = |signal| {
            // A process can always signal itself.
            let _ = kill_process(getpid(), signal);
        };
        match self.fault.kind {
            Kind::Kill => signal(Signal::KILL),
            Kind::Stop => signal(Signal::STOP),
            Kind::Exit => std::process::exit(7),
            Kind::Hang => loop {
                std::thread::sleep(Duration::from_secs(3600));
            },
            Kind::Exception => {
                let reason = format!("{VARIABLE} asked for it");
                return Err(CollectiveError { operation, rank: self.rank(), reason });
            }
        }
        Ok(())
    }
}

impl Collective for Faulty {
    fn rank(&self) -> usize {
        self.group.rank()
    }

    fn world_size(&self) -> usize {
        self.group.world_size()
    }

    fn backward(&self, loss: &Tensor, parameters: &mut [Tensor]) -> mae_core::Result<()> {
        self.strike("all_reduce")?;
        self.group.backward(loss, parameters)
    }

    fn average(&self, tensors: &mut [Tensor]) -> Result<(), CollectiveError> {
        self.strike("all_reduce")?;
        self.group.average(tensors)
    }

    fn sum(&self, values: &mut [f64]) -> Result<(), CollectiveError> {
        self.strike("all_reduce")?;
        self.group.sum(values)
    }

    fn broadcast(&self, tensors: &mut [Tensor]) -> Result<(), CollectiveError> {
        self.strike("broadcast")?;
        self.group.broadcast(tensors)
    }

    fn gather_bytes(&self, bytes: &[u8]) -> Result<Vec<Vec<u8>>, CollectiveError> {
        self.strike("all_gather")?;
        self.group.gather_bytes(bytes)
    }

    fn barrier(&self) -> Result<(), CollectiveError> {
        self.strike("barrier")?;
        self.group.barrier()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn faults_are_read() {
        assert_eq!("kill@1:20".parse(), Ok(Fault { kind: Kind::Kill, rank: 1, operation: 20 }));
        for text in ["", "kill", "kill@1", "kill@x:1", "burn@1:2", "kill@1:-2"] {
            assert_eq!(text.parse::<Fault>(), Err(()), "{text}");
        }
    }
}

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
use mae_core::params::{Part, Sharding, UnitOptions};
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

/// Faults of this rank, if [`MAE_FAULT`](self) asks for any.
#[derive(Debug, Clone, Default)]
pub struct Faults(Option<Rc<Strike>>);

/// The one fault of a rank, and how far it is away.
#[derive(Debug)]
struct Strike {
    fault: Fault,
    operations: Cell<u64>,
}

impl Faults {
    /// Those of a worker.
    ///
    /// # Errors
    /// [`DistError::Variable`] when the variable cannot be understood.
    pub fn of(worker: &Worker) -> Result<Self, DistError> {
        let Some(text) = std::env::var_os(VARIABLE) else { return Ok(Self(None)) };
        let text = text.to_string_lossy();
        let fault = text.parse::<Fault>().map_err(|()| DistError::Variable {
            variable: VARIABLE,
            found: text.clone().into_owned(),
            message: "Expected KIND@RANK:OPERATION".into(),
            expected: "KIND is kill, stop, exit, exception or hang; for example kill@1:20".into(),
        })?;
        let strikes = fault.rank == worker.rank && worker.restart_count == 0;
        Ok(Self(strikes.then(|| Rc::new(Strike { fault, operations: Cell::new(0) }))))
    }

    /// The group, which fails once if it is asked to.
    #[must_use]
    pub fn in_group(&self, group: Rc<dyn Collective>) -> Rc<dyn Collective> {
        match &self.0 {
            Some(strike) => Rc::new(FaultyGroup { group, strike: Rc::clone(strike) }),
            None => group,
        }
    }

    /// The same for a model in shares, whose operations are counted with the group's own.
    #[must_use]
    pub fn in_sharding(&self, sharding: Rc<dyn Sharding>) -> Rc<dyn Sharding> {
        match &self.0 {
            Some(strike) => Rc::new(FaultySharding { sharding, strike: Rc::clone(strike) }),
            None => sharding,
        }
    }
}

impl Strike {
    fn at(&self, operation: &'static str) -> Result<(), CollectiveError> {
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
                return Err(CollectiveError { operation, rank: self.fault.rank, reason });
            }
        }
        Ok(())
    }
}

/// A group that fails once.
struct FaultyGroup {
    group: Rc<dyn Collective>,
    strike: Rc<Strike>,
}

impl Collective for FaultyGroup {
    fn rank(&self) -> usize {
        self.group.rank()
    }

    fn world_size(&self) -> usize {
        self.group.world_size()
    }

    fn backward(&self, loss: &Tensor, parameters: &mut [Tensor]) -> mae_core::Result<()> {
        self.strike.at("all_reduce")?;
        self.group.backward(loss, parameters)
    }

    fn average(&self, tensors: &mut [Tensor]) -> Result<(), CollectiveError> {
        self.strike.at("all_reduce")?;
        self.group.average(tensors)
    }

    fn sum(&self, values: &mut [f64]) -> Result<(), CollectiveError> {
        self.strike.at("all_reduce")?;
        self.group.sum(values)
    }

    fn broadcast(&self, tensors: &mut [Tensor]) -> Result<(), CollectiveError> {
        self.strike.at("broadcast")?;
        self.group.broadcast(tensors)
    }

    fn gather_bytes(&self, bytes: &[u8]) -> Result<Vec<Vec<u8>>, CollectiveError> {
        self.strike.at("all_gather")?;
        self.group.gather_bytes(bytes)
    }

    fn barrier(&self) -> Result<(), CollectiveError> {
        self.strike.at("barrier")?;
        self.group.barrier()
    }
}

/// A model in shares whose group fails once.
#[derive(Debug)]
struct FaultySharding {
    sharding: Rc<dyn Sharding>,
    strike: Rc<Strike>,
}

impl Sharding for FaultySharding {
    fn add(&self, parameters: &[Tensor], options: UnitOptions) -> mae_core::Result<Vec<Part>> {
        self.sharding.add(parameters, options)
    }

    fn begin_pass(&self) -> mae_core::Result<()> {
        self.sharding.begin_pass()
    }

    fn gather(&self, units: &[usize]) -> mae_core::Result<()> {
        self.strike.at("all_gather")?;
        self.sharding.gather(units)
    }

    fn release(&self, units: &[usize], output: &Tensor) -> mae_core::Result<()> {
        self.sharding.release(units, output)
    }

    fn backward(&self, loss: &Tensor) -> mae_core::Result<()> {
        self.strike.at("reduce_scatter")?;
        self.sharding.backward(loss)
    }

    fn assemble(&self, unit: usize, place: usize, share: &Tensor) -> mae_core::Result<Option<Tensor>> {
        self.strike.at("all_gather")?;
        self.sharding.assemble(unit, place, share)
    }

    fn sum(&self, value: f64) -> mae_core::Result<f64> {
        self.strike.at("all_reduce")?;
        self.sharding.sum(value)
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

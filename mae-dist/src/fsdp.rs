//! `mae-core`'s [`Sharding`] on a group: fully sharded data parallel training.
#![forbid(unsafe_code)]

use std::cell::RefCell;
use std::rc::Rc;

use mae_core::engine::{Collective as _, CollectiveError};
use mae_core::params::{Part, Sharding, UnitOptions};
use tch::{Device, Tensor};

use crate::c10d::{self, ProcessGroup, Sharder};
use crate::collective::GlooCollective;
use crate::error::DistError;

/// The parts of a parameter: the first element of each rank's, and how many it has.
type Parts = Vec<(i64, i64)>;

/// A group whose processes hold a model in shares. Its failures are those of the group.
#[derive(Debug)]
pub struct Fsdp {
    group: Rc<GlooCollective>,
    /// By unit and place.
    parts: RefCell<Vec<Vec<Parts>>>,
}

impl Fsdp {
    /// Over the ranks of a group; nothing is sharded yet. A group shards one model: a second one ends the first.
    ///
    /// # Errors
    /// A group that has failed.
    pub fn new(group: Rc<GlooCollective>) -> Result<Self, CollectiveError> {
        group.make_sharder()?;
        Ok(Self { group, parts: RefCell::default() })
    }

    fn run<R>(
        &self,
        operation: &'static str,
        run: impl FnOnce(&ProcessGroup, &mut Sharder) -> Result<R, DistError>,
    ) -> mae_core::Result<R> {
        Ok(self.group.run_with_sharder(operation, run)?)
    }
}

impl Sharding for Fsdp {
    fn add(&self, parameters: &[Tensor], options: UnitOptions) -> mae_core::Result<Vec<Part>> {
        let UnitOptions { wire, held, stays } = options;
        let added = self
            .run("Sharder", |_, sharder| sharder.add(parameters, c10d::UnitOptions { wire, held, stays }))?;
        self.parts.borrow_mut().push(added.iter().map(|parameter| parameter.parts.clone()).collect());
        let rank = self.group.rank();
        Ok(added
            .into_iter()
            .map(|parameter| Part {
                start: parameter.parts[rank].0,
                whole: parameter.whole,
                share: parameter.share,
            })
            .collect())
    }

    fn begin_pass(&self) -> mae_core::Result<()> {
        self.run("all_gather", |_, sharder| sharder.begin_pass())
    }

    fn gather(&self, units: &[usize]) -> mae_core::Result<()> {
        self.run("all_gather", |_, sharder| sharder.gather(units))
    }

    fn release(&self, units: &[usize], output: &Tensor) -> mae_core::Result<()> {
        self.run("all_gather", |_, sharder| sharder.release(units, output))
    }

    fn backward(&self, loss: &Tensor) -> mae_core::Result<()> {
        self.run("reduce_scatter", |_, sharder| sharder.backward(loss))
    }

    fn assemble(&self, unit: usize, place: usize, share: &Tensor) -> mae_core::Result<Option<Tensor>> {
        const OPERATION: &str = "all_gather";
        let parts = self.parts.borrow()[unit][place].clone();
        let longest = parts.iter().map(|(_, length)| *length).max().unwrap_or(0);
        let first = self.group.rank() == 0;
        self.run(OPERATION, |group, _| {
            let whole = || -> Result<Result<Option<Tensor>, DistError>, tch::TchError> {
                // All ranks send as much as the one with the largest part.
                let padded = share.f_constant_pad_nd([0, longest - share.size()[0]])?;
                let gathered = match group.all_gather_into_tensor(padded).and_then(c10d::Work::wait) {
                    Ok(gathered) => gathered,
                    Err(error) => return Ok(Err(error)),
                };
                if !first {
                    return Ok(Ok(None));
                }
                let pieces = (0..)
                    .zip(&parts)
                    .map(|(rank, (_, length))| gathered.f_narrow(0, rank * longest, *length));
                let whole = Tensor::f_cat(&pieces.collect::<Result<Vec<_>, _>>()?, 0)?;
                Ok(Ok(Some(whole.f_to_device(Device::Cpu)?)))
            };
            whole().map_err(|error| group.tensor_error(OPERATION, &error))?
        })
    }

    fn sum(&self, value: f64) -> mae_core::Result<f64> {
        let mut values = [value];
        self.group.sum(&mut values)?;
        Ok(values[0])
    }
}

//! A table of which each process holds a share (FSDP, arXiv 2304.11277; ZeRO's third stage, arXiv 1910.02054).
//!
//! The parameters of a block are a unit: gathered for the time of its scope, and again in the backward pass. The layers,
//! which ask the table for a tensor when they compute, do not notice; the optimizer, which steps what the table holds,
//! steps shares.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::rc::Rc;

use tch::{Kind, Tensor};

use super::{ParamId, ParamSpec, Params};
use crate::checkpoint::TensorView;
use crate::error::Result;
use crate::ops::precision::Precision;

/// What has fewer elements costs more to gather by itself than to keep for the time of a pass.
const SMALLEST_UNIT: i64 = 1 << 16;

/// What gathers shares, and spreads gradients: a group of processes. Every method is a collective operation.
pub trait Sharding: std::fmt::Debug {
    /// Takes fp32 parameters as the next unit, numbered from 0. What the caller still holds of them may be dropped.
    ///
    /// # Errors
    /// When memory runs out.
    fn add(&self, parameters: &[Tensor], options: UnitOptions) -> Result<Vec<Part>>;

    /// A forward pass begins: whatever is still gathered is released.
    ///
    /// # Errors
    /// A lost or late peer; so for every method below.
    fn begin_pass(&self) -> Result<()>;

    /// Gathers units: their whole parameters can be computed with.
    ///
    /// # Errors
    /// As [`begin_pass`](Self::begin_pass).
    fn gather(&self, units: &[usize]) -> Result<()>;

    /// Releases units, until the backward pass reaches `output`. What was computed with them leads to it alone.
    ///
    /// # Errors
    /// As [`begin_pass`](Self::begin_pass).
    fn release(&self, units: &[usize], output: &Tensor) -> Result<()>;

    /// Runs the backward pass of `loss` (a scalar), after which the gradient of each share is its mean over all ranks,
    /// with what earlier backward passes have left in it.
    ///
    /// # Errors
    /// As [`begin_pass`](Self::begin_pass), or what libtorch cannot compute.
    fn backward(&self, loss: &Tensor) -> Result<()>;

    /// Puts together what the ranks hold of one parameter, or of something of its kind such as a moment: `[elements]` in
    /// main memory on rank 0, nothing elsewhere.
    ///
    /// # Errors
    /// As [`begin_pass`](Self::begin_pass).
    fn assemble(&self, unit: usize, place: usize, share: &Tensor) -> Result<Option<Tensor>>;

    /// Sums a value over all ranks.
    ///
    /// # Errors
    /// As [`begin_pass`](Self::begin_pass).
    fn sum(&self, value: f64) -> Result<f64>;
}

/// How the parameters of a unit travel and are computed with. Shares and gradients are fp32.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct UnitOptions {
    /// The dtype in which they are sent.
    pub wire: Kind,
    /// The dtype that they have when they are gathered.
    pub held: Kind,
    /// Whether they stay gathered throughout a pass.
    pub stays: bool,
}

/// A parameter of a unit, on one rank.
#[derive(Debug)]
pub struct Part {
    /// A leaf of the full shape, without memory but while the unit is gathered.
    pub whole: Tensor,
    /// This rank's elements, `[length]` fp32: a leaf, too.
    pub share: Tensor,
    /// The first of them.
    pub start: i64,
}

/// Parameters that are gathered together.
#[derive(Debug, PartialEq, Eq)]
struct Unit {
    /// The path of their block, such as `blocks.3`; empty for what stays gathered.
    path: String,
    /// Whether they are weights of products, which are sent rounded.
    rounded: bool,
    params: Vec<ParamId>,
}

/// What the table needs to know once it is sharded.
#[derive(Debug)]
pub(super) struct Sharded {
    sharding: Rc<dyn Sharding>,
    units: Vec<Unit>,
    /// For each parameter: the tensor that layers see, its unit and place in it, the first element of the share.
    entries: Vec<Entry>,
    /// How many scopes hold each unit.
    holds: Vec<Cell<usize>>,
    /// Whether the units without a block are gathered.
    begun: Cell<bool>,
    /// Units of each scope that was entered.
    scopes: RefCell<HashMap<String, Rc<[usize]>>>,
}

#[derive(Debug)]
struct Entry {
    whole: Tensor,
    wire: Kind,
    unit: usize,
    place: usize,
    start: i64,
}

impl Params {
    /// Keeps only this process's share of each parameter, once it is known which ones are trainable. In reduced precision
    /// the weights of products are gathered rounded, as the layers would round them.
    ///
    /// # Errors
    /// When memory runs out.
    pub fn shard(&mut self, sharding: Rc<dyn Sharding>, precision: Precision) -> Result<()> {
        let units = units(&self.specs, precision != Precision::Fp32);
        let mut entries: Vec<Option<Entry>> = self.specs.iter().map(|_| None).collect();
        for (number, unit) in units.iter().enumerate() {
            let tensors: Vec<Tensor> =
                unit.params.iter().map(|id| self.tensors[id.0].shallow_clone()).collect();
            let device = tensors[0].device();
            let (wire, held) = if unit.rounded {
                (precision.kind(), precision.product_kind(device))
            } else {
                (Kind::Float, Kind::Float)
            };
            let stays = unit.path.is_empty();
            let parts = sharding.add(&tensors, UnitOptions { wire, held, stays })?;
            drop(tensors);
            for (place, (part, id)) in parts.into_iter().zip(&unit.params).enumerate() {
                self.tensors[id.0] = part.share;
                entries[id.0] =
                    Some(Entry { whole: part.whole, wire, unit: number, place, start: part.start });
            }
        }
        self.sharded = Some(Sharded {
            holds: units.iter().map(|_| Cell::new(0)).collect(),
            entries: entries.into_iter().flatten().collect(),
            begun: Cell::new(false),
            scopes: RefCell::default(),
            units,
            sharding,
        });
        Ok(())
    }

    /// Whether each process holds a share only.
    pub fn is_sharded(&self) -> bool {
        self.sharded.is_some()
    }

    /// The backward pass of a forward pass on a sharded table; `false` where the table is not sharded, and nothing was
    /// done. Afterwards the gradient of each share is its mean over all processes.
    ///
    /// # Errors
    /// A lost or late peer, or what libtorch cannot compute.
    pub(crate) fn backward(&self, loss: &Tensor) -> Result<bool> {
        let Some(sharded) = &self.sharded else { return Ok(false) };
        sharded.begun.set(false);
        sharded.sharding.backward(loss)?;
        Ok(true)
    }

    /// The sum over all processes of something that each computed of its shares; the value itself where there are none.
    ///
    /// # Errors
    /// A lost or late peer.
    pub(crate) fn sum_of_shares(&self, value: f64) -> Result<f64> {
        self.sharded.as_ref().map_or(Ok(value), |sharded| sharded.sharding.sum(value))
    }

    /// Announces a forward pass. Of a table that is not sharded, nothing is to be done.
    pub(crate) fn begin_pass(&self) {
        if let Some(sharded) = &self.sharded {
            sharded.begun.set(false);
        }
    }

    /// Gathers what the scope called `name` computes with, and returns what to [`release`](Self::release) after it.
    pub(crate) fn gather(&self, name: &str) -> Result<Option<Rc<[usize]>>> {
        self.sharded.as_ref().map(|sharded| sharded.gather(name)).transpose()
    }

    /// Releases what a scope has gathered, until the backward pass reaches the scope's output.
    pub(crate) fn release(&self, gathered: Option<&[usize]>, output: &Tensor) -> Result<()> {
        match (&self.sharded, gathered) {
            (Some(sharded), Some(units)) => sharded.release(units, output),
            _ => Ok(()),
        }
    }

    /// This process's share of a tensor of a parameter's shape, in memory of its own; or the tensor itself.
    pub(crate) fn share_of(&self, id: ParamId, tensor: Tensor) -> Result<Tensor> {
        let Some(sharded) = &self.sharded else { return Ok(tensor) };
        let (start, length) = (sharded.entries[id.0].start, self.tensors[id.0].size()[0]);
        let share = tensor.f_detach()?.f_reshape([-1])?.f_narrow(0, start, length)?;
        Ok(share.f_clone(&share.f_empty_like()?)?)
    }

    /// What a checkpoint keeps of a parameter, or of something of its kind such as a moment, of which this process holds
    /// `local`. Of a sharded table, all processes ask for it, and the first one gets it; the others get nothing.
    pub(crate) fn view(&self, id: ParamId, local: &Tensor) -> Result<TensorView> {
        let Some(sharded) = &self.sharded else { return Ok(TensorView::deferred(local)?) };
        let Entry { unit, place, .. } = sharded.entries[id.0];
        Ok(match sharded.sharding.assemble(unit, place, &local.f_detach()?)? {
            Some(whole) => TensorView::from_tensor(&whole.f_reshape(&self.specs[id.0].shape)?)?,
            None => TensorView::from_f32(&[0], &[])?,
        })
    }
}

impl Sharded {
    /// The tensor that layers compute with.
    pub(super) fn whole(&self, id: ParamId, specs: &[ParamSpec]) -> &Tensor {
        let entry = &self.entries[id.0];
        let held = if self.units[entry.unit].path.is_empty() {
            self.begun.get()
        } else {
            self.holds[entry.unit].get() > 0
        };
        // Its memory is not there, and libtorch would read it all the same.
        assert!(held, "'{}' is read outside of the scope that gathers it", specs[id.0].name);
        &entry.whole
    }

    /// The dtype whose values a gathered parameter has.
    pub(super) fn wire(&self, id: ParamId) -> Kind {
        self.entries[id.0].wire
    }

    fn gather(&self, name: &str) -> Result<Rc<[usize]>> {
        if !self.begun.get() {
            self.sharding.begin_pass()?;
            let roots: Vec<usize> = self.roots().collect();
            self.sharding.gather(&roots)?;
            self.begun.set(true);
        }
        let units = self.units_of(name);
        if !units.is_empty() {
            self.sharding.gather(&units)?;
        }
        units.iter().for_each(|&unit| self.holds[unit].set(self.holds[unit].get() + 1));
        Ok(units)
    }

    fn release(&self, units: &[usize], output: &Tensor) -> Result<()> {
        units.iter().for_each(|&unit| self.holds[unit].set(self.holds[unit].get() - 1));
        let left: Vec<usize> = units.iter().copied().filter(|&unit| self.holds[unit].get() == 0).collect();
        if left.is_empty() { Ok(()) } else { self.sharding.release(&left, output) }
    }

    fn roots(&self) -> impl Iterator<Item = usize> {
        self.units.iter().enumerate().filter(|(_, unit)| unit.path.is_empty()).map(|(number, _)| number)
    }

    /// Units with parameters below `scope`, or that `scope` is a part of.
    fn units_of(&self, scope: &str) -> Rc<[usize]> {
        if let Some(units) = self.scopes.borrow().get(scope) {
            return Rc::clone(units);
        }
        let overlaps = |unit: &Unit| {
            !unit.path.is_empty() && (is_within(&unit.path, scope) || is_within(scope, &unit.path))
        };
        let units: Rc<[usize]> =
            (0..self.units.len()).filter(|&number| overlaps(&self.units[number])).collect();
        self.scopes.borrow_mut().insert(scope.to_owned(), Rc::clone(&units));
        units
    }
}

/// Whether the module `inner` is `outer` or a part of it.
fn is_within(inner: &str, outer: &str) -> bool {
    inner.strip_prefix(outer).is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
}

/// Cuts a table into units, each in the order of the table. In reduced precision, weights of products are apart.
fn units(specs: &[ParamSpec], reduced: bool) -> Vec<Unit> {
    let key = |spec: &'_ ParamSpec| (block_of(&spec.name).to_owned(), reduced && is_product_weight(spec));
    let mut sizes: HashMap<(String, bool), i64> = HashMap::new();
    for spec in specs {
        *sizes.entry(key(spec)).or_default() += spec.numel();
    }
    let mut units: Vec<Unit> = Vec::new();
    for (index, spec) in specs.iter().enumerate() {
        let key = key(spec);
        let is_small = sizes[&key] < SMALLEST_UNIT;
        let (path, rounded) = if is_small { (String::new(), key.1) } else { key };
        match units.iter_mut().find(|unit| unit.path == path && unit.rounded == rounded) {
            Some(unit) => unit.params.push(ParamId(index)),
            None => units.push(Unit { path, rounded, params: vec![ParamId(index)] }),
        }
    }
    units
}

/// The block that a parameter belongs to: its path as far as the first number or run of numbers (`blocks.3`,
/// `encoder.stages.2.0`), else the module at the top (`head`); empty for a parameter outside of modules.
fn block_of(name: &str) -> &str {
    let Some((path, _)) = name.rsplit_once('.') else { return "" };
    let is_number = |part: &str| part.bytes().all(|byte| byte.is_ascii_digit());
    let (mut end, mut start, mut numbered) = (0, 0, false);
    for part in path.split('.') {
        match (numbered, is_number(part)) {
            (true, false) => break,
            (_, true) => (numbered, end) = (true, start + part.len()),
            (false, false) => {}
        }
        start += part.len() + 1;
    }
    if numbered { &path[..end] } else { path.split('.').next().unwrap_or(path) }
}

/// Weights of linear layers and convolutions. Norms, responses, tokens and positions take part in no product.
fn is_product_weight(spec: &ParamSpec) -> bool {
    spec.shape.len() > 1 && (spec.name == "weight" || spec.name.ends_with(".weight"))
}

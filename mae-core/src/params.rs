//! The one named table of parameters, and the handles by which layers reach it.
//!
//! A network is first *declared*: its layers push a [`ParamSpec`] each (name, shape, initialisation) and keep the
//! [`ParamId`] they get back. The declaration costs no memory, so the catalogue, sharding and the ONNX writer can work
//! on it alone. [`Params`] then holds the tensors. Names and order are those of the PyTorch state dict.

mod sharded;

use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::Rc;

use tch::{Device, Kind, Tensor};

use crate::arch::nearest;
use crate::error::{Error, Result};
use crate::nn::init::{Init, Initializer};
use crate::sys;
use sharded::Sharded;

pub use sharded::{Part, Sharding, UnitOptions};

/// A handle to one entry of the table.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ParamId(usize);

impl ParamId {
    /// The entry's place in the table, which is its place in the state dict.
    pub fn index(self) -> usize {
        self.0
    }
}

/// What a parameter is, before it has a value.
#[derive(Debug, Clone, PartialEq)]
pub struct ParamSpec {
    /// State-dict name, such as `blocks.3.attn.qkv.weight`.
    pub name: String,
    /// Shape.
    pub shape: Vec<i64>,
    /// How a new model fills it.
    pub init: Init,
    /// Whether training changes it. Fixed sin-cos positions and frozen parameters are not trainable.
    pub trainable: bool,
}

impl ParamSpec {
    /// Number of elements.
    pub fn numel(&self) -> i64 {
        self.shape.iter().product()
    }
}

/// A place in the module tree while a network is declared, such as `blocks.3.attn`.
#[derive(Debug, Clone)]
pub struct Declare {
    specs: Rc<RefCell<Vec<ParamSpec>>>,
    path: String,
    frozen: bool,
}

impl Declare {
    /// The root of a new, empty table.
    pub fn root() -> Self {
        Declare { specs: Rc::default(), path: String::new(), frozen: false }
    }

    /// The root of a table in which nothing is trainable: a network that is only used.
    pub fn frozen_root() -> Self {
        Declare { frozen: true, ..Self::root() }
    }

    /// The child place `name`.
    pub fn at(&self, name: impl std::fmt::Display) -> Self {
        let path = if self.path.is_empty() { name.to_string() } else { format!("{}.{name}", self.path) };
        Declare { specs: Rc::clone(&self.specs), path, frozen: self.frozen }
    }

    /// This place's name; empty at the root.
    pub fn path(&self) -> &str {
        &self.path
    }

    /// Declares a trainable parameter here.
    pub fn param(&self, name: &str, shape: &[i64], init: Init) -> ParamId {
        self.push(name, shape, init, true)
    }

    /// Declares a parameter that training leaves alone.
    pub fn fixed(&self, name: &str, shape: &[i64], init: Init) -> ParamId {
        self.push(name, shape, init, false)
    }

    /// Everything declared so far, in order.
    pub fn into_specs(self) -> Vec<ParamSpec> {
        self.specs.borrow().clone()
    }

    fn push(&self, name: &str, shape: &[i64], init: Init, trainable: bool) -> ParamId {
        let mut specs = self.specs.borrow_mut();
        let trainable = trainable && !self.frozen;
        specs.push(ParamSpec { name: self.at(name).path, shape: shape.to_vec(), init, trainable });
        ParamId(specs.len() - 1)
    }
}

/// The table: every parameter's spec and tensor, in state-dict order.
#[derive(Debug)]
pub struct Params {
    specs: Vec<ParamSpec>,
    tensors: Vec<Tensor>,
    by_name: HashMap<String, ParamId>,
    /// Copies in the products' precision, each made once for a value of its parameter.
    rounded: RefCell<Vec<Option<Rounded>>>,
    /// Present once `tensors` are shares.
    sharded: Option<Sharded>,
}

/// A copy of a parameter, rounded to another dtype.
#[derive(Debug)]
struct Rounded {
    tensor: Tensor,
    dtypes: (Kind, Kind),
    /// libtorch's count of the parameter's changes in place, when the copy was made.
    version: i64,
    /// Whether gradients flow through the copy.
    differentiable: bool,
}

impl Params {
    /// Fills the declared parameters with seeded initial values, in fp32.
    ///
    /// # Errors
    /// When libtorch has no memory for them.
    pub fn new(specs: Vec<ParamSpec>, seed: u64, device: Device) -> Result<Self> {
        let initializer = Initializer::new(seed);
        Self::filled(specs, device, |spec| initializer.tensor(&spec.name, &spec.shape, &spec.init))
    }

    /// Fills the declared parameters by a rule of the caller's; each tensor must have its spec's shape.
    ///
    /// # Errors
    /// What `fill` returns, or [`Error::Shape`].
    pub fn filled(
        specs: Vec<ParamSpec>,
        device: Device,
        mut fill: impl FnMut(&ParamSpec) -> Result<Tensor>,
    ) -> Result<Self> {
        let mut tensors = Vec::with_capacity(specs.len());
        for spec in &specs {
            let tensor = fill(spec)?;
            check_shape(spec, &tensor)?;
            tensors.push(
                tensor.f_to_device(device)?.f_to_kind(Kind::Float)?.f_set_requires_grad(spec.trainable)?,
            );
        }
        let by_name = specs.iter().enumerate().map(|(i, spec)| (spec.name.clone(), ParamId(i))).collect();
        let rounded = RefCell::new(specs.iter().map(|_| None).collect());
        Ok(Params { specs, tensors, by_name, rounded, sharded: None })
    }

    /// The tensor behind a handle, in its full shape: what layers compute with.
    ///
    /// # Panics
    /// When the table is sharded, and this is not asked within the scope that the parameter belongs to.
    pub fn get(&self, id: ParamId) -> &Tensor {
        match &self.sharded {
            None => &self.tensors[id.0],
            Some(sharded) => sharded.whole(id, &self.specs),
        }
    }

    /// What this process holds of a parameter: the tensor, or of a sharded table its share, `[elements]`. This is what an
    /// optimizer steps.
    pub fn local(&self, id: ParamId) -> &Tensor {
        &self.tensors[id.0]
    }

    /// The tensor behind a handle, rounded to `to` and held in `held` (the same dtype, or fp32 where the products are
    /// made of rounded fp32 numbers). The copy is made once for each value that the parameter takes: the batches that
    /// are accumulated for a step, or evaluated between two, share it. Gradients reach the parameter in `held`.
    ///
    /// # Errors
    /// When libtorch has no memory for it.
    pub fn rounded(&self, id: ParamId, to: Kind, held: Kind) -> Result<Tensor> {
        let tensor = self.get(id);
        if let Some(sharded) = &self.sharded {
            // Gathered in the products' precision, or so small that a copy for each use is nothing.
            return if sharded.wire(id) == to {
                Ok(tensor.f_to_kind(held)?)
            } else {
                round(tensor, to, held)
            };
        }
        let version = tensor.f_internal_version()?;
        let differentiable = tensor.requires_grad() && sys::grad_enabled();
        let mut copies = self.rounded.borrow_mut();
        let slot = &mut copies[id.0];
        if let Some(copy) = slot
            && (copy.dtypes, copy.version, copy.differentiable) == ((to, held), version, differentiable)
        {
            return Ok(copy.tensor.shallow_clone());
        }
        let copy = round(tensor, to, held)?;
        *slot = Some(Rounded { tensor: copy.shallow_clone(), dtypes: (to, held), version, differentiable });
        Ok(copy)
    }

    /// The spec behind a handle.
    pub fn spec(&self, id: ParamId) -> &ParamSpec {
        &self.specs[id.0]
    }

    /// The handle of a name.
    ///
    /// # Errors
    /// [`Error::MissingTensor`] with the nearest name.
    pub fn id(&self, name: &str) -> Result<ParamId> {
        self.by_name.get(name).copied().ok_or_else(|| Error::MissingTensor {
            name: name.to_owned(),
            nearest: nearest(name, self.specs.iter().map(|s| s.name.as_str())).unwrap_or("none").to_owned(),
        })
    }

    /// Every entry, in state-dict order, with what this process holds of it (see [`local`](Self::local)).
    pub fn iter(&self) -> impl ExactSizeIterator<Item = (ParamId, &ParamSpec, &Tensor)> {
        self.specs.iter().zip(&self.tensors).enumerate().map(|(i, (spec, tensor))| (ParamId(i), spec, tensor))
    }

    /// The trainable entries, in state-dict order.
    pub fn trainable(&self) -> impl Iterator<Item = (ParamId, &ParamSpec, &Tensor)> {
        self.iter().filter(|(_, spec, _)| spec.trainable)
    }

    /// Number of entries.
    pub fn len(&self) -> usize {
        self.specs.len()
    }

    /// Whether the table is empty.
    pub fn is_empty(&self) -> bool {
        self.specs.is_empty()
    }

    /// Elements in all entries.
    pub fn numel(&self) -> i64 {
        self.specs.iter().map(ParamSpec::numel).sum()
    }

    /// Copies a value into an entry, keeping the entry's device and trainability.
    ///
    /// # Errors
    /// [`Error::Shape`] when the shapes differ.
    pub fn assign(&mut self, id: ParamId, value: &Tensor) -> Result<()> {
        check_shape(&self.specs[id.0], value)?;
        let _guard = tch::no_grad_guard();
        let value = self.share_of(id, value.shallow_clone())?;
        self.tensors[id.0].f_copy_(&value)?;
        Ok(())
    }

    /// Freezes the modules (or single parameters) of these names, as TAO's `train.freeze`: `encoder.stages.0` freezes
    /// everything below it. Returns how many entries each name froze.
    ///
    /// # Errors
    /// When libtorch fails.
    ///
    /// # Panics
    /// When the table is sharded already.
    pub fn freeze(&mut self, modules: &[String]) -> Result<Vec<usize>> {
        assert!(self.sharded.is_none(), "what is trainable is decided before the table is sharded");
        modules
            .iter()
            .map(|module| {
                let mut frozen = 0;
                for (spec, tensor) in self.specs.iter_mut().zip(&mut self.tensors) {
                    let inside = spec.name.strip_prefix(module.as_str());
                    if spec.trainable && inside.is_some_and(|rest| rest.is_empty() || rest.starts_with('.')) {
                        spec.trainable = false;
                        *tensor = tensor.f_set_requires_grad(false)?;
                        frozen += 1;
                    }
                }
                Ok(frozen)
            })
            .collect()
    }

    /// Drops every gradient, so that the next backward pass writes instead of adding.
    ///
    /// # Errors
    /// When libtorch fails.
    pub fn zero_grad(&mut self) -> Result<()> {
        self.tensors.iter_mut().try_for_each(sys::clear_grad)
    }
}

/// A tensor rounded to `to` and held in `held`. Held in a wider dtype, its gradient is not rounded on the way back, as
/// that of a leaf would not be.
fn round(tensor: &Tensor, to: Kind, held: Kind) -> Result<Tensor> {
    if to == held || !(tensor.requires_grad() && sys::grad_enabled()) {
        return Ok(tensor.f_to_kind(to)?.f_to_kind(held)?);
    }
    let mut copy = tensor.f_alias_copy()?;
    tch::no_grad(|| tensor.f_to_kind(to).and_then(|rounded| copy.f_copy_(&rounded)))?;
    Ok(copy)
}

fn check_shape(spec: &ParamSpec, tensor: &Tensor) -> Result<()> {
    if tensor.size() == spec.shape {
        return Ok(());
    }
    Err(Error::Shape {
        what: format!("parameter '{}'", spec.name),
        expected: format!("{:?}", spec.shape),
        found: format!("{:?}", tensor.size()),
    })
}

//! The finished graph as an owned tree of [`Value`]s, within limits.
//!
//! A pickle of a few bytes can share one object a billion times over; as a tree that is a billion objects.
//! The limits are far above what any checkpoint needs.

use std::collections::HashSet;

use super::super::value::Opaque;
use super::super::{Error, Result, Value};
use super::Origin;
use super::globals::Global;
use super::graph::{DictKind, Node, NodeId};
use super::machine::Machine;

const MAX_DEPTH: usize = 128;
/// Some hundred megabytes.
const MAX_VALUES: usize = 8 << 20;

struct Freezer<'a> {
    machine: &'a Machine<'a>,
    values_left: usize,
    text_left: usize,
    pickle_len: usize,
    origin: &'a Origin,
    /// Objects on the way from the root to the value at hand.
    open: HashSet<NodeId>,
}

/// The machine's root as a tree. `pickle_len` scales the budget for texts.
pub(super) fn freeze(machine: Machine<'_>, pickle_len: usize, origin: &Origin) -> Result<Value> {
    // Without sharing, a value takes at least a byte of the pickle and a text its length.
    let values_left = MAX_VALUES.min(pickle_len.saturating_mul(4).saturating_add(1 << 16));
    let text_left = pickle_len.saturating_mul(8).saturating_add(16 << 20);
    Freezer { machine: &machine, values_left, text_left, pickle_len, origin, open: HashSet::new() }
        .value(machine.root, 0)
}

impl Freezer<'_> {
    fn value(&mut self, id: NodeId, depth: usize) -> Result<Value> {
        if depth > MAX_DEPTH {
            return Err(self.limit(
                "values are nested too deeply (or contain themselves)",
                format!("{MAX_DEPTH} levels"),
            ));
        }
        self.values_left = match self.values_left.checked_sub(1) {
            Some(left) => left,
            None => return Err(self.limit("sharing expands it to too many values", self.allowance())),
        };
        Ok(match self.machine.graph.get(id) {
            Node::None => Value::None,
            Node::Bool(value) => Value::Bool(*value),
            Node::Int(value) => Value::Int(*value),
            Node::BigInt(bytes) => {
                self.text(bytes.len())?;
                Value::BigInt(bytes.clone())
            }
            Node::Float(value) => Value::Float(*value),
            Node::Str(text) => {
                self.text(text.len())?;
                Value::Str(text.clone())
            }
            Node::Bytes(bytes) => {
                self.text(bytes.len())?;
                Value::Bytes(bytes.clone())
            }
            Node::List(items) => Value::List(self.values(items, depth)?),
            Node::Tuple(items) => Value::Tuple(self.values(items, depth)?),
            Node::Set(items) => Value::Set(self.values(items, depth)?),
            Node::Dict(kind, pairs) => {
                let pairs = self.pairs(pairs, depth)?;
                self.no_duplicates(&pairs)?;
                match kind {
                    DictKind::Plain => Value::Dict(pairs),
                    DictKind::Ordered => Value::OrderedDict(pairs),
                    DictKind::Counter => Value::Counter(pairs),
                }
            }
            Node::Tensor(view) => {
                self.text(view.shape().len() * 2 * size_of::<i64>())?;
                Value::Tensor(view.clone())
            }
            Node::Size(sizes) => {
                self.text(size_of_val(sizes.as_slice()))?;
                Value::Size(sizes.clone())
            }
            Node::Device(device) => {
                self.text(device.len())?;
                Value::Device(device.clone())
            }
            Node::NumpyArray(Some(view)) => Value::NumpyArray(view.clone()),
            Node::NumpyScalar(view) => Value::NumpyScalar(view.clone()),
            Node::Global(Global::TorchDType(dtype)) => Value::DType(*dtype),
            Node::Global(global) => {
                let class = class_of(global);
                self.text(class.len())?;
                reference(class)
            }
            Node::NumpyArray(None) => reference("numpy.ndarray".into()),
            Node::NumpyDType(dtype) => reference(format!("numpy.dtype({})", dtype.code)),
            Node::Storage(storage) => reference(format!("storage {}", storage.storage.record)),
            // A child that refers to its parent, as OmegaConf's and torch.nn's do.
            Node::Object(object) if !self.open.insert(id) => reference(object.class.clone()),
            Node::Object(object) => {
                self.text(object.class.len())?;
                let opaque = Opaque {
                    class: object.class.clone(),
                    instance: true,
                    args: self.values(&object.args, depth)?,
                    state: object.state.map(|state| self.value(state, depth + 1)).transpose()?,
                    items: self.values(&object.items, depth)?,
                    pairs: self.pairs(&object.pairs, depth)?,
                };
                self.open.remove(&id);
                Value::Opaque(Box::new(opaque))
            }
        })
    }

    fn values(&mut self, ids: &[NodeId], depth: usize) -> Result<Vec<Value>> {
        ids.iter().map(|id| self.value(*id, depth + 1)).collect()
    }

    fn pairs(&mut self, pairs: &[(NodeId, NodeId)], depth: usize) -> Result<Vec<(Value, Value)>> {
        pairs
            .iter()
            .map(|(key, value)| Ok((self.value(*key, depth + 1)?, self.value(*value, depth + 1)?)))
            .collect()
    }

    fn text(&mut self, len: usize) -> Result<()> {
        match self.text_left.checked_sub(len) {
            Some(left) => self.text_left = left,
            None => {
                return Err(self.limit("sharing expands it to too much text", self.allowance()));
            }
        }
        Ok(())
    }

    /// Python never writes a key twice; two tensors of one name would make it a matter of chance which loads.
    fn no_duplicates(&self, pairs: &[(Value, Value)]) -> Result<()> {
        let mut texts = HashSet::new();
        let mut ints = HashSet::new();
        for (key, _) in pairs {
            let new = match key {
                Value::Str(text) => texts.insert(text.as_str()),
                Value::Int(value) => ints.insert(*value),
                _ => true,
            };
            if !new {
                return Err(self.origin.error(0, format!("a dict has the key {key:?} twice")));
            }
        }
        Ok(())
    }

    fn allowance(&self) -> String {
        format!("a small multiple of its {} bytes", self.pickle_len)
    }

    fn limit(&self, what: &str, limit: String) -> Error {
        Error::Limit { what: format!("{}: {what}", self.origin.record), limit }
    }
}

/// A class or function used as a value.
fn reference(class: String) -> Value {
    Value::Opaque(Box::new(Opaque { class, ..Opaque::default() }))
}

fn class_of(global: &Global) -> String {
    match global {
        Global::OrderedDict => "collections.OrderedDict",
        Global::Counter => "collections.Counter",
        Global::RebuildTensor | Global::RebuildTensorV2 => "torch._utils._rebuild_tensor_v2",
        Global::RebuildParameter => "torch._utils._rebuild_parameter",
        Global::RebuildFromType => "torch._tensor._rebuild_from_type_v2",
        Global::Storage(dtype) => {
            return format!("torch.{}", dtype.map_or("UntypedStorage", |d| d.storage_class()));
        }
        Global::Size => "torch.Size",
        Global::Device => "torch.device",
        Global::TorchDType(dtype) => return format!("torch.{dtype}"),
        Global::CodecsEncode => "_codecs.encode",
        Global::Set => "builtins.set",
        Global::List => "builtins.list",
        Global::Tuple => "builtins.tuple",
        Global::Dict => "builtins.dict",
        Global::Bytes => "builtins.bytes",
        Global::Reconstructor => "copyreg._reconstructor",
        Global::NumpyScalar => "numpy._core.multiarray.scalar",
        Global::NumpyReconstruct => "numpy._core.multiarray._reconstruct",
        Global::NumpyFromBuffer => "numpy._core.numeric._frombuffer",
        Global::NumpyDType => "numpy.dtype",
        Global::Other(class) => return class.clone(),
    }
    .to_owned()
}

//! What calling a known constructor would have given.

use std::sync::Arc;

use super::super::storage::Storage;
use super::super::tensor::contiguous_strides;
use super::super::{DType, Error, Result, TensorView};
use super::globals::Global;
use super::graph::{DictKind, Node, NodeId, NumpyDType};
use super::machine::Machine;
use super::{PersistentObject, StorageRef, StorageRequest, Storages};

impl Machine<'_> {
    /// REDUCE and its relatives, without calling anything.
    pub(super) fn call(&mut self, callee: NodeId, args: Vec<NodeId>) -> Result<NodeId> {
        let global = match self.graph.get(callee) {
            Node::Global(global) => global.clone(),
            // What an opaque object would give is as opaque.
            Node::Object(object) => Global::Other(object.class.clone()),
            _ => return Err(self.error("something that is not a class or function is called")),
        };
        match global {
            Global::OrderedDict => self.dict(DictKind::Ordered, &args),
            Global::Counter => self.dict(DictKind::Counter, &args),
            Global::Dict => self.dict(DictKind::Plain, &args),
            Global::Set => self.sequence(&args, Node::Set),
            Global::List => self.sequence(&args, Node::List),
            Global::Tuple => self.sequence(&args, Node::Tuple),
            Global::RebuildTensor | Global::RebuildTensorV2 => self.rebuild_tensor(args),
            Global::RebuildParameter => match args.first() {
                Some(tensor) => Ok(*tensor),
                None => Err(self.error("_rebuild_parameter without a tensor")),
            },
            // (function, class, arguments, state): the class is a subclass of Tensor, the data are the same.
            Global::RebuildFromType => match args.as_slice() {
                [function, _, inner, ..] => {
                    let Some(inner) = self.graph.copy_seq(*inner)? else {
                        return Err(self.error("_rebuild_from_type without arguments"));
                    };
                    if matches!(self.global(*function), None | Some(Global::RebuildFromType)) {
                        return Err(self.error("_rebuild_from_type without a function"));
                    }
                    self.call(*function, inner)
                }
                _ => Err(self.error("_rebuild_from_type needs at least 3 arguments")),
            },
            Global::Size => match args.first().and_then(|sizes| self.graph.as_ints(*sizes)) {
                Some(sizes) => {
                    self.graph.charge(sizes.len() * size_of::<i64>())?;
                    self.add(Node::Size(sizes))
                }
                None => Err(self.error("torch.Size without a tuple of ints")),
            },
            Global::Device => self.device(&args),
            Global::CodecsEncode => self.codecs_encode(&args),
            Global::Bytes => self.bytes(&args),
            Global::Reconstructor => match args.first().and_then(|class| self.class_name(*class)) {
                Some(class) => self.object(class, args[1..].to_vec()),
                None => Err(self.error("copyreg._reconstructor without a class")),
            },
            Global::NumpyDType => match args.first().and_then(|code| self.graph.as_str(*code)) {
                Some(code) => {
                    let code = code.trim_start_matches(['<', '>', '|', '=']).to_owned();
                    let dtype = DType::from_numpy(&code);
                    self.graph.charge(code.len())?;
                    self.add(Node::NumpyDType(NumpyDType { code, dtype, big_endian: false }))
                }
                None => self.object("numpy.dtype".into(), args),
            },
            Global::NumpyScalar => self.numpy_scalar(args),
            Global::NumpyReconstruct => self.add(Node::NumpyArray(None)),
            Global::NumpyFromBuffer => self.numpy_from_buffer(args),
            Global::Other(class) => self.object(class, args),
            Global::Storage(_) | Global::TorchDType(_) => {
                Err(self.error("a storage class or dtype is called like a function"))
            }
        }
    }

    /// BUILD: the state of an object.
    pub(super) fn build(&mut self, target: NodeId, state: NodeId) -> Result<()> {
        match self.graph.get(target) {
            Node::Object(_) => {
                if let Node::Object(object) = self.graph.get_mut(target) {
                    object.state = Some(state);
                }
                Ok(())
            }
            Node::NumpyDType(_) => {
                // (version, byte order, ...)
                let order = self.graph.as_seq(state).and_then(|state| state.get(1).copied());
                let big_endian = order.and_then(|order| self.graph.as_str(order)) == Some(">");
                if let Node::NumpyDType(dtype) = self.graph.get_mut(target) {
                    dtype.big_endian = big_endian;
                }
                Ok(())
            }
            Node::NumpyArray(_) => {
                let node = self.numpy_array(state)?;
                *self.graph.get_mut(target) = node;
                Ok(())
            }
            // Attributes of dicts (`_metadata` of a state dict) and tensors carry no data.
            Node::Dict(..) | Node::Tensor(_) | Node::List(_) | Node::Set(_) => Ok(()),
            _ => Err(self.error("BUILD on a value that has no state")),
        }
    }

    /// BINPERSID: ("storage", class, key, location, number of elements[, view]), or a class with its source text,
    /// ("module", class, file, text). The tar format has plain keys, and the class first.
    pub(super) fn persistent(&mut self, id: NodeId, storages: &mut dyn Storages) -> Result<NodeId> {
        let Some(parts) = self.graph.copy_seq(id)? else {
            let found = self.key(id).map(|key| storages.object(&key)).transpose()?.flatten();
            return match found {
                Some(PersistentObject::Tensor(view)) => self.add(Node::Tensor(view)),
                Some(PersistentObject::Storage(storage, dtype)) => {
                    self.add(Node::Storage(StorageRef { dtype: Some(dtype), storage, base: 0 }))
                }
                None => Err(self.error("a persistent id that is not a storage")),
            };
        };
        match parts.as_slice() {
            [class, _, _] if self.global(*class).is_some() => return Ok(*class),
            [kind, class, ..] if self.graph.as_str(*kind) == Some("module") => return Ok(*class),
            [kind, _, _, _, _, ..] if self.graph.as_str(*kind) == Some("storage") => {}
            _ => return Err(self.error("a persistent id that is not a storage")),
        }
        let Some(key) = self.key(parts[2]) else {
            return Err(self.error("a storage without a key"));
        };
        self.graph.charge(key.len())?;
        let dtype = match self.global(parts[1]) {
            Some(Global::Storage(dtype)) => *dtype,
            // Quantised and other storages: whatever is built from them becomes opaque.
            Some(Global::Other(class)) => {
                let class = class.clone();
                let size = unsupported_element_size(&class);
                let numel = self.graph.as_i64(parts[4]).and_then(|numel| u64::try_from(numel).ok());
                if let (Some(element_size), Some(numel)) = (size, numel) {
                    storages.find(&StorageRequest { key: &key, element_size, numel })?;
                }
                return self.object(class, parts);
            }
            _ => return Err(self.error("a storage without a class")),
        };
        let Some(numel) = self.graph.as_i64(parts[4]).and_then(|numel| u64::try_from(numel).ok()) else {
            return Err(self.error(format!("storage {key} without a size")));
        };
        let base = match parts.get(5).map(|view| self.graph.as_seq(*view)) {
            // (key of the view, offset, size)
            Some(Some([_, offset, _])) => {
                self.graph.as_i64(*offset).ok_or_else(|| self.error("a storage view without offset"))?
            }
            _ => 0,
        };
        let element_size = dtype.map_or(1, DType::size);
        let storage = storages.find(&StorageRequest { key: &key, element_size, numel })?;
        self.add(Node::Storage(StorageRef { dtype, storage, base }))
    }

    /// A key of a storage, which is a text or a number.
    fn key(&self, id: NodeId) -> Option<String> {
        match self.graph.get(id) {
            Node::Str(key) => Some(key.clone()),
            Node::Int(key) => Some(key.to_string()),
            _ => None,
        }
    }

    /// `_rebuild_tensor(storage, offset, size, stride)`; `_v2` adds requires_grad, hooks and metadata.
    fn rebuild_tensor(&mut self, args: Vec<NodeId>) -> Result<NodeId> {
        let [storage, offset, shape, strides, ..] = args.as_slice() else {
            return Err(self.error("_rebuild_tensor needs at least 4 arguments"));
        };
        let reference = match self.graph.get(*storage) {
            Node::Storage(reference) => reference.clone(),
            Node::Object(_) => return self.object("torch._utils._rebuild_tensor_v2".into(), args),
            _ => return Err(self.error("_rebuild_tensor without a storage")),
        };
        let (Some(offset), Some(shape), Some(strides)) =
            (self.graph.as_i64(*offset), self.graph.as_ints(*shape), self.graph.as_ints(*strides))
        else {
            return Err(self.error("_rebuild_tensor without offset, shape and strides"));
        };
        let Some(dtype) = reference.dtype else {
            return Err(self.error("_rebuild_tensor on an untyped storage"));
        };
        let Some(offset) = offset.checked_add(reference.base) else {
            return Err(self.error("the offset of a tensor overflows"));
        };
        let view = TensorView::new(dtype, shape, strides, offset, reference.storage)?;
        self.add(Node::Tensor(view))
    }

    /// `OrderedDict()`, `OrderedDict([[key, value], ...])`, `Counter({...})`.
    fn dict(&mut self, kind: DictKind, args: &[NodeId]) -> Result<NodeId> {
        if let Some(Node::Dict(_, pairs)) = args.first().map(|arg| self.graph.get(*arg)) {
            self.graph.charge(size_of_val(pairs.as_slice()))?;
        } else if let Some(arg) = args.first() {
            self.graph.copy_seq(*arg)?;
        }
        let pairs = match args.first().map(|arg| self.graph.get(*arg)) {
            None => Vec::new(),
            Some(Node::Dict(_, pairs)) => pairs.clone(),
            Some(Node::List(items) | Node::Tuple(items)) => {
                let pair = |item: &NodeId| match self.graph.as_seq(*item) {
                    Some([key, value]) => Ok((*key, *value)),
                    _ => Err(self.error("a dict is built from something that is not a pair")),
                };
                items.iter().map(pair).collect::<Result<_>>()?
            }
            Some(_) => return Err(self.error("a dict is built from something that is not a list of pairs")),
        };
        self.add(Node::Dict(kind, pairs))
    }

    fn sequence(&mut self, args: &[NodeId], build: impl FnOnce(Vec<NodeId>) -> Node) -> Result<NodeId> {
        let items = match args.first().map(|arg| self.graph.get(*arg)) {
            None => Vec::new(),
            Some(Node::List(items) | Node::Tuple(items) | Node::Set(items)) => {
                let items = items.clone();
                self.graph.charge(size_of_val(items.as_slice()))?;
                items
            }
            Some(_) => return Err(self.error("a sequence is built from something that is not a sequence")),
        };
        self.add(build(items))
    }

    /// `torch.device(type[, index])`.
    fn device(&mut self, args: &[NodeId]) -> Result<NodeId> {
        let kind = args.first().and_then(|kind| self.graph.as_str(*kind));
        let index = args.get(1).and_then(|index| self.graph.as_i64(*index));
        let device = match (kind, index) {
            (Some(kind), None) => kind.to_owned(),
            (Some(kind), Some(index)) => format!("{kind}:{index}"),
            _ => return Err(self.error("torch.device without a type")),
        };
        self.graph.charge(device.len())?;
        self.add(Node::Device(device))
    }

    /// `_codecs.encode(text, "latin1")`: how protocol 2 spells bytes.
    fn codecs_encode(&mut self, args: &[NodeId]) -> Result<NodeId> {
        let text = args.first().and_then(|text| self.graph.as_str(*text));
        let encoding = args.get(1).and_then(|encoding| self.graph.as_str(*encoding)).unwrap_or("utf-8");
        let bytes = match (text, encoding) {
            (Some(text), "latin1" | "latin-1" | "iso-8859-1") => {
                text.chars().map(|c| u8::try_from(u32::from(c)).ok()).collect::<Option<Vec<u8>>>()
            }
            (Some(text), "utf-8" | "utf8" | "ascii") => Some(text.as_bytes().to_vec()),
            _ => None,
        };
        match bytes {
            Some(bytes) => {
                self.graph.charge(bytes.len())?;
                self.add(Node::Bytes(bytes))
            }
            None => Err(self.error("_codecs.encode with something other than a latin1 text")),
        }
    }

    fn bytes(&mut self, args: &[NodeId]) -> Result<NodeId> {
        match args.first().map(|arg| self.graph.get(*arg)) {
            None => self.add(Node::Bytes(Vec::new())),
            Some(Node::Bytes(bytes)) => {
                let bytes = bytes.clone();
                self.graph.charge(bytes.len())?;
                self.add(Node::Bytes(bytes))
            }
            Some(Node::Str(_)) => self.codecs_encode(args),
            Some(_) => Err(self.error("bytes are built from something that is not text")),
        }
    }

    /// `scalar(dtype, bytes)`.
    fn numpy_scalar(&mut self, args: Vec<NodeId>) -> Result<NodeId> {
        if let [dtype, data] = args.as_slice()
            && let (Node::NumpyDType(NumpyDType { dtype: Some(dtype), big_endian, .. }), Node::Bytes(data)) =
                (self.graph.get(*dtype), self.graph.get(*data))
        {
            let dtype = *dtype;
            let storage = Storage::owned(self.origin.record.clone(), data.clone(), *big_endian);
            self.graph.charge(storage.len)?;
            let view = TensorView::new(dtype, vec![], vec![], 0, Arc::new(storage))?;
            return self.add(Node::NumpyScalar(view));
        }
        self.object("numpy scalar".into(), args)
    }

    /// State of an array: (version, shape, dtype, Fortran order, bytes).
    fn numpy_array(&mut self, state: NodeId) -> Result<Node> {
        let parts = self.graph.copy_seq(state)?.unwrap_or_default();
        let [.., shape, dtype, fortran, data] = parts.as_slice() else {
            return Err(self.error("a NumPy array without shape, dtype and data"));
        };
        let fortran = matches!(self.graph.get(*fortran), Node::Bool(true));
        self.array(*shape, *dtype, fortran, *data, &parts)
    }

    /// `_frombuffer(bytes, dtype, shape, order)`: how protocol 5 spells an array.
    fn numpy_from_buffer(&mut self, args: Vec<NodeId>) -> Result<NodeId> {
        let [data, dtype, shape, order] = args.as_slice() else {
            return Err(self.error("numpy _frombuffer needs 4 arguments"));
        };
        let fortran = self.graph.as_str(*order) == Some("F");
        let node = self.array(*shape, *dtype, fortran, *data, &args)?;
        self.add(node)
    }

    /// An array of `shape` and `dtype` over `data`; opaque with `parts` where the element type is not known.
    fn array(
        &mut self,
        shape: NodeId,
        dtype: NodeId,
        fortran: bool,
        data: NodeId,
        parts: &[NodeId],
    ) -> Result<Node> {
        let Some(shape) = self.graph.as_ints(shape) else {
            return Err(self.error("a NumPy array without a shape"));
        };
        let Node::NumpyDType(numpy) = self.graph.get(dtype) else {
            return Err(self.error("a NumPy array without a dtype"));
        };
        let numpy = numpy.clone();
        let (Some(dtype), Node::Bytes(data)) = (numpy.dtype, self.graph.get(data)) else {
            let class = format!("numpy.ndarray of {}", numpy.code);
            let object = super::graph::Object { class, args: parts.to_vec(), ..Default::default() };
            return Ok(Node::Object(Box::new(object)));
        };
        let data = data.clone();
        self.graph.charge(data.len())?;
        let strides = if fortran {
            let reversed: Vec<i64> = shape.iter().rev().copied().collect();
            contiguous_strides(&reversed).into_iter().rev().collect()
        } else {
            contiguous_strides(&shape)
        };
        let storage = Storage::owned(self.origin.record.clone(), data, numpy.big_endian);
        let view =
            TensorView::new(dtype, shape, strides, 0, Arc::new(storage)).map_err(|error| match error {
                Error::Tensor { problem, .. } => self.error(format!("NumPy array: {problem}")),
                other => other,
            })?;
        Ok(Node::NumpyArray(Some(view)))
    }

    /// `module.name` of a class that is used as a value.
    fn class_name(&self, id: NodeId) -> Option<String> {
        match self.global(id)? {
            Global::Other(class) => Some(class.clone()),
            Global::OrderedDict => Some("collections.OrderedDict".into()),
            Global::Dict => Some("builtins.dict".into()),
            _ => None,
        }
    }
}

/// Bytes an element of storages that no tensor here can view; the legacy format needs them to find what follows.
fn unsupported_element_size(class: &str) -> Option<usize> {
    Some(match class.rsplit('.').next()? {
        "QInt8Storage" | "QUInt8Storage" | "QUInt4x2Storage" | "QUInt2x4Storage" => 1,
        "QInt32Storage" | "ComplexHalfStorage" => 4,
        _ => return None,
    })
}

//! The objects of a pickle while they are being built: shared and mutable, as in Python.

use super::super::{DType, Error, Result, TensorView};
use super::StorageRef;
use super::globals::Global;

/// More objects are refused; each costs some dozen bytes.
const MAX_NODES: usize = 8 << 20;

/// Index of a node.
pub(super) type NodeId = u32;

/// An object. Containers hold indices, so sharing costs nothing and cycles are harmless.
pub(super) enum Node {
    None,
    Bool(bool),
    Int(i64),
    BigInt(Vec<u8>),
    Float(f64),
    Str(String),
    Bytes(Vec<u8>),
    List(Vec<NodeId>),
    Tuple(Vec<NodeId>),
    Set(Vec<NodeId>),
    Dict(DictKind, Vec<(NodeId, NodeId)>),
    Global(Global),
    Storage(StorageRef),
    Tensor(TensorView),
    Size(Vec<i64>),
    Device(String),
    NumpyDType(NumpyDType),
    /// An array before (`None`) and after its BUILD.
    NumpyArray(Option<TensorView>),
    NumpyScalar(TensorView),
    Object(Box<Object>),
}

/// Which Python class a dict is.
#[derive(Clone, Copy, PartialEq)]
pub(super) enum DictKind {
    Plain,
    Ordered,
    Counter,
}

/// A NumPy dtype; its byte order comes with its BUILD.
#[derive(Clone)]
pub(super) struct NumpyDType {
    pub(super) code: String,
    pub(super) dtype: Option<DType>,
    pub(super) big_endian: bool,
}

/// An instance of an unknown class.
#[derive(Default)]
pub(super) struct Object {
    pub(super) class: String,
    pub(super) args: Vec<NodeId>,
    pub(super) state: Option<NodeId>,
    pub(super) items: Vec<NodeId>,
    pub(super) pairs: Vec<(NodeId, NodeId)>,
}

/// All objects of one pickle.
pub(super) struct Graph {
    nodes: Vec<Node>,
    /// Bytes that copies of shared objects may still take.
    copies_left: usize,
    pickle_len: usize,
}

impl Graph {
    /// A pickle spells out what it builds, so that copies of shared objects are few: `pickle_len` scales what they may
    /// take.
    pub(super) fn new(pickle_len: usize) -> Self {
        let copies_left = pickle_len.saturating_mul(32).saturating_add(64 << 20);
        Self { nodes: Vec::new(), copies_left, pickle_len }
    }

    /// Accounts for a copy of `bytes` that an opcode makes of something that it does not spell out itself. Without it a
    /// few bytes, repeated, copy a large shared object again and again.
    pub(super) fn charge(&mut self, bytes: usize) -> Result<()> {
        match self.copies_left.checked_sub(bytes) {
            Some(left) => {
                self.copies_left = left;
                Ok(())
            }
            None => Err(Error::Limit {
                what: "the pickle copies shared objects again and again".into(),
                limit: format!("a small multiple of its {} bytes", self.pickle_len),
            }),
        }
    }

    /// The elements of a list or tuple, copied.
    pub(super) fn copy_seq(&mut self, id: NodeId) -> Result<Option<Vec<NodeId>>> {
        let Some(len) = self.as_seq(id).map(<[_]>::len) else { return Ok(None) };
        self.charge(len * size_of::<NodeId>())?;
        Ok(self.as_seq(id).map(<[_]>::to_vec))
    }

    pub(super) fn add(&mut self, node: Node) -> Result<NodeId> {
        if self.nodes.len() >= MAX_NODES {
            return Err(Error::Limit {
                what: "the pickle builds too many objects".into(),
                limit: format!("{MAX_NODES}"),
            });
        }
        self.nodes.push(node);
        Ok((self.nodes.len() - 1) as NodeId)
    }

    pub(super) fn get(&self, id: NodeId) -> &Node {
        &self.nodes[id as usize]
    }

    pub(super) fn get_mut(&mut self, id: NodeId) -> &mut Node {
        &mut self.nodes[id as usize]
    }

    pub(super) fn as_i64(&self, id: NodeId) -> Option<i64> {
        match self.get(id) {
            Node::Int(value) => Some(*value),
            _ => None,
        }
    }

    pub(super) fn as_str(&self, id: NodeId) -> Option<&str> {
        match self.get(id) {
            Node::Str(text) => Some(text),
            _ => None,
        }
    }

    /// Elements of a list or tuple.
    pub(super) fn as_seq(&self, id: NodeId) -> Option<&[NodeId]> {
        match self.get(id) {
            Node::List(items) | Node::Tuple(items) => Some(items),
            _ => None,
        }
    }

    /// A tuple of ints, or a `torch.Size`.
    pub(super) fn as_ints(&self, id: NodeId) -> Option<Vec<i64>> {
        match self.get(id) {
            Node::Size(sizes) => Some(sizes.clone()),
            _ => self.as_seq(id)?.iter().map(|item| self.as_i64(*item)).collect(),
        }
    }
}

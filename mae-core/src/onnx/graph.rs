//! The graph while it grows: tensors by number, each result computed once, each constant stored once.

use std::borrow::Cow;
use std::collections::{HashMap, HashSet};

use half::f16;
use tch::{Device, Kind, Tensor};

use super::proto::{
    ATTRIBUTE_FLOAT, ATTRIBUTE_INT, ATTRIBUTE_INTS, AttributeProto, Dimension, DimensionProto, GraphProto,
    NodeProto, TensorProto, TensorShapeProto, TensorTypeProto, TypeProto, ValueInfoProto,
};
use crate::error::{Error, Result};

/// The name of the open dimension.
pub(super) const BATCH: &str = "batch_size";

/// The dtypes of a graph's tensors, by ONNX's numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum DataType {
    /// 32-bit float.
    Float = 1,
    /// 8-bit unsigned integer: pixels.
    Uint8 = 2,
    /// 64-bit integer: shapes, axes and indices.
    Int64 = 7,
    /// 16-bit float.
    Float16 = 10,
}

/// A tensor of the graph, by number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct TensorId(usize);

/// An attribute's value.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Attribute {
    Int(i64),
    Float(f32),
    Ints(Vec<i64>),
}

/// A constant of the graph. Its bytes are fetched when the file is written, one tensor at a time.
#[derive(Debug)]
pub(super) struct Initializer {
    /// Name, shape and dtype, without the bytes.
    pub header: TensorProto,
    data: Data,
}

#[derive(Debug)]
enum Data {
    Bytes(Vec<u8>),
    /// Written as the float type of its header.
    Tensor(Tensor),
}

impl Initializer {
    /// Number of bytes.
    pub fn len(&self) -> usize {
        match &self.data {
            Data::Bytes(bytes) => bytes.len(),
            Data::Tensor(tensor) => tensor.numel() * if self.is_half() { 2 } else { 4 },
        }
    }

    fn is_half(&self) -> bool {
        self.header.data_type == DataType::Float16 as i32
    }

    /// The values, little-endian and row-major.
    ///
    /// # Errors
    /// When libtorch cannot copy them, or fp16 cannot hold one.
    pub fn bytes(&self) -> Result<Cow<'_, [u8]>> {
        match &self.data {
            Data::Bytes(bytes) => Ok(Cow::Borrowed(bytes)),
            Data::Tensor(tensor) => {
                let kind = if self.is_half() { Kind::Half } else { Kind::Float };
                let tensor = tensor.f_detach()?.f_to_device(Device::Cpu)?.f_to_kind(kind)?.f_contiguous()?;
                if self.is_half() && !bool::try_from(tensor.f_isfinite()?.f_all()?)? {
                    return Err(Error::Onnx {
                        problem: format!("'{}' has values that fp16 cannot hold", self.header.name),
                        remedy: "export in fp32 (export.precision=fp32)".into(),
                    });
                }
                let mut bytes = vec![0; self.len()];
                tensor.f_copy_data_u8(&mut bytes, tensor.numel())?;
                Ok(Cow::Owned(bytes))
            }
        }
    }
}

#[derive(Debug)]
struct TensorInfo {
    name: String,
    shape: Vec<i64>,
    dtype: DataType,
    origin: Origin,
}

#[derive(Debug, Clone, Copy)]
enum Origin {
    Input,
    Initializer(usize),
    Node(usize),
}

#[derive(Debug, Clone, PartialEq)]
struct Node {
    name: String,
    op: &'static str,
    inputs: Vec<TensorId>,
    attributes: Vec<(&'static str, Attribute)>,
}

/// What makes two nodes compute the same.
type NodeKey = (&'static str, Vec<TensorId>, String);

/// The graph.
#[derive(Debug, Default)]
pub(super) struct Graph {
    output: String,
    tensors: Vec<TensorInfo>,
    nodes: Vec<Node>,
    initializers: Vec<Initializer>,
    results: HashMap<NodeKey, TensorId>,
    constants: HashMap<(DataType, Vec<i64>, Vec<u8>), TensorId>,
    names: HashSet<String>,
    numbers: HashMap<String, u32>,
}

impl Graph {
    /// An empty graph whose result will be called `output`.
    pub fn new(output: &str) -> Self {
        Graph { output: output.to_owned(), names: HashSet::from([output.to_owned()]), ..Graph::default() }
    }

    /// Adds an input.
    pub fn input(&mut self, name: &str, shape: &[i64], dtype: DataType) -> TensorId {
        let name = self.unique(name);
        self.push(name, shape.to_vec(), dtype, Origin::Input)
    }

    /// Adds a named constant, stored as the float type `dtype`; `note` says how it differs from the state dict's tensor
    /// of that name.
    pub fn initializer(&mut self, name: &str, note: &str, tensor: Tensor, dtype: DataType) -> TensorId {
        let dims = tensor.size();
        self.store(name, note, dims, dtype, Data::Tensor(tensor))
    }

    /// The list of integers `values`.
    pub fn integers(&mut self, values: &[i64]) -> TensorId {
        self.constant(&[values.len() as i64], DataType::Int64, bytemuck::cast_slice(values))
    }

    /// The single integer `value`, without dimensions.
    pub fn integer(&mut self, value: i64) -> TensorId {
        self.constant(&[], DataType::Int64, bytemuck::bytes_of(&value))
    }

    /// The single float `value` as the float type `dtype`, without dimensions.
    pub fn float(&mut self, value: f32, dtype: DataType) -> TensorId {
        match dtype {
            DataType::Float16 => self.constant(&[], dtype, &f16::from_f32(value).to_le_bytes()),
            _ => self.constant(&[], DataType::Float, bytemuck::bytes_of(&value)),
        }
    }

    /// Adds a node in the part of the model called `place`, unless the same result is there already. The result has
    /// `shape`, -1 where the batch is open.
    pub fn node(
        &mut self,
        place: &str,
        op: &'static str,
        inputs: &[TensorId],
        attributes: Vec<(&'static str, Attribute)>,
        shape: Vec<i64>,
        dtype: DataType,
    ) -> TensorId {
        let key = (op, inputs.to_vec(), format!("{attributes:?}"));
        if let Some(&known) = self.results.get(&key) {
            return known;
        }
        let name = self.unique(&if place.is_empty() { op.to_owned() } else { format!("{place}/{op}") });
        let result = self.push(format!("{name}_output"), shape, dtype, Origin::Node(self.nodes.len()));
        self.nodes.push(Node { name, op, inputs: inputs.to_vec(), attributes });
        self.results.insert(key, result);
        result
    }

    /// The shape of a tensor, -1 where the batch is open.
    pub fn shape(&self, id: TensorId) -> &[i64] {
        &self.tensors[id.0].shape
    }

    /// The dtype of a tensor.
    pub fn dtype(&self, id: TensorId) -> DataType {
        self.tensors[id.0].dtype
    }

    /// What a tensor is a reshape of, or the tensor itself.
    pub fn before_reshape(&self, id: TensorId) -> TensorId {
        match self.tensors[id.0].origin {
            Origin::Node(node) if self.nodes[node].op == "Reshape" => self.nodes[node].inputs[0],
            _ => id,
        }
    }

    /// Whether a tensor is computed by a node, and so may be the result.
    pub fn is_computed(&self, id: TensorId) -> bool {
        matches!(self.tensors[id.0].origin, Origin::Node(_))
    }

    /// Makes a computed tensor the result, and returns what it needs: the graph without its constants, and these.
    pub fn finish(mut self, name: &str, output: TensorId) -> (GraphProto, Vec<Initializer>) {
        self.tensors[output.0].name = std::mem::take(&mut self.output);
        let needed = self.needed(output);
        let info = |id: usize| value_info(&self.tensors[id]);
        let results: Vec<usize> = (0..self.tensors.len())
            .filter(|&id| matches!(self.tensors[id].origin, Origin::Node(_)) && needed[id])
            .collect();
        let graph = GraphProto {
            node: results.iter().map(|&id| self.node_proto(id)).collect(),
            name: name.to_owned(),
            initializer: Vec::new(),
            input: (0..self.tensors.len())
                .filter(|&id| matches!(self.tensors[id].origin, Origin::Input))
                .map(info)
                .collect(),
            output: vec![info(output.0)],
            value_info: results.iter().filter(|&&id| id != output.0).map(|&id| info(id)).collect(),
        };
        let mut keep = vec![false; self.initializers.len()];
        for (tensor, _) in self.tensors.iter().zip(&needed).filter(|(_, needed)| **needed) {
            if let Origin::Initializer(index) = tensor.origin {
                keep[index] = true;
            }
        }
        let initializers = self
            .initializers
            .into_iter()
            .zip(keep)
            .filter_map(|(tensor, keep)| keep.then_some(tensor))
            .collect();
        (graph, initializers)
    }

    /// Which tensors the output follows from. Nodes are in topological order, so one pass from the end suffices.
    fn needed(&self, output: TensorId) -> Vec<bool> {
        let mut needed = vec![false; self.tensors.len()];
        needed[output.0] = true;
        for id in (0..=output.0).rev() {
            if let (true, Origin::Node(node)) = (needed[id], self.tensors[id].origin) {
                self.nodes[node].inputs.iter().for_each(|input| needed[input.0] = true);
            }
        }
        needed
    }

    fn node_proto(&self, result: usize) -> NodeProto {
        let tensor = &self.tensors[result];
        let Origin::Node(node) = tensor.origin else { return NodeProto::default() };
        let node = &self.nodes[node];
        NodeProto {
            input: node.inputs.iter().map(|input| self.tensors[input.0].name.clone()).collect(),
            output: vec![tensor.name.clone()],
            name: node.name.clone(),
            op_type: node.op.to_owned(),
            attribute: node.attributes.iter().map(|(name, value)| attribute_proto(name, value)).collect(),
        }
    }

    fn constant(&mut self, dims: &[i64], dtype: DataType, bytes: &[u8]) -> TensorId {
        let key = (dtype, dims.to_vec(), bytes.to_vec());
        if let Some(&known) = self.constants.get(&key) {
            return known;
        }
        let id = self.store("constant", "", dims.to_vec(), dtype, Data::Bytes(bytes.to_vec()));
        self.constants.insert(key, id);
        id
    }

    fn store(&mut self, name: &str, note: &str, dims: Vec<i64>, dtype: DataType, data: Data) -> TensorId {
        let name = self.unique(name);
        let header = TensorProto {
            dims: dims.clone(),
            data_type: dtype as i32,
            name: name.clone(),
            doc_string: note.to_owned(),
            ..TensorProto::default()
        };
        self.initializers.push(Initializer { header, data });
        self.push(name, dims, dtype, Origin::Initializer(self.initializers.len() - 1))
    }

    fn push(&mut self, name: String, shape: Vec<i64>, dtype: DataType, origin: Origin) -> TensorId {
        self.tensors.push(TensorInfo { name, shape, dtype, origin });
        TensorId(self.tensors.len() - 1)
    }

    /// `name`, or `name_1`, `name_2` …
    fn unique(&mut self, name: &str) -> String {
        if self.names.insert(name.to_owned()) {
            return name.to_owned();
        }
        let number = self.numbers.entry(name.to_owned()).or_insert(0);
        loop {
            *number += 1;
            let candidate = format!("{name}_{number}");
            if self.names.insert(candidate.clone()) {
                return candidate;
            }
        }
    }
}

fn value_info(tensor: &TensorInfo) -> ValueInfoProto {
    let dim = tensor
        .shape
        .iter()
        .map(|&size| {
            let value = if size < 0 { Dimension::Param(BATCH.to_owned()) } else { Dimension::Value(size) };
            DimensionProto { value: Some(value) }
        })
        .collect();
    let tensor_type =
        TensorTypeProto { elem_type: tensor.dtype as i32, shape: Some(TensorShapeProto { dim }) };
    ValueInfoProto { name: tensor.name.clone(), r#type: Some(TypeProto { tensor_type: Some(tensor_type) }) }
}

fn attribute_proto(name: &str, value: &Attribute) -> AttributeProto {
    let mut proto = AttributeProto { name: name.to_owned(), ..AttributeProto::default() };
    match value {
        Attribute::Int(value) => (proto.r#type, proto.i) = (ATTRIBUTE_INT, Some(*value)),
        Attribute::Float(value) => (proto.r#type, proto.f) = (ATTRIBUTE_FLOAT, Some(*value)),
        Attribute::Ints(values) => (proto.r#type, proto.ints) = (ATTRIBUTE_INTS, values.clone()),
    }
    proto
}

//! What an ONNX file says of itself: inputs, outputs, metadata. Weights are passed over, so a file of gigabytes is read in
//! no time.

use std::collections::HashSet;
use std::path::Path;

use prost::Message;

use super::proto::{Dimension, OperatorSetIdProto, StringStringEntryProto, ValueInfoProto};
use crate::checkpoint::mmap::SharedBytes;
use crate::error::{Error, Result};

/// An ONNX file without its weights.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Description {
    /// Version of the operator set; 0 when the file does not say.
    pub opset: i64,
    /// What wrote the file, with its version.
    pub producer: String,
    /// What the model takes, constants left out.
    pub inputs: Vec<Described>,
    /// What it gives.
    pub outputs: Vec<Described>,
    /// `metadata_props`, in the file's order.
    pub metadata: Vec<(String, String)>,
    /// Whether it has 16-bit float weights.
    pub is_fp16: bool,
    /// Whether its numbers are quantised by the graph itself (`QuantizeLinear`).
    pub is_quantized: bool,
}

/// An input or output.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Described {
    /// Its name.
    pub name: String,
    /// Its type, such as `float32`.
    pub dtype: &'static str,
    /// Its dimensions, -1 where they are open.
    pub shape: Vec<i64>,
}

impl Description {
    /// The value of a key of the metadata.
    pub fn metadata(&self, key: &str) -> Option<&str> {
        self.metadata.iter().find(|(name, _)| name == key).map(|(_, value)| value.as_str())
    }

    /// The names of the classes, when the file was exported by this project.
    pub fn classes(&self) -> Vec<String> {
        self.metadata("classes").and_then(|text| serde_json::from_str(text).ok()).unwrap_or_default()
    }
}

/// Reads the description of an ONNX file.
///
/// # Errors
/// [`Error::OnnxFile`] when it is none, [`Error::Checkpoint`] when it cannot be opened.
pub fn describe(path: &Path) -> Result<Description> {
    let bytes = SharedBytes::map(path)?;
    let not_onnx = |problem: String| Error::OnnxFile {
        path: path.to_owned(),
        problem,
        remedy: "give a file that mae export wrote, or another complete ONNX file".into(),
    };
    let model = ModelHeader::decode(&bytes[..])
        .map_err(|error| not_onnx(format!("this is no ONNX file: {error}")))?;
    let graph = model.graph.ok_or_else(|| not_onnx("this is no ONNX file: it has no graph".into()))?;
    let constants: HashSet<_> = graph.initializer.iter().map(|tensor| tensor.name.as_str()).collect();
    let inputs = graph.input.iter().filter(|input| !constants.contains(input.name.as_str()));
    let opset = model.opset_import.iter().find(|entry| matches!(entry.domain.as_str(), "" | "ai.onnx"));
    Ok(Description {
        opset: opset.map_or(0, |entry| entry.version),
        producer: format!("{} {}", model.producer_name, model.producer_version).trim().to_owned(),
        inputs: inputs.map(described).collect(),
        outputs: graph.output.iter().map(described).collect(),
        metadata: model.metadata_props.into_iter().map(|entry| (entry.key, entry.value)).collect(),
        is_fp16: graph.initializer.iter().any(|tensor| tensor.data_type == FLOAT16),
        is_quantized: graph.node.iter().any(|node| node.op_type == "QuantizeLinear"),
    })
}

fn described(info: &ValueInfoProto) -> Described {
    let tensor = info.r#type.as_ref().and_then(|of| of.tensor_type.as_ref());
    let size = |value: &Option<Dimension>| match value {
        Some(Dimension::Value(size)) => *size,
        Some(Dimension::Param(_)) | None => -1,
    };
    let dims =
        tensor.and_then(|tensor| tensor.shape.as_ref()).map(|shape| &shape.dim[..]).unwrap_or_default();
    Described {
        name: info.name.clone(),
        dtype: dtype_name(tensor.map_or(0, |tensor| tensor.elem_type)),
        shape: dims.iter().map(|dim| size(&dim.value)).collect(),
    }
}

const FLOAT16: i32 = 10;

/// The names of `TensorProto.DataType`.
fn dtype_name(number: i32) -> &'static str {
    const NAMES: [&str; 17] = [
        "undefined",
        "float32",
        "uint8",
        "int8",
        "uint16",
        "int16",
        "int32",
        "int64",
        "string",
        "bool",
        "float16",
        "float64",
        "uint32",
        "uint64",
        "complex64",
        "complex128",
        "bfloat16",
    ];
    usize::try_from(number).ok().and_then(|index| NAMES.get(index)).copied().unwrap_or("another type")
}

/// `ModelProto` without what is large.
#[derive(Clone, PartialEq, Message)]
struct ModelHeader {
    #[prost(string, tag = "2")]
    producer_name: String,
    #[prost(string, tag = "3")]
    producer_version: String,
    #[prost(message, optional, tag = "7")]
    graph: Option<GraphHeader>,
    #[prost(message, repeated, tag = "8")]
    opset_import: Vec<OperatorSetIdProto>,
    #[prost(message, repeated, tag = "14")]
    metadata_props: Vec<StringStringEntryProto>,
}

#[derive(Clone, PartialEq, Message)]
struct GraphHeader {
    #[prost(message, repeated, tag = "1")]
    node: Vec<NodeHeader>,
    #[prost(message, repeated, tag = "5")]
    initializer: Vec<TensorHeader>,
    #[prost(message, repeated, tag = "11")]
    input: Vec<ValueInfoProto>,
    #[prost(message, repeated, tag = "12")]
    output: Vec<ValueInfoProto>,
}

#[derive(Clone, PartialEq, Message)]
struct NodeHeader {
    #[prost(string, tag = "4")]
    op_type: String,
}

#[derive(Clone, PartialEq, Message)]
struct TensorHeader {
    #[prost(int32, tag = "2")]
    data_type: i32,
    #[prost(string, tag = "8")]
    name: String,
}

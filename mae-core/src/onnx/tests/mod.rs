//! The graph that each operation becomes, and the files.

mod files;
mod graphs;
mod models;
mod variants;

use tch::Device;

use super::proto::{GraphProto, TensorProto};
use super::*;
use crate::nn::init::Init;
use crate::params::{Declare, ParamId};

/// A table of parameters with drawn values.
fn table(declare: &Declare) -> Params {
    Params::new(declare.clone().into_specs(), 7, Device::Cpu).unwrap()
}

fn param(declare: &Declare, name: &str, shape: &[i64]) -> ParamId {
    declare.param(name, shape, Init::Normal { std: 1.0 })
}

/// Options for images `[N, 3, 8, 8]`.
fn options(opset: i64) -> ExportOptions {
    ExportOptions { opset, height: 8, width: 8, ..ExportOptions::default() }
}

fn recorded(
    params: &Params,
    options: &ExportOptions,
    forward: impl FnOnce(&Recorder<'_>, &Value) -> Result<Value>,
) -> (GraphProto, Vec<TensorProto>) {
    let (model, _) = record(params, options, forward).unwrap();
    let initializers = model
        .initializers
        .iter()
        .map(|tensor| TensorProto { raw_data: tensor.bytes().unwrap().into_owned(), ..tensor.header.clone() })
        .collect();
    (model.proto.graph.unwrap(), initializers)
}

/// The operations of a graph, in order.
fn op_types(graph: &GraphProto) -> Vec<&str> {
    graph.node.iter().map(|node| node.op_type.as_str()).collect()
}

fn integers(tensor: &TensorProto) -> Vec<i64> {
    tensor.raw_data.chunks_exact(8).map(|bytes| i64::from_le_bytes(bytes.try_into().unwrap())).collect()
}

fn floats(tensor: &TensorProto) -> Vec<f32> {
    tensor.raw_data.chunks_exact(4).map(|bytes| f32::from_le_bytes(bytes.try_into().unwrap())).collect()
}

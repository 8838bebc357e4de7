//! 16-bit floats, images of bytes, 8-bit integers, and what a file says of itself.

use std::fs;

use super::proto::{Dimension, ValueInfoProto};
use super::*;
use crate::nn::{Conv2d, GlobalResponseNorm, Linear};
use crate::ops::Ops;
use tch::{Kind, Tensor};

fn half(opset: i64) -> ExportOptions {
    ExportOptions { fp16: true, ..options(opset) }
}

/// Dtype and shape of an input or output.
fn kind(info: &ValueInfoProto) -> (i32, Vec<i64>) {
    let tensor = info.r#type.clone().and_then(|of| of.tensor_type).unwrap();
    let size = |value| match value {
        Some(Dimension::Value(size)) => size,
        _ => -1,
    };
    (tensor.elem_type, tensor.shape.unwrap().dim.into_iter().map(|dim| size(dim.value)).collect())
}

const FLOAT: i32 = DataType::Float as i32;
const FLOAT16: i32 = DataType::Float16 as i32;

#[test]
fn sixteen_bits_stay_inside() {
    let declare = Declare::root();
    let layer = Linear::declare(&declare.at("fc"), 8, 5, Init::Normal { std: 1.0 }, Init::Ones);
    let params = table(&declare);
    let (graph, tensors) = recorded(&params, &half(17), |ops, x| ops.linear(&ops.gelu(x)?, &layer));
    assert_eq!(op_types(&graph).join(" "), "Cast Div Erf Add Mul Mul MatMul Add Cast");
    assert_eq!((kind(&graph.input[0]).0, kind(&graph.output[0]).0), (FLOAT, FLOAT));
    assert!(graph.value_info.iter().all(|info| kind(info).0 == FLOAT16));
    assert!(tensors.iter().all(|tensor| tensor.data_type == FLOAT16));
    let weight = tensors.iter().find(|tensor| tensor.name == "fc.weight").unwrap();
    let expected = params.get(layer.weight).tr().contiguous().to_kind(Kind::Half).to_kind(Kind::Float);
    let found: Vec<f32> = weight
        .raw_data
        .chunks_exact(2)
        .map(|bytes| half::f16::from_le_bytes(bytes.try_into().unwrap()).to_f32())
        .collect();
    assert_eq!(found, Vec::<f32>::try_from(expected.view(-1)).unwrap());
}

#[test]
fn what_sixteen_bits_cannot_hold_is_computed_in_thirty_two() {
    let declare = Declare::root();
    let layer = GlobalResponseNorm::declare(&declare.at("grn"), 8);
    let (graph, _) = recorded(&table(&declare), &half(17), |ops, x| {
        ops.mean(&ops.global_response_norm(x, &layer)?, &[1, 2])
    });
    let of = |name: &str| graph.node.iter().find(|node| node.op_type == name).unwrap();
    for op in ["ReduceL2", "ReduceMean"] {
        let input = &of(op).input[0];
        assert_eq!(kind(graph.value_info.iter().find(|info| info.name == *input).unwrap()).0, FLOAT, "{op}");
    }
    // The queries are scaled before the products, which might leave fp16 otherwise.
    let (graph, _) = recorded(&table(&Declare::root()), &half(17), |ops, x| ops.attention(x, x, x));
    assert_eq!(op_types(&graph).join(" "), "Cast Transpose Mul MatMul Softmax MatMul Cast");

    let error = record(&table(&Declare::root()), &half(16), |ops, x| ops.gelu(x)).unwrap_err();
    insta::assert_snapshot!(error, @r"
    ONNX export: opset_version 16 has no LayerNormalization, without which fp16 overflows
      help: set export.opset_version to 17 or more, or export in fp32
    ");
    let declare = Declare::root();
    let layer = Linear::declare(&declare.at("fc"), 8, 5, Init::Ones, Init::Ones);
    let specs = declare.into_specs();
    let large =
        |spec: &crate::params::ParamSpec| Ok(Tensor::full(&spec.shape, 1e5, (Kind::Float, Device::Cpu)));
    let params = Params::filled(specs, Device::Cpu, large).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let error = export(&folder.path().join("a.onnx"), &params, &half(17), |ops, x| ops.linear(x, &layer));
    assert!(error.unwrap_err().to_string().contains("'fc.weight' has values that fp16 cannot hold"));
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
}

fn bytes() -> ExportOptions {
    let preprocessing = Preprocessing { mean: [0.5, 0.25, 0.125], std: [0.5, 0.25, 2.0] };
    ExportOptions { preprocessing: Some(preprocessing), ..options(17) }
}

#[test]
fn images_of_bytes_are_reordered_once() {
    let declare = Declare::root();
    let layer = Conv2d::declare_patches(&declare.at("stem"), 3, 6, 2, Init::Ones, Init::Zeros);
    let (graph, tensors) = recorded(&table(&declare), &bytes(), |ops, images| {
        ops.conv2d(&ops.permute(images, &[0, 2, 3, 1])?, &layer)
    });
    assert_eq!(op_types(&graph).join(" "), "Cast Div Sub Div Transpose Conv Transpose");
    assert_eq!(kind(&graph.input[0]), (DataType::Uint8 as i32, vec![-1, 8, 8, 3]));
    let named = |name: &str| floats(tensors.iter().find(|tensor| tensor.name == name).unwrap());
    assert_eq!(named("preprocessing.mean"), [0.5, 0.25, 0.125]);
    assert_eq!(named("preprocessing.std"), [0.5, 0.25, 2.0]);
    let grey = ExportOptions { channels: 1, ..bytes() };
    let error = record(&table(&Declare::root()), &grey, |ops, x| ops.gelu(x)).unwrap_err().to_string();
    assert!(error.contains("preprocessing is for images of 3 channels, not 1"), "{error}");
}

#[test]
fn a_file_describes_itself() {
    let declare = Declare::root();
    let layer = Linear::declare(&declare.at("fc"), 8, 5, Init::Ones, Init::Ones);
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.onnx");
    let metadata = vec![("arch".into(), "small".into()), ("classes".into(), r#"["a","b"]"#.into())];
    for (fp16, external_data) in [(false, Some(true)), (true, None)] {
        let options =
            ExportOptions { fp16, external_data, metadata: metadata.clone(), overwrite: true, ..bytes() };
        export(&path, &table(&declare), &options, |ops, images| {
            ops.linear(&ops.mean(&ops.permute(images, &[0, 2, 3, 1])?, &[1, 3])?, &layer)
        })
        .unwrap();
        let found = describe(&path).unwrap();
        let input = Described { name: "input".into(), dtype: "uint8", shape: vec![-1, 8, 8, 3] };
        let output = Described { name: "output".into(), dtype: "float32", shape: vec![-1, 5] };
        assert_eq!((&found.inputs[..], &found.outputs[..]), (&[input][..], &[output][..]));
        assert_eq!((found.opset, found.is_fp16, found.is_quantized), (17, fp16, false));
        assert_eq!((found.metadata("arch"), found.metadata("none")), (Some("small"), None));
        assert_eq!(found.classes(), ["a", "b"]);
        assert!(found.producer.starts_with("mae "));
    }
    for (bytes, problem) in [(&b"no model"[..], "this is no ONNX file"), (b"", "it has no graph")] {
        fs::write(&path, bytes).unwrap();
        let error = describe(&path).unwrap_err().to_string();
        assert!(error.contains("a.onnx: ") && error.contains(problem), "{error}");
    }
}

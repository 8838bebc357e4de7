//! Options and files.

use std::fs;

use prost::Message;

use super::*;
use crate::nn::Linear;
use crate::ops::Ops;

fn model() -> (Params, Linear) {
    let declare = Declare::root();
    let layer = Linear::declare(&declare.at("fc"), 8, 100, Init::Normal { std: 1.0 }, Init::Ones);
    (table(&declare), layer)
}

#[test]
fn options_that_cannot_be_met_are_refused() {
    let (params, layer) = model();
    let refusal = |options: ExportOptions| {
        record(&params, &options, |ops, x| ops.linear(x, &layer)).unwrap_err().to_string()
    };
    insta::assert_snapshot!(refusal(options(12)), @"ONNX export: opset_version 12 is not supported; expected 13 to 28, the newest that onnxruntime runs\n  help: choose 17 unless the runtime that will load the model asks for another");
    insta::assert_snapshot!(refusal(options(NEWEST_OPSET + 1)), @"ONNX export: opset_version 29 is not supported; expected 13 to 28, the newest that onnxruntime runs\n  help: choose 17 unless the runtime that will load the model asks for another");
    insta::assert_snapshot!(refusal(ExportOptions { batch_size: Some(0), ..options(17) }), @"ONNX export: batch_size is 0, expected at least 1\n  help: correct it; an open batch is set by leaving it unset (-1 in a spec)");
    let twice = vec![("arch".to_owned(), "a".to_owned()), ("arch".to_owned(), "b".to_owned())];
    insta::assert_snapshot!(refusal(ExportOptions { metadata: twice, ..options(17) }), @"ONNX export: the metadata has two values for 'arch', and a reader would see one\n  help: keep one");
}

#[test]
fn a_file_is_the_message_and_the_same_every_time() {
    let (params, layer) = model();
    let folder = tempfile::tempdir().unwrap();
    let options = ExportOptions { metadata: vec![("arch".into(), "small".into())], ..options(17) };
    let export = |name: &str| {
        let path = folder.path().join(name);
        let summary = export(&path, &params, &options, |ops, x| ops.linear(x, &layer)).unwrap();
        assert_eq!((summary.nodes, summary.initializers, summary.output_shape), (2, 2, vec![-1, 3, 8, 100]));
        let bytes = fs::read(path).unwrap();
        assert_eq!(summary.bytes, bytes.len() as u64);
        bytes
    };
    let bytes = export("a.onnx");
    assert_eq!(bytes, export("b.onnx"));
    let model = ModelProto::decode(&bytes[..]).unwrap();
    assert_eq!((model.ir_version, model.opset_import[0].version), (8, 17));
    assert_eq!(model.metadata_props[0].value, "small");
    let tensors = &model.graph.as_ref().unwrap().initializer;
    assert_eq!(tensors.iter().map(|t| t.raw_data.len()).collect::<Vec<_>>(), [3200, 400]);
    // Streaming gave what the library would have.
    assert_eq!(model.encoded_len(), bytes.len());
    let (expected, _) = record(&params, &options, |ops, x| ops.linear(x, &layer)).unwrap();
    let graph = expected.proto.graph.unwrap();
    assert_eq!(model.graph.map(|graph| GraphProto { initializer: vec![], ..graph }), Some(graph));
}

#[test]
fn large_tensors_can_be_in_another_file() {
    let (params, layer) = model();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.onnx");
    let write = |external_data| {
        let options = ExportOptions { external_data, overwrite: true, ..options(17) };
        let summary = export(&path, &params, &options, |ops, x| {
            let y = ops.linear(x, &layer)?;
            ops.add(&y, &ops.reshape(&ops.parameter(layer.weight), &[8, 100])?)
        });
        let model = ModelProto::decode(&fs::read(&path).unwrap()[..]).unwrap();
        (summary.unwrap(), model.graph.unwrap().initializer)
    };
    let (_, inside) = write(Some(false));
    let (summary, outside) = write(Some(true));
    let data = folder.path().join("model.onnx.data");
    assert_eq!(summary.files, [data.clone(), path.clone()]);
    let data = fs::read(data).unwrap();
    let external: Vec<_> = outside.iter().map(|tensor| tensor.data_location).collect();
    assert_eq!(external, [1, 0, 1], "the bias is too small to be worth it");
    for (outside, inside) in outside.iter().zip(&inside).filter(|(outside, _)| outside.data_location == 1) {
        let entry = |index: usize| outside.external_data[index].value.clone();
        let (offset, length): (usize, usize) = (entry(1).parse().unwrap(), entry(2).parse().unwrap());
        assert_eq!((entry(0).as_str(), offset % 4096), ("model.onnx.data", 0));
        assert_eq!(data[offset..offset + length], inside.raw_data[..]);
    }
    assert_eq!(write(None).0.files, std::slice::from_ref(&path), "a small model needs no second file");
}

#[test]
fn a_model_too_large_for_one_file_is_refused_as_one() {
    let declare = Declare::root();
    let layer = Linear::declare(&declare.at("fc"), 8, 1 << 27, Init::Ones, Init::Ones);
    // 4 GiB of weights that share one element.
    let one = tch::Tensor::ones([1], (tch::Kind::Float, Device::Cpu));
    let specs = declare.into_specs();
    let params = Params::filled(specs, Device::Cpu, |spec| Ok(one.f_expand(&spec.shape, false)?)).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let options = ExportOptions { external_data: Some(false), ..options(17) };
    let path = folder.path().join("model.onnx");
    let error = export(&path, &params, &options, |ops, x| ops.linear(x, &layer)).unwrap_err().to_string();
    assert!(error.contains("and one ONNX file holds 2147483647\n  help: let the tensors"), "{error}");
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
}

#[test]
fn nothing_is_replaced_or_left_behind() {
    let (params, layer) = model();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.onnx");
    let files = || fs::read_dir(folder.path()).unwrap().map(|e| e.unwrap().file_name()).collect::<Vec<_>>();

    let failing = export(&path, &params, &options(17), |ops, x| ops.reshape(x, &[-1, 5]));
    assert!(matches!(failing, Err(Error::Shape { .. })) && files().is_empty());

    fs::write(folder.path().join("model.onnx.data"), "theirs").unwrap();
    let external = ExportOptions { external_data: Some(true), ..options(17) };
    let error = export(&path, &params, &external, |ops, x| ops.linear(x, &layer)).unwrap_err().to_string();
    assert!(error.contains("model.onnx.data exists already\n  help: choose another name"), "{error}");
    assert_eq!(files(), ["model.onnx.data"]);

    fs::write(&path, "mine").unwrap();
    let error = export(&path, &params, &options(17), |_, _| unreachable!()).unwrap_err().to_string();
    assert!(error.contains("model.onnx exists already"), "{error}");
    assert_eq!(fs::read(&path).unwrap(), b"mine");

    let missing = folder.path().join("missing").join("model.onnx");
    let error =
        export(&missing, &params, &options(17), |ops, x| ops.linear(x, &layer)).unwrap_err().to_string();
    assert!(error.starts_with("creating ") && error.contains("missing/model.onnx"), "{error}");
}

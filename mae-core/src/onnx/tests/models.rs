//! Whole backbones.

use std::collections::{BTreeMap, HashSet};
use std::fmt::Write;

use super::proto::{Dimension, ValueInfoProto};
use super::*;
use crate::arch::Arch;
use crate::backbone::{Encoder, Purpose};

fn backbone(arch: &str, size: i64, opset: i64) -> (GraphProto, Vec<TensorProto>, Params) {
    let declare = Declare::root();
    let encoder =
        Encoder::declare(&declare, Arch::by_name(arch).unwrap(), (size, size), 0.1, Purpose::Finetune)
            .unwrap();
    let params = table(&declare);
    let options = ExportOptions { opset, height: size, width: size, ..ExportOptions::default() };
    let (graph, tensors) = recorded(&params, &options, |ops, images| encoder.features(ops, images));
    (graph, tensors, params)
}

#[test]
fn the_nodes_of_convnextv2_atto() {
    let (graph, ..) = backbone("convnextv2_atto", 224, 17);
    let mut counts = BTreeMap::<&str, usize>::new();
    op_types(&graph).into_iter().for_each(|op| *counts.entry(op).or_default() += 1);
    let mut text = String::new();
    counts.iter().for_each(|(op, count)| writeln!(text, "{op} {count}").unwrap());
    text += "\nstem and first block\n";
    graph.node.iter().take(25).for_each(|node| writeln!(text, "{}", node.name).unwrap());
    insta::assert_snapshot!(text);
}

#[test]
fn every_parameter_is_there_once_under_its_name() {
    for (arch, size) in [("convnextv2_atto", 64), ("hiera_tiny_224", 64)] {
        let (graph, tensors, params) = backbone(arch, size, 17);
        let stored: Vec<_> = tensors.iter().map(|tensor| tensor.name.as_str()).collect();
        for (_, spec, _) in params.iter() {
            let tensor = tensors.iter().filter(|tensor| tensor.name == spec.name).collect::<Vec<_>>();
            assert_eq!(tensor.len(), 1, "{arch}: {}", spec.name);
            let transposed = tensor[0].doc_string.starts_with("transposed");
            let shape =
                if transposed { spec.shape.iter().rev().copied().collect() } else { spec.shape.clone() };
            assert_eq!(tensor[0].dims, shape, "{arch}: {}", spec.name);
        }
        let small: Vec<_> = tensors.iter().filter(|tensor| tensor.name.starts_with("constant")).collect();
        assert_eq!(small.len() + params.len(), stored.len());
        let distinct: HashSet<_> = small.iter().map(|t| (t.data_type, &t.dims, &t.raw_data)).collect();
        assert_eq!(distinct.len(), small.len(), "{arch}: a constant is stored twice");
        assert!(graph.node.iter().all(|node| !node.name.is_empty()));
    }
}

#[test]
fn every_result_has_a_shape_that_tensorrt_can_hold() {
    for (arch, size) in [("convnextv2_atto", 64), ("hiera_tiny_224", 64)] {
        let (graph, ..) = backbone(arch, size, 13);
        let dims = |info: &ValueInfoProto| {
            let tensor = info.r#type.clone().and_then(|of| of.tensor_type).unwrap();
            tensor.shape.unwrap().dim.into_iter().map(|dim| dim.value.unwrap()).collect::<Vec<_>>()
        };
        assert_eq!(dims(&graph.input[0])[0], Dimension::Param("batch_size".into()));
        let results: HashSet<_> = graph.node.iter().flat_map(|node| &node.output).collect();
        let described: HashSet<_> =
            graph.value_info.iter().chain(&graph.output).map(|info| &info.name).collect();
        assert_eq!(results, described, "{arch}");
        assert!(graph.value_info.iter().all(|info| dims(info).len() <= 8), "{arch}");
    }
}

//! Each operation on its own.

use tch::Kind;

use super::*;
use crate::nn::DropPath;
use crate::nn::position::Resample;
use crate::nn::{Conv2d, GlobalResponseNorm, LayerNorm, Linear};
use crate::ops::Ops;

#[test]
fn a_linear_layer_is_a_product_with_the_transposed_weight() {
    let declare = Declare::root();
    let layer = Linear::declare(&declare.at("fc"), 8, 5, Init::Normal { std: 1.0 }, Init::Ones);
    let params = table(&declare);
    let (graph, tensors) = recorded(&params, &options(17), |ops, x| ops.linear(x, &layer));
    assert_eq!(op_types(&graph), ["MatMul", "Add"]);
    assert_eq!(graph.node[0].name, "fc/MatMul");
    assert_eq!(graph.node[0].input, ["input", "fc.weight"]);
    assert_eq!((tensors[0].name.as_str(), &tensors[0].dims[..]), ("fc.weight", &[8, 5][..]));
    assert!(tensors[0].doc_string.starts_with("transposed"));
    let expected = Vec::<f32>::try_from(params.get(layer.weight).tr().contiguous().view(-1)).unwrap();
    assert_eq!(floats(&tensors[0]), expected);
}

#[test]
fn neighbouring_convolutions_need_no_reordering() {
    let declare = Declare::root();
    let first = Conv2d::declare_patches(&declare.at("a"), 3, 6, 2, Init::Ones, Init::Zeros);
    let second = Conv2d::declare_depthwise(&declare.at("b"), 6, 7, Init::Ones, Init::Zeros);
    let (graph, _) = recorded(&table(&declare), &options(17), |ops, images| {
        let x = ops.permute(images, &[0, 2, 3, 1])?;
        let y = ops.conv2d(&ops.gelu(&ops.conv2d(&x, &first)?)?, &second)?;
        assert_eq!(y.shape(), [-1, 4, 4, 6]);
        ops.mean(&ops.add(&y, &y)?, &[1, 2])
    });
    assert_eq!(op_types(&graph), ["Conv", "Div", "Erf", "Add", "Mul", "Mul", "Conv", "Add", "ReduceMean"]);
    // The mean of the second and third dimension, which are the third and fourth of what the convolution gives.
    assert_eq!(graph.node[8].attribute[0].ints, [2, 3]);
}

#[test]
fn dimensions_are_found_through_a_pending_reordering() {
    let (graph, _) = recorded(&table(&Declare::root()), &options(17), |ops, images| {
        let x = ops.permute(images, &[3, 0, 1, 2])?; // [W, N, C, H]
        let x = ops.narrow(&x, 0, 2, 5)?;
        assert_eq!(x.shape(), [5, -1, 3, 8]);
        let x = ops.select(&x, 2, 1)?;
        assert_eq!(x.shape(), [5, -1, 8]);
        ops.permute(&ops.amax(&x, 2)?, &[1, 0])
    });
    // [N, C, H, W] is cut along W, loses C and H, and is then in the wanted order already.
    assert_eq!(op_types(&graph), ["Slice", "Gather", "ReduceMax"]);
    assert_eq!(graph.node[1].attribute[0].i, Some(1));
    assert_eq!(graph.node[2].attribute[0].ints, [1]);
}

#[test]
fn norms_and_activations_follow_the_operator_set() {
    let declare = Declare::root();
    let norm = LayerNorm::declare(&declare.at("norm"), 8);
    let params = table(&declare);
    let ops_at = |opset, forward: &dyn Fn(&Recorder<'_>, &Value) -> Result<Value>| {
        let (graph, _) = recorded(&params, &options(opset), forward);
        graph.node.iter().map(|node| node.op_type.clone()).collect::<Vec<_>>().join(" ")
    };
    let layer_norm = |ops: &Recorder<'_>, x: &Value| ops.layer_norm(x, &norm);
    assert_eq!(ops_at(16, &layer_norm), "ReduceMean Sub Pow ReduceMean Add Sqrt Div Mul Add");
    assert_eq!(ops_at(17, &layer_norm), "LayerNormalization");
    let gelu = |ops: &Recorder<'_>, x: &Value| ops.gelu(x);
    assert_eq!(ops_at(19, &gelu), "Div Erf Add Mul Mul");
    assert_eq!(ops_at(20, &gelu), "Gelu");
}

#[test]
fn reductions_take_their_axes_where_the_operator_set_has_them() {
    let mean = |opset| recorded(&table(&Declare::root()), &options(opset), |ops, x| ops.mean(x, &[-1, 1])).0;
    let (old, new) = (mean(17), mean(18));
    assert_eq!((old.node[0].input.len(), &old.node[0].attribute[0].ints[..]), (1, &[1, 3][..]));
    assert_eq!((new.node[0].input.len(), new.node[0].attribute.len()), (2, 1));
    let shape = new.output[0].r#type.clone().and_then(|of| of.tensor_type).and_then(|of| of.shape).unwrap();
    assert_eq!(shape.dim.len(), 2);
}

#[test]
fn global_response_norm_multiplies_the_image_once() {
    let declare = Declare::root();
    let layer = GlobalResponseNorm::declare(&declare.at("grn"), 8);
    let (graph, _) = recorded(&table(&declare), &options(17), |ops, x| ops.global_response_norm(x, &layer));
    assert_eq!(op_types(&graph).join(" "), "ReduceL2 ReduceMean Add Div Mul Add Mul Add");
    assert!(graph.node.iter().all(|node| node.name.starts_with("grn/")));
}

#[test]
fn attention_reorders_the_keys_once() {
    let (graph, tensors) = recorded(&table(&Declare::root()), &options(17), |ops, x| {
        // [N, L, heads, d] → [N, heads, L, d]
        let x = ops.permute(x, &[0, 2, 1, 3])?;
        ops.attention(&x, &x, &x)
    });
    assert_eq!(op_types(&graph).join(" "), "Transpose Transpose MatMul Mul Softmax MatMul");
    assert_eq!(graph.node[1].attribute[0].ints, [0, 2, 3, 1]);
    assert_eq!(floats(&tensors[0]), [1.0 / 8_f32.sqrt()]);
}

#[test]
fn equal_nodes_and_equal_constants_are_there_once() {
    let (graph, tensors) = recorded(&table(&Declare::root()), &options(17), |ops, x| {
        let (y, z) = (ops.gelu(x)?, ops.gelu(x)?);
        ops.gelu(&ops.add(&y, &z)?)
    });
    assert_eq!(graph.node.len(), 5 + 1 + 5);
    assert_eq!(tensors.len(), 3);
}

#[test]
fn what_the_result_does_not_need_is_left_out() {
    let declare = Declare::root();
    let layer = Linear::declare(&declare.at("fc"), 8, 5, Init::Ones, Init::Ones);
    let (graph, tensors) = recorded(&table(&declare), &options(17), |ops, x| {
        ops.linear(x, &layer)?;
        ops.drop_path(x.clone(), DropPath { site: 0, rate: 0.5 })
    });
    // An input cannot be renamed to be the output.
    assert_eq!(op_types(&graph), ["Identity"]);
    assert!(tensors.is_empty());
    assert_eq!(graph.node[0].output, [OUTPUT_NAME]);
}

#[test]
fn the_batch_is_kept_apart_in_reshapes() {
    let params = table(&Declare::root());
    let (graph, tensors) = recorded(&params, &options(17), |ops, x| {
        let x = ops.reshape(x, &[-1, 3, 8, 8])?;
        let x = ops.reshape(&x, &[-1, 192])?;
        ops.reshape(&x, &[-1, 24, 8])
    });
    // The first changes nothing, and the third starts from what the second started from.
    assert_eq!(op_types(&graph), ["Reshape"]);
    assert_eq!((graph.node[0].input[0].as_str(), integers(&tensors[0])), ("input", vec![0, 24, 8]));

    let fixed = ExportOptions { batch_size: Some(2), ..options(17) };
    let (_, tensors) = recorded(&params, &fixed, |ops, x| ops.reshape(x, &[-1, 48]));
    assert_eq!(integers(&tensors[0]), [8, 48]);
    for shape in [&[-1, 8][..], &[192], &[2, 192], &[-1, 193]] {
        let error = record(&params, &options(17), |ops, x| ops.reshape(x, shape)).unwrap_err().to_string();
        assert!(error.contains("found [-1, 3, 8, 8]"), "{error}");
    }
}

#[test]
fn a_reordering_of_many_dimensions_takes_rows() {
    let (graph, tensors) = recorded(&table(&Declare::root()), &options(17), |ops, images| {
        let x = ops.reshape(&ops.permute(images, &[0, 2, 3, 1])?, &[-1, 64, 3])?;
        let x = ops.reshape(&x, &[-1, 2, 2, 2, 1, 2, 2, 2, 1, 3])?;
        let x = ops.permute(&x, &[0, 7, 3, 6, 2, 5, 1, 4, 8, 9])?;
        ops.reshape(&x, &[-1, 64, 3])
    });
    assert_eq!(op_types(&graph), ["Transpose", "Reshape", "Gather"]);
    let rows = tch::Tensor::arange(64, (Kind::Int64, Device::Cpu)).reshape([2, 2, 2, 1, 2, 2, 2, 1]);
    let rows = rows.permute([6, 2, 5, 1, 4, 0, 3, 7]).contiguous().view(-1);
    assert_eq!(integers(&tensors[1]), Vec::<i64>::try_from(rows).unwrap());
}

#[test]
fn positions_are_computed_now() {
    let declare = Declare::root();
    let (token, positions) =
        (param(&declare, "cls_token", &[1, 1, 8]), param(&declare, "pos_embed", &[1, 5, 8]));
    let params = table(&declare);
    let resample = Resample { prefix: 1, from: (2, 2), to: (4, 6), antialias: true };
    let forward = |ops: &Recorder<'_>, images: &Value| {
        let positions = ops.positions(positions, Some(resample))?;
        let x = ops.add(&ops.reshape(images, &[-1, 24, 8])?, &ops.narrow(&positions, 1, 1, 24)?)?;
        ops.prepend_token(token, &ops.narrow(&positions, 1, 0, 1)?, &x)
    };
    let names = |batch_size, opset| {
        let (graph, tensors) = recorded(&params, &ExportOptions { batch_size, ..options(opset) }, forward);
        let folded = tensors.iter().filter(|t| t.name.ends_with(".folded"));
        let shapes = folded.map(|tensor| tensor.dims.clone()).collect::<Vec<_>>();
        assert_eq!(shapes, [vec![1, 24, 8], vec![1, 1, 8]], "positions, then the token with its own");
        op_types(&graph).join(" ")
    };
    assert_eq!(names(None, 17), "Reshape Add Shape Concat Expand Concat");
    assert_eq!(names(None, 14), "Reshape Add Shape Gather Concat Expand Concat");
    assert_eq!(names(Some(4), 17), "Reshape Add Expand Concat");
    assert_eq!(names(Some(1), 17), "Reshape Add Concat");
}

#[test]
fn a_layer_that_does_not_fit_is_named() {
    let declare = Declare::root();
    let layer = Linear::declare(&declare.at("blocks").at(3).at("fc"), 9, 5, Init::Ones, Init::Ones);
    let error = record(&table(&declare), &options(17), |ops, x| ops.linear(x, &layer)).unwrap_err();
    assert_eq!(
        error.to_string(),
        "ONNX export, input of blocks.3.fc (-1: the batch): expected shape […, 9], found [-1, 3, 8, 8]"
    );
}

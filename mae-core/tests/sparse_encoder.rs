//! FCMAE's sparse encoder: what is hidden cannot be seen, and what is seen is what masked dense convolutions give.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "a failed expectation is a failed test"
)]

mod common;

use common::{golden_params, image, l2, noise};
use mae_core::arch::Arch;
use mae_core::ops::Eager;
use mae_core::params::{Declare, Params};
use mae_core::pretrain::{MaskedAutoencoder, PretrainConfig, Reconstruction};
use tch::{Kind, Tensor};

const SIZE: (i64, i64) = (96, 128);

fn model(sparse_encoder: bool) -> (MaskedAutoencoder, Params) {
    let root = Declare::root();
    let arch = Arch::by_name("convnextv2_atto").unwrap();
    let config = PretrainConfig { mask_ratio: 0.6, sparse_encoder, ..PretrainConfig::default() };
    let model = MaskedAutoencoder::declare(&root, arch, SIZE, config).unwrap();
    (model, golden_params(root.into_specs(), "sparse"))
}

fn inputs() -> (Tensor, Tensor) {
    (image("sparse", "input", &[2, 3, SIZE.0, SIZE.1]), noise("sparse", "noise", &[2, 12]))
}

/// The batch with other pixels where the mask hides them.
fn repainted(images: &Tensor, hidden: &Tensor) -> Tensor {
    let map = hidden.reshape([2, 1, 3, 4]);
    let map = map.repeat_interleave_self_int(32, 2, None).repeat_interleave_self_int(32, 3, None);
    images + map * image("sparse", "other", &images.size()) * 100.0
}

type Trace = Vec<(String, Tensor)>;

fn run(sparse: bool, images: &Tensor) -> (Reconstruction, Trace) {
    let (model, params) = model(sparse);
    let (_, noise) = inputs();
    let ops = Eager::new(&params).with_trace();
    let output = model.forward(&ops, images, &noise).unwrap();
    (output, ops.into_trace())
}

#[test]
fn hidden_pixels_change_no_bit_of_the_encoder() {
    let (images, _) = inputs();
    let (output, trace) = run(true, &images);
    let (other_output, other_trace) = run(true, &repainted(&images, &output.mask.hidden));
    let encoder = |(name, _): &&(String, Tensor)| name.starts_with("encoder.") || name == "proj";
    let mut compared = 0;
    for ((name, ours), (_, other)) in trace.iter().filter(encoder).zip(other_trace.iter().filter(encoder)) {
        assert!(ours.equal(other), "{name} saw a hidden pixel");
        compared += 1;
    }
    assert_eq!(compared, 1 + 3 + 12 + 1, "stem, downsampling, blocks, projection");
    // The loss is that of the hidden pixels themselves: it must differ, or the test proves nothing.
    assert_ne!(f64::try_from(output.loss).unwrap(), f64::try_from(other_output.loss).unwrap());
}

#[test]
fn a_dense_encoder_does_see_hidden_pixels_only_through_its_mask() {
    // TAO's encoder masks behind the stem: nothing leaks there either, but hidden places take part in what follows.
    let (images, _) = inputs();
    let norm = |sparse: bool| {
        let (_, trace) = run(sparse, &images);
        l2(&trace.iter().find(|(name, _)| name == "proj").unwrap().1)
    };
    assert!((norm(true) - norm(false)).abs() > 1e-3);
}

/// The definition, written down again: dense convolutions, every one of them masked before and after, norms and statistics of
/// visible places alone.
#[test]
fn the_sparse_encoder_equals_masked_dense_convolutions() {
    let (images, _) = inputs();
    let (output, trace) = run(true, &images);
    let (_, params) = model(true);
    let get = |name: &str| params.get(params.id(&format!("encoder.{name}")).unwrap()).shallow_clone();
    let visible = (Tensor::from(1.0) - &output.mask.hidden).reshape([2, 1, 3, 4]);
    let mask = |side: i64| {
        visible.repeat_interleave_self_int(side, 2, None).repeat_interleave_self_int(side, 3, None)
    };
    let norm = |x: &Tensor, name: &str| {
        let (weight, bias) = (get(&format!("{name}.weight")), get(&format!("{name}.bias")));
        x.permute([0, 2, 3, 1])
            .layer_norm(weight.size(), Some(&weight), Some(&bias), 1e-6, false)
            .permute([0, 3, 1, 2])
    };
    let conv = |x: &Tensor, name: &str, stride: i64, padding: i64, groups: i64| {
        let (weight, bias) = (get(&format!("{name}.weight")), get(&format!("{name}.bias")));
        x.conv2d(&weight, Some(&bias), [stride; 2], [padding; 2], [1, 1], groups)
    };
    let mut x = norm(&conv(&images, "downsample_layers.0.0", 4, 0, 1), "downsample_layers.0.1") * mask(8);
    for (stage, depth) in [2usize, 2, 6, 2].into_iter().enumerate() {
        let places = mask(8 >> stage);
        if stage > 0 {
            let name = format!("downsample_layers.{stage}");
            x = conv(&norm(&x, &format!("{name}.0")), &format!("{name}.1"), 2, 0, 1) * &places;
        }
        for block in 0..depth {
            let name = format!("stages.{stage}.{block}");
            let channels = x.size()[1];
            let y = conv(&(&x * &places), &format!("{name}.dwconv"), 1, 3, channels) * &places;
            let y = norm(&y, &format!("{name}.norm")).permute([0, 2, 3, 1]);
            let linear = |x: &Tensor, layer: &str| {
                x.linear(&get(&format!("{name}.{layer}.weight")), Some(&get(&format!("{name}.{layer}.bias"))))
            };
            let y = linear(&y, "pwconv1").gelu("none");
            let seen = places.permute([0, 2, 3, 1]);
            let energy = (&y * &seen).square().sum_dim_intlist([1, 2].as_slice(), true, Kind::Float).sqrt();
            let response = &energy / (energy.mean_dim([-1].as_slice(), true, Kind::Float) + 1e-6);
            let y =
                get(&format!("{name}.grn.gamma")) * (&y * response) + get(&format!("{name}.grn.beta")) + &y;
            x = (x + linear(&y, "pwconv2").permute([0, 3, 1, 2])) * &places;
        }
    }
    let (_, stacked) = trace.iter().rev().find(|(name, _)| name == "encoder.stages.3.1").unwrap();
    let (keep, _) = output.mask.keep.sort(1, false);
    let channels = x.size()[1];
    let index = keep.unsqueeze(-1).expand([-1, -1, channels], false);
    let expected = x.flatten(2, 3).transpose(1, 2).gather(1, &index, false);
    let difference = stacked.reshape(expected.size()) - &expected;
    let error = l2(&difference) / l2(&expected);
    println!("sparse against masked dense: {error:.1e}");
    assert!(error < 2e-6, "{error:e}");
}

#[test]
fn gradients_reach_the_whole_encoder() {
    let (model, params) = model(true);
    let (images, noise) = inputs();
    model.forward(&Eager::new(&params), &images, &noise).unwrap().loss.backward();
    for (_, spec, tensor) in params.trainable() {
        assert!(tensor.grad().defined() && l2(&tensor.grad()) > 0.0, "{}", spec.name);
    }
}

#[test]
fn gathering_saves_most_of_the_arithmetic() {
    let count = |sparse: bool| {
        let (model, params) = model(sparse);
        let (images, noise) = inputs();
        let ops = Eager::new(&params);
        model.forward(&ops, &images, &noise).unwrap();
        ops.flops()
    };
    let (dense, sparse) = (count(false), count(true));
    println!("forward GFLOP: dense {:.3}, sparse {:.3}", dense as f64 / 1e9, sparse as f64 / 1e9);
    // 4 of 12 patches are visible; the decoder is dense in both.
    assert!(sparse * 3 < dense * 2, "dense {dense}, sparse {sparse}");
}

#[test]
fn it_is_for_convolutions_alone() {
    let config = PretrainConfig { sparse_encoder: true, ..PretrainConfig::default() };
    let arch = Arch::by_name("vit_base_patch16").unwrap();
    let error =
        MaskedAutoencoder::declare(&Declare::root(), arch, (224, 224), config).unwrap_err().to_string();
    assert!(error.starts_with("model.sparse_encoder"), "{error}");
}

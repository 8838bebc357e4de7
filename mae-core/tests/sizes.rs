//! Sizes other than 224 pixels: what upstream does with them, and what we do.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a failed expectation is a failed test")]

mod common;

use common::{golden_params, image, l2, noise, read_json};
use mae_core::Error;
use mae_core::arch::{Arch, Family};
use mae_core::backbone::Purpose;
use mae_core::classify::{Classifier, ClassifierConfig};
use mae_core::nn::position::{Resample, resample};
use mae_core::ops::Eager;
use mae_core::params::Declare;
use mae_core::pretrain::{MaskedAutoencoder, PretrainConfig};
use tch::{Device, Kind, Tensor};

/// Runs a stage; the shapes that it returns.
fn run(arch: &Arch, size: (i64, i64), stage: &str) -> mae_core::Result<Vec<Vec<i64>>> {
    let root = Declare::root();
    let images = image("", "input", &[1, 3, size.0, size.1]);
    if stage == "pretrain" {
        let config = PretrainConfig { decoder_depth: Some(1), ..PretrainConfig::default() };
        let model = MaskedAutoencoder::declare(&root, arch, size, config)?;
        let params = golden_params(root.into_specs(), "");
        let noise = noise("", "noise", &[1, model.patches()]);
        let output = model.forward(&Eager::new(&params), &images, &noise)?;
        assert!(l2(&output.loss).is_finite(), "{} at {size:?}", arch.name);
        let picture = model.prediction_as_image(&output)?;
        assert_eq!(picture.size(), images.size(), "{}", arch.name);
        return Ok(vec![output.loss.size(), output.pred.size(), output.mask.hidden.size()]);
    }
    let config = ClassifierConfig { num_classes: 10, drop_path_rate: 0.0, purpose: Purpose::Finetune };
    let model = Classifier::declare(&root, arch, size, &config)?;
    let params = golden_params(root.into_specs(), "");
    Ok(vec![model.logits(&Eager::new(&params), &images)?.size()])
}

/// Where upstream works at a size that is legal here, we work and give the same shapes; an illegal size is refused with the
/// nearest legal ones; a mask that hides everything or nothing is refused.
#[test]
fn edge_cases_are_upstreams_or_refused() {
    let path = common::goldens().join("models/edge_cases.json");
    if !path.exists() {
        return;
    }
    let golden = read_json("models/edge_cases.json");
    let mut checked = 0;
    for (case, outcome) in golden.as_object().unwrap() {
        let outcome = outcome.as_str().unwrap();
        if let Some((at, stage)) = case.split_once(' ').filter(|(at, _)| at.contains('@')) {
            let (name, size) = at.split_once('@').unwrap();
            let (arch, size) = (Arch::by_name(name).unwrap(), size.parse::<i64>().unwrap());
            match run(arch, (size, size), stage) {
                Ok(shapes) => {
                    if let Some(theirs) = outcome.strip_prefix("ok ") {
                        check_shapes(arch, &shapes, theirs, case);
                    }
                }
                Err(Error::InputSize { nearest, .. }) => {
                    assert_ne!(size % arch.size_multiple(), 0, "{case}: refused, but legal");
                    assert!(nearest.contains(" or "), "{case}: {nearest}");
                }
                Err(error) => panic!("{case}: {error}"),
            }
            checked += 1;
        } else if let Some((family, ratio)) = case.split_once(" mask_ratio ") {
            let name = match family {
                "convnext" => "convnextv2_atto",
                "hiera" => "hiera_tiny_224",
                "vit" => "vit_base_patch16",
                other => panic!("unknown family {other}"),
            };
            let mask_ratio: f64 = ratio.parse().unwrap();
            let config = PretrainConfig { mask_ratio, ..PretrainConfig::default() };
            let arch = Arch::by_name(name).unwrap();
            let declared = MaskedAutoencoder::declare(&Declare::root(), arch, (224, 224), config);
            // ViT has patches enough to keep one of a hundred.
            let legal = mask_ratio > 0.0 && mask_ratio < 1.0 && matches!(arch.family, Family::Vit(_));
            assert_eq!(declared.is_ok(), legal, "{case}");
            checked += 1;
        }
    }
    assert!(checked > 0, "{}", path.display());
}

fn check_shapes(arch: &Arch, ours: &[Vec<i64>], theirs: &str, case: &str) {
    let theirs: serde_json::Value = serde_json::from_str(theirs).unwrap();
    let theirs = theirs.as_array().unwrap();
    let shape = |value: &serde_json::Value| -> Vec<i64> {
        value.as_array().unwrap().iter().map(|side| side.as_i64().unwrap()).collect()
    };
    if theirs[0].is_number() {
        assert_eq!(ours[0], shape(&serde_json::Value::Array(theirs.clone())), "{case}");
        return;
    }
    assert_eq!(ours[0], shape(&theirs[0]), "{case}: loss");
    // ConvNeXt's prediction is [N, P, h, w] upstream and [N, h·w, P] here.
    let elements = |shape: &[i64]| shape.iter().product::<i64>();
    assert_eq!(elements(&ours[1]), elements(&shape(&theirs[1])), "{case}: prediction of {}", arch.name);
    assert_eq!(ours[2], shape(&theirs[2]), "{case}: mask");
}

#[test]
fn every_family_works_on_rectangles_in_both_stages() {
    for (name, size) in
        [("convnextv2_atto", (64, 96)), ("hiera_tiny_224", (96, 64)), ("vit_base_patch16", (48, 80))]
    {
        let arch = Arch::by_name(name).unwrap();
        let patches = (size.0 / arch.size_multiple()) * (size.1 / arch.size_multiple());
        let shapes = run(arch, size, "pretrain").unwrap();
        assert_eq!(shapes[2], [1, patches], "{name}");
        assert_eq!(run(arch, size, "finetune").unwrap(), [[1, 10]], "{name}");
    }
}

#[test]
fn illegal_sizes_name_the_nearest_legal_ones() {
    for (name, size, nearest) in [
        ("vit_huge_patch14", (224, 225), "height 224, width 224 or 238"),
        ("vit_base_patch16", (100, 100), "96 or 112"),
        ("hiera_tiny_224", (240, 240), "224 or 256"),
        ("convnextv2_tiny", (20, 20), "32"),
    ] {
        let error = run(Arch::by_name(name).unwrap(), size, "finetune").unwrap_err().to_string();
        assert!(error.ends_with(&format!("the nearest legal sizes are {nearest}")), "{error}");
    }
}

/// ConvNeXt has no positions: an image and its kernels laid on their side give the same logits, so rows and columns are
/// nowhere confused.
#[test]
fn a_transposed_image_under_transposed_kernels_gives_the_same() {
    let arch = Arch::by_name("convnextv2_atto").unwrap();
    let run = |transposed: bool| {
        let size = if transposed { (96, 64) } else { (64, 96) };
        let root = Declare::root();
        let config = ClassifierConfig { num_classes: 10, drop_path_rate: 0.0, purpose: Purpose::Finetune };
        let model = Classifier::declare(&root, arch, size, &config).unwrap();
        let mut params = golden_params(root.into_specs(), "");
        let mut images = image("", "input", &[1, 3, 64, 96]);
        if transposed {
            images = images.transpose(2, 3);
            let kernels: Vec<_> = params
                .iter()
                .filter(|(_, s, _)| s.shape.len() == 4 && s.shape[3] > 1)
                .map(|(id, s, t)| (id, s.name.ends_with("weight"), t.detach().transpose(2, 3).copy()))
                .filter(|(_, weight, _)| *weight)
                .map(|(id, _, t)| (id, t))
                .collect();
            for (id, kernel) in kernels {
                params.assign(id, &kernel).unwrap();
            }
        }
        model.logits(&Eager::new(&params), &images).unwrap()
    };
    let (upright, lying) = (run(false), run(true));
    assert!(l2(&(&upright - &lying)) < 1e-5 * l2(&upright));
}

/// A table whose entries grow with the row keeps doing so on a grid of another shape, and does not change along a row.
#[test]
fn resampled_positions_keep_rows_and_columns_apart() {
    let rows = Tensor::arange(14, (Kind::Float, Device::Cpu)).reshape([14, 1, 1]).expand([14, 14, 1], false);
    let table = Tensor::cat(
        &[Tensor::full([1, 1, 1], -7.0, (Kind::Float, Device::Cpu)), rows.reshape([1, 196, 1])],
        1,
    );
    for antialias in [false, true] {
        let to = Resample { prefix: 1, from: (14, 14), to: (28, 7), antialias };
        let resampled = resample(&table, to).unwrap();
        assert_eq!(resampled.size(), [1, 1 + 28 * 7, 1]);
        assert_eq!(resampled.double_value(&[0, 0, 0]), -7.0, "the class token's row stays");
        let grid = resampled.narrow(1, 1, 196).reshape([28, 7]);
        let spread =
            f64::try_from((grid.amax([1].as_slice(), false) - grid.amin([1].as_slice(), false)).max())
                .unwrap();
        assert!(spread < 1e-5, "entries of one row differ by {spread}");
        // Row r lies at (r + ½)/2 − ½ of the table; libtorch's cubic kernel bends a straight line a little.
        for row in 4..24 {
            let expected = (row as f64 + 0.5) / 2.0 - 0.5;
            let found = grid.double_value(&[row, 3]);
            assert!((found - expected).abs() < 0.1, "row {row}: {found}, expected about {expected}");
        }
    }
}

//! Exported models in onnxruntime, judged by `tests/interop/check_onnx.py`. `MAE_PYTHON` names a Python with its
//! requirements; without it these tests say that the judgement was skipped, and check the export alone.

#![allow(clippy::unwrap_used, clippy::print_stdout)]

mod common;

use std::fs;
use std::path::Path;
use std::process::Command;

use mae_core::arch::{Arch, CATALOGUE, ConvNeXtV2Numbers, Family, HieraNumbers, VitNumbers};
use mae_core::backbone::Purpose;
use mae_core::classify::{Classifier, ClassifierConfig};
use mae_core::onnx::{self, ExportOptions, NEWEST_OPSET, OLDEST_OPSET, Preprocessing};
use mae_core::ops::Eager;
use mae_core::params::{Declare, Params};
use tch::{Kind, Tensor};

const CLASSES: i64 = 10;
/// Images to compare: the largest batch that the check tries.
const IMAGES: i64 = 8;

const CONVNEXT: ConvNeXtV2Numbers = ConvNeXtV2Numbers { depths: [1, 1, 2, 1], dims: [8, 16, 24, 32] };
const HIERA: HieraNumbers = HieraNumbers { embed_dim: 16, heads: 1, stages: [1, 2, 2, 1] };
const VIT: VitNumbers = VitNumbers { patch: 16, embed_dim: 24, depth: 2, heads: 3 };

#[test]
fn small_convnextv2_agrees_in_every_operator_set() {
    every_operator_set(Family::ConvNeXtV2(CONVNEXT), (64, 96));
}

#[test]
fn small_hiera_agrees_in_every_operator_set() {
    every_operator_set(Family::Hiera(HIERA), (64, 96));
}

#[test]
fn small_vit_agrees_in_every_operator_set() {
    every_operator_set(Family::Vit(VIT), (224, 224));
}

#[test]
fn resampled_positions_agree() {
    let model = Model::new(&small(Family::Vit(VIT)), (64, 96), Purpose::Finetune);
    model.check("resampled positions", &model.options());
}

#[test]
fn the_features_of_a_pretrained_vit_agree() {
    let model = Model::new(&small(Family::Vit(VIT)), (224, 224), Purpose::Features);
    model.check("features", &model.options());
}

#[test]
fn external_data_agrees() {
    let model = Model::new(Arch::by_name("convnextv2_atto").unwrap(), (64, 64), Purpose::Finetune);
    model.check("external data", &ExportOptions { external_data: Some(true), ..model.options() });
}

#[test]
fn sixteen_bits_agree_as_far_as_they_go() {
    for (name, family, size) in [
        ("convnextv2", Family::ConvNeXtV2(CONVNEXT), (64, 96)),
        ("hiera", Family::Hiera(HIERA), (64, 96)),
        ("vit", Family::Vit(VIT), (64, 96)),
    ] {
        let model = Model::new(&small(family), size, Purpose::Finetune);
        for opset in [17, 20, NEWEST_OPSET] {
            let options = ExportOptions { fp16: true, opset, ..model.options() };
            // Eleven binary digits: each operation is wrong by up to one part in 2,000 of its result.
            model.check_within(&format!("{name} in fp16, opset {opset}"), &options, 2e-2);
        }
    }
}

#[test]
fn images_of_bytes_agree() {
    for (family, fp16, limit) in [
        (Family::ConvNeXtV2(CONVNEXT), false, 1e-4),
        (Family::Hiera(HIERA), false, 1e-4),
        (Family::Vit(VIT), true, 2e-2),
    ] {
        let model = Model::new(&small(family), (64, 96), Purpose::Finetune);
        let preprocessing = Preprocessing { mean: [0.485, 0.456, 0.406], std: [0.229, 0.224, 0.225] };
        let options =
            ExportOptions { preprocessing: Some(preprocessing), fp16, batch_size: None, ..model.options() };
        model.check_within("images of bytes", &options, limit);
    }
}

#[test]
fn hiera_tiny_agrees() {
    let model = Model::new(Arch::by_name("hiera_tiny_224").unwrap(), (224, 224), Purpose::Finetune);
    model.check("hiera_tiny_224", &model.options());
}

/// The whole catalogue: `cargo nextest run -p mae-core --run-ignored only catalogue`. `MAE_ARCH` narrows it to the names
/// that contain its value.
#[test]
#[ignore = "takes many minutes and up to 12 GB of memory"]
fn the_catalogue_agrees() {
    let only = std::env::var("MAE_ARCH").unwrap_or_default();
    for arch in CATALOGUE.iter().filter(|arch| arch.name.contains(&only)) {
        let model = Model::new(arch, (224, 224), Purpose::Finetune);
        // What the operator set changes, the smaller ones show.
        let large = model.params.numel() > 100_000_000;
        for &opset in if large { &[17][..] } else { &[OLDEST_OPSET, 17, 20, NEWEST_OPSET] } {
            model.check(arch.name, &ExportOptions { opset, ..model.options() });
        }
    }
}

fn every_operator_set(family: Family, size: (i64, i64)) {
    let model = Model::new(&small(family), size, Purpose::Finetune);
    for opset in OLDEST_OPSET..=NEWEST_OPSET {
        model.check(&format!("opset {opset}"), &ExportOptions { opset, ..model.options() });
    }
    for batch in [1, 3] {
        let options = ExportOptions { batch_size: Some(batch), ..model.options() };
        model.check(&format!("fixed batch {batch}"), &options);
    }
}

fn small(family: Family) -> Arch {
    Arch { name: "small", family }
}

/// A classifier with the parameters of the golden data's rule.
struct Model {
    classifier: Classifier,
    params: Params,
    size: (i64, i64),
}

impl Model {
    fn new(arch: &Arch, size: (i64, i64), purpose: Purpose) -> Self {
        let root = Declare::root();
        let config = ClassifierConfig { num_classes: CLASSES, drop_path_rate: 0.1, purpose };
        let classifier = Classifier::declare(&root, arch, size, &config).unwrap();
        Model { classifier, params: common::golden_params(root.into_specs(), ""), size }
    }

    fn options(&self) -> ExportOptions {
        ExportOptions { height: self.size.0, width: self.size.1, ..ExportOptions::default() }
    }

    fn check(&self, name: &str, options: &ExportOptions) {
        self.check_within(name, options, 1e-4);
    }

    fn check_within(&self, name: &str, options: &ExportOptions, limit: f64) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("model.onnx");
        let summary =
            onnx::export(&path, &self.params, options, |ops, images| self.classifier.logits(ops, images))
                .unwrap();
        assert_eq!(summary.output_shape, [options.batch_size.unwrap_or(-1), CLASSES], "{name}");
        let bytes: u64 = summary.files.iter().map(|path| fs::metadata(path).unwrap().len()).sum();
        assert_eq!(summary.bytes, bytes, "{name}");

        let Some(python) = std::env::var_os("MAE_PYTHON") else {
            println!("skipped: MAE_PYTHON names no Python with tests/interop/requirements.txt");
            return;
        };
        let _guard = tch::no_grad_guard();
        let images = common::image("", "input", &[IMAGES, options.channels, options.height, options.width]);
        // What the model takes, and what a loader would make of it.
        let (given, images) = match &options.preprocessing {
            Some(preprocessing) => {
                let bytes = ((images * 64.0 + 128.0).clamp(0.0, 255.0)).to_kind(Kind::Uint8);
                let channel = |values: &[f32; 3]| Tensor::from_slice(values).reshape([3, 1, 1]);
                let scaled = bytes.to_kind(Kind::Float) / 255.0;
                let images = (scaled - channel(&preprocessing.mean)) / channel(&preprocessing.std);
                (bytes.permute([0, 2, 3, 1]).contiguous(), images)
            }
            None => (images.shallow_clone(), images),
        };
        let logits = self.classifier.logits(&Eager::new(&self.params), &images).unwrap();
        assert!(
            logits.std(false).double_value(&[]) > 1e-2,
            "{name}: logits this even would hide a difference"
        );
        given.write_npy(folder.path().join("images.npy")).unwrap();
        logits.write_npy(folder.path().join("logits.npy")).unwrap();
        judge(name, python.as_ref(), folder.path(), limit);
    }
}

fn judge(name: &str, python: &Path, folder: &Path, limit: f64) {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/interop/check_onnx.py");
    let mut command = Command::new(python);
    command.arg(script).arg(folder.join("model.onnx")).arg("--strict-shapes");
    command.arg("--images").arg(folder.join("images.npy"));
    command.arg("--expected").arg(folder.join("logits.npy"));
    command.arg("--max-difference").arg(limit.to_string());
    let output = command.output().unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    assert!(output.status.success(), "{name}: {}{}", text(&output.stdout), text(&output.stderr));
    println!("{name}: {}", text(&output.stdout).trim_end());
}

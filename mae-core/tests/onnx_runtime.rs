//! Exported models in onnxruntime: Python with `onnx`, `onnxruntime` and `numpy` judges. `MAE_PYTHON` names the
//! interpreter; without it the tests of this file say that they were skipped, and check the export alone.

#![allow(clippy::unwrap_used)]

use std::fs;
use std::path::Path;
use std::process::Command;

use mae_core::arch::{Arch, ConvNeXtV2Numbers, Family, HieraNumbers, VitNumbers};
use mae_core::backbone::{Encoder, Purpose};
use mae_core::nn::Linear;
use mae_core::nn::init::Init;
use mae_core::onnx::{self, ExportOptions, NEWEST_OPSET, OLDEST_OPSET};
use mae_core::ops::{Eager, Ops};
use mae_core::params::{Declare, ParamSpec, Params};
use tch::{Device, Tensor};

const CLASSES: i64 = 10;
const TOLERANCE: f64 = 1e-4;

#[test]
fn small_models_of_every_family_agree_in_every_operator_set() {
    let convnext = ConvNeXtV2Numbers { depths: [1, 1, 2, 1], dims: [8, 16, 24, 32] };
    let hiera = HieraNumbers { embed_dim: 16, heads: 1, stages: [1, 2, 2, 1] };
    let vit = VitNumbers { patch: 16, embed_dim: 24, depth: 2, heads: 3 };
    let families = [
        ("convnext", Family::ConvNeXtV2(convnext), (64, 96)),
        ("hiera", Family::Hiera(hiera), (64, 96)),
        ("vit", Family::Vit(vit), (224, 224)),
        ("vit, resampled positions", Family::Vit(vit), (64, 96)),
    ];
    for (name, family, size) in families {
        let model = Model::new(&Arch { name: "small", family }, size, Purpose::Finetune);
        for opset in [OLDEST_OPSET, 15, 17, 18, 20, NEWEST_OPSET] {
            model.check(&format!("{name}, opset {opset}"), opset, None, &[1, 3, 8]);
        }
        model.check(&format!("{name}, batch 1"), 17, Some(1), &[1]);
        model.check(&format!("{name}, batch 3"), 17, Some(3), &[3]);
    }
    let model = Model::new(&Arch { name: "small", family: Family::Vit(vit) }, (224, 224), Purpose::Features);
    model.check("vit features", 17, None, &[1, 3, 8]);
}

#[test]
fn a_model_with_external_data_agrees() {
    let model = Model::new(Arch::by_name("convnextv2_atto").unwrap(), (64, 64), Purpose::Finetune);
    model.check_with(
        "external data",
        &ExportOptions { external_data: Some(true), ..model.options() },
        &[1, 3],
    );
}

#[test]
fn convnextv2_atto_and_hiera_tiny_agree() {
    for name in ["convnextv2_atto", "hiera_tiny_224"] {
        let model = Model::new(Arch::by_name(name).unwrap(), (224, 224), Purpose::Finetune);
        model.check(name, 17, None, &[1, 3]);
    }
}

/// The whole catalogue, which takes minutes and gigabytes: `cargo nextest run --run-ignored=only -E 'test(catalogue)'`.
/// `MAE_ARCH` narrows it to the names that contain its value.
#[test]
#[ignore = "takes minutes and up to 8 GB of memory"]
fn the_catalogue_agrees() {
    let only = std::env::var("MAE_ARCH").unwrap_or_default();
    for arch in mae_core::arch::CATALOGUE.iter().filter(|arch| arch.name.contains(&only)) {
        let model = Model::new(arch, (224, 224), Purpose::Finetune);
        for opset in [OLDEST_OPSET, 17, 20, NEWEST_OPSET] {
            model.check(&format!("{}, opset {opset}", arch.name), opset, None, &[1, 3, 8]);
        }
    }
}

/// An encoder with a linear head, its parameters filled by the rule of the golden data.
struct Model {
    encoder: Encoder,
    head: Linear,
    params: Params,
    size: (i64, i64),
}

impl Model {
    fn new(arch: &Arch, size: (i64, i64), purpose: Purpose) -> Self {
        let root = Declare::root();
        let encoder = Encoder::declare(&root, arch, size, 0.1, purpose).unwrap();
        let head = Linear::declare(
            &root.at("classifier"),
            encoder.width(),
            CLASSES,
            Init::XavierUniform,
            Init::Zeros,
        );
        let params = Params::filled(root.into_specs(), Device::Cpu, |spec| Ok(parameter(spec))).unwrap();
        Model { encoder, head, params, size }
    }

    fn logits<F: Ops>(&self, ops: &F, images: &F::Value) -> mae_core::Result<F::Value> {
        ops.linear(&self.encoder.features(ops, images)?, &self.head)
    }

    fn options(&self) -> ExportOptions {
        ExportOptions { height: self.size.0, width: self.size.1, ..ExportOptions::default() }
    }

    fn check(&self, name: &str, opset: i64, batch_size: Option<i64>, batches: &[i64]) {
        self.check_with(name, &ExportOptions { opset, batch_size, ..self.options() }, batches);
    }

    fn check_with(&self, name: &str, options: &ExportOptions, batches: &[i64]) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("model.onnx");
        let summary =
            onnx::export(&path, &self.params, options, |ops, images| self.logits(ops, images)).unwrap();
        assert_eq!(summary.output_shape, [options.batch_size.unwrap_or(-1), CLASSES], "{name}");
        let size = |path: &Path| fs::metadata(path).unwrap().len();
        assert_eq!(summary.bytes, summary.files.iter().map(|path| size(path)).sum::<u64>(), "{name}");

        let _guard = tch::no_grad_guard();
        let image = [options.channels, options.height, options.width];
        for &batch in batches {
            let images = filled(&format!("input.{batch}"), &[&[batch], &image[..]].concat(), |w| w * 2.0);
            let logits = self.logits(&Eager::new(&self.params), &images).unwrap();
            write(folder.path(), &format!("input.{batch}.f32"), &images);
            write(folder.path(), &format!("output.{batch}.f32"), &logits);
        }
        let spec =
            serde_json::json!({"name": name, "batches": batches, "image": image, "tolerance": TOLERANCE});
        fs::write(folder.path().join("batches.json"), spec.to_string()).unwrap();
        judge(folder.path());
    }
}

fn judge(folder: &Path) {
    let Some(python) = std::env::var_os("MAE_PYTHON") else {
        println!("skipped: set MAE_PYTHON to a Python with onnx, onnxruntime and numpy");
        return;
    };
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/onnx_runtime.py");
    let output = Command::new(python).arg(script).arg(folder).output().unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    assert!(output.status.success(), "{}{}", text(&output.stdout), text(&output.stderr));
    print!("{}", text(&output.stdout));
}

fn write(folder: &Path, name: &str, tensor: &Tensor) {
    let values = Vec::<f32>::try_from(tensor.reshape([-1])).unwrap();
    fs::write(folder.join(name), bytemuck::cast_slice::<f32, u8>(&values)).unwrap();
}

/// The golden data's rule for a parameter.
fn parameter(spec: &ParamSpec) -> Tensor {
    let last = spec.name.rsplit('.').next().unwrap();
    let fan_in = spec.numel() as f64 / spec.shape[0] as f64;
    filled(&spec.name, &spec.shape, |w| match (last, spec.shape.as_slice()) {
        ("gamma", _) => w * 0.5,
        ("beta" | "bias", _) => w * 0.1,
        (_, [_]) => 1.0 + w * 0.1,
        (_, [1, ..]) => w * 0.5,
        _ => w * (3.0 / fan_in).sqrt(),
    })
}

fn filled(name: &str, shape: &[i64], value: impl Fn(f64) -> f64) -> Tensor {
    let seed = name
        .bytes()
        .fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3));
    let values: Vec<f32> = (0..shape.iter().product::<i64>() as u64)
        .map(|index| {
            let mut z = seed.wrapping_add(index).wrapping_add(0x9E37_79B9_7F4A_7C15);
            z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
            z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
            let uniform = ((z ^ (z >> 31)) >> 11) as f64 / (1_u64 << 53) as f64;
            value(2.0 * uniform - 1.0) as f32
        })
        .collect();
    Tensor::from_slice(&values).reshape(shape)
}

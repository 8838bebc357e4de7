//! Our files in the programs of others (`tests/interop/*.py`), and upstream's files in ours.
//!
//! `MAE_PYTHON` names a python with torch, onnx and onnxruntime (`scripts/python-env` makes one). Without it the tests
//! that need it are left out, except where CI=true: there they fail.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use mae_core::arch::Arch;
use mae_core::backbone::Purpose;
use mae_core::checkpoint::Checkpoint;
use mae_core::checkpoint::dialect::Role;
use mae_core::classify::ClassifierConfig;
use mae_core::model::Model;
use mae_data::{
    Augmentation, CropRule, Dataset, Images, Layout, Loader, LoaderOptions, OpenOptions, Pipeline,
};
use tch::{Device, Tensor};

use crate::common::{Sandbox, contents, goldens, python, results_csv, status_lines, workspace};

/// Runs one of the checks in `tests/interop`, which prints OK and a summary, or says what does not hold.
#[track_caller]
fn check(python: &Path, script: &str, arguments: &[&str]) {
    let script = workspace().join("tests/interop").join(script);
    let output = Command::new(python).arg(script).args(arguments).output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{said}{}", String::from_utf8_lossy(&output.stderr));
    assert!(said.starts_with("OK "), "{said}");
}

/// All images of a folder as the model takes them, `[N, 3, side, side]`, with their paths as results show them.
fn preprocessed(source: &Path, layout: Layout, side: usize, rule: CropRule) -> (Vec<String>, Tensor) {
    let dataset = Arc::new(Dataset::open(source.to_str().unwrap(), layout, &OpenOptions::default()).unwrap());
    let augmentation = Augmentation { input_size: (side, side), ..Augmentation::default() };
    let pipeline = Pipeline::evaluate(&augmentation).unwrap().with_crop_rule(rule);
    let options = LoaderOptions { batch_size: dataset.len(), ..LoaderOptions::default() };
    let loader = Loader::new(Arc::clone(&dataset), pipeline, options).unwrap();
    let batch = loader.epoch(0, 0).next().unwrap().unwrap();
    let paths = batch.samples.iter().map(|&sample| dataset.display_path(sample as usize)).collect();
    let Images::Normalized(images) = &batch.images else { panic!("bytes were not asked for") };
    (paths, Tensor::from_slice(images).reshape(batch.shape.map(|side| side as i64)))
}

fn classifier(checkpoint: &Path, num_classes: i64, side: i64) -> Model {
    let arch = Arch::by_name("convnextv2_atto").unwrap();
    let config = ClassifierConfig { num_classes, drop_path_rate: 0.0, purpose: Purpose::Finetune };
    let mut model = Model::classifier(arch, (side, side), &config, 0, Device::Cpu).unwrap();
    model.load(&Checkpoint::open(checkpoint).unwrap(), Role::Full).unwrap();
    model
}

/// Writes a float32 tensor as NumPy does.
fn write_npy(path: &Path, tensor: &Tensor) {
    let shape: String = tensor.size().iter().map(|side| format!("{side},")).collect();
    let header = format!("{{'descr': '<f4', 'fortran_order': False, 'shape': ({shape}), }}");
    // Magic, version, length and header together fill a multiple of 64 bytes.
    let padded = (10 + header.len() + 1).next_multiple_of(64) - 10;
    let mut bytes = b"\x93NUMPY\x01\x00".to_vec();
    bytes.extend((padded as u16).to_le_bytes());
    bytes.extend(format!("{header:<width$}\n", width = padded - 1).bytes());
    let values: Vec<f32> = Vec::try_from(tensor.flatten(0, -1)).unwrap();
    bytes.extend(values.iter().flat_map(|value| value.to_le_bytes()));
    fs::write(path, bytes).unwrap();
}

#[test]
fn pytorch_and_onnxruntime_read_our_files() {
    let Some(python) = python() else { return };
    let sandbox = Sandbox::new().with_specs().with_images(4, 1);
    sandbox.mae("train -e pretrain.yaml dataset.augmentation.mixup=0").passed();
    sandbox
        .mae(
            "train -e finetune.yaml train.num_epochs=2 train.optim.lr_scheduler=cosine train.accum_grad_batches=2 \
             train.pretrained_model_path=results/pretrain/train/convnextv2_atto_latest.pth",
        )
        .passed();
    let pretrained = sandbox.path("results/pretrain/train/convnextv2_atto_latest.pth");
    check(&python, "check_pth.py", &[pretrained.to_str().unwrap(), "--epoch", "0", "--step", "5"]);
    // 5 batches of 8 an epoch, two a step.
    let finetuned = sandbox.path("results/finetune/train/convnextv2_atto_latest.pth");
    check(&python, "check_pth.py", &[finetuned.to_str().unwrap(), "--epoch", "1", "--step", "6"]);

    let (_, images) = preprocessed(&sandbox.path("val"), Layout::ImageFolder, 32, CropRule::Uniform);
    assert_eq!(images.size(), [10, 3, 32, 32]);
    let logits = classifier(&finetuned, 10, 32).logits(&images).unwrap();
    let (images_file, logits_file) = (sandbox.path("images.npy"), sandbox.path("logits.npy"));
    write_npy(&images_file, &images);
    write_npy(&logits_file, &logits);
    let against = ["--images", images_file.to_str().unwrap(), "--expected", logits_file.to_str().unwrap()];

    sandbox.mae("export -e finetune.yaml export.batch_size=-1").passed();
    let dynamic = sandbox.path("results/finetune/export/convnextv2_atto.onnx");
    let arguments =
        [&[dynamic.to_str().unwrap()], &against[..], &["--batch-sizes", "1,3,8", "--strict-shapes"]];
    check(&python, "check_onnx.py", &arguments.concat());

    sandbox.mae("export -e finetune.yaml export.batch_size=2 export.onnx_file=fixed.onnx").passed();
    let fixed = sandbox.path("fixed.onnx");
    check(&python, "check_onnx.py", &[&[fixed.to_str().unwrap()], &against[..]].concat());
}

/// A checkpoint that upstream's trainer wrote, and the logits that upstream computed with it.
struct Upstream {
    images: PathBuf,
    checkpoint: PathBuf,
    recorded: serde_json::Value,
}

impl Upstream {
    fn find() -> Option<Self> {
        let Some(goldens) = goldens() else {
            eprintln!("skipped: upstream's checkpoint is not on this machine (MAE_GOLDENS)");
            return None;
        };
        // A copy of the folder may have lost the link to the latest one; this is the file itself.
        let checkpoint = goldens.join("checkpoints/lightning_finetune_atto/model_epoch_000_step_00002.pth");
        let text = fs::read_to_string(goldens.join("e2e/e2e.json")).unwrap();
        let recorded = serde_json::from_str(&text).unwrap();
        Some(Self { images: goldens.join("e2e/images"), checkpoint, recorded })
    }

    /// Rows of `predict` or `evaluate`: the end of each path, and the logits.
    fn logits(&self, action: &str) -> Vec<(String, Vec<f64>)> {
        let root = format!("{}/", self.recorded["image_root_at_generation"].as_str().unwrap());
        let rows = self.recorded[action].as_array().unwrap().iter();
        let row = |row: &serde_json::Value| {
            let path = row["path"].as_str().unwrap().strip_prefix(&root).unwrap().to_owned();
            let logits = row["logits"].as_array().unwrap();
            (path, logits.iter().map(|logit| logit.as_f64().unwrap()).collect())
        };
        rows.map(row).collect()
    }
}

#[test]
fn upstreams_checkpoint_gives_upstreams_logits() {
    let Some(upstream) = Upstream::find() else { return };
    let model = classifier(&upstream.checkpoint, 4, 224);
    for (action, split, finetune) in [("evaluate", "val", true), ("predict", "test", false)] {
        let folder = upstream.images.join(split);
        let (paths, images) = preprocessed(&folder, Layout::Flat, 224, CropRule::Tao { finetune });
        let logits = model.logits(&images).unwrap();
        let expected = upstream.logits(action);
        assert_eq!(paths.len(), expected.len());
        for (row, (path, expected)) in expected.iter().enumerate() {
            assert!(paths[row].ends_with(path), "{} is not {path}", paths[row]);
            let found: Vec<f64> = Vec::try_from(logits.get(row as i64)).unwrap();
            for (found, expected) in found.iter().zip(expected) {
                assert!((found - expected).abs() < 1e-4, "{action} {path}: {found} instead of {expected}");
            }
        }
    }
}

#[test]
fn upstreams_checkpoint_in_our_actions() {
    let Some(upstream) = Upstream::find() else { return };
    let sandbox = Sandbox::new().with_specs();
    let folder = |split: &str| upstream.images.join(split).to_str().unwrap().to_owned();
    let checkpoint = upstream.checkpoint.to_str().unwrap();
    let common =
        ["-e", "finetune.yaml", "compat=tao", "model.num_classes=4", "dataset.augmentation.input_size=224"];

    let val = format!("dataset.val_data_sources={}", folder("val"));
    let file = format!("evaluate.checkpoint={checkpoint}");
    sandbox.run(&[&["evaluate"], &common[..], &[&val, &file]].concat()).passed();
    let lines = status_lines(&sandbox.path("results/finetune/evaluate/status.json"));
    let kpi = &lines.last().unwrap()["kpi"];
    let rows = upstream.recorded["evaluate"].as_array().unwrap();
    let loss = rows.iter().map(|row| row["ce"].as_f64().unwrap()).sum::<f64>() / rows.len() as f64;
    assert!((kpi["val_loss"].as_f64().unwrap() - loss).abs() < 1e-5, "{kpi} instead of {loss}");
    let best = |logits: &[f64]| (0..4).max_by(|&a, &b| logits[a].total_cmp(&logits[b])).unwrap();
    let logits = upstream.logits("evaluate");
    let right = logits.iter().enumerate().filter(|(label, (_, logits))| best(logits) == *label).count();
    assert_eq!(kpi["ACC_all"].as_f64().unwrap(), right as f64 / rows.len() as f64);

    let test = format!("dataset.test_data_sources={}", folder("test"));
    let file = format!("inference.checkpoint={checkpoint}");
    sandbox.run(&[&["inference"], &common[..], &[&test, &file]].concat()).passed();
    let found = results_csv(&sandbox.path("results/finetune/inference/results.csv"));
    let predicted = upstream.recorded["predict"].as_array().unwrap();
    assert_eq!(found.len(), predicted.len());
    for ((path, class), row) in found.iter().zip(predicted) {
        let name = row["path"].as_str().unwrap().rsplit('/').next().unwrap();
        assert!(path.ends_with(name), "{path} is not {name}");
        assert_eq!(*class as u64, row["pred"].as_u64().unwrap(), "{path}");
    }
}

/// Fine-tuning from what upstream's pretraining wrote, as a user who changes over does it.
#[test]
fn upstreams_pretraining_starts_our_finetuning() {
    let Some(goldens) = goldens() else {
        eprintln!("skipped: upstream's checkpoint is not on this machine (MAE_GOLDENS)");
        return;
    };
    let file = goldens.join("checkpoints/lightning_pretrain_atto/model_epoch_000_step_00002.pth");
    let sandbox = Sandbox::new().with_specs().with_images(2, 1);
    let pretrained = format!("train.pretrained_model_path={}", file.display());
    // With so small a rate the weights stay what they were at the start.
    sandbox.run(&["train", "-e", "finetune.yaml", "train.optim.lr=1e-30", &pretrained]).passed();
    let upstream = contents(&file).state_dict;
    let ours = contents(&sandbox.path("results/finetune/train/convnextv2_atto_latest.pth")).state_dict;
    let mut compared = 0;
    for (name, tensor) in &ours {
        // Upstream's autoencoder keeps its encoder one level down.
        let Some((_, source)) = upstream.iter().find(|(source, _)| *source == format!("encoder.{name}"))
        else {
            continue;
        };
        assert_eq!(tensor.to_contiguous_bytes().unwrap(), source.to_contiguous_bytes().unwrap(), "{name}");
        compared += 1;
    }
    let without_head_and_norm =
        ours.iter().filter(|(name, _)| !name.starts_with("head.") && !name.starts_with("norm.")).count();
    assert_eq!(compared, without_head_and_norm);
}

//! Precision, steps that are not finite, the sparse encoder, sizes that cannot be, and `mae bench`.

use std::fs;

use crate::common::{Sandbox, contents, leftovers};

/// Pixels so large that no loss of theirs is finite.
const INFINITE: &str = "dataset.augmentation.std=[1e-30,1e-30,1e-30] train.norm_pix_loss=false";

#[test]
fn a_run_whose_losses_are_not_finite_names_the_images_and_stops_with_its_last_good_checkpoint() {
    let sandbox = Sandbox::new().with_specs().with_images(2, 1);
    let good = sandbox.path("results/pretrain/train/convnextv2_atto_latest.pth");
    sandbox.mae("train -e pretrain.yaml train.num_epochs=1").passed();
    let before = fs::canonicalize(&good).unwrap();

    let run =
        sandbox.mae(&format!("train -e pretrain.yaml train.num_epochs=3 {INFINITE} train.max_bad_steps=2"));
    assert_eq!(run.code, Some(2), "{}", run.stderr);
    for text in
        ["was left out: its loss was not finite. It was made of train/", "not finite for 2 steps in a row"]
    {
        assert!(run.stderr.contains(text), "no '{text}' in {}", run.stderr);
    }
    assert_eq!(fs::canonicalize(&good).unwrap(), before, "the last good checkpoint is kept");
    let weights = contents(&good);
    for (name, view) in &weights.state_dict {
        let sum = f64::try_from(view.to_tensor().unwrap().abs().sum(tch::Kind::Double)).unwrap();
        assert!(sum.is_finite(), "{name}");
    }
    let listed = fs::read_to_string(sandbox.path("results/pretrain/train/skipped_steps.csv")).unwrap();
    let lines: Vec<&str> = listed.lines().collect();
    assert_eq!(lines[0], "step,reason,path");
    // Two steps of batches of eight.
    assert_eq!(lines.len(), 1 + 16, "{listed}");
    assert!(lines[1..].iter().all(|line| line.contains(",loss,train/")), "{listed}");
    // Whole checkpoints stay, and nothing half-written.
    let left = leftovers(&sandbox.path("results"));
    assert!(left.iter().all(|name| name.ends_with(".pth") && !name.contains("/.")), "{left:?}");

    // Nothing good was done: nothing is written.
    let run =
        sandbox.mae(&format!("train -e pretrain.yaml results_dir=other {INFINITE} train.max_bad_steps=1"));
    assert_eq!(run.code, Some(2), "{}", run.stderr);
    assert!(!sandbox.path("other/train/convnextv2_atto_latest.pth").exists());
}

#[test]
fn training_in_16_bits_resumes_with_its_loss_scale() {
    let sandbox = Sandbox::new().with_specs().with_images(2, 1);
    for precision in ["bf16", "fp16"] {
        let train = format!("train -e pretrain.yaml train.precision={precision} results_dir={precision}");
        sandbox.mae(&format!("{train} train.num_epochs=1")).passed();
        sandbox.mae(&format!("{train} train.num_epochs=2")).passed();
        let resumed = contents(&sandbox.path(format!("{precision}/train/convnextv2_atto_latest.pth")));
        let whole = format!("{train} train.num_epochs=2").replace("results_dir=", "results_dir=whole/");
        sandbox.mae(&whole).passed();
        let whole = contents(&sandbox.path(format!("whole/{precision}/train/convnextv2_atto_latest.pth")));
        assert_eq!(resumed.scaler.is_some(), precision == "fp16");
        assert_eq!(resumed.scaler, whole.scaler);
        for ((name, ours), (_, theirs)) in resumed.state_dict.iter().zip(&whole.state_dict) {
            let (ours, theirs) = (ours.to_tensor().unwrap(), theirs.to_tensor().unwrap());
            assert_eq!(ours.kind(), tch::Kind::Float, "{name}");
            assert!(ours.equal(&theirs), "{precision}: {name} differs after the resume");
        }
    }
}

#[test]
fn the_sparse_encoder_pretrains_and_its_weights_are_fine_tuned_and_exported() {
    let sandbox = Sandbox::new().with_specs().with_images(2, 1);
    sandbox.mae("train -e pretrain.yaml model.sparse_encoder=true").passed();
    let pretrained = "results/pretrain/train/convnextv2_atto_latest.pth";
    sandbox.mae(&format!("train -e finetune.yaml train.pretrained_model_path={pretrained}")).passed();
    sandbox
        .mae(&format!("export -e pretrain.yaml model.sparse_encoder=true export.checkpoint={pretrained}"))
        .passed();
    assert!(sandbox.path("results/pretrain/export/convnextv2_atto.onnx").exists());
}

#[test]
fn what_a_model_cannot_be_is_refused_before_anything_is_written() {
    let sandbox = Sandbox::new().with_specs().with_images(1, 1);
    for (arguments, problem, help) in [
        ("train -e pretrain.yaml dataset.augmentation.input_size=100", "multiples of 32", "96 or 128"),
        (
            "evaluate -e finetune.yaml evaluate.checkpoint=x.pth model.arch=vit_huge_patch14 \
          dataset.augmentation.input_size=100",
            "multiples of 14",
            "98 or 112",
        ),
        (
            "export -e finetune.yaml export.checkpoint=x.pth export.input_height=96 export.input_width=70",
            "export.input_width = 70",
            "height 96, width 64 or 96",
        ),
        ("train -e pretrain.yaml train.mask_ratio=0.99", "keeps 0 of 4 patches", "larger"),
        (
            "train -e pretrain.yaml model.arch=hiera_tiny_224 model.decoder_embed_dim=100",
            "16 heads",
            "96 and 112",
        ),
        (
            "train -e pretrain.yaml model.arch=vit_base_patch16 model.sparse_encoder=true",
            "ConvNeXt V2",
            "leave it out",
        ),
        ("train -e finetune.yaml model.global_pool=false", "class token", "leave it out"),
    ] {
        let run = sandbox.mae(arguments);
        assert_eq!(run.code, Some(1), "{arguments}: {}", run.stderr);
        assert!(run.stderr.contains(problem) && run.stderr.contains(help), "{arguments}: {}", run.stderr);
        assert!(!sandbox.path("results").exists(), "{arguments} wrote results");
    }
}

#[test]
fn bench_step_measures_and_explains() {
    let sandbox = Sandbox::new();
    let common =
        "bench step --arch convnextv2_atto --batch-size 2 --input-size 64 --steps 2 --warmup 1 --device cpu";
    for more in ["--stage pretrain --precision bf16 --sparse-encoder", "--stage finetune --num-classes 3"] {
        let run = sandbox.mae(&format!("{common} {more} --json"));
        assert_eq!((run.code, run.stderr.as_str()), (Some(0), ""));
        let report: serde_json::Value = serde_json::from_str(&run.stdout).unwrap();
        assert_eq!((report["steps"].as_u64(), report["batch_size"].as_u64()), (Some(2), Some(2)), "{report}");
        for field in
            ["images_per_second", "flops_per_second", "peak_memory_bytes", "base_memory_bytes", "loss"]
        {
            assert!(report[field].as_f64().is_some_and(|value| value > 0.0), "{field}: {report}");
        }
        let spread = &report["step_ms"];
        let [min, median, max] = ["min", "median", "max"].map(|key| spread[key].as_f64().unwrap());
        assert!(0.0 < min && min <= median && median <= max, "{spread}");
    }
    let run = sandbox.mae(common);
    assert!(run.stdout.contains("images/s; a step takes"), "{}", run.stdout);
    let run = sandbox.mae("bench step --arch convnextv2_ato");
    assert_eq!(run.code, Some(1), "{}", run.stderr);
    assert!(run.stderr.contains("did you mean 'convnextv2_atto'?"), "{}", run.stderr);
}

//! `mae doctor`, `mae spec` and `mae schema`: what is told without a run.

use std::fs;

use crate::common::{Sandbox, files_below};

#[test]
fn the_doctor_knows_the_machine() {
    let sandbox = Sandbox::new();
    let run = sandbox.mae("doctor");
    assert_eq!(run.code, Some(0), "{}{}", run.stdout, run.stderr);
    for word in ["libtorch", "2.11.0", "GPU", "bf16", "CPU", "CPU kernels", "memory"] {
        assert!(run.stdout.contains(word), "{word}: {}", run.stdout);
    }
    assert_eq!(files_below(&sandbox.path("")), [] as [&str; 0]);
}

#[test]
fn kernels_that_do_not_exist_are_a_problem() {
    let sandbox = Sandbox::new();
    let mut command = sandbox.command(&["doctor"]);
    command.env("MAE_KERNELS", "fast");
    let run = Sandbox::finished(command);
    assert_ne!(run.code, Some(0), "{}", run.stdout);
    assert!(run.stdout.contains("there are no kernels 'fast'"), "{}", run.stdout);
}

#[test]
fn the_doctor_finds_what_a_run_would_find() {
    let sandbox = Sandbox::new().with_images(2, 1).with_specs();
    let files = files_below(&sandbox.path(""));
    let run = sandbox.mae("doctor -e finetune.yaml");
    assert_eq!(run.code, Some(0), "{}{}", run.stdout, run.stderr);
    for told in [
        "convnextv2_atto for finetune at 32x32, 3.4 M parameters",
        "dataset.train_data_sources = train: 20 images of 10 classes, 2 to 2 each; 2 batches of 8",
        "ankle_boot/",
        "20 of 20 tried can be read",
        "from new weights",
        "Nothing is in the way",
    ] {
        assert!(run.stdout.contains(told), "{told}: {}", run.stdout);
    }
    for (setting, code, told) in [
        ("train.optim.lr=2", 1, "expected"),
        ("dataset.augmentation.input_size=50", 1, "multiples of 32"),
        ("dataset.train_data_sources=nowhere", 3, "nowhere"),
        ("dataset.batch_size=64", 3, "Not enough data for train."),
        ("model.num_classes=7", 3, "set model.num_classes=10"),
        ("results_dir=finetune.yaml", 1, "cannot be made or written"),
        ("train.pretrained_model_path=nowhere.pth", 1, "does not exist"),
    ] {
        let run = sandbox.mae(&format!("doctor -e finetune.yaml {setting}"));
        assert_eq!(run.code, Some(code), "{setting}: {}{}", run.stdout, run.stderr);
        assert!(run.stdout.contains(told), "{setting}: {}", run.stdout);
        // And the run ends as the doctor said.
        let run = sandbox.mae(&format!("train -e finetune.yaml {setting}"));
        assert_eq!(run.code, Some(code), "{setting}: {}", run.stderr);
        let _ = fs::remove_dir_all(sandbox.path("results"));
    }
    assert_eq!(files_below(&sandbox.path("")), files, "nothing is left");
}

#[test]
fn the_doctor_reads_checkpoints() {
    let sandbox = Sandbox::new().with_images(2, 1).with_specs();
    sandbox.mae("train -e finetune.yaml").passed();
    let run = sandbox.mae("doctor -e finetune.yaml");
    assert!(
        run.stdout.contains("resume       from results/finetune/train/model_epoch_000"),
        "{}",
        run.stdout
    );
    let run = sandbox.mae("doctor --action evaluate -e finetune.yaml");
    assert_eq!(run.code, Some(0), "{}{}", run.stdout, run.stderr);
    assert!(run.stdout.contains("convnextv2_atto, finetune, 10 classes, 32 pixels"), "{}", run.stdout);
    assert!(!sandbox.path("results/finetune/evaluate").exists());
}

#[test]
fn a_spec_is_shown_as_it_is_understood() {
    let sandbox = Sandbox::new().with_specs();
    sandbox.write("small.yaml", "results_dir: r/${model.arch}\nmodel: {arch: vit_base_patch16}\n");
    let show = |more: &str| {
        let run = sandbox.mae(&format!("spec show -e small.yaml train.seed=7 {more}"));
        assert_eq!(run.code, Some(0), "{}", run.stderr);
        run.stdout
    };
    assert!(show("").contains("results_dir: r/${model.arch}\n"));
    let resolved = show("--resolved dataset.train_data_sources=d");
    assert!(resolved.contains("results_dir: r/vit_base_patch16/train\n"), "{resolved}");
    let origins = show("--origins");
    let lines: Vec<_> =
        origins.lines().map(|line| line.split_whitespace().collect::<Vec<_>>().join(" ")).collect();
    assert_eq!(
        lines,
        [
            "results_dir = 'r/${model.arch}' # small.yaml:1:14",
            "train.seed = 7 # override 1 on the command line",
            "model.arch = 'vit_base_patch16' # small.yaml:2:15",
        ]
    );
    let run = sandbox.mae("schema --out packaged");
    assert_eq!(run.code, Some(0), "{}", run.stderr);
    assert_eq!(files_below(&sandbox.path("packaged")).len(), 11);
    let run = sandbox.mae("schema train");
    let written = fs::read_to_string(sandbox.path("packaged/schemas/train.schema.json")).unwrap();
    assert_eq!(run.stdout, written);
    let run = sandbox.mae("completions bash");
    assert!(run.stdout.contains("train.optim.lr="), "{}", run.stderr);
}

//! What a checkpoint decides when the spec is silent, and what is refused when it is not.

use std::fs;

use crate::common::{Sandbox, files_below, status_lines};

/// Nothing of the model: no stage, no architecture, no classes, no size.
const SILENT: &str = "\
device: cpu
dataset:
  train_data_sources: train
  val_data_sources: val
  test_data_sources: val
  batch_size: 8
";

const LATEST: &str = "results/finetune/train@latest";

/// A fine-tuning of two epochs, with a checkpoint after each.
fn trained() -> Sandbox {
    let sandbox = Sandbox::new().with_images(2, 2).with_specs();
    sandbox.mae("train -e finetune.yaml train.num_epochs=2").passed();
    sandbox.write("silent.yaml", SILENT);
    sandbox
}

#[test]
fn a_silent_spec_takes_the_model_from_the_checkpoint() {
    let sandbox = trained();
    let run = sandbox.mae(&format!("evaluate -e silent.yaml evaluate.checkpoint={LATEST}")).passed();
    let folder = "results/finetune/evaluate";
    for said in [
        "evaluate.checkpoint: model_epoch_001_step_00004.pth of results/finetune/train: the newest, by the link *_latest.pth",
        "train.stage = finetune, model.arch = convnextv2_atto, model.num_classes = 10, dataset.augmentation.input_size = 32",
        "results go into results/finetune/evaluate",
        "Evaluate results will be saved at: results/finetune/evaluate",
    ] {
        assert!(run.stderr.contains(said), "{said}: {}", run.stderr);
    }
    let written = fs::read_to_string(sandbox.path(folder).join("experiment.yaml")).unwrap();
    for line in ["  stage: finetune", "  arch: convnextv2_atto", "  num_classes: 10", "    input_size: 32"] {
        assert!(written.lines().any(|found| found == line), "{line}: {written}");
    }
    let silent = status_lines(&sandbox.path(folder).join("status.json"));
    fs::remove_dir_all(sandbox.path(folder)).unwrap();

    // The spec that says all of it gives the same numbers.
    sandbox.mae("evaluate -e finetune.yaml").passed();
    let told = status_lines(&sandbox.path(folder).join("status.json"));
    assert_eq!(silent.last().unwrap()["kpi"], told.last().unwrap()["kpi"]);

    let run = sandbox.mae(&format!("inference -e silent.yaml inference.checkpoint={LATEST}")).passed();
    assert!(run.stderr.contains("20 images classified"), "{}", run.stderr);
    sandbox.mae("export -e silent.yaml export.checkpoint=results/finetune/train@best").passed();
    assert!(sandbox.path("results/finetune/export/convnextv2_atto.onnx").exists());
}

#[test]
fn one_of_several_checkpoints_must_be_chosen() {
    let sandbox = trained();
    let evaluate =
        |checkpoint: &str| sandbox.mae(&format!("evaluate -e silent.yaml evaluate.checkpoint={checkpoint}"));
    let run = evaluate("results/finetune/train");
    assert_eq!(run.code, Some(1), "{}", run.stderr);
    assert!(
        run.stderr
            .contains("holds 2 checkpoints: model_epoch_000_step_00002.pth, model_epoch_001_step_00004.pth"),
        "{}",
        run.stderr
    );
    for (choice, file) in [
        ("@epoch=0", "model_epoch_000_step_00002.pth"),
        ("@step=4", "model_epoch_001_step_00004.pth"),
        ("@best", "model_epoch_00"),
    ] {
        // The root of the results leads to its training.
        let run = evaluate(&format!("results/finetune{choice}")).passed();
        assert!(run.stderr.contains(file), "{choice}: {}", run.stderr);
        let status = status_lines(&sandbox.path("results/finetune/evaluate/status.json"));
        let loading =
            status.iter().rfind(|line| line["message"].as_str().unwrap().starts_with("Loading checkpoint"));
        assert!(loading.unwrap()["message"].as_str().unwrap().contains(file), "{choice}");
    }
}

/// Nothing is begun: no folder, no line of a status.
#[test]
fn a_contradiction_ends_a_run_before_it_begins() {
    let sandbox = trained();
    let before = files_below(&sandbox.path("results"));
    for (setting, found) in [
        ("train.stage=pretrain", "finetune"),
        ("model.arch=convnextv2_femto", "convnextv2_atto"),
        ("model.num_classes=7", "10"),
    ] {
        let run = sandbox.mae(&format!("evaluate -e silent.yaml evaluate.checkpoint={LATEST} {setting}"));
        assert_eq!(run.code, Some(1), "{}", run.stderr);
        let key = setting.split('=').next().unwrap();
        assert!(run.stderr.contains(&format!("was trained with {key} = {found}")), "{}", run.stderr);
        assert!(run.stderr.contains("(override 2 on the command line)"), "{}", run.stderr);
    }
    let run = sandbox.mae("train -e finetune.yaml train.num_epochs=3 dataset.augmentation.input_size=64");
    assert_eq!(run.code, Some(1), "{}", run.stderr);
    assert!(run.stderr.contains("results_dir: "), "{}", run.stderr);
    assert_eq!(files_below(&sandbox.path("results")), before);
}

#[test]
fn a_run_in_the_results_folder_is_resumed_whatever_else_is_unset() {
    let sandbox = trained();
    // Neither the stage nor the architecture is named; the run in the folder has both.
    let run = sandbox
        .mae("train -e silent.yaml results_dir=results/finetune train.num_epochs=3 train.pretrained_model_path=nowhere.pth")
        .passed();
    assert!(
        run.stderr.contains("Resuming from results/finetune/train/model_epoch_001_step_00004.pth"),
        "{}",
        run.stderr
    );
    assert!(run.stderr.contains("train.pretrained_model_path is left aside"), "{}", run.stderr);
    assert!(sandbox.path("results/finetune/train/model_epoch_002_step_00006.pth").exists());

    // Another architecture cannot go on from it, and does not start anew among its files.
    let run = sandbox.mae("train -e finetune.yaml train.num_epochs=4 model.arch=convnextv2_femto");
    assert_eq!(run.code, Some(1), "{}", run.stderr);
    assert!(run.stderr.contains("choose another results_dir"), "{}", run.stderr);

    // Without the link, which a copy may lose, the newest checkpoint is where it goes on.
    fs::remove_file(sandbox.path("results/finetune/train/convnextv2_atto_latest.pth")).unwrap();
    let run = sandbox.mae("train -e finetune.yaml train.num_epochs=4").passed();
    assert!(
        run.stderr.contains("Resuming from results/finetune/train/model_epoch_002_step_00006.pth"),
        "{}",
        run.stderr
    );
}

#[test]
fn weights_of_a_pretraining_bring_their_architecture() {
    let sandbox = Sandbox::new().with_images(2, 1).with_specs();
    sandbox.mae("train -e pretrain.yaml").passed();
    sandbox.write("silent.yaml", SILENT);
    let finetune = "train -e silent.yaml results_dir=results/tuned train.stage=finetune train.num_epochs=1 \
                    model.num_classes=10 train.pretrained_model_path=results/pretrain";
    let run = sandbox.mae(finetune).passed();
    assert!(
        run.stderr.contains("model.arch = convnextv2_atto, dataset.augmentation.input_size = 64"),
        "{}",
        run.stderr
    );
    assert!(sandbox.path("results/tuned/train/convnextv2_atto_latest.pth").exists());
}

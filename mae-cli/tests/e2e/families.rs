//! The other families, as small as they can be: both stages, evaluation, export.

use crate::common::{Sandbox, contents, files_below, status_lines};

/// Two steps of each stage, on 16 images.
fn smoke(arch: &str, first_tensor: &str, optimizer: &str) {
    let sandbox = Sandbox::new().with_specs().with_images(2, 1);
    let model = format!("model.arch={arch} dataset.augmentation.input_size=64 {optimizer}");
    let pretrained = format!("results/pretrain/train/{arch}_latest.pth");
    let trained = format!("results/finetune/train/{arch}_latest.pth");

    let run = sandbox.mae(&format!("train -e pretrain.yaml {model}")).passed();
    assert!(run.stderr.contains(&format!("Pretraining of {arch}")), "{}", run.stderr);
    assert_eq!(contents(&sandbox.path(&pretrained)).global_step, 2);

    let from = format!("train.pretrained_model_path={pretrained}");
    let run = sandbox.mae(&format!("train -e finetune.yaml {model} {from}")).passed();
    assert!(run.stderr.contains(&format!("Weights from {pretrained}: loaded ")), "{}", run.stderr);
    let checkpoint = contents(&sandbox.path(&trained));
    assert_eq!(checkpoint.global_step, 2);
    assert_eq!(checkpoint.state_dict[0].0, first_tensor);
    drop(checkpoint);
    // This one has served, and large models have large checkpoints.
    std::fs::remove_dir_all(sandbox.path("results/pretrain")).unwrap();

    sandbox.mae(&format!("evaluate -e finetune.yaml {model} evaluate.checkpoint={trained}")).passed();
    let lines = status_lines(&sandbox.path("results/finetune/evaluate/status.json"));
    let kpi = &lines.last().unwrap()["kpi"];
    assert!(kpi["val_loss"].as_f64().unwrap().is_finite() && kpi["ACC_all"].as_f64().is_some(), "{kpi}");

    let run = sandbox.mae(&format!("export -e finetune.yaml {model} export.checkpoint={trained}")).passed();
    assert!(
        run.stderr.contains("logits [None, 10]") || run.stderr.contains("logits [-1, 10]"),
        "{}",
        run.stderr
    );
    let files = files_below(&sandbox.path("results/finetune/export"));
    assert!(files.contains(&format!("{arch}.onnx")), "{files:?}");
}

#[test]
fn hiera() {
    smoke("hiera_tiny_224", "pos_embed", "train.optim.type=AdamW");
}

#[test]
fn vit() {
    // With the state of AdamW, each checkpoint would be of more than a gigabyte.
    smoke("vit_base_patch16", "cls_token", "train.optim.type=SGD train.optim.momentum=0");
}

//! What people read: help texts and error messages, as snapshots.

use mae_cli::spec::{Action, Plan, write_default_specs};
use std::fmt::Write as _;

/// Spec, overrides, action: all wrong in one way.
const WRONG: &[(&str, &[&str], Action)] = &[
    // YAML
    ("results_dir: /a\ntrain:\n\tnum_epochs: 3\n", &[], Action::Train),
    ("results_dir: /a: x\n", &[], Action::Train),
    ("train:\n  gpu_ids: [0, 1\n", &[], Action::Train),
    ("results_dir: \"C:\\data\"\n", &[], Action::Train),
    (
        "train:\n  stage: finetune\nmodel:\n  arch: vit_base_patch16\ntrain:\n  num_epochs: 3\n",
        &[],
        Action::Train,
    ),
    ("a: 1\n---\nb: 2\n", &[], Action::Train),
    ("- a\n- b\n", &[], Action::Train),
    ("results_dir: !!python/object/apply:os.getcwd []\n", &[], Action::Train),
    ("train: {num_epochs: *n}\n", &[], Action::Train),
    ("~: x\n", &[], Action::Train),
    ("defaults: [_self_, base]\n", &[], Action::Train),
    // Keys
    ("trian:\n  num_epochs: 3\n", &[], Action::Train),
    ("train:\n  optim:\n    learning_rate: 0.1\n", &[], Action::Train),
    ("model:\n  mask_ratio: 0.6\n", &[], Action::Train),
    ("dataset:\n  zzz: 1\n", &[], Action::Train),
    ("train.num_epochs: 5\n", &[], Action::Train),
    ("", &["train.Num_Epochs=3"], Action::Train),
    ("", &["nope.deep=1"], Action::Train),
    // Types
    ("train:\n  optim:\n    lr: 2e-4x\n", &[], Action::Train),
    ("", &["train.num_epochs=1", "train.seed=2", "train.optim.lr=2e-4x"], Action::Train),
    ("train:\n  num_epochs: 3.0\n", &[], Action::Train),
    ("train:\n  gpu_ids: 0\n", &[], Action::Train),
    ("", &["train.optim.milestones=[1,2.5]"], Action::Train),
    ("model:\n  arch: null\n", &[], Action::Train),
    ("model:\n  global_pool: maybe\n", &[], Action::Train),
    ("train:\n", &[], Action::Train),
    ("", &["train=5"], Action::Train),
    ("", &["train.num_epochs=???"], Action::Train),
    // Overrides
    ("", &["train.num_epochs"], Action::Train),
    ("", &["train.num_epochs:5"], Action::Train),
    ("", &["train..seed=5"], Action::Train),
    ("", &["results_dir=~/data"], Action::Train),
    ("", &["wandb.name='open"], Action::Train),
    ("", &["train.gpu_ids=[0,1"], Action::Train),
    ("", &["train.num_epochs=1,2"], Action::Train),
    ("", &["wandb.name=foo(1)"], Action::Train),
    ("", &["+train.num_epochs=5"], Action::Train),
    ("", &["~train.freeze"], Action::Train),
    ("", &["train.optim.milestones.7=1"], Action::Train),
    // Interpolations
    ("results_dir: ${oc.env:MAE_TEST_NOT_SET}\n", &[], Action::Train),
    ("results_dir: ${model.architecture}\n", &[], Action::Train),
    ("results_dir: '${oops'\n", &[], Action::Train),
    ("results_dir: /r\ntrain:\n  num_epochs: ${eval:\"__import__('os')\"}\n", &[], Action::Train),
    ("results_dir: /r\ntrain:\n  num_epochs: ${train.mask_ratio}\n", &[], Action::Train),
    // Rules
    ("results_dir: ''\n", &[], Action::Train),
    ("", &["train.num_epochs=0"], Action::Train),
    ("", &["train.optim.lr=1.5"], Action::Train),
    ("", &["train.optim.lr=0"], Action::Train),
    ("", &["train.mask_ratio=1.0"], Action::Train),
    ("", &["train.optim.gamma=nan"], Action::Train),
    ("", &["model.arch=vit_base_patch_16"], Action::Train),
    ("", &["train.precision=int8"], Action::Train),
    ("", &["dataset.augmentation.cutmix_minmax=0.3"], Action::Train),
    ("", &["dataset.augmentation.mean=[0.5]"], Action::Train),
    ("", &["dataset.augmentation.min_scale=3"], Action::Train),
    ("", &["dataset.train_data_sources="], Action::Train),
    ("", &["train.stage=finetune"], Action::Train),
    ("", &["train.checkpoint_interval=50"], Action::Train),
    ("", &["evaluate.checkpoint=/c.pth"], Action::Inference),
    ("", &["train.stage=finetune"], Action::Inference),
    ("", &["evaluate.checkpoint=/c.pth"], Action::Evaluate),
    ("", &[], Action::Export),
    ("", &["export.checkpoint=/c.pth", "export.format=xdl"], Action::Export),
    ("results_dir: s3://bucket/x\n", &[], Action::Train),
    ("", &["evaluate.checkpoint=results/train@epoch=3", "dataset.val_data_sources="], Action::Evaluate),
    ("", &["evaluate.checkpoint=results/train=3"], Action::Evaluate),
];

#[test]
fn errors() {
    let folder = tempfile::tempdir().unwrap();
    let spec = folder.path().join("spec.yaml");
    let mut out = String::new();
    for (text, overrides, action) in WRONG {
        // A spec that would train, unless the case brings its own.
        let base = "results_dir: /r\ndataset:\n  train_data_sources: /d\n";
        std::fs::write(&spec, if text.is_empty() { base } else { text }).unwrap();
        let Err(error) = Plan::load(&spec, overrides, *action) else {
            panic!("{text:?} {overrides:?} loads")
        };
        let shown = error.to_string().replace(&format!("{}/", folder.path().display()), "");
        let given = if text.is_empty() { overrides.join("  ") } else { format!("{text:?}") };
        let _ = writeln!(out, "{} | {given}\n[{}] {shown}\n", action.name(), error.kind().name());
    }
    insta::assert_snapshot!(out);
}

#[test]
fn errors_of_the_command_line() {
    let mut out = String::new();
    let mut add = |text: String| {
        out.push_str(&text);
        out.push('\n');
    };
    for line in
        [&["mae"][..], &["mae", "tarin"], &["mae", "train", "--train.seed=3"], &["mae", "train", "-e"]]
    {
        add(mae_cli::args::parse(line).unwrap_err().to_string());
    }
    add(mae_cli::args::parse(["mae", "train"]).unwrap().request().unwrap_err().to_string());
    add(write_default_specs(&[] as &[&str]).unwrap_err().to_string());
    add(write_default_specs(&["results_dir=x", "train.seed=1"]).unwrap_err().to_string());
    let missing = std::path::Path::new("nope/spec.yaml");
    add(Plan::load(missing, &[] as &[&str], Action::Train).unwrap_err().to_string());
    insta::assert_snapshot!(out);
}

#[test]
fn help() {
    let mut out = String::new();
    for line in [
        &["mae", "--help"][..],
        &["mae", "train", "--help"],
        &["mae", "export", "-h"],
        &["mae", "evaluate", "-h"],
        &["mae", "inference", "-h"],
        &["mae", "default_specs", "-h"],
        &["mae", "doctor", "-h"],
        &["mae", "spec", "-h"],
        &["mae", "spec", "show", "-h"],
        &["mae", "schema", "-h"],
        &["mae", "completions", "-h"],
    ] {
        let error = mae_cli::args::command().term_width(100).try_get_matches_from(line).unwrap_err();
        assert!(!error.use_stderr(), "help is no error");
        let _ = writeln!(out, "$ {}\n{error}", line.join(" "));
    }
    insta::assert_snapshot!(out);
}

#[test]
fn notes_and_differences() {
    let folder = tempfile::tempdir().unwrap();
    let spec = folder.path().join("spec.yaml");
    std::fs::write(&spec, "results_dir: /r\ndataset: {train_data_sources: /d, val_data_sources: /v}\n")
        .unwrap();
    let load = |overrides: &[&str]| Plan::load(&spec, overrides, Action::Train).unwrap();
    let mut out = String::new();
    let plan = load(&[
        "train.stage=finetune",
        "model.arch=vit_base_patch16",
        "train.optim.layer_decay=0.65",
        "train.optim.momentum=0.8",
        "model.drop_path_rate=0.2",
        "dataset.augmentation.input_size=64",
        "train.num_gpus=2",
        "hydra.run.dir=/x",
        "encryption_key=secret",
    ]);
    let sparse = load(&["model.arch=convnextv2_atto", "model.sparse_encoder=true"]).differences_from_tao();
    let tokens = load(&["model.arch=vit_base_patch16"]).differences_from_tao();
    let crop = load(&["train.stage=finetune"]).differences_from_tao();
    for line in
        plan.notes().iter().chain(&plan.differences_from_tao()).chain(&sparse).chain(&tokens).chain(&crop)
    {
        let _ = writeln!(out, "{line}");
    }
    insta::assert_snapshot!(out);

    let defaults = load(&[]).differences_from_tao();
    assert_eq!(defaults.len(), 1, "nothing is set, and the paper's initial values remain: {defaults:?}");
    let any_size = ["model.arch=convnextv2_atto", "dataset.augmentation.input_size=64"];
    assert_eq!(load(&any_size).differences_from_tao(), defaults, "TAO's ConvNeXt takes any size");
    let same = ["dataset.augmentation.input_size=224", "model.decoder_depth=1", "train.optim.momentum=0.9"];
    assert_eq!(load(&same).differences_from_tao(), defaults, "what TAO uses anyway");
    assert!(load(&["compat=tao"]).differences_from_tao().is_empty());
    assert!(load(&["compat=tao", "model.drop_path_rate=0.2"]).differences_from_tao().is_empty());
    assert!(!load(&["compat=tao", "model.drop_path_rate=0.2"]).is_honoured("model.drop_path_rate"));
}

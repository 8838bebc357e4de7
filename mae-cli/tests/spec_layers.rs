//! Layers: what wins over what, where each value came from, and corners recorded from Hydra 1.3.2 and OmegaConf 2.3.0.

#![allow(clippy::unwrap_used, reason = "helpers of tests fail by panicking")]

use mae_cli::spec::interpolation::Context;
use mae_cli::spec::{Action, Kind, Plan, Result, Value, compose, select};

fn value(spec: &str, overrides: &[&str], path: &str) -> Result<Value> {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("spec.yaml");
    std::fs::write(&file, spec).unwrap();
    let context = Context { env: &|_| None, spec_name: "spec.yaml", action: "train" };
    let tree = compose(Some(&file), overrides)?.resolved(&context)?;
    Ok(select(&tree, path).map_or(Value::Null, |node| node.value.clone()))
}

fn text(spec: &str, overrides: &[&str], path: &str) -> String {
    value(spec, overrides, path).unwrap().shown()
}

fn kind(overrides: &[&str]) -> Option<Kind> {
    compose(None, overrides).err().map(|error| error.kind())
}

#[test]
fn overrides_win_over_the_file_and_the_file_over_defaults() {
    let spec = "train: {num_epochs: 3, seed: 5}\n";
    assert_eq!(text(spec, &["train.num_epochs=9"], "train.num_epochs"), "9");
    assert_eq!(text(spec, &["train.num_epochs=9"], "train.seed"), "5");
    assert_eq!(text(spec, &["train.num_epochs=9"], "train.accum_grad_batches"), "1");
}

#[test]
fn every_value_knows_where_it_came_from() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("spec.yaml");
    std::fs::write(&file, "results_dir: /r\ntrain:\n  seed: 5\ndataset: {train_data_sources: /d}\n").unwrap();
    let overrides = ["train.num_epochs=9", "train.optim={gamma: 0.5}", "train.optim.milestones.1=7"];
    let plan = Plan::load(&file, &overrides, Action::Train).unwrap();
    assert_eq!(plan.origin("train.seed").line_column(), Some((3, 9)));
    assert_eq!(plan.origin("train.num_epochs").to_string(), "override 1 on the command line");
    assert_eq!(plan.origin("train.optim.gamma").to_string(), "override 2 on the command line");
    assert_eq!(plan.origin("train.optim.milestones").to_string(), "override 3 on the command line");
    assert!(!plan.is_set("train.optim.lr") && plan.is_set("train.seed") && !plan.is_set("no.such.field"));
    assert_eq!(plan.train.optim.milestones, [88, 7]);
}

#[test]
fn a_resolved_interpolation_has_its_fields_type() {
    assert_eq!(
        text("", &["dataset.augmentation.mean=[${train.seed},2]"], "dataset.augmentation.mean"),
        "[1234.0, 2.0]"
    );
    assert_eq!(
        text("", &["wandb.name=${train.cudnn}x"], "wandb.name"),
        "'{'benchmark': False, 'deterministic': True}x'"
    );
    assert_eq!(text("train: {num_epochs: '${train.optim.milestones[1]}'}\n", &[], "train.num_epochs"), "96");
    // Escaped, it is text, and text is no number.
    assert_eq!(value("train: {optim: {lr: '\\${x}'}}\n", &[], "x").unwrap_err().kind(), Kind::TypeMismatch);
}

#[test]
fn data_sources_take_a_list() {
    let key = "dataset.train_data_sources";
    let spec = "dataset:\n  train_data_sources:\n    - /d/a.tar\n    - /d/t-{00..09}.tar\n";
    assert_eq!(text(spec, &[], key), "'/d/a.tar,/d/t-{00..09}.tar'");
    assert_eq!(text("", &["dataset.train_data_sources=[/d/a.tar,/d/b.tar]"], key), "'/d/a.tar,/d/b.tar'");
    assert_eq!(kind(&["dataset.train_data_sources=[]"]), Some(Kind::TypeMismatch));
    assert_eq!(kind(&["results_dir=[a,b]"]), Some(Kind::TypeMismatch));
}

#[test]
fn backslashes_escape_only_before_an_interpolation() {
    assert_eq!(text("wandb: {name: 'a\\\\b'}\n", &[], "wandb.name"), "'a\\\\b'");
    assert_eq!(text("wandb: {name: '\\\\${model.arch}'}\n", &[], "wandb.name"), "'\\convnextv2_base'");
    assert_eq!(text("wandb: {name: '\\${model.arch}'}\n", &[], "wandb.name"), "'${model.arch}'");
}

#[test]
fn deleting_takes_top_level_sections_and_null_for_no_value() {
    assert_eq!(text("", &["~wandb"], "wandb"), "null");
    assert_eq!(text("", &["~wandb=null"], "wandb"), "null");
    assert_eq!(text("", &["~wandb", "wandb.name=x"], "wandb.name"), "'x'");
    assert_eq!(text("", &["+new.key=1", "~new.key"], "new.key"), "null");
    assert_eq!(kind(&["~train.seed=1234.0"]), Some(Kind::DeleteUnsupported));
}

#[test]
fn a_syntax_error_anywhere_wins_over_what_a_function_says() {
    assert_eq!(kind(&["train.seed=choice(1,2)"]), Some(Kind::SweepWithoutMultirun));
    assert_eq!(kind(&["train.seed=choice(1,2) x"]), Some(Kind::OverrideParse));
    assert_eq!(kind(&["train.seed=[choice(1,2),foo(1)]"]), Some(Kind::OverrideParse));
    assert_eq!(kind(&["wandb.name='a' "]), Some(Kind::OverrideParse));
    assert_eq!(kind(&["train.seed=${}"]), Some(Kind::OverrideParse));
    assert_eq!(kind(&["train.seed=${a b}"]), Some(Kind::Interpolation));
}

#[test]
fn a_syntax_error_later_in_the_file_wins_over_a_duplicate_key() {
    let spec = "a: 1\na: 2\nb: [1\n";
    assert_eq!(value(spec, &[], "a").unwrap_err().kind(), Kind::YamlSyntax);
    assert_eq!(value("a: 1\na: 2\n", &[], "a").unwrap_err().kind(), Kind::YamlDuplicateKey);
}

#[test]
fn what_another_action_reads_may_stay_unresolved() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("spec.yaml");
    let spec = "results_dir: /r\ndataset: {train_data_sources: /d}\nexport: {checkpoint: '${nope}'}\n";
    std::fs::write(&file, spec).unwrap();
    let none: &[&str] = &[];
    assert!(Plan::load(&file, none, Action::Train).is_ok());
    assert_eq!(Plan::load(&file, none, Action::Export).unwrap_err().kind(), Kind::ResolveError);
}

#[test]
fn included_specs_follow_the_defaults_list() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("spec.yaml");
    std::fs::write(folder.path().join("part.yaml"), "train: {seed: 7}\n").unwrap();
    std::fs::create_dir(folder.path().join("model")).unwrap();
    std::fs::write(folder.path().join("model/small.yaml"), "arch: vit_base_patch16\n").unwrap();
    std::fs::write(&file, "defaults: [_self_, part, {model: small}, optional absent]\ntrain: {seed: 1}\n")
        .unwrap();
    let composed = compose(Some(&file), &[] as &[&str]).unwrap();
    let shown = |path: &str| select(&composed.root, path).unwrap().value.shown();
    assert_eq!((shown("train.seed"), shown("model.arch")), ("7".to_owned(), "'vit_base_patch16'".to_owned()));

    std::fs::write(&file, "defaults: [part, _self_]\n").unwrap();
    let composed = compose(Some(&file), &[] as &[&str]).unwrap();
    assert_eq!(
        select(&composed.root, "train.seed").unwrap().value.shown(),
        "1234",
        "as upstream: defaults win"
    );
    assert!(composed.notes[0].contains("part.yaml stands before _self_"), "{:?}", composed.notes);
}

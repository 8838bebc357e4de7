//! `experiment.yaml` of recorded runs, and the specs that must load.

use crate::golden;
use mae_cli::spec::{Action, Plan, schema};
use std::path::{Path, PathBuf};

/// Spec, action and the overrides with which the run was recorded.
const RUNS: &[(&str, Action, &str)] = &[
    ("pretrain", Action::Train, "mae_pretrain"),
    ("tiny", Action::Train, "mae_tiny"),
    ("tiny_cosine", Action::Train, "mae_tiny_cosine"),
    ("finetune", Action::Train, "mae_finetune"),
    ("finetune", Action::Evaluate, "mae_finetune"),
    ("finetune", Action::Inference, "mae_finetune"),
];

#[test]
fn experiment_yaml_is_upstreams_byte_for_byte() {
    let folder = golden::e2e();
    for (spec, action, run) in RUNS {
        let spec = folder.join("specs").join(format!("{spec}.yaml"));
        let plan =
            Plan::load(&spec, &[] as &[&str], *action).unwrap_or_else(|error| panic!("{run}: {error}"));
        let expected = folder.join(run).join(action.name()).join("experiment.yaml");
        assert_eq!(plan.to_yaml(), std::fs::read_to_string(expected).unwrap(), "{run} {}", action.name());
        assert_eq!(plan.results_dir(), Path::new(&format!("/results/{run}/{}", action.name())));
    }
}

#[test]
fn what_experiment_yaml_holds_loads_to_the_same_plan() {
    let spec = golden::e2e().join("specs/finetune.yaml");
    let overrides = ["train.clip_grad_norm=1.0", "train.optim.betas=[0.9, 0.98]"];
    let plan = Plan::load(&spec, &overrides, Action::Train).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let written = folder.path().join("experiment.yaml");
    std::fs::write(&written, plan.to_yaml()).unwrap();
    let again = Plan::load(&written, &[] as &[&str], Action::Train).unwrap();
    assert_eq!(*again, *plan);
    assert_eq!(again.to_yaml(), plan.to_yaml());
}

#[test]
fn the_specs_of_this_repository_load_for_every_action_that_they_name() {
    let specs = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../specs");
    let mut count = 0;
    for entry in std::fs::read_dir(specs).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            continue;
        }
        let text = std::fs::read_to_string(&path).unwrap();
        for action in Action::ALL {
            if text.contains(&format!("mae {}", action.name())) {
                Plan::load(&path, &[] as &[&str], action).unwrap_or_else(|error| panic!("{error}"));
                count += 1;
            }
        }
    }
    assert!(count >= 2, "only {count} loads");
}

#[test]
fn the_templates_that_tao_ships_load() {
    let folder = golden::folder().join("skill_bank");
    let mut count = 0;
    for action in Action::ALL {
        let path = folder.join(format!("spec_template_{}.yaml", action.name()));
        let Ok(text) = std::fs::read_to_string(&path) else { continue };
        count += 1;
        assert!(!text.is_empty());
        let mut overrides = vec![
            "results_dir=/r".to_owned(),
            "train.stage=finetune".to_owned(),
            "dataset.test_data_sources=/t".to_owned(),
        ];
        overrides.extend(["train", "val"].map(|part| format!("dataset.{part}_data_sources=/d")));
        match action {
            Action::Train => {}
            Action::GenTrtEngine => overrides.push("gen_trt_engine.onnx_file=/m.onnx".into()),
            _ => overrides.push(format!("{}.checkpoint=/c.pth", action.name())),
        }
        Plan::load(&path, &overrides, action).unwrap_or_else(|error| panic!("{}: {error}", action.name()));
    }
    let shipped = folder.is_dir();
    assert!(count == 5 || !shipped, "{count} templates");
}

#[test]
fn a_number_outside_its_bounds_is_an_error_that_names_the_field() {
    let spec = golden::e2e().join("specs/pretrain.yaml");
    for (path, _, leaf) in schema::leaves() {
        let bad: &[&str] = match leaf.shape {
            schema::Shape::Int => &["-1000000", "9223372036854775807", "-9223372036854775808"],
            schema::Shape::Float => &["-1e9", "nan", "inf"],
            schema::Shape::Pair => &["[-1, 2]", "0.5", "[nan, 1]"],
            schema::Shape::List(schema::Shape::Int) => &["[-1]"],
            schema::Shape::List(schema::Shape::Float) => &["[nan, 1, 1]", "[]"],
            _ => continue,
        };
        for value in bad {
            match Plan::load(&spec, &[format!("{path}={value}")], Action::Train) {
                Ok(_) => {}
                Err(error) => assert_eq!(error.path(), Some(path.as_str()), "{error}"),
            }
        }
    }
}

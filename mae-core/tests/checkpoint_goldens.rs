//! Files that PyTorch, Lightning and others wrote, against what Python read from them.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

mod checkpoint_common;

use std::path::PathBuf;

use checkpoint_common::{check_content, check_structure, check_tensor, close, goldens, json, number};
use mae_core::checkpoint::lightning::CheckpointContents;
use mae_core::checkpoint::{Checkpoint, Error, Format, Kind, TensorView, Value};
use serde_json::Value as Json;

/// Checkpoints and their descriptions of the same name. The small copies have the descriptions only.
fn described() -> Vec<(PathBuf, Json)> {
    let mut found = Vec::new();
    let folder = goldens().join("checkpoints/lightning_tiny_full");
    for run in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        for file in std::fs::read_dir(run.path()).unwrap().flatten() {
            let path = file.path();
            if path.extension().is_some_and(|extension| extension == "json") {
                found.push((path.with_extension("pth"), json(&path)));
            }
        }
    }
    assert!(!found.is_empty());
    found
}

#[test]
fn lightning_files_have_the_described_structure() {
    for (path, expected) in described().into_iter().filter(|(path, _)| path.exists()) {
        let checkpoint = Checkpoint::open(&path).unwrap();
        assert_eq!(checkpoint.kind(), Kind::Lightning);
        assert_eq!(checkpoint.format(), &Format::Zip { root: "archive".into() });
        check_structure("", checkpoint.root(), &expected["structure"]);
        for (name, view) in checkpoint.state_dict().unwrap() {
            check_tensor(&name, &view, &expected["tensors"][&name]);
        }
        let optimizer = &checkpoint.root().get("optimizer_states").unwrap().as_slice().unwrap()[0];
        for (index, state) in optimizer.get("state").unwrap().as_dict().unwrap() {
            for (moment, key) in [("exp_avg", "exp_avg_l2"), ("exp_avg_sq", "exp_avg_sq_l2")] {
                let values = state.get(moment).unwrap().as_tensor().unwrap().to_f64_vec().unwrap();
                let l2 = values.iter().map(|v| v * v).sum::<f64>().sqrt();
                let index = index.as_i64().unwrap().to_string();
                assert!(close(l2, number(&expected[key][&index])), "{moment} {index}");
            }
        }
    }
}

#[test]
fn lightning_files_survive_taking_apart_and_building() {
    for (path, _) in described().into_iter().filter(|(path, _)| path.exists()) {
        let original = Checkpoint::open(&path).unwrap();
        let contents = CheckpointContents::from_value(original.root()).unwrap();
        assert!(contents.state_dict.iter().all(|(name, _)| !name.starts_with("model.")));
        assert!(contents.callback.is_some() && contents.optimizer.is_some());
        assert_eq!(contents.lr_schedulers.len(), 1);
        assert_eq!(&contents.to_value(), original.root(), "{}", path.display());
    }
}

/// The value that a description describes; tensors of which it gives no value are zero.
fn from_description(expected: &Json) -> Value {
    let items = || expected["items"].as_array().unwrap();
    let pairs = || {
        let key = |item: &Json| match item[0].as_i64() {
            Some(number) => Value::Int(number),
            None => Value::str(item[0].as_str().unwrap()),
        };
        items().iter().map(|item| (key(item), from_description(&item[2]))).collect()
    };
    match expected["type"].as_str().unwrap() {
        "builtins.dict" => Value::Dict(pairs()),
        "collections.OrderedDict" => Value::OrderedDict(pairs()),
        "collections.Counter" => Value::Counter(pairs()),
        "list" => Value::List(items().iter().map(from_description).collect()),
        "tuple" => Value::Tuple(items().iter().map(from_description).collect()),
        "NoneType" => Value::None,
        "int" => Value::Int(expected["value"].as_i64().unwrap()),
        "float" => Value::Float(number(&expected["value"])),
        "bool" => Value::Bool(expected["value"].as_bool().unwrap()),
        "str" => Value::str(expected["value"].as_str().unwrap()),
        "Tensor" => {
            let shape = checkpoint_common::shape(&expected["shape"]);
            let value = if expected["value"].is_null() { 0.0 } else { number(&expected["value"]) as f32 };
            let values = vec![value; shape.iter().product::<i64>() as usize];
            Value::Tensor(TensorView::from_f32(&shape, &values).unwrap())
        }
        other => panic!("{other}"),
    }
}

#[test]
fn built_contents_have_lightnings_structure() {
    for (_, expected) in described() {
        let described = from_description(&expected["structure"]);
        let contents = CheckpointContents::from_value(&described).unwrap();
        let optimizer = contents.optimizer.as_ref().unwrap();
        assert_eq!(optimizer.state.len(), contents.state_dict.len());
        assert_eq!(contents.loops.optimizer_steps, contents.global_step);
        assert_eq!(contents.loops.epochs_started, contents.epoch + 1);
        check_structure("", &contents.to_value(), &expected["structure"]);
    }
}

#[test]
fn full_size_lightning_files() {
    for folder in ["lightning_pretrain_atto", "lightning_finetune_atto"] {
        let folder = goldens().join("checkpoints").join(folder);
        if !folder.is_dir() {
            continue;
        }
        let expected = json(&folder.join("expected.json"));
        let checkpoint = Checkpoint::open(folder.join("model_epoch_000_step_00002.pth")).unwrap();
        check_structure("", checkpoint.root(), &expected["structure_of_file_in_this_folder"]);
        let state_dict = checkpoint.state_dict().unwrap();
        assert_eq!(state_dict.len(), expected["tensors"].as_object().unwrap().len());
        for (name, view) in &state_dict {
            check_tensor(name, view, &expected["tensors"][name]);
        }
        let contents = CheckpointContents::from_value(checkpoint.root()).unwrap();
        assert_eq!(&contents.to_value(), checkpoint.root());
    }
}

#[test]
fn foreign_files_have_the_described_content() {
    let folder = goldens().join("checkpoints/foreign");
    let expected = json(&folder.join("expected.json"));
    let files = expected["files"].as_object().unwrap();
    let mut checked = 0;
    for (name, description) in files {
        let path = folder.join(name);
        let content = match &description["content"] {
            // "same as NAME", or "same" as the file without its variant.
            Json::String(text) => {
                let base = text.strip_prefix("same as ").unwrap_or("ordereddict_namespace_numpy.pth");
                &files[base]["content"]
            }
            content => content,
        };
        if content.is_null() || !path.exists() {
            continue;
        }
        let checkpoint = Checkpoint::open(&path).unwrap();
        let legacy = description["format"] == "legacy";
        assert_eq!(matches!(checkpoint.format(), Format::Legacy), legacy, "{name}");
        check_content(name, checkpoint.root(), content);
        checked += 1;
    }
    assert!(checked > 0);
}

#[test]
fn views_of_one_storage_share_it() {
    for name in ["dtypes_and_layouts.pth", "dtypes_and_layouts_legacy.pth"] {
        let checkpoint = Checkpoint::open(goldens().join("checkpoints/foreign").join(name)).unwrap();
        let tensor =
            |key: &str| checkpoint.root().get_path(&["state_dict", key]).unwrap().as_tensor().unwrap();
        for key in ["view_a", "view_b", "strided_slice"] {
            assert!(tensor(key).shares_storage_with(tensor("whole")), "{name} {key}");
        }
        assert!(!tensor("f32").shares_storage_with(tensor("whole")));
    }
}

#[test]
fn hostile_and_broken_files_are_refused() {
    let folder = goldens().join("checkpoints/foreign");
    let expected = json(&folder.join("expected.json"));
    let mut checked = 0;
    for (name, description) in expected["files"].as_object().unwrap() {
        let path = folder.join(name);
        if description.get("must").is_none() || !path.exists() {
            continue;
        }
        let error = Checkpoint::open(&path).unwrap_err();
        let forbidden = matches!(error.inner(), Error::ForbiddenGlobal { .. });
        assert_eq!(forbidden, name.starts_with("malicious_"), "{error}");
        assert!(error.to_string().contains(name), "{error}");
        checked += 1;
    }
    assert!(checked > 0);
    assert!(!std::path::Path::new("pwned").exists());
}

#[test]
fn third_party_files() {
    let folder = goldens().join("third_party_pth");
    if !folder.is_dir() {
        return;
    }
    let expected = json(&folder.join("expected.json"));
    for (name, description) in expected["files"].as_object().unwrap() {
        let checkpoint = Checkpoint::open(folder.join(name)).unwrap();
        match description["format"].as_str().unwrap() {
            "zip" => {
                let root = description["zip_root"].as_str().unwrap().to_owned();
                assert_eq!(checkpoint.format(), &Format::Zip { root });
            }
            _ => assert_eq!(checkpoint.format(), &Format::Legacy, "{name}"),
        }
        let tensors = description["tensors"].as_array().unwrap();
        assert_eq!(tensors.len() as u64, description["n_tensors"].as_u64().unwrap());
        for expected in tensors {
            let keys: Vec<&str> =
                expected["path"].as_array().unwrap().iter().map(|k| k.as_str().unwrap()).collect();
            let value = checkpoint.root().get_path(&keys);
            let Some(Value::Tensor(view)) = value else { panic!("{name} {keys:?}: {value:?}") };
            check_tensor(&format!("{name} {keys:?}"), view, expected);
            assert_eq!(view.strides(), checkpoint_common::shape(&expected["stride"]));
            assert_eq!(view.storage_nbytes() as u64, expected["storage_bytes"].as_u64().unwrap());
            let last = expected["last"][0].as_f64().unwrap();
            assert!(close(*view.to_f64_vec().unwrap().last().unwrap(), last), "{name} {keys:?}");
            let tensor = view.to_tensor().unwrap();
            let sum: f64 = tensor.sum(tch::Kind::Double).double_value(&[]);
            assert!(
                (sum - number(&expected["sum"])).abs() <= 1e-6 * number(&expected["l2"]).max(1e-9) * 100.0
            );
        }
        assert!(checkpoint.state_dict().unwrap().len() <= tensors.len());
    }
}

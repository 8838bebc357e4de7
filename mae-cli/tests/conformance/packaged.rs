//! The schema files, templates and manifest that TAO packages, generated from the one table and equal as values.

use crate::golden;
use mae_cli::spec::generate::{self, ACTIONS, Strictness};
use mae_cli::spec::{Value as SpecValue, schema, yaml};
use serde_json::Value;

/// Reads JSON in which Python wrote `Infinity`.
fn parse(text: &str, name: &str) -> Value {
    let text = text.replace(": Infinity", ": \"Infinity\"");
    serde_json::from_str(&text).unwrap_or_else(|error| panic!("{name}: {error}"))
}

fn recorded(name: &str) -> Option<String> {
    std::fs::read_to_string(golden::folder().join("skill_bank").join(name)).ok()
}

/// Lists that TAO makes from sets have no order, and the words of descriptions are ours.
fn normal(value: &mut Value) {
    const SETS: [&str; 3] = ["automl_default_parameters", "automl_disabled_parameters", "popular"];
    match value {
        Value::Object(map) => {
            map.retain(|key, value| key != "description" || !value.is_string());
            for (key, value) in map.iter_mut() {
                if let (true, Value::Array(items)) = (SETS.contains(&key.as_str()), &mut *value) {
                    items.sort_by_key(ToString::to_string);
                }
                normal(value);
            }
        }
        Value::Array(items) => items.iter_mut().for_each(normal),
        _ => {}
    }
}

#[track_caller]
fn assert_same(name: &str, ours: &str, theirs: &str) {
    let (mut ours, mut theirs) = (parse(ours, name), parse(theirs, name));
    normal(&mut ours);
    normal(&mut theirs);
    let mut differences = Vec::new();
    compare("", &ours, &theirs, &mut differences);
    assert!(differences.is_empty(), "{name}: {} differences\n{}", differences.len(), differences.join("\n"));
}

fn compare(path: &str, ours: &Value, theirs: &Value, out: &mut Vec<String>) {
    match (ours, theirs) {
        (Value::Object(a), Value::Object(b)) => {
            for key in a.keys().chain(b.keys().filter(|key| !a.contains_key(*key))) {
                let null = Value::String("(absent)".into());
                compare(
                    &format!("{path}/{key}"),
                    a.get(key).unwrap_or(&null),
                    b.get(key).unwrap_or(&null),
                    out,
                );
            }
        }
        (a, b) => {
            // As text, `1` and `1.0` differ.
            let (a, b) = (a.to_string(), b.to_string());
            if a != b {
                out.push(format!("{path}: {a}, expected {b}"));
            }
        }
    }
}

#[test]
fn schemas_are_taos() {
    for action in ACTIONS {
        let name = format!("{action}.schema.json");
        let Some(theirs) = recorded(&name) else { continue };
        assert_same(&name, &generate::json_schema(action, Strictness::AsTao), &theirs);
    }
}

#[test]
fn the_manifest_is_taos() {
    if let Some(theirs) = recorded("manifest.json") {
        assert_same("manifest.json", &generate::manifest(), &theirs);
    }
}

#[test]
fn templates_are_taos() {
    for action in ACTIONS {
        let name = format!("spec_template_{action}.yaml");
        let Some(theirs) = recorded(&name) else { continue };
        let read = |text: &str| golden::leaves(&yaml::read(text.as_bytes(), &name).unwrap());
        assert_eq!(read(&generate::template(action)), read(&theirs), "{name}");
    }
}

/// TAO writes them with sorted keys and two blanks, and so do we: the files can be compared line by line.
#[test]
fn the_layout_is_taos() {
    let Some(theirs) = recorded("train.schema.json") else { return };
    let plain = |text: &str| -> Vec<String> {
        let lines = text.lines().map(str::to_owned);
        lines
            .filter(|line| !line.contains("\"description\":") && line.trim_start().starts_with('"'))
            .collect()
    };
    // Sets are in another order; everything that has a key and one value is in the same.
    let keyed = |text: &str| -> Vec<String> {
        plain(text).into_iter().filter(|line| line.contains("\": ")).collect()
    };
    assert_eq!(keyed(&generate::json_schema("train", Strictness::AsTao)), keyed(&theirs));
    assert!(theirs.ends_with("}\n") && generate::json_schema("train", Strictness::AsTao).ends_with("}\n"));
}

#[test]
fn strict_schemas_are_json() {
    for action in ACTIONS {
        let text = generate::json_schema(action, Strictness::Strict);
        let schema: Value = serde_json::from_str(&text).unwrap_or_else(|error| panic!("{action}: {error}"));
        assert_eq!(schema["properties"]["train"]["properties"]["seed"]["minimum"], -1);
        assert!(schema["properties"]["train"]["properties"]["seed"].get("maximum").is_none());
    }
}

/// A template is a spec: it composes, and leaves only what must be given.
#[test]
fn templates_compose() {
    for action in ACTIONS {
        let folder = tempfile::tempdir().unwrap();
        let spec = folder.path().join("spec.yaml");
        std::fs::write(&spec, generate::template(action)).unwrap();
        let composed = mae_cli::spec::compose(Some(&spec), &[] as &[&str]).unwrap();
        assert!(composed.root.get(if action == "train" { "train" } else { action }).is_some());
    }
}

/// The page in the documentation is what the table says today.
#[test]
fn the_reference_page_is_up_to_date() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/spec-reference.md");
    let page = std::fs::read_to_string(path).unwrap_or_default();
    assert!(
        page == generate::reference(),
        "docs/spec-reference.md is not what the table says: mae spec reference > docs/spec-reference.md"
    );
    for (field, ..) in schema::leaves() {
        assert!(page.contains(&format!("| `{field}` |")), "{field}");
    }
}

#[test]
fn completions_know_every_field() {
    use clap_complete::Shell;
    for shell in [Shell::Bash, Shell::Zsh, Shell::Fish] {
        let script = mae_cli::args::completions(shell);
        for (field, ..) in schema::leaves() {
            assert!(script.contains(&format!("{field}=")), "{shell}: {field}");
        }
        for command in ["train", "evaluate", "inference", "export", "default_specs", "doctor", "schema"] {
            assert!(script.contains(command), "{shell}: {command}");
        }
    }
}

/// What the generated JSON says of a default is what the template says.
#[test]
fn defaults_agree() {
    for action in ACTIONS {
        let schema = parse(&generate::json_schema(action, Strictness::AsTao), action);
        let template = yaml::read(generate::template(action).as_bytes(), "template").unwrap();
        let SpecValue::Map(defaults) = golden::value(&schema["default"]) else { panic!("{action}") };
        let mut theirs = golden::leaves(&template);
        if action == "inference" {
            theirs.remove("dataset.test_data_sources");
        }
        assert_eq!(golden::leaves(&defaults), theirs, "{action}");
    }
}

//! Where the recorded data lies, and its conventions.

use mae_cli::spec::{Map, Node, Value, float_repr};
use std::collections::BTreeMap;
use std::path::PathBuf;

/// A folder of recordings: below `$MAE_GOLDENS`, in the shared folder beside the workspace, or the small copy inside it.
fn recordings(name: &str) -> PathBuf {
    let workspace = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("..");
    let shared = std::env::var_os("MAE_GOLDENS")
        .map_or_else(|| workspace.join("../shared/goldens"), PathBuf::from)
        .join(name);
    if shared.is_dir() { shared } else { workspace.join("tests/goldens").join(name) }
}

/// Specs, overrides, defaults, dumps, command lines.
pub fn folder() -> PathBuf {
    recordings("config")
}

/// What recorded runs wrote.
pub fn e2e() -> PathBuf {
    recordings("e2e")
}

pub fn read(name: &str) -> serde_json::Value {
    let path = folder().join(name);
    let text = std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    serde_json::from_str(&text).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// A recorded value as a tree; `{"$float": "nan"}` is a number.
pub fn value(json: &serde_json::Value) -> Value {
    match json {
        serde_json::Value::Null => Value::Null,
        serde_json::Value::Bool(value) => Value::Bool(*value),
        serde_json::Value::Number(number) => match number.as_i64() {
            Some(int) => Value::Int(i128::from(int)),
            None => Value::Float(number.as_f64().unwrap()),
        },
        serde_json::Value::String(text) => Value::Str(text.clone()),
        serde_json::Value::Array(items) => Value::List(items.iter().map(node).collect()),
        serde_json::Value::Object(entries) => match entries.get("$float").and_then(|text| text.as_str()) {
            Some("nan") => Value::Float(f64::NAN),
            Some("inf") => Value::Float(f64::INFINITY),
            Some("-inf") => Value::Float(f64::NEG_INFINITY),
            _ => Value::Map(entries.iter().map(|(key, item)| (key.clone(), node(item))).collect()),
        },
    }
}

fn node(json: &serde_json::Value) -> Node {
    Node::new(value(json), Default::default())
}

/// Leaves of a tree by dotted path, values spelled so that `1`, `1.0` and `'1'` differ and `nan` equals itself.
pub fn leaves(map: &Map) -> BTreeMap<String, String> {
    fn walk(prefix: &str, map: &Map, out: &mut BTreeMap<String, String>) {
        for (key, node) in map.iter() {
            let path = if prefix.is_empty() { key.to_owned() } else { format!("{prefix}.{key}") };
            match &node.value {
                Value::Map(inner) if !inner.is_empty() => walk(&path, inner, out),
                value => {
                    out.insert(path, spelled(value));
                }
            }
        }
    }
    let mut out = BTreeMap::new();
    walk("", map, &mut out);
    out
}

pub fn spelled(value: &Value) -> String {
    match value {
        Value::Str(text) => format!("{text:?}"),
        Value::Float(value) => float_repr(*value),
        Value::List(items) => {
            format!("[{}]", items.iter().map(|item| spelled(&item.value)).collect::<Vec<_>>().join(", "))
        }
        value => value.shown(),
    }
}

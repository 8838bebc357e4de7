//! JSON as Python's `json.dumps(value, indent=2, sort_keys=True)` writes it.

use crate::spec::python;
use crate::spec::value::Value;

/// The text, with a newline at its end. Infinity is the bare word, as Python writes it.
pub(super) fn write(value: &Value) -> String {
    let mut out = String::new();
    append(value, 0, &mut out);
    out.push('\n');
    out
}

fn append(value: &Value, depth: usize, out: &mut String) {
    match value {
        Value::Null | Value::Bytes(_) => out.push_str("null"),
        Value::Bool(value) => out.push_str(if *value { "true" } else { "false" }),
        Value::Int(value) => out.push_str(&value.to_string()),
        Value::Float(value) if value.is_infinite() => {
            out.push_str(if *value > 0.0 { "Infinity" } else { "-Infinity" })
        }
        Value::Float(value) if value.is_nan() => out.push_str("NaN"),
        Value::Float(value) => out.push_str(&python::float_repr(*value)),
        Value::Str(text) => out.push_str(&python::json_str(text)),
        Value::List(items) => {
            let items: Vec<_> = items.iter().map(|item| (None, &item.value)).collect();
            block('[', &items, ']', depth, out);
        }
        Value::Map(map) => {
            let mut entries: Vec<_> = map.iter().map(|(key, node)| (Some(key), &node.value)).collect();
            entries.sort_by_key(|(key, _)| *key);
            block('{', &entries, '}', depth, out);
        }
    }
}

fn block(open: char, entries: &[(Option<&str>, &Value)], close: char, depth: usize, out: &mut String) {
    out.push(open);
    for (index, (key, value)) in entries.iter().enumerate() {
        out.push_str(if index == 0 { "\n" } else { ",\n" });
        out.push_str(&"  ".repeat(depth + 1));
        if let Some(key) = key {
            out.push_str(&python::json_str(key));
            out.push_str(": ");
        }
        append(value, depth + 1, out);
    }
    if !entries.is_empty() {
        out.push('\n');
        out.push_str(&"  ".repeat(depth));
    }
    out.push(close);
}

//! Functions of the override grammar: casts and `sort`. What makes a sweep is named and refused.

use super::error;
use super::scanner::sweep_error;
use crate::spec::error::{Error, Origin, Result};
use crate::spec::python;
use crate::spec::value::{Node, Value};

const CASTS: &[&str] = &["bool", "float", "int", "str"];
const SWEEPS: &[&str] = &["choice", "glob", "interval", "range", "shuffle", "tag"];

pub(super) fn is_name(text: &str) -> bool {
    text.starts_with(|first: char| first.is_ascii_alphabetic() || first == '_')
        && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
}

pub(super) fn call(
    name: &str,
    mut arguments: Vec<(Option<String>, Value)>,
    origin: &Origin,
) -> Result<Value> {
    if SWEEPS.contains(&name) {
        return Err(sweep_error(&format!("`{name}(...)` makes a sweep, and one run has one value"))
            .remedy("give one value"));
    }
    if name == "sort" {
        return sort(arguments, origin);
    }
    if !CASTS.contains(&name) {
        return Err(error(format!("there is no function `{name}`")).remedy(
            "functions are bool, float, int, str and sort; quote the value if it is text with parentheses",
        ));
    }
    if arguments.len() > 1 {
        return Err(
            sweep_error(&format!("`{name}(...)` of several values makes a sweep")).remedy("give one value")
        );
    }
    match (arguments.pop(), arguments.is_empty()) {
        (Some((_, value)), true) => cast(name, value, origin),
        _ => Err(error(format!("`{name}(...)` takes one value"))),
    }
}

fn cast(name: &str, value: Value, origin: &Origin) -> Result<Value> {
    let failed = |value: &Value| -> Error {
        error(format!("{} is not a value that `{name}(...)` can convert", value.shown()))
    };
    Ok(match (name, value) {
        (_, Value::List(items)) => Value::List(
            items
                .into_iter()
                .map(|item| Ok(Node::new(cast(name, item.value, origin)?, origin.clone())))
                .collect::<Result<_>>()?,
        ),
        (_, Value::Map(map)) => Value::Map(
            map.into_iter()
                .map(|(key, node)| Ok((key, Node::new(cast(name, node.value, origin)?, origin.clone()))))
                .collect::<Result<_>>()?,
        ),
        ("int", Value::Int(value)) => Value::Int(value),
        ("int", Value::Float(value)) if value.is_finite() && value.abs() < 1e18 => {
            Value::Int(value.trunc() as i128)
        }
        ("int", Value::Bool(value)) => Value::Int(i128::from(value)),
        ("int", Value::Str(text)) => {
            Value::Int(python::parse_int(&text).ok_or_else(|| failed(&Value::Str(text.clone())))?)
        }
        ("float", Value::Int(value)) => Value::Float(value as f64),
        ("float", Value::Float(value)) => Value::Float(value),
        ("float", Value::Bool(value)) => Value::Float(f64::from(u8::from(value))),
        ("float", Value::Str(text)) => {
            Value::Float(python::parse_float(&text).ok_or_else(|| failed(&Value::Str(text.clone())))?)
        }
        ("bool", Value::Bool(value)) => Value::Bool(value),
        ("bool", Value::Int(value)) => Value::Bool(value != 0),
        ("bool", Value::Float(value)) => Value::Bool(value != 0.0),
        ("bool", Value::Str(text)) => match text.to_lowercase().as_str() {
            "true" => Value::Bool(true),
            "false" => Value::Bool(false),
            _ => return Err(failed(&Value::Str(text))),
        },
        ("str", Value::Bool(value)) => Value::Str(value.to_string()),
        ("str", Value::Null) => Value::Str("null".to_owned()),
        ("str", value) => Value::Str(value.to_text()),
        (_, value) => return Err(failed(&value)),
    })
}

fn sort(arguments: Vec<(Option<String>, Value)>, origin: &Origin) -> Result<Value> {
    let mut items = Vec::new();
    let mut reverse = false;
    let mut lists = 0;
    for (label, value) in arguments {
        match (label.as_deref(), value) {
            (Some("reverse"), Value::Bool(value)) => reverse = value,
            (None | Some("list"), Value::List(list)) => {
                lists += 1;
                items.extend(list.into_iter().map(|item| item.value));
            }
            (None, value) => items.push(value),
            (Some(label), _) => return Err(error(format!("`sort(...)` has no argument `{label}`"))),
        }
    }
    if lists != 1 {
        return Err(
            sweep_error("`sort(a, b)` of single values makes a sweep").remedy("sort a list: sort([a, b])")
        );
    }
    let number = |value: &Value| match value {
        Value::Int(value) => Some(*value as f64),
        Value::Float(value) => Some(*value),
        _ => None,
    };
    if items.iter().all(|item| number(item).is_some()) {
        items.sort_by(|a, b| number(a).unwrap_or(0.0).total_cmp(&number(b).unwrap_or(0.0)));
    } else if items.iter().all(|item| matches!(item, Value::Str(_))) {
        items.sort_by_key(Value::to_text);
    } else {
        return Err(error("`sort(...)` takes a list of numbers or a list of texts"));
    }
    if reverse {
        items.reverse();
    }
    Ok(Value::List(items.into_iter().map(|item| Node::new(item, origin.clone())).collect()))
}

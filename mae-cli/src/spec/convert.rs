//! From a value as written to a value of its field's type, with OmegaConf 2.3's conversions.
//!
//! They are more lenient than Rust's and less than Python's: `'12'` is an integer and `3.0` is not, `2` is true and
//! `1.0` is not, a number given to a text field becomes its Python spelling. Lists inside typed lists, which OmegaConf
//! lets pass, are refused.

use super::error::{Error, Kind, Result};
use super::python;
use super::schema::{Leaf, Literal, Shape};
use super::value::{Node, Value};

/// Converts a node to the type of its field.
///
/// `???` and text with `${...}` are kept: they have no type until they are read.
pub fn convert(path: &str, leaf: &Leaf, node: Node) -> Result<Node> {
    if node.value == Value::Null {
        return if leaf.optional { Ok(node) } else { Err(mismatch(path, &node, leaf)) };
    }
    shape(path, &leaf.shape, node, leaf, true)
}

/// Converts what an interpolation gave: text with `${` is text by now.
pub fn convert_resolved(path: &str, leaf: &Leaf, node: Node) -> Result<Node> {
    if node.value == Value::Null {
        convert(path, leaf, node)
    } else {
        shape(path, &leaf.shape, node, leaf, false)
    }
}

/// Converts one element of a list field; `index` is shown in the error.
pub fn element(path: &str, index: &str, leaf: &Leaf, node: Node) -> Result<Node> {
    match leaf.shape {
        Shape::List(inner) => shape(&format!("{path}[{index}]"), inner, node, leaf, true),
        _ => Ok(node),
    }
}

fn shape(path: &str, shape_: &Shape, mut node: Node, leaf: &Leaf, raw: bool) -> Result<Node> {
    if node.value.is_missing() || (raw && node.value.is_interpolation()) {
        return Ok(node);
    }
    let converted = match (shape_, &node.value) {
        (Shape::List(_), Value::Map(_)) => {
            return Err(structure(path, &node, "expected a list", leaf));
        }
        (Shape::List(element), Value::List(_)) => {
            let Value::List(items) = node.value else { return Err(mismatch(path, &node, leaf)) };
            let mut out = Vec::with_capacity(items.len());
            for (index, item) in items.into_iter().enumerate() {
                out.push(shape(&format!("{path}[{index}]"), element, item, leaf, raw)?);
            }
            node.value = Value::List(out);
            return Ok(node);
        }
        (Shape::Pair, Value::List(items)) => {
            let numbers: Option<Vec<f64>> = items.iter().map(|item| to_float(&item.value)).collect();
            match numbers {
                Some(numbers) if numbers.len() == 2 => Some(Value::List(
                    items
                        .iter()
                        .zip(numbers)
                        .map(|(item, number)| Node { value: Value::Float(number), ..item.clone() })
                        .collect(),
                )),
                _ => None,
            }
        }
        (Shape::Bool, value) => to_bool(value).map(Value::Bool),
        (Shape::Int, value) => match to_int(value) {
            Some(value) if i64::try_from(value).is_err() => {
                return Err(Error::new(Kind::TypeMismatch, "the integer does not fit in 64 bits")
                    .key(path)
                    .value(node.value.shown())
                    .at(&node.origin)
                    .remedy(example(path, leaf)));
            }
            value => value.map(Value::Int),
        },
        (Shape::Float | Shape::Pair, value) => to_float(value).map(Value::Float),
        (Shape::Text, Value::List(items)) if leaf.joins_lists => joined(items).map(Value::Str),
        (Shape::Text, value) => to_text(value).map(Value::Str),
        (Shape::List(_), _) => None,
    };
    match converted {
        Some(value) => {
            node.value = value;
            Ok(node)
        }
        None => Err(mismatch(path, &node, leaf)),
    }
}

fn to_bool(value: &Value) -> Option<bool> {
    match value {
        Value::Bool(value) => Some(*value),
        Value::Int(value) => Some(*value != 0),
        Value::Str(text) => match python::parse_int(text) {
            Some(value) => Some(value != 0),
            None => match text.to_lowercase().as_str() {
                "yes" | "y" | "on" | "true" => Some(true),
                "no" | "n" | "off" | "false" => Some(false),
                _ => None,
            },
        },
        _ => None,
    }
}

fn to_int(value: &Value) -> Option<i128> {
    match value {
        Value::Int(value) => Some(*value),
        Value::Str(text) => python::parse_int(text),
        _ => None,
    }
}

fn to_float(value: &Value) -> Option<f64> {
    match value {
        Value::Float(value) => Some(*value),
        Value::Int(value) => Some(*value as f64),
        Value::Str(text) => python::parse_float(text),
        _ => None,
    }
}

/// The texts of a list in one, as if they had been written with commas.
fn joined(items: &[Node]) -> Option<String> {
    let texts: Option<Vec<String>> = items.iter().map(|item| to_text(&item.value)).collect();
    texts.filter(|texts| !texts.is_empty()).map(|texts| texts.join(","))
}

fn to_text(value: &Value) -> Option<String> {
    match value {
        Value::Str(_) | Value::Int(_) | Value::Float(_) | Value::Bool(_) => Some(value.to_text()),
        Value::Null | Value::Bytes(_) | Value::List(_) | Value::Map(_) => None,
    }
}

/// What a field takes, in words.
pub fn expected(leaf: &Leaf) -> String {
    let what = match leaf.shape {
        Shape::Bool => "true or false",
        Shape::Int => "an integer",
        Shape::Float => "a number",
        Shape::Text => "text",
        Shape::Pair => "two numbers",
        Shape::List(Shape::Int) => "a list of integers",
        Shape::List(Shape::Float) => "a list of numbers",
        Shape::List(_) => "a list of texts",
    };
    if leaf.optional { format!("{what} or null") } else { what.to_owned() }
}

/// `write key=value`, with the row's example or its default.
pub fn example(path: &str, leaf: &Leaf) -> String {
    let path = path.split('[').next().unwrap_or(path);
    let value =
        if leaf.example.is_empty() { literal(&leaf.default).shown() } else { leaf.example.to_owned() };
    match value.as_str() {
        "''" | "null" | "'???'" => format!("for example {path}=text"),
        value => format!("for example {path}={}", value.trim_matches('\'')),
    }
}

/// A field's default as help shows it.
pub fn default_text(leaf: &Leaf) -> String {
    if !leaf.derived.is_empty() {
        return format!("(from {})", leaf.derived);
    }
    let value = literal(&leaf.default);
    match value.shown().as_str() {
        "''" => "(not set)".to_owned(),
        "'???'" => "(required)".to_owned(),
        text => text.trim_matches('\'').to_owned(),
    }
}

/// A default as a value.
pub fn literal(literal: &Literal) -> Value {
    fn list<T: Copy>(items: &[T], value: impl Fn(T) -> Value) -> Value {
        Value::List(items.iter().map(|item| Node::new(value(*item), Default::default())).collect())
    }
    match literal {
        Literal::Null => Value::Null,
        Literal::Bool(value) => Value::Bool(*value),
        Literal::Int(value) => Value::Int(i128::from(*value)),
        Literal::Float(value) => Value::Float(*value),
        Literal::Text(text) => Value::Str((*text).to_owned()),
        Literal::Ints(items) => list(items, |item| Value::Int(i128::from(item))),
        Literal::Floats(items) => list(items, Value::Float),
        Literal::Texts(items) => list(items, |item: &str| Value::Str(item.to_owned())),
    }
}

fn mismatch(path: &str, node: &Node, leaf: &Leaf) -> Error {
    let mut remedy = example(path, leaf);
    if let (Shape::Int, Value::Float(value)) = (leaf.shape, &node.value)
        && value.fract() == 0.0
        && value.abs() < 1e15
    {
        remedy = format!("write {path}={} without a decimal point or exponent", *value as i64);
    } else if let (Shape::List(_), false) = (leaf.shape, path.contains('['))
        && !node.value.is_container()
        && node.value != Value::Null
    {
        remedy = format!("write a list: {path}=[{}]", node.value.to_text());
    }
    let wanted = match (path.contains('['), leaf.shape) {
        (true, Shape::List(Shape::Int)) => "an integer in this list".to_owned(),
        (true, Shape::List(Shape::Float)) => "a number in this list".to_owned(),
        (true, Shape::List(_)) => "text in this list".to_owned(),
        _ => expected(leaf),
    };
    Error::new(Kind::TypeMismatch, format!("expected {wanted}, found {}", node.value.type_name()))
        .key(path)
        .value(node.value.shown())
        .at(&node.origin)
        .remedy(remedy)
}

fn structure(path: &str, node: &Node, wanted: &str, leaf: &Leaf) -> Error {
    Error::new(Kind::StructureMismatch, format!("{wanted}, found {}", node.value.type_name()))
        .key(path)
        .value(node.value.shown())
        .at(&node.origin)
        .remedy(example(path, leaf))
}

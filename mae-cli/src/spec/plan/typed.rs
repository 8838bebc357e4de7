//! From the resolved tree to the typed structs, through serde.

use crate::spec::convert;
use crate::spec::error::{Error, Kind, Result};
use crate::spec::schema::{self, Entry, Leaf, Row, Shape, Spec};
use crate::spec::value::{Map, Node, Value, select, select_mut};

/// Brings values to the one spelling that the structs know: `""` and `???` of optional texts are null, `???` of
/// other texts is empty, `null` of lists is the empty list, options have their listed case.
pub(super) fn canonical(mut root: Map) -> Result<Map> {
    for (path, _, leaf) in schema::leaves() {
        let Some(node) = select_mut(&mut root, &path) else { continue };
        let missing = node.value.is_missing();
        match (leaf.shape, &node.value) {
            (Shape::Text, Value::Str(text)) if missing || text.is_empty() => {
                node.value = if leaf.optional { Value::Null } else { Value::Str(String::new()) };
            }
            (Shape::Text, Value::Str(text)) if leaf.any_case => {
                let known = leaf.options.iter().chain(leaf.more_options);
                if let Some(option) = known.into_iter().find(|option| option.eq_ignore_ascii_case(text)) {
                    node.value = Value::Str((*option).to_owned());
                }
            }
            (Shape::List(_), Value::Null) => node.value = Value::List(Vec::new()),
            _ if missing => {
                return Err(Error::new(
                    Kind::Required,
                    format!("expected {}, found ???", convert::expected(leaf)),
                )
                .key(&path)
                .at(&node.origin)
                .remedy(convert::example(&path, leaf)));
            }
            (Shape::List(_), Value::List(items)) if items.iter().any(|item| item.value.is_missing()) => {
                return Err(Error::new(Kind::Required, "an element of the list is ???")
                    .key(&path)
                    .at(&node.origin));
            }
            _ => {}
        }
    }
    Ok(root)
}

/// The structs. The tree is canonical and its values are inside their bounds.
pub(super) fn spec(root: &Map) -> Result<Spec> {
    let json = section("", schema::root(), root);
    serde_json::from_value(json).map_err(|error| {
        Error::new(Kind::TypeMismatch, format!("the spec does not fit its own schema: {error}"))
            .remedy("this is a defect of the program; please report it with the spec")
    })
}

fn section(prefix: &str, rows: &'static [Row], root: &Map) -> serde_json::Value {
    let entries = rows.iter().map(|row| {
        let path = if prefix.is_empty() { row.name.to_owned() } else { format!("{prefix}.{}", row.name) };
        let value = match &row.entry {
            Entry::Section(rows) => section(&path, rows, root),
            Entry::Leaf(leaf) => leaf_json(leaf, select(root, &path)),
        };
        (row.name.to_owned(), value)
    });
    serde_json::Value::Object(entries.collect())
}

fn leaf_json(leaf: &Leaf, node: Option<&Node>) -> serde_json::Value {
    match node {
        Some(node) => json(&node.value),
        None => json(&convert::literal(&leaf.default)),
    }
}

fn json(value: &Value) -> serde_json::Value {
    match value {
        Value::Null | Value::Bytes(_) => serde_json::Value::Null,
        Value::Bool(value) => (*value).into(),
        Value::Int(value) => i64::try_from(*value).unwrap_or(i64::MAX).into(),
        Value::Float(value) => (*value).into(),
        Value::Str(text) => text.clone().into(),
        Value::List(items) => items.iter().map(|item| json(&item.value)).collect(),
        Value::Map(map) => serde_json::Value::Object(
            map.iter().map(|(key, node)| (key.to_owned(), json(&node.value))).collect(),
        ),
    }
}

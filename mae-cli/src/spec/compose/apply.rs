//! One override onto a composed tree.

use super::{defaults_of, join, merge_section, not_a_section, unknown_key};
use crate::spec::convert;
use crate::spec::error::{Error, Kind, Origin, Result};
use crate::spec::overrides::{Operation, Override};
use crate::spec::schema::{self, Entry, Found, Row};
use crate::spec::value::{Map, Node, Value};

pub(super) fn apply(root: &mut Map, override_: &Override) -> Result<()> {
    let key = override_.key.as_str();
    let names: Vec<&str> = if key.contains('/') { vec![key] } else { key.split('.').collect() };
    let current = select(root, &names);
    match (override_.operation, &override_.value) {
        // `~key=null` is `~key`.
        (Operation::Delete, value) => {
            delete(root, &names, value.as_ref().filter(|value| **value != Value::Null))
        }
        (Operation::Add, Some(value)) => match current {
            Some(existing) if !value.is_container() => Err(Error::new(
                Kind::AppendExisting,
                format!("the key exists already, with the value {}", existing.value.shown()),
            )
            .key(key)
            .remedy(format!("leave the + away to set it, or write ++{key}=... to set or add"))),
            _ => update(root, &names, value, &override_.origin, true),
        },
        (Operation::ForceAdd, Some(value)) => update(root, &names, value, &override_.origin, true),
        (Operation::Set, Some(value)) => update(root, &names, value, &override_.origin, false),
        (_, None) => Err(Error::new(Kind::OverrideParse, "a value is missing").key(key)),
    }
}

/// The node at a path through mappings and lists; null and `???` count as absent.
fn select<'a>(root: &'a Map, names: &[&str]) -> Option<&'a Node> {
    let (first, rest) = names.split_first()?;
    let node = rest.iter().try_fold(root.get(first)?, |node, name| match &node.value {
        Value::Map(map) => map.get(name),
        Value::List(items) => items.get(name.parse::<usize>().ok()?),
        _ => None,
    })?;
    (node.value != Value::Null && !node.value.is_missing()).then_some(node)
}

fn delete(root: &mut Map, names: &[&str], value: Option<&Value>) -> Result<()> {
    let path = names.join(".");
    let Some(existing) = select(root, names) else {
        return Err(Error::new(Kind::DeleteFailed, "there is nothing to delete").key(path));
    };
    if let Some(value) = value
        && !same(value, &existing.value)
    {
        return Err(Error::new(
            Kind::DeleteFailed,
            format!("the value is {}, not {}", existing.value.shown(), value.shown()),
        )
        .key(path));
    }
    let [parents @ .., last] = names else { return Ok(()) };
    if parents.is_empty() {
        root.remove(last);
        return Ok(());
    }
    let typed = schema::find(&parents.join(".")).is_some();
    let mut map = root;
    for name in parents {
        match map.get_mut(name).map(|node| &mut node.value) {
            Some(Value::Map(inner)) => map = inner,
            _ => return Err(undeletable(&path)),
        }
    }
    if typed {
        return Err(undeletable(&path));
    }
    map.remove(last);
    Ok(())
}

fn undeletable(path: &str) -> Error {
    Error::new(Kind::DeleteUnsupported, "a key inside a section cannot be deleted")
        .key(path)
        .remedy("set it to null or to its default instead; only whole top-level sections can be deleted")
}

/// Python's equality of two values: `10 == 10.0`.
fn same(left: &Value, right: &Value) -> bool {
    match (left, right) {
        (Value::Int(int), Value::Float(float)) | (Value::Float(float), Value::Int(int)) => {
            *int as f64 == *float
        }
        (Value::List(left), Value::List(right)) => {
            left.len() == right.len()
                && left.iter().zip(right).all(|(left, right)| same(&left.value, &right.value))
        }
        (Value::Map(left), Value::Map(right)) => {
            left.len() == right.len()
                && left
                    .iter()
                    .all(|(key, node)| right.get(key).is_some_and(|other| same(&node.value, &other.value)))
        }
        _ => left == right,
    }
}

/// Sets a value at a path; `force` allows keys that the schema does not know.
fn update(root: &mut Map, names: &[&str], value: &Value, origin: &Origin, force: bool) -> Result<()> {
    update_map(root, "", Some(schema::root()), names, value, origin, force)
}

fn update_map(
    map: &mut Map,
    path: &str,
    rows: Option<&'static [Row]>,
    names: &[&str],
    value: &Value,
    origin: &Origin,
    force: bool,
) -> Result<()> {
    let Some((name, rest)) = names.split_first() else { return Ok(()) };
    let full = join(path, name);
    let entry = rows.and_then(|rows| schema::row(rows, name)).map(|row| &row.entry);
    if entry.is_none() && map.get(name).is_none() && !force {
        return Err(unknown_key(&full, path, origin));
    }
    let inner_rows = match entry {
        Some(Entry::Section(rows)) => Some(*rows),
        _ => None,
    };
    if rest.is_empty() {
        let node = Node::new(value.clone(), origin.clone());
        return set(map, name, &full, entry, inner_rows, node);
    }
    if let (Some(_), None) = (inner_rows, map.get(name)) {
        map.insert(name, Node::new(Value::Map(defaults_of(&full)), Origin::Default));
    }
    match map.get_mut(name) {
        Some(Node { value: Value::Map(inner), .. }) => {
            update_map(inner, &full, inner_rows, rest, value, origin, force)
        }
        Some(Node { value: Value::List(items), origin: list_origin, .. }) => {
            update_list(items, &full, rest, value, origin)?;
            *list_origin = origin.clone();
            Ok(())
        }
        _ => {
            // Upstream puts an empty mapping here first, which a typed field refuses.
            let empty = Node::new(Value::Map(Map::new()), origin.clone());
            let node = match entry {
                Some(Entry::Leaf(leaf)) => convert::convert(&full, leaf, empty)
                    .map_err(|error| error.remedy(format!("{full} is a field, it has no keys of its own")))?,
                _ => empty,
            };
            map.insert(name, node);
            match map.get_mut(name).map(|node| &mut node.value) {
                Some(Value::Map(inner)) => update_map(inner, &full, None, rest, value, origin, force),
                _ => Ok(()),
            }
        }
    }
}

fn set(
    map: &mut Map,
    name: &str,
    full: &str,
    entry: Option<&'static Entry>,
    rows: Option<&'static [Row]>,
    node: Node,
) -> Result<()> {
    match (entry, rows) {
        (Some(Entry::Leaf(leaf)), _) => {
            let node = convert::convert(full, leaf, node)?;
            map.insert(name, node);
            Ok(())
        }
        (_, Some(rows)) => {
            let Value::Map(from) = node.value else { return Err(not_a_section(full, &node)) };
            if map.get(name).is_none() {
                map.insert(name, Node::new(Value::Map(defaults_of(full)), Origin::Default));
            }
            match map.get_mut(name).map(|node| &mut node.value) {
                Some(Value::Map(into)) => merge_section(full, rows, into, from),
                _ => Ok(()),
            }
        }
        _ => {
            match (node.value, map.get_mut(name).map(|node| &mut node.value)) {
                (Value::Map(from), Some(Value::Map(into))) => merge_untyped(into, from),
                (value, _) => map.insert(name, Node::new(value, node.origin)),
            }
            Ok(())
        }
    }
}

fn merge_untyped(into: &mut Map, from: Map) {
    for (key, node) in from {
        match (node.value, into.get_mut(&key).map(|node| &mut node.value)) {
            (Value::Map(inner), Some(Value::Map(target))) => merge_untyped(target, inner),
            (value, _) => into.insert(&key, Node::new(value, node.origin)),
        }
    }
}

fn update_list(items: &mut [Node], path: &str, names: &[&str], value: &Value, origin: &Origin) -> Result<()> {
    let length = items.len();
    let index = names.first().copied().unwrap_or("");
    let full = format!("{path}[{index}]");
    let outside = || {
        Error::new(Kind::ListIndex, format!("the list has {length} elements, counted from 0"))
            .key(&full)
            .remedy(format!("set the whole list: {path}=[...]"))
    };
    let (Ok(number), [_]) = (index.parse::<usize>(), names) else { return Err(outside()) };
    let item = items.get_mut(number).ok_or_else(outside)?;
    let node = Node::new(value.clone(), origin.clone());
    let Some(Found::Leaf(_, leaf)) = schema::find(path) else {
        *item = node;
        return Ok(());
    };
    *item = convert::element(path, index, leaf, node)?;
    Ok(())
}

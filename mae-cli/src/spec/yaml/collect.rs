//! Lists and mappings under construction: keys, duplicates, merge keys.

use super::tag::MERGE;
use crate::spec::error::{Error, Kind, Origin, Result};
use crate::spec::value::{Node, Value};
use std::collections::HashSet;

/// A list or mapping whose end has not come yet.
pub(super) struct Open {
    pub(super) anchor: usize,
    /// Written with brackets or braces, itself or something around it.
    pub(super) flow: bool,
    origin: Origin,
    content: Content,
}

enum Content {
    List(Vec<Node>),
    Map(OpenMap),
}

#[derive(Default)]
struct OpenMap {
    entries: Vec<(String, Node)>,
    names: HashSet<String>,
    /// Values of `<<`.
    merges: Vec<Node>,
    /// The key that waits for its value.
    key: Option<Key>,
    /// A `!!set`: its values are null.
    set: bool,
}

struct Key {
    /// `None` is the merge key `<<`.
    name: Option<String>,
    origin: Origin,
}

impl Open {
    pub(super) fn list(anchor: usize, flow: bool, origin: Origin) -> Self {
        Self { anchor, flow, origin, content: Content::List(Vec::new()) }
    }

    pub(super) fn map(anchor: usize, flow: bool, set: bool, origin: Origin) -> Self {
        Self { anchor, flow, origin, content: Content::Map(OpenMap { set, ..OpenMap::default() }) }
    }

    /// Whether the next node is a key.
    pub(super) fn wants_key(&self) -> bool {
        matches!(&self.content, Content::Map(OpenMap { key: None, .. }))
    }

    /// Takes the next element, key or value.
    pub(super) fn push(&mut self, node: Node) -> Result<()> {
        if !self.wants_key() && is_merge(&node.value) {
            return Err(Error::new(Kind::YamlConstructor, "a lone `<<` is a key in YAML 1.1")
                .at(&node.origin)
                .remedy("put it in quotes"));
        }
        match &mut self.content {
            Content::List(items) => items.push(node),
            Content::Map(map) => match map.key.take() {
                None => map.key = Some(key(node, &mut map.names, &self.origin)?),
                Some(Key { name: Some(name), origin }) => {
                    map.entries.push((name, Node { key_origin: origin, ..node }));
                }
                Some(Key { name: None, .. }) => map.merges.push(node),
            },
        }
        Ok(())
    }

    /// The finished list or mapping.
    pub(super) fn close(self) -> Result<Node> {
        let value = match self.content {
            Content::List(items) => Value::List(items),
            Content::Map(map) => {
                let mut all: Vec<(String, Node)> = Vec::new();
                let mut seen: HashSet<String> = map.entries.iter().map(|(name, _)| name.clone()).collect();
                for node in map.merges {
                    merge(node, &mut all, &mut seen)?;
                }
                all.extend(map.entries);
                if map.set {
                    all.iter_mut().for_each(|(_, node)| node.value = Value::Null);
                }
                Value::Map(all.into_iter().collect())
            }
        };
        Ok(Node::new(value, self.origin))
    }
}

fn is_merge(value: &Value) -> bool {
    matches!(value, Value::Bytes(bytes) if bytes == MERGE)
}

fn key(node: Node, names: &mut HashSet<String>, mapping: &Origin) -> Result<Key> {
    let wrong = |kind: Kind, problem: &str| Err(Error::new(kind, problem).at(&node.origin));
    let name = match &node.value {
        value if is_merge(value) => return Ok(Key { name: None, origin: node.origin }),
        Value::Null => {
            return wrong(Kind::YamlBadKey, "an empty or null key")
                .map_err(|error| error.remedy("write a key before the colon"));
        }
        Value::Bytes(_) => return wrong(Kind::YamlBadKey, "binary data cannot be a key"),
        Value::List(_) | Value::Map(_) => {
            return wrong(Kind::YamlConstructor, "a list or mapping cannot be a key");
        }
        scalar => scalar.to_text(),
    };
    if !names.insert(name.clone()) {
        let (line, column) = mapping.line_column().unwrap_or_default();
        let problem =
            format!("this key is written twice in the mapping that starts at line {line}, column {column}");
        return Err(Error::new(Kind::YamlDuplicateKey, problem)
            .key(name)
            .at(&node.origin)
            .remedy("merge both into one"));
    }
    Ok(Key { name: Some(name), origin: node.origin })
}

/// `<<: *anchor` and `<<: [*a, *b]`: earlier mappings win over later ones, own keys over both.
fn merge(node: Node, all: &mut Vec<(String, Node)>, seen: &mut HashSet<String>) -> Result<()> {
    match node.value {
        Value::Map(map) => {
            all.extend(map.into_iter().filter(|(name, _)| seen.insert(name.clone())));
            Ok(())
        }
        Value::List(items) if items.iter().all(|item| matches!(item.value, Value::Map(_))) => {
            items.into_iter().try_for_each(|item| merge(item, all, seen))
        }
        _ => {
            Err(Error::new(Kind::YamlConstructor, "`<<` takes a mapping or a list of mappings")
                .at(&node.origin))
        }
    }
}

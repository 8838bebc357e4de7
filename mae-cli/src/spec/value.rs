//! The raw tree: values as written, each with its origin.

use super::error::Origin;
use super::python;

/// The marker of a value that must be given before it is read.
pub const MISSING: &str = "???";

/// A value as YAML or an override wrote it, before the schema gives it a type.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    /// `null`, `~` or nothing.
    Null,
    /// `true`, `yes`, `on` ...
    Bool(bool),
    /// An integer. Wider than any field, so that a number that does not fit can be named in an error.
    Int(i128),
    /// A floating-point number, also infinite or not a number.
    Float(f64),
    /// Text, also text with `${...}` and the marker `???`.
    Str(String),
    /// YAML's `!!binary`.
    Bytes(Vec<u8>),
    /// A list.
    List(Vec<Node>),
    /// A mapping, in the order of writing.
    Map(Map),
}

impl Value {
    /// Text `???`.
    pub fn is_missing(&self) -> bool {
        matches!(self, Self::Str(text) if text == MISSING)
    }

    /// Text that holds `${`, also escaped: it is looked at again when the spec is resolved.
    pub fn is_interpolation(&self) -> bool {
        matches!(self, Self::Str(text) if text.contains("${"))
    }

    /// A list or a mapping.
    pub fn is_container(&self) -> bool {
        matches!(self, Self::List(_) | Self::Map(_))
    }

    /// What it is, as the user would say it.
    pub fn type_name(&self) -> &'static str {
        match self {
            Self::Null => "null",
            Self::Bool(_) => "a boolean",
            Self::Int(_) => "an integer",
            Self::Float(_) => "a decimal number",
            Self::Str(_) => "text",
            Self::Bytes(_) => "binary data",
            Self::List(_) => "a list",
            Self::Map(_) => "a mapping",
        }
    }

    /// Text as Python's `str()` renders the value.
    pub fn to_text(&self) -> String {
        match self {
            Self::Str(text) => text.clone(),
            _ => self.repr(),
        }
    }

    /// The value as shown in messages: text in quotes, the rest as YAML spells it.
    pub fn shown(&self) -> String {
        let entries = |items: Vec<String>| items.join(", ");
        match self {
            Self::Null => "null".into(),
            Self::Bool(value) => value.to_string(),
            Self::List(items) => {
                format!("[{}]", entries(items.iter().map(|item| item.value.shown()).collect()))
            }
            Self::Map(map) => {
                format!(
                    "{{{}}}",
                    entries(map.iter().map(|(key, node)| format!("{key}: {}", node.value.shown())).collect())
                )
            }
            Self::Str(text) => format!("'{text}'"),
            _ => self.repr(),
        }
    }

    /// Python's `repr()`.
    fn repr(&self) -> String {
        let entries = |items: Vec<String>| items.join(", ");
        match self {
            Self::Null => "None".into(),
            Self::Bool(true) => "True".into(),
            Self::Bool(false) => "False".into(),
            Self::Int(value) => value.to_string(),
            Self::Float(value) => python::float_repr(*value),
            Self::Str(text) => python::str_repr(text),
            Self::Bytes(bytes) => format!("{} bytes of binary data", bytes.len()),
            Self::List(items) => {
                format!("[{}]", entries(items.iter().map(|item| item.value.repr()).collect()))
            }
            Self::Map(map) => {
                let entry =
                    |(key, node): (&str, &Node)| format!("{}: {}", python::str_repr(key), node.value.repr());
                format!("{{{}}}", entries(map.iter().map(entry).collect()))
            }
        }
    }
}

/// A value and where it came from.
#[derive(Clone, Debug, PartialEq)]
pub struct Node {
    /// The value.
    pub value: Value,
    /// Where it came from.
    pub origin: Origin,
    /// Where its key was written; the value's own place when it has no key.
    pub key_origin: Origin,
}

impl Node {
    /// A value with one origin for itself and its key.
    pub fn new(value: Value, origin: Origin) -> Self {
        Self { value, key_origin: origin.clone(), origin }
    }
}

/// A mapping with text keys that keeps the order of writing. Specs are small, so it is a list.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Map(Vec<(String, Node)>);

impl Map {
    /// An empty mapping.
    pub fn new() -> Self {
        Self::default()
    }

    /// The value of a key.
    pub fn get(&self, key: &str) -> Option<&Node> {
        self.0.iter().find(|(name, _)| name == key).map(|(_, node)| node)
    }

    /// The value of a key, to change it.
    pub fn get_mut(&mut self, key: &str) -> Option<&mut Node> {
        self.0.iter_mut().find(|(name, _)| name == key).map(|(_, node)| node)
    }

    /// Replaces the value of a key in its place, or appends it.
    pub fn insert(&mut self, key: &str, node: Node) {
        match self.get_mut(key) {
            Some(old) => *old = node,
            None => self.push(key.to_owned(), node),
        }
    }

    /// Appends a key that the caller knows to be new.
    pub fn push(&mut self, key: String, node: Node) {
        self.0.push((key, node));
    }

    /// Removes a key.
    pub fn remove(&mut self, key: &str) -> Option<Node> {
        let index = self.0.iter().position(|(name, _)| name == key)?;
        Some(self.0.remove(index).1)
    }

    /// Keys and values in order.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Node)> {
        self.0.iter().map(|(key, node)| (key.as_str(), node))
    }

    /// Number of keys.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there is no key.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl IntoIterator for Map {
    type Item = (String, Node);
    type IntoIter = std::vec::IntoIter<(String, Node)>;
    fn into_iter(self) -> Self::IntoIter {
        self.0.into_iter()
    }
}

impl FromIterator<(String, Node)> for Map {
    fn from_iter<I: IntoIterator<Item = (String, Node)>>(items: I) -> Self {
        Self(items.into_iter().collect())
    }
}

/// The node at a dotted path of mappings, e.g. `train.optim.lr`.
pub fn select<'a>(root: &'a Map, path: &str) -> Option<&'a Node> {
    let (head, rest) = path.split_once('.').map_or((path, None), |(head, rest)| (head, Some(rest)));
    let node = root.get(head)?;
    match (rest, &node.value) {
        (None, _) => Some(node),
        (Some(rest), Value::Map(map)) => select(map, rest),
        (Some(_), _) => None,
    }
}

/// The node at a dotted path of mappings, to change it.
pub fn select_mut<'a>(root: &'a mut Map, path: &str) -> Option<&'a mut Node> {
    let (head, rest) = path.split_once('.').map_or((path, None), |(head, rest)| (head, Some(rest)));
    let node = root.get_mut(head)?;
    match rest {
        None => Some(node),
        Some(rest) => match &mut node.value {
            Value::Map(map) => select_mut(map, rest),
            _ => None,
        },
    }
}

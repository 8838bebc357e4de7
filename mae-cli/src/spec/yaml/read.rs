//! Reading YAML into the raw tree.

use super::tag::{self, MERGE};
use super::text::Text;
use crate::spec::error::{Error, Kind, Origin, Result};
use crate::spec::value::{Map, Node, Value};
use saphyr_parser::{Event, Marker, Parser, ScalarStyle, ScanError, Span};
use std::collections::{HashMap, HashSet};
use std::io::Read as _;
use std::path::Path;
use std::sync::Arc;

/// Largest spec in bytes. A real one has a few kilobytes; this bounds what a wrong path (a checkpoint) can cost.
pub const MAX_BYTES: u64 = 4 << 20;
/// Deepest nesting. The schema has four levels.
pub const MAX_DEPTH: usize = 64;
/// Most nodes after aliases are expanded, so that an alias bomb ends early.
pub const MAX_NODES: usize = 200_000;

/// Reads a spec file. An empty file and a lone `null` are an empty mapping.
///
/// # Errors
/// The file cannot be read, is too large, is not UTF-8, is not YAML or is not a mapping.
pub fn read_file(path: &Path) -> Result<Map> {
    let shown: Arc<str> = path.display().to_string().into();
    let unreadable = |error: std::io::Error| {
        let (problem, remedy) = match error.kind() {
            std::io::ErrorKind::NotFound => (
                "the spec file does not exist".to_owned(),
                "give an existing file after -e; `mae default_specs results_dir=specs` writes one with every default",
            ),
            _ => (format!("the spec file cannot be read: {error}"), "give a readable YAML file after -e"),
        };
        Error::new(Kind::ConfigNotFound, problem).value(&*shown).remedy(remedy)
    };
    let file = std::fs::File::open(path).map_err(unreadable)?;
    let mut bytes = Vec::new();
    file.take(MAX_BYTES + 1).read_to_end(&mut bytes).map_err(unreadable)?;
    read(&bytes, &shown)
}

/// Reads the bytes of a spec; `name` is the file's name in messages.
///
/// # Errors
/// As [`read_file`].
pub fn read(bytes: &[u8], name: &str) -> Result<Map> {
    let file: Arc<str> = name.into();
    if bytes.len() as u64 > MAX_BYTES {
        return Err(Error::new(Kind::TooLarge, format!("the file is larger than {} MiB", MAX_BYTES >> 20))
            .value(name)
            .remedy("this is no spec; a spec is a YAML text of a few kilobytes"));
    }
    let text = Text::decode(bytes, &file)?;
    let mut reader = Reader::new(&text);
    let root = reader.document()?;
    let Some(root) = root else { return Ok(Map::new()) };
    match root.value {
        Value::Null => Ok(Map::new()),
        Value::Map(map) => Ok(map),
        // PyYAML's users know this one: a lone word is a key without a value.
        Value::Str(text) => {
            let node = Node { value: Value::Null, origin: root.origin.clone(), key_origin: root.origin };
            Ok(Map::from_iter([(text, node)]))
        }
        other => Err(Error::new(
            Kind::SpecNotAMapping,
            format!(
                "a spec is a mapping of sections (`train:`, `model:`), this one is {}",
                other.type_name()
            ),
        )
        .at(&root.origin)
        .remedy("start from `mae default_specs results_dir=specs`")),
    }
}

/// A mapping or list under construction.
struct Open {
    origin: Origin,
    anchor: usize,
    set: bool,
    /// Written with brackets or braces, itself or something around it.
    flow: bool,
    kind: OpenKind,
}

enum OpenKind {
    List(Vec<Node>),
    Map {
        entries: Vec<(String, Node)>,
        names: HashSet<String>,
        merges: Vec<Node>,
        key: Option<Key>,
        line: (usize, usize),
    },
}

/// A key that waits for its value.
struct Key {
    name: KeyName,
    origin: Origin,
}

enum KeyName {
    Text(String),
    Merge,
}

struct Reader<'a> {
    text: &'a Text,
    /// Anchored values with the number of nodes in them.
    anchors: HashMap<usize, (Node, usize)>,
    /// Character spans in which a tab is text.
    quoted: Vec<(usize, usize)>,
    nodes: usize,
}

impl<'a> Reader<'a> {
    fn new(text: &'a Text) -> Self {
        Self { text, anchors: HashMap::new(), quoted: Vec::new(), nodes: 0 }
    }

    fn origin(&self, marker: &Marker) -> Origin {
        self.text.origin(marker.line(), marker.col() + 1)
    }

    fn syntax(&self, origin: &Origin, problem: impl Into<String>) -> Error {
        Error::new(Kind::YamlSyntax, problem).at(origin)
    }

    /// Counts nodes against the limit.
    fn spend(&mut self, nodes: usize, origin: &Origin) -> Result<()> {
        self.nodes = self.nodes.saturating_add(nodes);
        if self.nodes > MAX_NODES {
            return Err(self.too_large(origin, "the spec has far too many values, aliases counted"));
        }
        Ok(())
    }

    fn too_large(&self, origin: &Origin, what: &str) -> Error {
        Error::new(Kind::TooLarge, what.to_owned())
            .at(origin)
            .remedy("a spec has a few hundred values and four levels")
    }

    fn document(&mut self) -> Result<Option<Node>> {
        let mut parser = Parser::new_from_str(self.text.as_str());
        let mut stack: Vec<Open> = Vec::new();
        let mut root: Option<Node> = None;
        let mut documents = 0;
        while let Some(event) = parser.next_event() {
            let (event, span) = event.map_err(|error| self.scan_error(&error))?;
            let origin = self.origin(&span.start);
            let flow = self.is_flow(&stack, &span);
            let done = match event {
                Event::DocumentStart(_) => {
                    documents += 1;
                    if documents > 1 {
                        return Err(self
                            .tab_before(span.start.index())
                            .unwrap_or_else(|| self.syntax(&origin, "a second document starts here"))
                            .remedy("keep one document a file"));
                    }
                    None
                }
                Event::Scalar(text, style, anchor, tag) => {
                    if style == ScalarStyle::Plain && stack.last().is_some_and(|open| open.flow) {
                        self.question_mark(&text, &span)?;
                    }
                    if style != ScalarStyle::Plain {
                        self.quoted.push((span.start.index(), span.end.index()));
                    }
                    let value = tag::scalar(&text, style, tag.as_deref(), &origin)?;
                    Some((Node::new(value, origin), anchor))
                }
                Event::SequenceStart(anchor, tag) => {
                    tag::container(tag.as_deref(), "seq", &origin)?;
                    self.open(
                        &mut stack,
                        Open { origin, anchor, set: false, flow, kind: OpenKind::List(Vec::new()) },
                    )?;
                    None
                }
                Event::MappingStart(anchor, tag) => {
                    let set = tag::container(tag.as_deref(), "map", &origin)?;
                    let line = (span.start.line(), span.start.col() + 1);
                    let kind = OpenKind::Map {
                        entries: Vec::new(),
                        names: HashSet::new(),
                        merges: Vec::new(),
                        key: None,
                        line,
                    };
                    self.open(&mut stack, Open { origin, anchor, set, flow, kind })?;
                    None
                }
                Event::SequenceEnd | Event::MappingEnd => match stack.pop() {
                    Some(open) => {
                        let anchor = open.anchor;
                        Some((self.close(open)?, anchor))
                    }
                    None => None,
                },
                Event::Alias(id) => match self.anchors.get(&id) {
                    Some((node, size)) => {
                        let (node, size) = (node.clone(), *size);
                        self.spend(size, &origin)?;
                        Some((node, 0))
                    }
                    None => {
                        return Err(self.syntax(&origin, "this alias stands inside the value that it names"));
                    }
                },
                Event::Nothing | Event::StreamStart | Event::StreamEnd | Event::DocumentEnd => None,
            };
            let Some((node, anchor)) = done else { continue };
            if anchor > 0 {
                // The copy counts too, else anchors around anchors would multiply memory.
                let size = count(&node);
                self.spend(size, &node.origin)?;
                self.anchors.insert(anchor, (node.clone(), size));
            }
            match stack.last_mut() {
                Some(open) => self.place_in(open, node)?,
                None => root = Some(node),
            }
        }
        match self.tab_before(usize::MAX) {
            Some(error) => Err(error),
            None => Ok(root),
        }
    }

    fn open(&mut self, stack: &mut Vec<Open>, open: Open) -> Result<()> {
        // A list or mapping that is itself a key.
        if let Some(Open { kind: OpenKind::Map { key: None, .. }, .. }) = stack.last() {
            return Err(
                Error::new(Kind::YamlConstructor, "a list or mapping cannot be a key").at(&open.origin)
            );
        }
        if stack.len() >= MAX_DEPTH {
            return Err(self.too_large(&open.origin, "the spec is nested too deeply"));
        }
        stack.push(open);
        Ok(())
    }

    fn place_in(&mut self, open: &mut Open, node: Node) -> Result<()> {
        self.spend(1, &node.origin)?;
        let as_value = |mut node: Node| {
            if matches!(&node.value, Value::Bytes(bytes) if bytes == MERGE) {
                node.value = Value::Str("<<".to_owned());
            }
            node
        };
        match &mut open.kind {
            OpenKind::List(items) => items.push(as_value(node)),
            OpenKind::Map { entries, names, merges, key, line } => match key.take() {
                None => *key = Some(self.key(node, names, *line)?),
                Some(Key { name: KeyName::Text(name), origin }) => {
                    entries.push((name, Node { key_origin: origin, ..as_value(node) }));
                }
                Some(Key { name: KeyName::Merge, .. }) => merges.push(node),
            },
        }
        Ok(())
    }

    fn key(&self, node: Node, names: &mut HashSet<String>, mapping: (usize, usize)) -> Result<Key> {
        let name = match &node.value {
            // `read` marks the merge key with bytes that no text has.
            Value::Bytes(bytes) if bytes == MERGE => {
                return Ok(Key { name: KeyName::Merge, origin: node.origin });
            }
            Value::Null => {
                return Err(Error::new(Kind::YamlBadKey, "an empty or null key")
                    .at(&node.origin)
                    .remedy("write a key before the colon"));
            }
            Value::Bytes(_) => {
                return Err(Error::new(Kind::YamlBadKey, "binary data cannot be a key").at(&node.origin));
            }
            Value::List(_) | Value::Map(_) => {
                return Err(
                    Error::new(Kind::YamlConstructor, "a list or mapping cannot be a key").at(&node.origin)
                );
            }
            scalar => scalar.to_text(),
        };
        if !names.insert(name.clone()) {
            return Err(Error::new(
                Kind::YamlDuplicateKey,
                format!(
                    "this key is written twice in the mapping that starts at line {}, column {}",
                    mapping.0, mapping.1
                ),
            )
            .key(name)
            .at(&node.origin)
            .remedy("merge both into one"));
        }
        Ok(Key { name: KeyName::Text(name), origin: node.origin })
    }

    fn close(&self, open: Open) -> Result<Node> {
        let value = match open.kind {
            OpenKind::List(items) => Value::List(items),
            OpenKind::Map { entries, merges, .. } => {
                let mut all: Vec<(String, Node)> = Vec::new();
                let mut seen: HashSet<String> = entries.iter().map(|(name, _)| name.clone()).collect();
                for merge in merges {
                    self.merge(merge, &mut all, &mut seen)?;
                }
                all.extend(entries);
                if open.set {
                    all.iter_mut().for_each(|(_, node)| node.value = Value::Null);
                }
                Value::Map(all.into_iter().collect())
            }
        };
        Ok(Node::new(value, open.origin))
    }

    /// `<<: *anchor` and `<<: [*a, *b]`: earlier mappings win over later ones, own keys over both.
    fn merge(&self, node: Node, all: &mut Vec<(String, Node)>, seen: &mut HashSet<String>) -> Result<()> {
        match node.value {
            Value::Map(map) => {
                for (name, node) in map {
                    if seen.insert(name.clone()) {
                        all.push((name, node));
                    }
                }
                Ok(())
            }
            Value::List(items) if items.iter().all(|item| matches!(item.value, Value::Map(_))) => {
                items.into_iter().try_for_each(|item| self.merge(item, all, seen))
            }
            _ => Err(Error::new(Kind::YamlConstructor, "`<<` takes a mapping or a list of mappings")
                .at(&node.origin)),
        }
    }

    /// A bracket is a token of its own; the start of a block list or mapping has no length.
    fn is_flow(&self, stack: &[Open], span: &Span) -> bool {
        stack.last().is_some_and(|open| open.flow)
            || (!span.is_empty() && matches!(self.text.character(span.start.index()), Some('[' | '{')))
    }

    /// In YAML 1.1 a `?` inside brackets starts a key, so `[???]` is an error.
    fn question_mark(&self, text: &str, span: &Span) -> Result<()> {
        let Some(rest) = text.strip_prefix('?') else { return Ok(()) };
        let column = span.start.col() + if rest.starts_with('?') { 2 } else { 1 };
        let origin = self.text.origin(span.start.line(), column);
        Err(self.syntax(&origin, "`?` inside brackets starts a key").remedy("put the text in quotes"))
    }

    fn scan_error(&self, error: &ScanError) -> Error {
        let marker = error.marker();
        if let Some(tab) = self.tab_before(marker.index()) {
            return tab;
        }
        let mut origin = self.origin(marker);
        if error.info().contains("recursion limit") {
            return self.too_large(&origin, "the spec is nested too deeply");
        }
        // The scanner names the start of the text only.
        if error.info().contains("escape character")
            && let Some(place) = self.text.bad_escape(marker.index(), marker.line(), marker.col() + 1)
        {
            origin = place;
        }
        self.syntax(&origin, error.info())
            .remedy("mend the YAML; `#` starts a comment, text with `: ` needs quotes")
    }

    fn tab_before(&self, limit: usize) -> Option<Error> {
        let origin = self.text.tab_before(limit, &self.quoted)?;
        let error = self.syntax(&origin, "a tab is not allowed here");
        Some(error.remedy("use blanks, or put the text in double quotes"))
    }
}

fn count(node: &Node) -> usize {
    1 + match &node.value {
        Value::List(items) => items.iter().map(count).sum(),
        Value::Map(map) => map.iter().map(|(_, node)| count(node)).sum(),
        _ => 0,
    }
}

//! Reading YAML into the raw tree.

use super::scalar;
use crate::spec::error::{Error, Kind, Origin, Result};
use crate::spec::python;
use crate::spec::value::{Map, Node, Value};
use saphyr_parser::{Event, Marker, Parser, ScalarStyle, ScanError, Span, Tag};
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
    let text = decode(bytes, &file)?;
    let mut reader = Reader::new(&text, file);
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

/// UTF-8 without a byte-order mark, with `\n` line ends, or an error with its place.
fn decode(bytes: &[u8], file: &Arc<str>) -> Result<String> {
    let bytes = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes);
    let text = std::str::from_utf8(bytes).map_err(|error| {
        let before = String::from_utf8_lossy(&bytes[..error.valid_up_to()]).into_owned();
        let bad = bytes.get(error.valid_up_to()).copied().unwrap_or_default();
        Error::new(
            Kind::Encoding,
            format!("byte 0x{bad:02x} at position {} is not UTF-8 text", error.valid_up_to()),
        )
        .at(&place(file, &before))
        .remedy("save the file as UTF-8")
    })?;
    let text = text.replace("\r\n", "\n").replace('\r', "\n");
    if let Some((index, character)) = text.char_indices().find(|(_, character)| !printable(*character)) {
        return Err(Error::new(
            Kind::YamlSyntax,
            format!("the character U+{:04X} is not allowed in YAML", u32::from(character)),
        )
        .at(&place(file, &text[..index]))
        .remedy("remove it, or write it as an escape in double quotes"));
    }
    Ok(text)
}

fn printable(character: char) -> bool {
    matches!(character, '\t' | '\n' | '\r' | ' '..='~' | '\u{85}' | '\u{a0}'..='\u{d7ff}' | '\u{e000}'..='\u{fffd}' | '\u{10000}'..)
}

fn place(file: &Arc<str>, before: &str) -> Origin {
    let line = before.matches('\n').count() + 1;
    let column = before.rsplit('\n').next().unwrap_or("").chars().count() + 1;
    Origin::File { file: file.clone(), line, column }
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
    file: Arc<str>,
    text: &'a str,
    characters: Vec<char>,
    /// Anchored values with the number of nodes in them.
    anchors: HashMap<usize, (Node, usize)>,
    /// Character spans in which a tab is text.
    quoted: Vec<(usize, usize)>,
    nodes: usize,
}

impl<'a> Reader<'a> {
    fn new(text: &'a str, file: Arc<str>) -> Self {
        Self {
            file,
            text,
            characters: text.chars().collect(),
            anchors: HashMap::new(),
            quoted: Vec::new(),
            nodes: 0,
        }
    }

    fn origin(&self, marker: &Marker) -> Origin {
        Origin::File { file: self.file.clone(), line: marker.line(), column: marker.col() + 1 }
    }

    fn syntax(&self, origin: &Origin, problem: impl Into<String>) -> Error {
        Error::new(Kind::YamlSyntax, problem).at(origin)
    }

    fn too_large(&self, origin: &Origin, what: &str) -> Error {
        Error::new(Kind::TooLarge, what.to_owned())
            .at(origin)
            .remedy("a spec has a few hundred values and four levels")
    }

    fn document(&mut self) -> Result<Option<Node>> {
        let mut parser = Parser::new_from_str(self.text);
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
                    Some((self.scalar(&text, style, tag.as_deref(), span)?, anchor))
                }
                Event::SequenceStart(anchor, tag) => {
                    self.container_tag(tag.as_deref(), "seq", &origin)?;
                    self.open(
                        &mut stack,
                        Open { origin, anchor, set: false, flow, kind: OpenKind::List(Vec::new()) },
                    )?;
                    None
                }
                Event::MappingStart(anchor, tag) => {
                    let set = self.container_tag(tag.as_deref(), "map", &origin)?;
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
                        self.nodes += size;
                        if self.nodes > MAX_NODES {
                            return Err(self.too_large(&origin, "aliases make this spec far too large"));
                        }
                        let node = node.clone();
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
                let size = count(&node);
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
        self.nodes += 1;
        if self.nodes > MAX_NODES {
            return Err(self.too_large(&node.origin, "the spec has far too many values"));
        }
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

    fn scalar(&mut self, text: &str, style: ScalarStyle, tag: Option<&Tag>, span: Span) -> Result<Node> {
        let origin = self.origin(&span.start);
        if style != ScalarStyle::Plain {
            self.quoted.push((span.start.index(), span.end.index()));
        }
        let too_large = || {
            Error::new(Kind::TypeMismatch, "the integer is too large for any field")
                .value(text)
                .at(&origin)
                .remedy("put it in quotes if it is a name")
        };
        let value = match tag.map(|tag| (tag.is_yaml_core_schema(), tag.handle.as_str(), tag.suffix.as_str()))
        {
            None if style == ScalarStyle::Plain && text == "<<" => Value::Bytes(MERGE.to_vec()),
            None if style == ScalarStyle::Plain => scalar::plain(text).ok_or_else(too_large)?,
            None | Some((false, "", "!")) | Some((true, _, "str")) => Value::Str(text.to_owned()),
            Some((true, _, "null")) => Value::Null,
            Some((true, _, "binary")) => {
                Value::Bytes(text.bytes().filter(|byte| !byte.is_ascii_whitespace()).collect())
            }
            Some((true, _, wanted @ ("int" | "float" | "bool"))) => {
                let read = scalar::plain(text).ok_or_else(too_large)?;
                let value = match (wanted, read) {
                    ("int", value @ Value::Int(_)) | ("bool", value @ Value::Bool(_)) => Some(value),
                    ("float", Value::Int(value)) => Some(Value::Float(value as f64)),
                    ("float", value @ Value::Float(_)) => Some(value),
                    ("float", Value::Str(text)) => python::parse_float(&text).map(Value::Float),
                    _ => None,
                };
                value.ok_or_else(|| {
                    Error::new(Kind::YamlConstructor, format!("the tag !!{wanted} does not fit"))
                        .value(text)
                        .at(&origin)
                })?
            }
            Some((_, handle, suffix)) => return Err(foreign_tag(handle, suffix, &origin)),
        };
        Ok(Node::new(value, origin))
    }

    /// Whether a container is a `!!set`; refuses foreign tags.
    fn container_tag(&self, tag: Option<&Tag>, own: &str, origin: &Origin) -> Result<bool> {
        match tag.map(|tag| (tag.is_yaml_core_schema(), tag.handle.as_str(), tag.suffix.as_str())) {
            None | Some((false, "", "!")) => Ok(false),
            Some((true, _, suffix)) if suffix == own => Ok(false),
            Some((true, _, "set")) if own == "map" => Ok(true),
            Some((_, handle, suffix)) => Err(foreign_tag(handle, suffix, origin)),
        }
    }

    fn is_flow(&self, stack: &[Open], span: &Span) -> bool {
        stack.last().is_some_and(|open| open.flow)
            || matches!(self.characters.get(span.start.index()), Some('[' | '{'))
    }

    /// In YAML 1.1 a `?` inside brackets starts a key, so `[???]` is an error.
    fn question_mark(&self, text: &str, span: &Span) -> Result<()> {
        let Some(rest) = text.strip_prefix('?') else { return Ok(()) };
        let origin = Origin::File {
            file: self.file.clone(),
            line: span.start.line(),
            column: span.start.col() + if rest.starts_with('?') { 2 } else { 1 },
        };
        Err(self.syntax(&origin, "`?` inside brackets starts a key").remedy("put the text in quotes"))
    }

    fn scan_error(&self, error: &ScanError) -> Error {
        if let Some(tab) = self.tab_before(error.marker().index()) {
            return tab;
        }
        let origin = self.bad_escape(error).unwrap_or_else(|| self.origin(error.marker()));
        self.syntax(&origin, error.info().to_owned())
            .remedy("mend the YAML; `#` starts a comment, text with `: ` needs quotes")
    }

    /// The character after the backslash of an unknown escape; the scanner names the start of the text only.
    fn bad_escape(&self, error: &ScanError) -> Option<Origin> {
        if !error.info().contains("escape character") {
            return None;
        }
        let start = error.marker().index();
        let (mut line, mut column, mut backslash) = (error.marker().line(), error.marker().col() + 1, false);
        for &character in self.characters.get(start..)? {
            if backslash && !"0abt\tnvfre \"/\\N_LPxuU\n".contains(character) {
                return Some(Origin::File { file: self.file.clone(), line, column });
            }
            backslash = character == '\\' && !backslash;
            (line, column) = if character == '\n' { (line + 1, 1) } else { (line, column + 1) };
        }
        None
    }

    /// PyYAML refuses a tab outside quotes, block text and comments; YAML 1.2 allows some of them.
    fn tab_before(&self, limit: usize) -> Option<Error> {
        let (mut line, mut column, mut comment, mut before) = (1, 0, false, ' ');
        let mut quoted = self.quoted.iter().peekable();
        for (index, character) in
            self.characters.iter().copied().enumerate().take_while(|(index, _)| *index <= limit)
        {
            while quoted.next_if(|(_, end)| *end <= index).is_some() {}
            let inside = quoted.peek().is_some_and(|(start, _)| *start <= index);
            column += 1;
            match character {
                '\n' => (line, column, comment) = (line + 1, 0, false),
                '#' if !inside && before.is_whitespace() => comment = true,
                '\t' if !inside && !comment => {
                    let origin = Origin::File { file: self.file.clone(), line, column };
                    return Some(
                        self.syntax(&origin, "a tab is not allowed here")
                            .remedy("use blanks, or put the text in double quotes"),
                    );
                }
                _ => {}
            }
            before = character;
        }
        None
    }
}

/// Stands for the plain key `<<` between the scanner and the mapping.
const MERGE: &[u8] = b"\0<<";

fn foreign_tag(handle: &str, suffix: &str, origin: &Origin) -> Error {
    Error::new(Kind::YamlConstructor, "this tag is not accepted: a spec holds data, nothing that runs")
        .value(format!("{handle}{suffix}"))
        .at(origin)
        .remedy("remove the tag")
}

fn count(node: &Node) -> usize {
    1 + match &node.value {
        Value::List(items) => items.iter().map(count).sum(),
        Value::Map(map) => map.iter().map(|(_, node)| count(node)).sum(),
        _ => 0,
    }
}

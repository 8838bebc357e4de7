//! Reading YAML into the raw tree.

use super::collect::Open;
use super::tag;
use super::text::Text;
use crate::spec::error::{Error, Kind, Origin, Result};
use crate::spec::value::{Map, Node, Value};
use saphyr_parser::{Event, Marker, Parser, ScalarStyle, ScanError, Span, StrInput};
use std::collections::HashMap;
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
        match error.kind() {
        std::io::ErrorKind::NotFound => Error::new(
            Kind::ConfigNotFound,
            format!("The indicated experiment spec file `{shown}` doesn't exist!"),
        )
        .remedy("give an existing file after -e; `mae default_specs results_dir=specs` writes one with every default"),
        _ => Error::new(Kind::ConfigNotFound, format!("the spec file cannot be read: {error}"))
            .value(&*shown)
            .remedy("give a readable YAML file after -e"),
    }
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

    /// The only document, or `None` for an empty text.
    ///
    /// PyYAML scans and parses everything before it looks at what keys and tags mean, so of several errors the one in
    /// the syntax is reported.
    fn document(&mut self) -> Result<Option<Node>> {
        let mut parser = Parser::new_from_str(self.text.as_str());
        let built = self.build(&mut parser);
        if let Err(error) = &built
            && !matches!(error.kind(), Kind::YamlSyntax | Kind::TooLarge)
        {
            while let Some(event) = parser.next_event() {
                let (event, span) = event.map_err(|error| self.scan_error(&error))?;
                match event {
                    Event::DocumentStart(_) => return Err(self.second_document(&span)),
                    Event::Scalar(_, style, ..) => self.note_quoted(style, &span),
                    _ => {}
                }
            }
        }
        match self.tab_before(usize::MAX) {
            Some(error) if !matches!(&built, Err(error) if error.kind() == Kind::TooLarge) => Err(error),
            _ => built,
        }
    }

    fn build(&mut self, parser: &mut Parser<'_, StrInput<'_>>) -> Result<Option<Node>> {
        let mut stack: Vec<Open> = Vec::new();
        let mut root: Option<Node> = None;
        let mut documents = 0;
        while let Some(event) = parser.next_event() {
            let (event, span) = event.map_err(|error| self.scan_error(&error))?;
            let origin = self.origin(&span.start);
            let flow = self.is_flow(&stack, &span);
            let (node, anchor) = match event {
                Event::DocumentStart(_) => {
                    documents += 1;
                    if documents > 1 {
                        return Err(self.second_document(&span));
                    }
                    continue;
                }
                Event::Scalar(text, style, anchor, tag) => {
                    if style == ScalarStyle::Plain && stack.last().is_some_and(|open| open.flow) {
                        self.flow_indicator(&text, &span)?;
                    }
                    self.note_quoted(style, &span);
                    let value = tag::scalar(&text, style, tag.as_deref(), &origin)?;
                    (Node::new(value, origin), anchor)
                }
                Event::SequenceStart(anchor, tag) => {
                    tag::container(tag.as_deref(), "seq", &origin)?;
                    self.open(&mut stack, Open::list(anchor, flow, origin.clone()), &origin)?;
                    continue;
                }
                Event::MappingStart(anchor, tag) => {
                    let set = tag::container(tag.as_deref(), "map", &origin)?;
                    self.open(&mut stack, Open::map(anchor, flow, set, origin.clone()), &origin)?;
                    continue;
                }
                Event::SequenceEnd | Event::MappingEnd => {
                    let Some(open) = stack.pop() else { continue };
                    let anchor = open.anchor;
                    (open.close()?, anchor)
                }
                Event::Alias(id) => {
                    let Some((node, size)) = self.anchors.get(&id) else {
                        return Err(self.syntax(&origin, "this alias stands inside the value that it names"));
                    };
                    let (node, size) = (node.clone(), *size);
                    self.spend(size, &origin)?;
                    (node, 0)
                }
                Event::Nothing | Event::StreamStart | Event::StreamEnd | Event::DocumentEnd => continue,
            };
            if anchor > 0 {
                // The copy counts too, else anchors around anchors would multiply memory.
                let size = count(&node);
                self.spend(size, &node.origin)?;
                self.anchors.insert(anchor, (node.clone(), size));
            }
            self.spend(1, &node.origin)?;
            match stack.last_mut() {
                Some(open) => open.push(node)?,
                None => root = Some(node),
            }
        }
        Ok(root)
    }

    fn open(&self, stack: &mut Vec<Open>, open: Open, origin: &Origin) -> Result<()> {
        if stack.last().is_some_and(Open::wants_key) {
            return Err(Error::new(Kind::YamlConstructor, "a list or mapping cannot be a key").at(origin));
        }
        if stack.len() >= MAX_DEPTH {
            return Err(self.too_large(origin, "the spec is nested too deeply"));
        }
        stack.push(open);
        Ok(())
    }

    fn note_quoted(&mut self, style: ScalarStyle, span: &Span) {
        if style != ScalarStyle::Plain {
            self.quoted.push((span.start.index(), span.end.index()));
        }
    }

    fn second_document(&self, span: &Span) -> Error {
        self.tab_before(span.start.index()).unwrap_or_else(|| {
            self.syntax(&self.origin(&span.start), "a second document starts here")
                .remedy("keep one document a file")
        })
    }

    /// A bracket is a token of its own; the start of a block list or mapping has no length.
    fn is_flow(&self, stack: &[Open], span: &Span) -> bool {
        stack.last().is_some_and(|open| open.flow)
            || (!span.is_empty() && matches!(self.text.character(span.start.index()), Some('[' | '{')))
    }

    /// In YAML 1.1 a `?` or `:` inside brackets is never the start of text, so `[???]` is an error.
    fn flow_indicator(&self, text: &str, span: &Span) -> Result<()> {
        let Some(indicator) = text.chars().next().filter(|first| matches!(first, '?' | ':')) else {
            return Ok(());
        };
        let column = span.start.col() + if text.starts_with("??") { 2 } else { 1 };
        let origin = self.text.origin(span.start.line(), column);
        Err(self
            .syntax(&origin, format!("`{indicator}` inside brackets starts no text"))
            .remedy("put the text in quotes"))
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
        if let Some(place) = self.text.place_of(error.info(), marker.index()) {
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

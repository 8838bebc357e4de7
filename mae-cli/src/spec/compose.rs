//! Layering: schema defaults, then the spec file with what its `defaults:` list names, then the overrides in order.

use super::convert;
use super::error::{Error, Kind, Origin, Result};
use super::interpolation::{self, Context, Resolver};
use super::overrides::{self, Override};
use super::schema::{self, Entry, Found, Row};
use super::value::{Map, Node, Value, select};
use super::yaml;
use std::path::Path;

mod apply;
mod includes;

/// A composed spec: every field of the schema, not yet resolved.
#[derive(Clone, Debug)]
pub struct Composed {
    /// The tree. Interpolations and `???` are still in it.
    pub root: Map,
    /// What was accepted without effect, one sentence each.
    pub notes: Vec<String>,
}

impl Composed {
    /// The tree with every interpolation resolved, fields that only we know left out unless they were set.
    ///
    /// # Errors
    /// The first interpolation that cannot be resolved.
    pub fn resolved(&self, context: &Context<'_>) -> Result<Map> {
        let mut resolver = Resolver::new(&self.root, context);
        without_unset_extensions(&self.root)
            .into_iter()
            .map(|(key, node)| {
                let value = resolver.resolve(&key, &node)?;
                Ok((key, Node { value, ..node }))
            })
            .collect()
    }

    /// The tree as YAML, interpolations as written.
    pub fn to_yaml(&self) -> String {
        yaml::write(&without_unset_extensions(&self.root))
    }

    /// What `--cfg job` prints: the tree, resolved when `context` is given, or one section of it under the header that
    /// Hydra writes.
    ///
    /// # Errors
    /// An interpolation cannot be resolved, or there is no such section.
    pub fn show(&self, context: Option<&Context<'_>>, package: Option<&str>) -> Result<String> {
        let tree = match context {
            Some(context) => self.resolved(context)?,
            None => without_unset_extensions(&self.root),
        };
        let Some(package) = package else { return Ok(yaml::write(&tree)) };
        match select(&tree, package).map(|node| &node.value) {
            Some(Value::Map(section)) => Ok(format!("# @package {package}\n{}", yaml::write(section))),
            _ => Err(unknown_key(package, "", &Origin::Default)),
        }
    }
}

/// Composes a spec file, or none, with overrides.
///
/// All overrides are parsed before the file is opened, as upstream does: a syntax error on the command line is
/// reported first.
///
/// # Errors
/// The file cannot be read, is not YAML, has unknown keys or wrong types, or an override does.
pub fn compose<S: AsRef<str>>(spec: Option<&Path>, overrides: &[S]) -> Result<Composed> {
    let overrides = overrides::parse_all(overrides)?;
    let mut composed = Composed { root: defaults(), notes: Vec::new() };
    if let Some(path) = spec {
        includes::merge_file(&mut composed, path)?;
    }
    for override_ in &overrides {
        override_one(&mut composed, override_).map_err(|error| {
            if error.origin().is_explicit() { error } else { error.at(&override_.origin) }
        })?;
    }
    Ok(composed)
}

/// The tree of all defaults.
pub fn defaults() -> Map {
    fn section(rows: &'static [Row]) -> Map {
        rows.iter()
            .map(|row| {
                let value = match &row.entry {
                    Entry::Section(rows) => Value::Map(section(rows)),
                    Entry::Leaf(leaf) => convert::literal(&leaf.default),
                };
                (row.name.to_owned(), Node::new(value, Origin::Default))
            })
            .collect()
    }
    section(schema::root())
}

/// Sections and groups of Hydra's own configuration. Accepted without effect, so that command lines keep working.
const HYDRA: &[&str] = &[
    "callbacks",
    "env",
    "help",
    "hydra_help",
    "hydra_logging",
    "job",
    "job_logging",
    "launcher",
    "mode",
    "output_subdir",
    "overrides",
    "run",
    "runtime",
    "searchpath",
    "sweep",
    "sweeper",
    "verbose",
];

fn override_one(composed: &mut Composed, override_: &Override) -> Result<()> {
    let key = &override_.key;
    if let Some(rest) =
        key.strip_prefix("hydra").filter(|rest| rest.starts_with(['.', '/']) || rest.is_empty())
    {
        let name = rest.trim_start_matches(['.', '/']).split('.').next().unwrap_or("");
        if !rest.is_empty() && !HYDRA.contains(&name) {
            return Err(Error::new(Kind::UnknownKey, "Hydra has no such setting").key(key));
        }
        composed.notes.push(format!("{key} is a setting of Hydra and has no effect here"));
        return Ok(());
    }
    if let Some(value) = &override_.value {
        check_interpolations(key, &Node::new(value.clone(), override_.origin.clone()))?;
    }
    apply::apply(&mut composed.root, override_)
}

/// Merges a mapping into a section of the schema. `???` never overwrites.
fn merge_section(path: &str, rows: &'static [Row], into: &mut Map, from: Map) -> Result<()> {
    for (key, node) in from {
        let full = join(path, &key);
        let Some(row) = schema::row(rows, &key) else {
            return Err(unknown_key(&full, path, &node.key_origin));
        };
        if node.value.is_missing() {
            continue;
        }
        match &row.entry {
            Entry::Section(inner) => {
                let target = into.get_mut(&key).map(|node| &mut node.value);
                match (node.value, target) {
                    (Value::Map(map), Some(Value::Map(target))) => merge_section(&full, inner, target, map)?,
                    (Value::Map(map), _) => {
                        // The section was deleted by an override; writing to it brings its defaults back.
                        let mut section = defaults_of(&full);
                        merge_section(&full, inner, &mut section, map)?;
                        into.insert(&key, Node::new(Value::Map(section), node.origin));
                    }
                    (value, _) => {
                        return Err(not_a_section(&full, &Node { value, ..node }));
                    }
                }
            }
            Entry::Leaf(leaf) => into.insert(&key, convert::convert(&full, leaf, node)?),
        }
    }
    Ok(())
}

fn defaults_of(path: &str) -> Map {
    match select(&defaults(), path).map(|node| node.value.clone()) {
        Some(Value::Map(map)) => map,
        _ => Map::new(),
    }
}

/// An error for something that is not a mapping where a section stands.
fn not_a_section(path: &str, node: &Node) -> Error {
    // Upstream calls a list in a section a wrong type in a file and a wrong structure in an override.
    let structure = matches!((&node.value, &node.origin), (Value::List(_), Origin::Override { .. }));
    let kind = if structure { Kind::StructureMismatch } else { Kind::TypeMismatch };
    let first = match schema::find(path) {
        Some(Found::Section([row, ..])) => row.name,
        _ => "key",
    };
    let problem = match node.value {
        Value::Null => "the section is empty".to_owned(),
        _ => format!("expected a section, found {}", node.value.type_name()),
    };
    Error::new(kind, problem)
        .key(path)
        .value(node.value.shown())
        .at(&node.origin)
        .remedy(format!("set its fields, for example {path}.{first}, or leave the section out"))
}

fn unknown_key(full: &str, section: &str, origin: &Origin) -> Error {
    let place = if section.is_empty() { "a spec".to_owned() } else { format!("section `{section}`") };
    let error = Error::new(Kind::UnknownKey, format!("{place} has no such key")).key(full).at(origin);
    // In YAML a dotted key is one key; on the command line it is a path.
    if section.is_empty()
        && let (Some((parent, name)), Some(_)) = (full.rsplit_once('.'), schema::find(full))
    {
        let above = parent.split('.').collect::<Vec<_>>().join(": {");
        let close = "}".repeat(parent.split('.').count());
        return error.remedy(format!("in a spec, sections nest: {above}: {{{name}: VALUE{close}"));
    }
    match schema::suggest(full) {
        Some(near) => error.remedy(format!("did you mean {near}?")),
        None => {
            let names = match schema::find(section) {
                Some(Found::Section(rows)) => rows.iter().map(|row| row.name).collect::<Vec<_>>().join(", "),
                _ => String::new(),
            };
            error.remedy(format!("known keys here: {names}"))
        }
    }
}

/// Checks the syntax of every `${...}` in a tree.
fn check_interpolations(path: &str, node: &Node) -> Result<()> {
    match &node.value {
        Value::Str(text) if node.value.is_interpolation() => interpolation::validate(text)
            .map_err(|error| error.key(path).value(node.value.shown()).at(&node.origin)),
        Value::List(items) => items
            .iter()
            .enumerate()
            .try_for_each(|(index, item)| check_interpolations(&format!("{path}[{index}]"), item)),
        Value::Map(map) => {
            map.iter().try_for_each(|(key, node)| check_interpolations(&join(path, key), node))
        }
        _ => Ok(()),
    }
}

fn join(path: &str, key: &str) -> String {
    if path.is_empty() { key.to_owned() } else { format!("{path}.{key}") }
}

/// The tree without the fields that only we know and nobody set, as upstream would show it.
pub(super) fn without_unset_extensions(root: &Map) -> Map {
    fn section(prefix: &str, map: &Map) -> Map {
        map.iter()
            .filter_map(|(key, node)| {
                let path = join(prefix, key);
                let value = match (&node.value, schema::find(&path)) {
                    (Value::Map(inner), Some(Found::Section(_))) => {
                        let kept = section(&path, inner);
                        // A section that only we know goes with its fields.
                        if kept.is_empty() && !inner.is_empty() {
                            return None;
                        }
                        Value::Map(kept)
                    }
                    (_, Some(Found::Leaf(_, leaf)))
                        if leaf.upstream == schema::Upstream::Extension && !node.origin.is_explicit() =>
                    {
                        return None;
                    }
                    (value, _) => value.clone(),
                };
                Some((key.to_owned(), Node { value, ..node.clone() }))
            })
            .collect()
    }
    section("", root)
}

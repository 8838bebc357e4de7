//! The files that TAO packages for its user interfaces and services: `<action>.schema.json`,
//! `spec_template_<action>.yaml`, `manifest.json`.
//!
//! Equal to TAO's as values, but for the descriptions, which are our own words. Fields that only this program knows are
//! left out: TAO's tools would refuse them.

use super::json;
use crate::spec::convert;
use crate::spec::schema::{self, Condition, Entry, Leaf, Literal, Row, Shape, Upstream};
use crate::spec::value::{Map, Node, Value};
use crate::spec::yaml;

/// The actions that TAO packages a schema for.
pub const ACTIONS: [&str; 5] = ["train", "evaluate", "inference", "export", "gen_trt_engine"];

/// The actions that TAO's manifest lists; its schema of `gen_trt_engine` is packaged all the same.
const IN_MANIFEST: [&str; 4] = ["evaluate", "export", "inference", "train"];

/// Sections that TAO labels.
const TITLES: [(&str, &str); 2] = [("dataset.augmentation", "augmentation"), ("train.optim", "optimizer")];

/// Whether the JSON is TAO's or the standard's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Strictness {
    /// A maximum without bound is the bare word `Infinity`, which Python reads and strict parsers refuse.
    AsTao,
    /// A maximum without bound is left out.
    Strict,
}

/// The text of `<action>.schema.json`.
pub fn json_schema(action: &str, strictness: Strictness) -> String {
    let rows = kept(action);
    let mut properties: Vec<(String, Value)> =
        rows.iter().map(|row| (row.name.to_owned(), node("", row, strictness))).collect();
    let sections = schema::root().iter().filter(|row| matches!(row.entry, Entry::Section(_)));
    properties.push(("automl_disabled_parameters".into(), texts(sections.map(|row| row.name.to_owned()))));
    let about = [
        ("action", Value::Str(action.to_owned())),
        ("core_module", text("mae")),
        ("model", text("mae")),
        ("network_arch", text("mae")),
        ("schema_action", Value::Str(action.to_owned())),
        ("schema_version", Value::Int(1)),
        ("source", text("tao-core dataclass config")),
    ];
    json::write(&object([
        ("automl_default_parameters", texts(searched())),
        ("automl_disabled_parameters", texts(disabled())),
        ("default", defaults(rows)),
        ("popular", popular(schema::root()).unwrap_or(Value::Map(Map::new()))),
        ("properties", Value::Map(properties.into_iter().map(|(key, value)| (key, plain(value))).collect())),
        ("type", text("object")),
        ("x_tao_schema", object(about)),
    ]))
}

/// The text of `spec_template_<action>.yaml`.
pub fn template(action: &str) -> String {
    let Value::Map(mut map) = defaults(kept(action)) else { return String::new() };
    if action == "inference"
        && let Some(Value::Map(dataset)) = map.get_mut("dataset").map(|node| &mut node.value)
    {
        dataset.insert("test_data_sources", plain(text("")));
    }
    yaml::write(&map)
}

/// The text of `manifest.json`.
pub fn manifest() -> String {
    let sorted = |mut names: Vec<String>| {
        names.sort();
        texts(names)
    };
    let actions = IN_MANIFEST.map(|action| {
        let entry = object([
            ("automl_default_parameters", sorted(searched())),
            ("automl_disabled_parameters", sorted(disabled())),
            ("core_module", text("mae")),
            ("path", Value::Str(format!("schemas/{action}.schema.json"))),
            ("popular", popular(schema::root()).unwrap_or(Value::Map(Map::new()))),
            ("schema_action", text(action)),
            ("spec_template", Value::Str(format!("references/spec_template_{action}.yaml"))),
        ]);
        (action, entry)
    });
    json::write(&object([
        ("actions", object(actions)),
        ("automl_enabled", Value::Bool(true)),
        ("failures", Value::Map(Map::new())),
        ("model", text("mae")),
        ("network_arch", text("mae")),
        ("schema_version", Value::Int(1)),
    ]))
}

/// The rows that an action's files show: what all share, `train`, and its own section.
fn kept(action: &str) -> Vec<&'static Row> {
    let foreign = |row: &Row| ACTIONS.contains(&row.name) && row.name != "train" && row.name != action;
    shown(schema::root()).filter(|row| !foreign(row)).collect()
}

fn shown(rows: &'static [Row]) -> impl Iterator<Item = &'static Row> {
    rows.iter().filter(|row| match &row.entry {
        Entry::Leaf(leaf) => leaf.upstream != Upstream::Extension,
        Entry::Section(inner) => shown(inner).next().is_some(),
    })
}

fn node(prefix: &str, row: &'static Row, strictness: Strictness) -> Value {
    match &row.entry {
        Entry::Section(rows) => section(&join(prefix, row), row, rows, strictness),
        Entry::Leaf(leaf) => field(row, leaf, strictness),
    }
}

fn section(path: &str, row: &Row, rows: &'static [Row], strictness: Strictness) -> Value {
    let children = || shown(rows);
    let properties: Map =
        children().map(|row| (row.name.to_owned(), plain(node(path, row, strictness)))).collect();
    let mut out = vec![
        ("automl_enabled", Value::Bool(false)),
        ("default", defaults(children().collect())),
        ("description", Value::Str(row.help())),
        ("properties", Value::Map(properties)),
        ("type", text("collection")),
    ];
    if let Some((_, title)) = TITLES.iter().find(|(labelled, _)| *labelled == path) {
        out.push(("title", text(title)));
    }
    let named = |wanted: fn(&Row) -> bool| -> Vec<String> {
        children().filter(|row| wanted(row)).map(|row| join(path, row)).collect()
    };
    for (keyword, names) in [
        ("automl_disabled_parameters", named(|row| automl(row) == Some(false))),
        ("automl_default_parameters", named(|row| automl(row) == Some(true))),
    ] {
        if !names.is_empty() {
            out.push((keyword, texts(names)));
        }
    }
    let popular: Vec<_> = children().filter(|row| is_popular(row)).map(|row| row.name.to_owned()).collect();
    if !popular.is_empty() {
        out.push(("popular", texts(popular)));
    }
    object(out)
}

fn field(row: &Row, leaf: &Leaf, strictness: Strictness) -> Value {
    let kind = kind(leaf);
    // TAO converts bounds to the type that the schema declares.
    let bound = |value: f64| {
        if kind.contains("int") && value.is_finite() {
            Value::Int(value as i128)
        } else {
            Value::Float(value)
        }
    };
    let mut out = vec![("type", text(kind)), ("description", Value::Str(row.help()))];
    if let Some(default) = default(leaf) {
        out.push(("default", default));
    }
    if !leaf.title.is_empty() {
        out.push(("title", text(leaf.title)));
    }
    if let Some(min) = leaf.min {
        out.push(("minimum", bound(min)));
    }
    if let Some(max) = leaf.max.filter(|max| max.is_finite() || strictness == Strictness::AsTao) {
        out.push(("maximum", bound(max)));
    }
    match leaf.condition {
        Some(Condition::Above(bound)) => out.push(("math_cond", Value::Str(format!("> {bound:?}")))),
        Some(Condition::AtLeast(bound)) => out.push(("math_cond", Value::Str(format!(">= {bound}")))),
        None => {}
    }
    if !leaf.options.is_empty() {
        let option = |option: &&str| match option.parse() {
            Ok(number) if kind == "ordered_int" => Value::Int(number),
            _ => text(option),
        };
        out.push(("enum", Value::List(leaf.options.iter().map(option).map(plain).collect())));
    }
    if leaf.popular {
        out.push(("popular", Value::Bool(true)));
    }
    if let Some(searched) = leaf.automl {
        out.push(("automl_enabled", Value::Bool(searched)));
    }
    object(out)
}

/// The name that TAO's schema has for the type.
fn kind(leaf: &Leaf) -> &'static str {
    match (leaf.shape, leaf.packaged) {
        (Shape::Bool, _) => "bool",
        (Shape::Int, _) if !leaf.options.is_empty() => "ordered_int",
        (Shape::Int, _) | (Shape::Float, Some(Literal::Int(_))) => "int",
        (Shape::Float | Shape::Pair, _) => "float",
        (Shape::Text, _) if !leaf.options.is_empty() => "categorical",
        (Shape::Text, _) => "string",
        (Shape::List(_), _) => "list",
    }
}

/// The default as packaged: texts that may be null are empty, other nulls are left out.
fn default(leaf: &Leaf) -> Option<Value> {
    match (leaf.packaged, &leaf.default, leaf.shape) {
        (Some(Literal::Null), ..) => None,
        (Some(packaged), ..) => Some(convert::literal(&packaged)),
        (None, Literal::Null, Shape::Text) => Some(text("")),
        (None, Literal::Null, _) => None,
        (None, default, _) => Some(convert::literal(default)),
    }
}

fn defaults(rows: Vec<&'static Row>) -> Value {
    let entries = rows.into_iter().filter_map(|row| {
        let value = match &row.entry {
            Entry::Section(inner) => defaults(shown(inner).collect()),
            Entry::Leaf(leaf) => default(leaf)?,
        };
        Some((row.name.to_owned(), plain(value)))
    });
    Value::Map(entries.collect())
}

/// The popular fields below these rows with their defaults, as nested objects.
fn popular(rows: &'static [Row]) -> Option<Value> {
    let entries: Map = shown(rows)
        .filter_map(|row| {
            let value = match &row.entry {
                Entry::Section(inner) => popular(inner)?,
                Entry::Leaf(leaf) if leaf.popular => default(leaf)?,
                Entry::Leaf(_) => return None,
            };
            Some((row.name.to_owned(), plain(value)))
        })
        .collect();
    (!entries.is_empty()).then_some(Value::Map(entries))
}

fn is_popular(row: &Row) -> bool {
    match &row.entry {
        Entry::Section(rows) => popular(rows).is_some(),
        Entry::Leaf(leaf) => leaf.popular,
    }
}

/// A row's AutoML flag; sections are never searched as such.
fn automl(row: &Row) -> Option<bool> {
    match &row.entry {
        Entry::Section(_) => Some(false),
        Entry::Leaf(leaf) => leaf.automl,
    }
}

/// The fields that AutoML searches unless told otherwise.
fn searched() -> Vec<String> {
    flagged(true)
}

/// The sections and fields that AutoML never searches.
fn disabled() -> Vec<String> {
    flagged(false)
}

fn flagged(flag: bool) -> Vec<String> {
    fn walk(prefix: &str, rows: &'static [Row], flag: bool, out: &mut Vec<String>) {
        for row in shown(rows) {
            let path = if prefix.is_empty() { row.name.to_owned() } else { format!("{prefix}.{}", row.name) };
            if automl(row) == Some(flag) {
                out.push(path.clone());
            }
            if let Entry::Section(inner) = &row.entry {
                walk(&path, inner, flag, out);
            }
        }
    }
    let mut out = Vec::new();
    walk("", schema::root(), flag, &mut out);
    out
}

fn join(prefix: &str, row: &Row) -> String {
    if prefix.is_empty() { row.name.to_owned() } else { format!("{prefix}.{}", row.name) }
}

fn object<'k>(entries: impl IntoIterator<Item = (&'k str, Value)>) -> Value {
    Value::Map(entries.into_iter().map(|(key, value)| (key.to_owned(), plain(value))).collect())
}

fn texts(items: impl IntoIterator<Item = String>) -> Value {
    Value::List(items.into_iter().map(|item| plain(Value::Str(item))).collect())
}

fn text(text: &str) -> Value {
    Value::Str(text.to_owned())
}

fn plain(value: Value) -> Node {
    Node::new(value, Default::default())
}

//! Resolving `${...}` against a composed tree.

use super::{Element, Part, arithmetic, parser};
use crate::spec::convert;
use crate::spec::error::{Error, Kind, Origin, Result};
use crate::spec::primitive::primitive;
use crate::spec::schema::{self, Found};
use crate::spec::value::{Map, Node, Value};

/// Deepest chain of references.
const MAX_CHAIN: usize = 64;

/// Most references that one resolver follows, and longest text it builds: `${b}${b}` doubles at every level.
const MAX_REFERENCES: usize = 10_000;
const MAX_TEXT: usize = 1 << 20;

/// What resolvers read besides the tree.
pub struct Context<'a> {
    /// The environment.
    pub env: &'a dyn Fn(&str) -> Option<String>,
    /// File name of the spec, for `${hydra:job.config_name}`.
    pub spec_name: &'a str,
    /// The action, for `${hydra:job.name}`.
    pub action: &'a str,
}

/// Resolves values of one composed tree.
pub struct Resolver<'a> {
    root: &'a Map,
    context: &'a Context<'a>,
    /// Paths that are being resolved, to find cycles.
    chain: Vec<String>,
    references: usize,
}

impl<'a> Resolver<'a> {
    /// A resolver for a composed tree.
    pub fn new(root: &'a Map, context: &'a Context<'a>) -> Self {
        Self { root, context, chain: Vec::new(), references: 0 }
    }

    /// The value of the node at `path` without interpolations, converted to its field's type.
    ///
    /// # Errors
    /// A reference to nothing, to `???` or to itself, an unknown resolver, or a value of the wrong type.
    pub fn resolve(&mut self, path: &str, node: &Node) -> Result<Value> {
        match &node.value {
            Value::Str(text) if node.value.is_interpolation() => {
                if self.chain.len() >= MAX_CHAIN || self.chain.iter().any(|seen| seen == path) {
                    return Err(self.fault(path, node, "the interpolation leads back to itself"));
                }
                self.references += 1;
                if self.references > MAX_REFERENCES {
                    return Err(located(too_large(), path, node));
                }
                self.chain.push(path.to_owned());
                let value = self.text(path, text);
                self.chain.pop();
                let value = value.map_err(|error| located(error, path, node))?;
                self.typed(path, value, &node.origin)
            }
            Value::List(items) => {
                let items = items
                    .iter()
                    .enumerate()
                    .map(|(index, item)| {
                        let value = self.resolve(&format!("{path}[{index}]"), item)?;
                        Ok(Node { value, ..item.clone() })
                    })
                    .collect::<Result<_>>()?;
                Ok(Value::List(items))
            }
            Value::Map(map) => {
                let entries = map
                    .iter()
                    .map(|(key, node)| {
                        let inner = if path.is_empty() { key.to_owned() } else { format!("{path}.{key}") };
                        let value = self.resolve(&inner, node)?;
                        Ok((key.to_owned(), Node { value, ..node.clone() }))
                    })
                    .collect::<Result<_>>()?;
                Ok(Value::Map(entries))
            }
            value => Ok(value.clone()),
        }
    }

    fn typed(&self, path: &str, value: Value, origin: &Origin) -> Result<Value> {
        let (field, index) = match path.split_once('[') {
            Some((field, index)) => (field, index.strip_suffix(']')),
            None => (path, None),
        };
        let Some(Found::Leaf(_, leaf)) = schema::find(field) else { return Ok(value) };
        let node = Node::new(value, origin.clone());
        let converted = match index {
            Some(index) => convert::element(field, index, leaf, node),
            None => convert::convert_resolved(field, leaf, node),
        };
        converted.map(|node| node.value).map_err(|error| {
            error.remedy("the value comes from an interpolation; write a value of the right type")
        })
    }

    fn text(&mut self, path: &str, text: &str) -> Result<Value> {
        let parts = parser::parse(text)?;
        self.parts(path, &parts)
    }

    /// One interpolation keeps its type, anything more is text.
    fn parts(&mut self, path: &str, parts: &[Part]) -> Result<Value> {
        if let [part @ (Part::Node { .. } | Part::Call { .. })] = parts {
            return self.part(path, part);
        }
        let mut out = String::new();
        for part in parts {
            match part {
                Part::Text(text) => out.push_str(text),
                part => out.push_str(&self.part(path, part)?.to_text()),
            }
            if out.len() > MAX_TEXT {
                return Err(too_large());
            }
        }
        Ok(Value::Str(out))
    }

    fn part(&mut self, path: &str, part: &Part) -> Result<Value> {
        match part {
            Part::Text(text) => Ok(Value::Str(text.clone())),
            Part::Node { dots, names } => {
                let mut keys = Vec::new();
                for name in names {
                    keys.push(self.parts(path, name)?.to_text());
                }
                self.reference(path, *dots, &keys)
            }
            Part::Call { name, arguments } => {
                let name = self.parts(path, name)?.to_text();
                self.call(path, &name, arguments)
            }
        }
    }

    fn reference(&mut self, path: &str, dots: usize, keys: &[String]) -> Result<Value> {
        let shown = keys.join(".");
        match self.select(path, dots, keys)? {
            Some((_, value)) if value.is_missing() => {
                Err(error(format!("`{shown}` has no value yet (???)")).remedy(format!("set {shown}=VALUE")))
            }
            Some((_, value)) => Ok(value),
            None => {
                let mut error = error(format!("there is no `{shown}`"));
                if let Some(near) = schema::suggest(&shown) {
                    error = error.remedy(format!("did you mean ${{{near}}}?"));
                }
                Err(error)
            }
        }
    }

    /// The resolved value of a reference and its full path.
    fn select(&mut self, path: &str, dots: usize, keys: &[String]) -> Result<Option<(String, Value)>> {
        let mut full: Vec<String> = Vec::new();
        if dots > 0 {
            let parents: Vec<&str> = path.split('.').collect();
            let Some(depth) = parents.len().checked_sub(dots) else { return Ok(None) };
            full.extend(parents[..depth].iter().map(|name| (*name).to_owned()));
        }
        full.extend(keys.iter().flat_map(|key| key.split('.')).map(str::to_owned));
        let mut cursor = Cursor::Root(self.root);
        let mut at = String::new();
        for name in &full {
            let next = match &cursor {
                Cursor::Root(map) => map.get(name).map(Cursor::Node),
                Cursor::Node(node) => child(&node.value, name).map(Cursor::Node),
                Cursor::Value(value) => child(value, name).map(|node| Cursor::Value(node.value.clone())),
            };
            let Some(next) = next else { return Ok(None) };
            at = match name.parse::<usize>() {
                Ok(_) if !at.is_empty() => format!("{at}[{name}]"),
                _ if at.is_empty() => name.clone(),
                _ => format!("{at}.{name}"),
            };
            cursor = match next {
                Cursor::Node(node) if node.value.is_interpolation() => {
                    Cursor::Value(self.resolve(&at, node)?)
                }
                next => next,
            };
        }
        let value = match cursor {
            Cursor::Value(value) => value,
            Cursor::Node(node) => self.resolve(&at, node)?,
            Cursor::Root(_) => return Ok(None),
        };
        Ok(Some((at, value)))
    }

    fn call(&mut self, path: &str, name: &str, arguments: &[Element]) -> Result<Value> {
        let mut values = Vec::new();
        for argument in arguments {
            values.push(self.element(path, argument)?);
        }
        let mut values = values.into_iter();
        let first = values.next();
        let second = values.next();
        if values.next().is_some() {
            return Err(error(format!("`{name}` takes at most two arguments")));
        }
        let key =
            || first.as_ref().map(Value::to_text).ok_or_else(|| error(format!("`{name}` takes an argument")));
        match name {
            "oc.env" => {
                let key = key()?;
                match ((self.context.env)(&key), second) {
                    (Some(value), _) => Ok(Value::Str(value)),
                    (None, Some(Value::Null)) => Ok(Value::Null),
                    (None, Some(default)) => Ok(Value::Str(default.to_text())),
                    (None, None) => Err(error(format!("the environment variable {key} is not set"))
                        .remedy(format!("set it, or give a default: ${{oc.env:{key},default}}"))),
                }
            }
            "oc.decode" => match &first {
                None | Some(Value::Null) => Ok(Value::Null),
                Some(value) => {
                    let element = parser::parse_element(&value.to_text())?;
                    self.element(path, &element)
                }
            },
            "oc.select" => {
                let key = key()?;
                let dots = key.len() - key.trim_start_matches('.').len();
                let keys: Vec<String> = key.trim_start_matches('.').split('.').map(str::to_owned).collect();
                Ok(match self.select(path, dots, &keys)? {
                    Some((_, value)) if !value.is_missing() => value,
                    _ => second.unwrap_or(Value::Null),
                })
            }
            "oc.create" => first.ok_or_else(|| error("`oc.create` takes an argument")),
            "oc.deprecated" => {
                let key = key()?;
                let keys: Vec<String> = key.split('.').map(str::to_owned).collect();
                self.reference(path, 0, &keys)
            }
            "oc.dict.keys" | "oc.dict.values" => {
                let key = key()?;
                let keys: Vec<String> = key.split('.').map(str::to_owned).collect();
                let Value::Map(map) = self.reference(path, 0, &keys)? else {
                    return Err(error(format!("`{key}` is not a mapping")));
                };
                let wanted = name == "oc.dict.keys";
                Ok(Value::List(
                    map.into_iter()
                        .map(|(key, node)| if wanted { Node::new(Value::Str(key), node.origin) } else { node })
                        .collect(),
                ))
            }
            "hydra" => match key()?.as_str() {
                "job.config_name" => Ok(Value::Str(self.context.spec_name.to_owned())),
                "job.name" => Ok(Value::Str(self.context.action.to_owned())),
                other => Err(error(format!("`hydra:{other}` has no meaning here"))
                    .remedy("only hydra:job.name and hydra:job.config_name exist")),
            },
            "eval" => arithmetic::evaluate(&key()?),
            other => Err(error(format!("there is no resolver `{other}`"))
                .remedy("resolvers are oc.env, oc.decode, oc.select, oc.create, oc.dict.keys, oc.dict.values and eval")),
        }
    }

    fn element(&mut self, path: &str, element: &Element) -> Result<Value> {
        match element {
            Element::Quoted(parts) => match self.parts(path, parts)? {
                value @ Value::Str(_) => Ok(value),
                value => Ok(Value::Str(value.to_text())),
            },
            Element::Unquoted(parts) => match parts.as_slice() {
                [Part::Text(text)] => {
                    primitive(text).ok_or_else(|| error("the integer is too large for any field"))
                }
                parts => self.parts(path, parts),
            },
            Element::List(items) => Ok(Value::List(
                items
                    .iter()
                    .map(|item| Ok(Node::new(self.element(path, item)?, Origin::Default)))
                    .collect::<Result<_>>()?,
            )),
            Element::Map(entries) => Ok(Value::Map(
                entries
                    .iter()
                    .map(|(key, item)| {
                        Ok((key.clone(), Node::new(self.element(path, item)?, Origin::Default)))
                    })
                    .collect::<Result<_>>()?,
            )),
        }
    }

    fn fault(&self, path: &str, node: &Node, problem: &str) -> Error {
        located(error(problem), path, node)
    }
}

/// Where a walk along a path stands: in the tree, or in a value that an interpolation gave.
enum Cursor<'a> {
    Root(&'a Map),
    Node(&'a Node),
    Value(Value),
}

fn too_large() -> Error {
    Error::new(Kind::TooLarge, "the interpolations multiply each other").remedy("write the value itself")
}

fn error(problem: impl Into<String>) -> Error {
    Error::new(Kind::ResolveError, problem)
}

/// Names the outermost value whose resolving failed, unless an inner one is named already.
fn located(error: Error, path: &str, node: &Node) -> Error {
    if error.path().is_some() {
        return error;
    }
    error.key(path).value(node.value.shown()).at(&node.origin)
}

fn child<'v>(value: &'v Value, name: &str) -> Option<&'v Node> {
    match value {
        Value::Map(map) => map.get(name),
        Value::List(items) => index(items, name),
        _ => None,
    }
}

fn index<'v>(items: &'v [Node], name: &str) -> Option<&'v Node> {
    let index: i64 = name.parse().ok()?;
    let index = if index < 0 { index + items.len() as i64 } else { index };
    items.get(usize::try_from(index).ok()?)
}

//! The spec file and the files that its `defaults:` list names.

use super::{Composed, check_interpolations, merge_section, yaml};
use crate::spec::error::{Error, Kind, Result};
use crate::spec::schema;
use crate::spec::value::{Map, Node, Value};
use std::path::{Path, PathBuf};

pub(super) fn merge_file(composed: &mut Composed, path: &Path) -> Result<()> {
    merge(composed, path, yaml::read_file(path)?)
}

/// Merges what stands in the file at `path`; the files that it names are read from beside it.
pub(super) fn merge(composed: &mut Composed, path: &Path, mut own: Map) -> Result<()> {
    let list = own.remove("defaults");
    if own.remove("hydra").is_some() {
        composed.notes.push("the section `hydra` is Hydra's own and has no effect here".to_owned());
    }
    for (key, node) in own.iter() {
        check_interpolations(key, node)?;
    }
    let (before, after) = match list {
        Some(list) => includes(&list, path)?,
        None => (Vec::new(), Vec::new()),
    };
    // Upstream merges the spec with all defaults before it is composed with the files before it, so what those set
    // is lost. They are still read and checked.
    for include in before {
        let mut scratch = composed.clone();
        include.merge(&mut scratch)?;
        composed.notes.push(format!(
            "{} stands before _self_ in the defaults list, so nothing of it takes effect; put it after _self_",
            include.path.display()
        ));
    }
    merge_section("", schema::root(), &mut composed.root, own)?;
    for include in after {
        include.merge(composed)?;
    }
    Ok(())
}

struct Include {
    path: PathBuf,
    /// Section into which the file's content goes, for `- group: option`.
    package: Option<(String, Node)>,
}

impl Include {
    fn merge(&self, composed: &mut Composed) -> Result<()> {
        let map = yaml::read_file(&self.path)?;
        let map = match &self.package {
            None => map,
            Some((name, node)) => {
                Map::from_iter([(name.clone(), Node { value: Value::Map(map), ..node.clone() })])
            }
        };
        for (key, node) in map.iter() {
            check_interpolations(key, node)?;
        }
        merge_section("", schema::root(), &mut composed.root, map)
    }
}

/// The files before and after `_self_`. Without `_self_` the spec itself comes last.
fn includes(list: &Node, spec: &Path) -> Result<(Vec<Include>, Vec<Include>)> {
    let wrong = |node: &Node, problem: &str| {
        Error::new(Kind::DefaultsList, problem)
            .key("defaults")
            .value(node.value.shown())
            .at(&node.origin)
            .remedy("write a list: `defaults: [_self_, other_spec]`, or leave it out")
    };
    let Value::List(items) = &list.value else {
        return Err(wrong(list, &format!("expected a list, found {}", list.value.type_name())));
    };
    let folder = spec.parent().unwrap_or(Path::new(""));
    let (mut before, mut after, mut own) = (Vec::new(), Vec::new(), false);
    for item in items {
        let (name, package) = match &item.value {
            Value::Str(name) if name == "_self_" => {
                own = true;
                continue;
            }
            Value::Str(name) => (name.clone(), None),
            Value::Map(map) => match map.iter().next() {
                Some((group, _)) if group.starts_with("override hydra/") || group.starts_with("hydra/") => {
                    continue;
                }
                Some((_, node)) if node.value == Value::Null => continue,
                Some((group, Node { value: Value::Str(option), .. }))
                    if map.len() == 1 && !group.contains(' ') =>
                {
                    (format!("{group}/{option}"), Some((group.replace('/', "."), item.clone())))
                }
                _ => return Err(wrong(item, "expected the name of a spec beside this one")),
            },
            _ => return Err(wrong(item, "expected the name of a spec beside this one")),
        };
        let (name, optional) = match name.strip_prefix("optional ") {
            Some(name) => (name.to_owned(), true),
            None => (name, false),
        };
        let file = if name.ends_with(".yaml") { name.clone() } else { format!("{name}.yaml") };
        let path = folder.join(file);
        if !path.is_file() {
            if optional {
                continue;
            }
            return Err(Error::new(
                Kind::ConfigNotFound,
                format!("the file {} does not exist", path.display()),
            )
            .key("defaults")
            .value(name)
            .at(&item.origin)
            .remedy("the list names specs beside this one, without .yaml"));
        }
        if own { &mut after } else { &mut before }.push(Include { path, package });
    }
    Ok((before, after))
}

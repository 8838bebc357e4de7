//! Tags, written or implied: what a scalar is, and which tags are accepted at all.

use super::scalar;
use crate::spec::error::{Error, Kind, Origin, Result};
use crate::spec::python;
use crate::spec::value::Value;
use saphyr_parser::{ScalarStyle, Tag};

/// Stands for the plain scalar `<<` between the scanner and the mapping that it may be a key of. No text has these
/// bytes: NUL is not allowed in YAML.
pub(super) const MERGE: &[u8] = b"\0<<";

/// The value of a scalar.
pub(super) fn scalar(text: &str, style: ScalarStyle, tag: Option<&Tag>, origin: &Origin) -> Result<Value> {
    let too_large = || {
        Error::new(Kind::TypeMismatch, "the integer is too large for any field")
            .value(text)
            .at(origin)
            .remedy("put it in quotes if it is a name")
    };
    Ok(match parts(tag) {
        None if style == ScalarStyle::Plain && text == "<<" => Value::Bytes(MERGE.to_vec()),
        None if style == ScalarStyle::Plain && text == "=" => {
            return Err(Error::new(Kind::YamlConstructor, "a lone `=` has a meaning of its own in YAML 1.1")
                .at(origin)
                .remedy("put it in quotes"));
        }
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
                let problem = format!("the tag !!{wanted} does not fit");
                Error::new(Kind::YamlConstructor, problem).value(text).at(origin)
            })?
        }
        Some((_, handle, suffix)) => return Err(foreign(handle, suffix, origin)),
    })
}

/// Whether a container is a `!!set`; `own` is `seq` or `map`.
pub(super) fn container(tag: Option<&Tag>, own: &str, origin: &Origin) -> Result<bool> {
    match parts(tag) {
        None | Some((false, "", "!")) => Ok(false),
        Some((true, _, suffix)) if suffix == own => Ok(false),
        Some((true, _, "set")) if own == "map" => Ok(true),
        Some((_, handle, suffix)) => Err(foreign(handle, suffix, origin)),
    }
}

/// Whether it is one of YAML's own, its handle, its suffix.
fn parts(tag: Option<&Tag>) -> Option<(bool, &str, &str)> {
    tag.map(|tag| (tag.is_yaml_core_schema(), tag.handle.as_str(), tag.suffix.as_str()))
}

fn foreign(handle: &str, suffix: &str, origin: &Origin) -> Error {
    Error::new(Kind::YamlConstructor, "this tag is not accepted: a spec holds data, nothing that runs")
        .value(format!("{handle}{suffix}"))
        .at(origin)
        .remedy("remove the tag")
}

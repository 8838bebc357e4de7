//! JSON as Python's `json.dumps` spells it: blanks after `,` and `:`, ASCII only, `NaN` as a bare word.

use crate::spec::{float_repr, json_str};

/// A value of a status line.
#[derive(Clone, Debug, PartialEq)]
pub enum Json {
    /// An integer.
    Int(i64),
    /// A decimal number.
    Float(f64),
    /// Text.
    Text(String),
    /// An object in the order given.
    Object(Vec<(String, Json)>),
}

impl std::fmt::Display for Json {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Int(value) => write!(f, "{value}"),
            Self::Float(value) if value.is_nan() => f.write_str("NaN"),
            Self::Float(value) if value.is_infinite() => {
                f.write_str(if *value > 0.0 { "Infinity" } else { "-Infinity" })
            }
            Self::Float(value) => f.write_str(&float_repr(*value)),
            Self::Text(text) => f.write_str(&json_str(text)),
            Self::Object(entries) => {
                f.write_str("{")?;
                for (index, (key, value)) in entries.iter().enumerate() {
                    if index > 0 {
                        f.write_str(", ")?;
                    }
                    write!(f, "{}: {value}", json_str(key))?;
                }
                f.write_str("}")
            }
        }
    }
}

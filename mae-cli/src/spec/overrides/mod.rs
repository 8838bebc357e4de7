//! Overrides of the command line, in Hydra 1.3's grammar.
//!
//! ```text
//! key=value      set a key that exists           train.optim.lr=1e-4
//! +key=value     add a key that does not exist   ++key=value  set or add
//! ~key           delete                          ~key=value   delete if it has that value
//! ```
//!
//! A value is a number, `true`, `null`, text, `[a, b]`, `{k: v}` or `int(...)`, `sort([...])` and the like. Text may be
//! unquoted when it holds only letters, digits, blanks and `/ - \ + . $ % * @ ? | : _`; quotes allow anything. The `=` of
//! `folder@epoch=3`, which chooses a checkpoint, needs none either.

mod functions;
mod print;
mod scanner;
pub mod sweep;

use super::error::{Error, Kind, Origin, Result};
use super::value::Value;
use std::sync::Arc;

/// What an override does to its key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operation {
    /// `key=value`
    Set,
    /// `+key=value`
    Add,
    /// `++key=value`
    ForceAdd,
    /// `~key` or `~key=value`
    Delete,
}

/// One parsed override.
#[derive(Clone, Debug, PartialEq)]
pub struct Override {
    /// What it does.
    pub operation: Operation,
    /// Dotted path, or `group/option` as Hydra's own groups are written.
    pub key: String,
    /// The value; `None` only for `~key`.
    pub value: Option<Value>,
    /// Where it was written.
    pub origin: Origin,
}

/// Parses one override; `number` counts from 1 and is used in messages.
///
/// # Errors
/// The text does not follow the grammar, or asks for a sweep over several values.
pub fn parse(text: &str, number: usize) -> Result<Override> {
    let origin = Origin::Override { number, text: Arc::from(text) };
    scanner::Scanner::new(text, origin.clone())
        .parse()
        .map_err(|error| error.or_value(format!("`{text}`")).at(&origin))
}

/// Parses all overrides in order; the first error wins, as no later step sees any of them.
///
/// # Errors
/// As [`parse`].
pub fn parse_all<S: AsRef<str>>(texts: &[S]) -> Result<Vec<Override>> {
    texts.iter().enumerate().map(|(index, text)| parse(text.as_ref(), index + 1)).collect()
}

fn error(problem: impl Into<String>) -> Error {
    Error::new(Kind::OverrideParse, problem)
}

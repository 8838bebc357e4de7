//! Printing an override so that parsing gives it back.

use super::{Operation, Override};
use crate::spec::python;
use crate::spec::value::Value;
use std::fmt;

impl fmt::Display for Override {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.operation {
            Operation::Set => "",
            Operation::Add => "+",
            Operation::ForceAdd => "++",
            Operation::Delete => "~",
        })?;
        f.write_str(&self.key)?;
        match &self.value {
            Some(value) => write!(f, "={}", value_text(value)),
            None => Ok(()),
        }
    }
}

fn value_text(value: &Value) -> String {
    match value {
        Value::Null => "null".to_owned(),
        Value::Bool(value) => value.to_string(),
        Value::Int(value) => value.to_string(),
        Value::Float(value) => python::float_repr(*value),
        Value::Str(text) => quoted(text),
        Value::Bytes(bytes) => quoted(&String::from_utf8_lossy(bytes)),
        Value::List(items) => {
            format!("[{}]", items.iter().map(|item| value_text(&item.value)).collect::<Vec<_>>().join(","))
        }
        Value::Map(map) => {
            let items: Vec<_> = map
                .iter()
                .map(|(key, node)| format!("{}:{}", escaped(key), value_text(&node.value)))
                .collect();
            format!("{{{}}}", items.join(","))
        }
    }
}

/// Single quotes; backslashes are doubled where a quote or the end follows, as only there they escape.
fn quoted(text: &str) -> String {
    let mut out = String::from("'");
    let mut backslashes = 0;
    for character in text.chars().chain(['\'']) {
        if character == '\\' {
            backslashes += 1;
            continue;
        }
        let doubled = if character == '\'' { backslashes * 2 } else { backslashes };
        out.extend(std::iter::repeat_n('\\', doubled));
        backslashes = 0;
        if character == '\'' {
            out.push('\\');
        }
        out.push(character);
    }
    // The chained quote above closes the text: it must not be escaped.
    let end = out.len() - 2;
    out.remove(end);
    out
}

fn escaped(key: &str) -> String {
    key.chars()
        .flat_map(|character| {
            let escape = matches!(character, '\\' | '(' | ')' | '[' | ']' | '{' | '}' | ':' | '=' | ',');
            escape.then_some('\\').into_iter().chain([character])
        })
        .collect()
}

//! The parser: one pass over the characters, no backtracking.

use super::{Operation, Override, error, functions};
use crate::spec::error::{Error, Kind, Origin, Result};
use crate::spec::primitive::primitive;
use crate::spec::value::{Map, Node, Value};

/// Deepest nesting of lists and mappings in a value.
const MAX_DEPTH: usize = 64;

pub(super) struct Scanner<'a> {
    text: &'a str,
    /// Byte offset of the next character.
    at: usize,
    origin: Origin,
    depth: usize,
    /// The first function that failed. Syntax errors anywhere win over it, as nothing is called before all is parsed.
    failed: Option<Error>,
}

impl<'a> Scanner<'a> {
    pub(super) fn new(text: &'a str, origin: Origin) -> Self {
        Self { text, at: 0, origin, depth: 0, failed: None }
    }

    pub(super) fn parse(mut self) -> Result<Override> {
        let operation = if self.eat('~') {
            Operation::Delete
        } else if self.eat('+') {
            if self.eat('+') { Operation::ForceAdd } else { Operation::Add }
        } else {
            Operation::Set
        };
        let key = self.key()?;
        let origin = self.origin.clone();
        if self.peek().is_none() {
            return if operation == Operation::Delete {
                Ok(Override { operation, key, value: None, origin })
            } else {
                Err(self.fault("a value is missing").remedy(format!("write {key}=VALUE")))
            };
        }
        if !self.eat('=') {
            let wrong = self.peek().unwrap_or(' ');
            return Err(self.fault(format!("expected `=` after the key, found `{wrong}`")).remedy(
                "write key=value without blanks before the `=`, sections with dots: train.optim.lr=1e-4",
            ));
        }
        self.blanks();
        if self.peek().is_none() {
            return Ok(Override { operation, key, value: Some(Value::Str(String::new())), origin });
        }
        let value = self.element(false)?;
        let mut sweep = false;
        loop {
            let end = self.at;
            self.blanks();
            if self.eat(',') {
                sweep = true;
                self.element(false)?;
                continue;
            }
            if self.peek().is_none() && end < self.at {
                self.at = end;
                return Err(self.fault("blanks follow the value").remedy("remove them"));
            }
            break;
        }
        if let Some(wrong) = self.peek() {
            return Err(self.unexpected(wrong));
        }
        if let Some(failed) = self.failed {
            return Err(failed);
        }
        if sweep {
            let values = self.text.split_once('=').map_or("", |(_, values)| values);
            return Err(sweep_error("several values make a sweep, and one run has one value").remedy(
                format!(
                    "for a list write {key}=[{values}], for text write {key}='{}'",
                    values.replace('\'', "\\'")
                ),
            ));
        }
        Ok(Override { operation, key, value: Some(value), origin })
    }

    /// The key with its sign, and the values before each comma as they were written.
    pub(super) fn elements(mut self) -> Result<(String, Vec<String>)> {
        while self.eat('+') {}
        self.key()?;
        let key = self.text[..self.at].to_owned();
        let mut elements = Vec::new();
        while self.eat('=') || self.eat(',') {
            self.blanks();
            let start = self.at;
            self.element(false)?;
            elements.push(self.text[start..self.at].trim_matches([' ', '\t']).to_owned());
            self.blanks();
        }
        match self.peek() {
            Some(wrong) => Err(self.unexpected(wrong)),
            None => Ok((key, elements)),
        }
    }

    fn key(&mut self) -> Result<String> {
        let start = self.at;
        let rest = &self.text[start..];
        let end = rest
            .find(|next: char| {
                !(next.is_ascii_alphanumeric() || matches!(next, '_' | '-' | '$' | '.' | '/' | '@'))
            })
            .unwrap_or(rest.len());
        let key = &rest[..end];
        let legal_name = |name: &str| {
            let number =
                name == "0" || (name.bytes().all(|byte| byte.is_ascii_digit()) && !name.starts_with('0'));
            !name.is_empty()
                && (number || !name.starts_with(|first: char| first.is_ascii_digit() || first == '-'))
        };
        if key.is_empty() {
            return Err(self
                .fault("the key is missing")
                .remedy("write key=value, for example train.optim.lr=1e-4"));
        }
        if key.contains('@') {
            return Err(self
                .fault("`group@package` is Hydra's way to choose config groups, and this program has none")
                .remedy("set the values themselves"));
        }
        let separator = if key.contains('/') { '/' } else { '.' };
        if !key.split(separator).all(|name| legal_name(name) && !name.contains(['/', '.'])) {
            return Err(self
                .fault(format!("`{key}` is no key"))
                .remedy("a key is names joined by single dots, for example train.optim.lr"));
        }
        self.at += end;
        Ok(key.to_owned())
    }

    /// One value; `inside` a list, mapping or call.
    fn element(&mut self, inside: bool) -> Result<Value> {
        self.blanks();
        match self.peek() {
            Some(quote @ ('\'' | '"')) => {
                let text = self.quoted(quote)?;
                Ok(Value::Str(text))
            }
            Some('[') => self.nested(|scanner| scanner.list()),
            Some('{') => self.nested(|scanner| scanner.mapping()),
            _ => self.primitive_or_function(inside),
        }
    }

    fn nested(&mut self, parse: impl FnOnce(&mut Self) -> Result<Value>) -> Result<Value> {
        if self.depth >= MAX_DEPTH {
            return Err(Error::new(Kind::TooLarge, "the value is nested too deeply"));
        }
        self.depth += 1;
        self.at += 1;
        let value = parse(self)?;
        self.depth -= 1;
        Ok(value)
    }

    fn list(&mut self) -> Result<Value> {
        let mut items = Vec::new();
        self.blanks();
        if self.eat(']') {
            return Ok(Value::List(items));
        }
        loop {
            let value = self.element(true)?;
            items.push(Node::new(value, self.origin.clone()));
            self.blanks();
            match self.peek() {
                Some(',') => self.at += 1,
                Some(']') => {
                    self.at += 1;
                    return Ok(Value::List(items));
                }
                Some(wrong) => return Err(self.unexpected(wrong)),
                None => return Err(self.fault("the list is not closed").remedy("end it with `]`")),
            }
        }
    }

    fn mapping(&mut self) -> Result<Value> {
        let mut map = Map::new();
        self.blanks();
        if self.eat('}') {
            return Ok(Value::Map(map));
        }
        loop {
            self.blanks();
            let key = self.mapping_key()?;
            let value = self.element(true)?;
            map.insert(&key, Node::new(value, self.origin.clone()));
            self.blanks();
            match self.peek() {
                Some(',') => self.at += 1,
                Some('}') => {
                    self.at += 1;
                    return Ok(Value::Map(map));
                }
                Some(wrong) => return Err(self.unexpected(wrong)),
                None => return Err(self.fault("the mapping is not closed").remedy("end it with `}`")),
            }
        }
    }

    fn mapping_key(&mut self) -> Result<String> {
        let start = self.at;
        let mut key = String::new();
        while let Some(next) = self.peek() {
            if next == '\\' {
                self.escape_into(&mut key);
            } else if next != ':' && is_unquoted(next) {
                key.push(next);
                self.at += next.len_utf8();
            } else {
                break;
            }
        }
        let key = key.trim_matches([' ', '\t']).to_owned();
        if !self.eat(':') || key.is_empty() {
            self.at = start.max(self.at);
            return Err(self
                .fault("expected `key: value` in the mapping")
                .remedy("write {lr: 0.1, gamma: 0.5}: keys without quotes, a colon after each"));
        }
        Ok(key)
    }

    fn quoted(&mut self, quote: char) -> Result<String> {
        let start = self.at;
        self.at += 1;
        let mut text = String::new();
        let mut backslashes = 0;
        while let Some(next) = self.peek() {
            self.at += next.len_utf8();
            if next == '\\' {
                backslashes += 1;
                continue;
            }
            // A quote after an odd number of backslashes is text; only backslashes before a quote are escapes.
            if next == quote {
                text.extend(std::iter::repeat_n('\\', backslashes / 2));
                if backslashes % 2 == 0 {
                    return Ok(text);
                }
            } else {
                text.extend(std::iter::repeat_n('\\', backslashes));
            }
            backslashes = 0;
            text.push(next);
        }
        self.at = start;
        Err(self
            .fault(format!("the quote {quote} is not closed"))
            .remedy(format!("end the text with {quote}")))
    }

    fn primitive_or_function(&mut self, inside: bool) -> Result<Value> {
        let mut text = String::new();
        let mut plain = true;
        while let Some(next) = self.peek() {
            if next == '\\' {
                plain &= !self.escape_into(&mut text);
            } else if self.text[self.at..].starts_with("${") {
                text.push_str(self.interpolation()?);
                plain = false;
            } else if is_unquoted(next) || (next == '=' && names_a_checkpoint(&text)) {
                text.push(next);
                self.at += next.len_utf8();
            } else {
                break;
            }
        }
        let trimmed = text.trim_matches([' ', '\t']);
        if self.peek() == Some('(') && plain && functions::is_name(trimmed) {
            let name = trimmed.to_owned();
            return self.function(&name);
        }
        if trimmed.is_empty() && plain {
            return Err(match self.peek() {
                Some(wrong) => self.unexpected(wrong),
                None if inside => self.fault("a value is missing"),
                None => self.fault("a value is missing after the comma"),
            });
        }
        if plain {
            primitive(trimmed).ok_or_else(|| error("the integer is too large for any field"))
        } else {
            Ok(Value::Str(trimmed.to_owned()))
        }
    }

    fn function(&mut self, name: &str) -> Result<Value> {
        self.nested(|scanner| {
            let mut arguments = Vec::new();
            scanner.blanks();
            if !scanner.eat(')') {
                loop {
                    scanner.blanks();
                    let label = scanner.argument_label();
                    arguments.push((label, scanner.element(true)?));
                    scanner.blanks();
                    match scanner.peek() {
                        Some(',') => scanner.at += 1,
                        Some(')') => {
                            scanner.at += 1;
                            break;
                        }
                        Some(wrong) => return Err(scanner.unexpected(wrong)),
                        None => {
                            return Err(scanner
                                .fault("the parenthesis is not closed")
                                .remedy("end it with `)`"));
                        }
                    }
                }
            }
            Ok(functions::call(name, arguments, &scanner.origin).unwrap_or_else(|error| {
                // A sweep is noticed last of all.
                if scanner.failed.as_ref().is_none_or(|first| first.kind() == Kind::SweepWithoutMultirun) {
                    scanner.failed = Some(error);
                }
                Value::Null
            }))
        })
    }

    fn argument_label(&mut self) -> Option<String> {
        let rest = &self.text[self.at..];
        let end = rest.find(|next: char| !(next.is_ascii_alphanumeric() || next == '_'))?;
        let (name, tail) = rest.split_at(end);
        if !tail.starts_with('=') || !functions::is_name(name) {
            return None;
        }
        self.at += end + 1;
        Some(name.to_owned())
    }

    /// `${...}` as written. Between the braces stands at least one character and no brace but those of further `${`.
    fn interpolation(&mut self) -> Result<&'a str> {
        let start = self.at;
        let mut depth = 0usize;
        while let Some(next) = self.peek() {
            if self.text[self.at..].starts_with("${") {
                depth += 1;
                self.at += 2;
                if self.peek() == Some('}') {
                    return Err(self.unexpected('}'));
                }
            } else if next == '{' {
                return Err(self.unexpected('{'));
            } else {
                self.at += next.len_utf8();
                depth -= usize::from(next == '}');
                if depth == 0 {
                    return Ok(&self.text[start..self.at]);
                }
            }
        }
        self.at = start;
        Err(self.fault("the interpolation `${` is not closed").remedy("end it with `}`"))
    }

    /// Reads a backslash with what it escapes; returns whether it was an escape.
    fn escape_into(&mut self, text: &mut String) -> bool {
        self.at += 1;
        match self.peek() {
            Some(next @ ('\\' | '(' | ')' | '[' | ']' | '{' | '}' | ':' | '=' | ',' | ' ' | '\t')) => {
                self.at += 1;
                text.push(next);
                true
            }
            _ => {
                text.push('\\');
                false
            }
        }
    }

    fn peek(&self) -> Option<char> {
        self.text[self.at..].chars().next()
    }

    fn eat(&mut self, wanted: char) -> bool {
        let found = self.peek() == Some(wanted);
        if found {
            self.at += wanted.len_utf8();
        }
        found
    }

    fn blanks(&mut self) {
        while matches!(self.peek(), Some(' ' | '\t')) {
            self.at += 1;
        }
    }

    fn fault(&self, problem: impl Into<String>) -> Error {
        let column = self.text[..self.at].chars().count() + 1;
        error(format!("{} (at character {column})", problem.into())).value(format!("`{}`", self.text))
    }

    fn unexpected(&self, wrong: char) -> Error {
        let value = self.text.split_once('=').map_or("", |(_, value)| value);
        let key = self.text.split('=').next().unwrap_or("");
        self.fault(format!("`{wrong}` cannot stand here in a value without quotes")).remedy(format!(
            "put the value in quotes: {key}='{}' (inside quotes of the shell)",
            value.replace('\'', "\\'")
        ))
    }
}

pub(super) fn sweep_error(problem: &str) -> Error {
    Error::new(Kind::SweepWithoutMultirun, problem)
}

/// Whether `=` goes on as in `results/train@epoch=3`, which Hydra would want in quotes.
fn names_a_checkpoint(text: &str) -> bool {
    text.ends_with("@epoch") || text.ends_with("@step")
}

fn is_unquoted(character: char) -> bool {
    character.is_ascii_alphanumeric()
        || matches!(
            character,
            '_' | '/' | '-' | '+' | '.' | '$' | '%' | '*' | '@' | '?' | '|' | ':' | ' ' | '\t'
        )
}

//! The grammar of interpolations.

use super::{Element, Part};
use crate::spec::error::{Error, Kind, Result};

/// Deepest nesting of `${`, lists and mappings.
const MAX_DEPTH: usize = 32;

/// Checks the syntax of a text with `${`.
///
/// # Errors
/// An interpolation that is not closed or malformed.
pub fn validate(text: &str) -> Result<()> {
    parse(text).map(|_| ())
}

pub(super) fn parse(text: &str) -> Result<Vec<Part>> {
    let mut parser = Parser { text, at: 0, depth: 0 };
    parser.text_until(None)
}

/// Parses a text as one argument, as `oc.decode` does.
pub(super) fn parse_element(text: &str) -> Result<Element> {
    let mut parser = Parser { text, at: 0, depth: 0 };
    let element = parser.element()?;
    parser.blanks();
    match parser.peek() {
        None => Ok(element),
        Some(wrong) => Err(parser.fault(format!("`{wrong}` cannot stand here"))),
    }
}

struct Parser<'a> {
    text: &'a str,
    at: usize,
    depth: usize,
}

impl Parser<'_> {
    /// Text with interpolations, to the end or to a closing quote.
    fn text_until(&mut self, quote: Option<char>) -> Result<Vec<Part>> {
        let mut parts = Vec::new();
        let mut text = String::new();
        loop {
            let rest = &self.text[self.at..];
            let backslashes = rest.len() - rest.trim_start_matches('\\').len();
            if backslashes > 0 {
                self.at += backslashes;
                let interpolation = self.starts("${");
                // Backslashes escape only right before `${` and, in quotes, before the quote.
                if interpolation || (quote.is_some() && self.peek() == quote) {
                    text.extend(std::iter::repeat_n('\\', backslashes / 2));
                    if backslashes % 2 == 1 {
                        let escaped = if interpolation { 2 } else { 1 };
                        text.push_str(&self.text[self.at..self.at + escaped]);
                        self.at += escaped;
                    }
                } else {
                    text.extend(std::iter::repeat_n('\\', backslashes));
                }
                continue;
            }
            if self.starts("${") {
                if !text.is_empty() {
                    parts.push(Part::Text(std::mem::take(&mut text)));
                }
                parts.push(self.interpolation()?);
                continue;
            }
            match (self.peek(), quote) {
                (None, Some(_)) => return Err(self.fault("the quote is not closed")),
                (Some(next), Some(quote)) if next == quote => {
                    self.at += quote.len_utf8();
                    break;
                }
                (None, None) => break,
                (Some(next), _) => {
                    text.push(next);
                    self.at += next.len_utf8();
                }
            }
        }
        if !text.is_empty() {
            parts.push(Part::Text(text));
        }
        Ok(parts)
    }

    fn interpolation(&mut self) -> Result<Part> {
        self.deeper(|parser| {
            parser.at += 2;
            parser.blanks();
            let mut dots = 0;
            while parser.eat('.') {
                dots += 1;
            }
            let mut names = vec![parser.bracketed_or_name()?];
            loop {
                parser.blanks();
                match parser.peek() {
                    Some('}') => {
                        parser.at += 1;
                        return Ok(Part::Node { dots, names });
                    }
                    Some(':') if dots == 0 => {
                        parser.at += 1;
                        let arguments = parser.arguments()?;
                        return Ok(Part::Call { name: dotted(names), arguments });
                    }
                    Some('.') => {
                        parser.at += 1;
                        names.push(parser.name()?);
                    }
                    Some('[') => names.push(parser.bracketed_or_name()?),
                    Some(wrong) => return Err(parser.fault(format!("`{wrong}` cannot stand here"))),
                    None => return Err(parser.fault("`${` is not closed")),
                }
            }
        })
    }

    fn bracketed_or_name(&mut self) -> Result<Vec<Part>> {
        if !self.eat('[') {
            return self.name();
        }
        let name = self.name()?;
        if self.eat(']') { Ok(name) } else { Err(self.fault("`[` is not closed")) }
    }

    fn name(&mut self) -> Result<Vec<Part>> {
        if self.starts("${") {
            return Ok(vec![self.interpolation()?]);
        }
        let rest = &self.text[self.at..];
        let special = |next: char| {
            matches!(next, '\\' | '{' | '}' | '(' | ')' | '[' | ']' | ':' | '.' | ' ' | '\t' | '\'' | '"')
        };
        let end = rest.find(special).unwrap_or(rest.len());
        if end == 0 {
            return Err(self.fault("a name is missing"));
        }
        self.at += end;
        Ok(vec![Part::Text(rest[..end].to_owned())])
    }

    fn arguments(&mut self) -> Result<Vec<Element>> {
        let mut arguments = Vec::new();
        self.blanks();
        if self.eat('}') {
            return Ok(arguments);
        }
        loop {
            self.blanks();
            arguments.push(match self.peek() {
                Some(',' | '}') => Element::Quoted(Vec::new()),
                _ => self.element()?,
            });
            self.blanks();
            match self.peek() {
                Some(',') => self.at += 1,
                Some('}') => {
                    self.at += 1;
                    return Ok(arguments);
                }
                Some(wrong) => return Err(self.fault(format!("`{wrong}` cannot stand here without quotes"))),
                None => return Err(self.fault("`${` is not closed")),
            }
        }
    }

    fn element(&mut self) -> Result<Element> {
        self.blanks();
        match self.peek() {
            Some(quote @ ('\'' | '"')) => {
                self.at += 1;
                Ok(Element::Quoted(self.text_until(Some(quote))?))
            }
            Some('[') => self.deeper(|parser| {
                parser.at += 1;
                parser.sequence(']', |parser| parser.element()).map(Element::List)
            }),
            Some('{') => self.deeper(|parser| {
                parser.at += 1;
                let entry = |parser: &mut Self| {
                    let key = parser.plain(false)?;
                    let key = match key.as_slice() {
                        [Part::Text(text)] => text.clone(),
                        _ => return Err(parser.fault("expected `key: value`")),
                    };
                    if !parser.eat(':') {
                        return Err(parser.fault("expected `key: value`"));
                    }
                    Ok((key, parser.element()?))
                };
                parser.sequence('}', entry).map(Element::Map)
            }),
            _ => Ok(Element::Unquoted(self.plain(true)?)),
        }
    }

    fn sequence<T>(&mut self, close: char, mut item: impl FnMut(&mut Self) -> Result<T>) -> Result<Vec<T>> {
        let mut items = Vec::new();
        self.blanks();
        if self.eat(close) {
            return Ok(items);
        }
        loop {
            self.blanks();
            items.push(item(self)?);
            self.blanks();
            match self.peek() {
                Some(',') => self.at += 1,
                Some(next) if next == close => {
                    self.at += 1;
                    return Ok(items);
                }
                _ => return Err(self.fault(format!("expected `,` or `{close}`"))),
            }
        }
    }

    /// Unquoted text: letters, digits, blanks, some punctuation, escapes and, when `value`, colons and interpolations.
    fn plain(&mut self, value: bool) -> Result<Vec<Part>> {
        let mut parts = Vec::new();
        let mut text = String::new();
        while let Some(next) = self.peek() {
            if value && self.starts("${") {
                if !text.is_empty() {
                    parts.push(Part::Text(std::mem::take(&mut text)));
                }
                parts.push(self.interpolation()?);
                continue;
            }
            let allowed = next.is_ascii_alphanumeric()
                || matches!(
                    next,
                    '_' | '/' | '-' | '\\' | '+' | '.' | '$' | '%' | '*' | '@' | '?' | '|' | ' ' | '\t'
                )
                || (value && next == ':');
            if !allowed {
                break;
            }
            self.at += next.len_utf8();
            let escaped = (next == '\\').then(|| self.peek()).flatten().filter(|next| {
                matches!(next, '\\' | '(' | ')' | '[' | ']' | '{' | '}' | ':' | '=' | ',' | ' ' | '\t')
            });
            match escaped {
                Some(escaped) => {
                    self.at += escaped.len_utf8();
                    text.push(escaped);
                }
                None => text.push(next),
            }
        }
        let text = text.trim_end_matches([' ', '\t']);
        if !text.is_empty() {
            parts.push(Part::Text(text.to_owned()));
        }
        if parts.is_empty() {
            return Err(match self.peek() {
                Some(wrong) => self.fault(format!("`{wrong}` cannot stand here without quotes")),
                None => self.fault("`${` is not closed"),
            });
        }
        Ok(parts)
    }

    fn deeper<T>(&mut self, parse: impl FnOnce(&mut Self) -> Result<T>) -> Result<T> {
        if self.depth >= MAX_DEPTH {
            return Err(Error::new(Kind::TooLarge, "interpolations are nested too deeply"));
        }
        self.depth += 1;
        let result = parse(self);
        self.depth -= 1;
        result
    }

    fn peek(&self) -> Option<char> {
        self.text[self.at..].chars().next()
    }

    fn starts(&self, wanted: &str) -> bool {
        self.text[self.at..].starts_with(wanted)
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
        Error::new(Kind::Interpolation, format!("{} (at character {column})", problem.into()))
            .remedy("write ${section.key} or ${oc.env:NAME}; for the text itself write \\${")
    }
}

/// `oc` `.` `env` as one name.
fn dotted(names: Vec<Vec<Part>>) -> Vec<Part> {
    let mut out = Vec::new();
    for (index, name) in names.into_iter().enumerate() {
        if index > 0 {
            out.push(Part::Text(".".to_owned()));
        }
        out.extend(name);
    }
    out
}

//! Writing a tree as PyYAML's block-style dumper does: no sorting, 80 columns, non-ASCII kept.

use super::scalar;
use crate::spec::python;
use crate::spec::value::{Map, Node, Value};

const WIDTH: usize = 80;

/// The YAML text of a mapping, as `OmegaConf.to_yaml` writes it.
pub fn write(map: &Map) -> String {
    let mut emitter = Emitter { out: String::new(), column: 0, whitespace: true, indention: true };
    if map.is_empty() {
        return "{}\n".to_owned();
    }
    emitter.mapping(map, 0, false);
    if emitter.column > 0 {
        emitter.line_break();
    }
    emitter.out
}

struct Emitter {
    out: String,
    column: usize,
    /// The last thing written was a blank or a line break.
    whitespace: bool,
    /// Nothing but indentation stands on this line.
    indention: bool,
}

impl Emitter {
    /// `inline`: the first key stands on the line of the `- ` before it.
    fn mapping(&mut self, map: &Map, indent: usize, inline: bool) {
        for (index, (key, node)) in map.iter().enumerate() {
            if !(inline && index == 0) {
                self.indent(indent);
            }
            self.text(key, indent, true);
            self.indicator(":", false, false, false);
            match &node.value {
                Value::Map(inner) if !inner.is_empty() => self.mapping(inner, indent + 2, false),
                // A list in a mapping is not indented further than its key.
                Value::List(items) if !items.is_empty() => self.sequence(items, indent, false),
                value => self.scalar(value, indent + 2),
            }
        }
    }

    fn sequence(&mut self, items: &[Node], indent: usize, inline: bool) {
        for (index, item) in items.iter().enumerate() {
            if !(inline && index == 0) {
                self.indent(indent);
            }
            self.indicator("-", true, false, true);
            match &item.value {
                Value::Map(inner) if !inner.is_empty() => {
                    self.out.push(' ');
                    (self.column, self.whitespace) = (self.column + 1, true);
                    self.mapping(inner, indent + 2, true);
                }
                Value::List(inner) if !inner.is_empty() => self.sequence(inner, indent + 2, true),
                value => self.scalar(value, indent + 2),
            }
        }
    }

    fn scalar(&mut self, value: &Value, indent: usize) {
        match value {
            Value::Str(text) => self.text(text, indent, false),
            Value::Null => self.indicator("null", true, false, false),
            Value::Bool(value) => self.indicator(if *value { "true" } else { "false" }, true, false, false),
            Value::Int(value) => self.indicator(&value.to_string(), true, false, false),
            Value::Float(value) => self.indicator(&float(*value), true, false, false),
            Value::Bytes(bytes) => self.text(&String::from_utf8_lossy(bytes), indent, false),
            Value::List(_) => self.indicator("[]", true, false, false),
            Value::Map(_) => self.indicator("{}", true, false, false),
        }
    }

    fn text(&mut self, text: &str, indent: usize, key: bool) {
        let look = Look::at(text);
        let plain =
            look.plain && !scalar::is_ambiguous(text) && !(key && (text.is_empty() || look.multiline));
        if plain {
            self.plain(text, indent, !key);
        } else if look.single && !(key && look.multiline) {
            self.single_quoted(text, indent, !key);
        } else {
            self.double_quoted(text, indent, !key);
        }
    }

    fn plain(&mut self, text: &str, indent: usize, split: bool) {
        if !self.whitespace {
            self.put(" ");
        }
        (self.whitespace, self.indention) = (false, false);
        for (run, blanks) in runs(text) {
            if blanks && run.len() == 1 && self.column > WIDTH && split {
                self.indent(indent);
                (self.whitespace, self.indention) = (false, false);
            } else {
                self.put(run);
            }
        }
    }

    fn single_quoted(&mut self, text: &str, indent: usize, split: bool) {
        self.indicator("'", true, false, false);
        let mut start = 0;
        while start < text.len() {
            let rest = &text[start..];
            let first = rest.chars().next().unwrap_or(' ');
            let length = |same: &dyn Fn(char) -> bool| rest.find(|next| !same(next)).unwrap_or(rest.len());
            let end;
            if first == ' ' {
                end = start + length(&|next| next == ' ');
                if end == start + 1 && self.column > WIDTH && split && start != 0 && end != text.len() {
                    self.indent(indent);
                } else {
                    self.put(&text[start..end]);
                }
            } else if is_break(first) {
                end = start + length(&is_break);
                if first == '\n' {
                    self.line_break();
                }
                for character in text[start..end].chars() {
                    self.line_break();
                    if character != '\n' {
                        // Other line breaks are written as themselves in place of `\n`.
                        self.out.pop();
                        self.out.push(character);
                    }
                }
                self.indent(indent);
            } else if first == '\'' {
                end = start + 1;
                self.put("''");
            } else {
                end = start + length(&|next| next != ' ' && next != '\'' && !is_break(next));
                self.put(&text[start..end]);
            }
            start = end;
        }
        self.indicator("'", false, false, false);
    }

    fn double_quoted(&mut self, text: &str, indent: usize, split: bool) {
        self.indicator("\"", true, false, false);
        let characters: Vec<char> = text.chars().collect();
        let slice = |from: usize, to: usize| characters[from..to].iter().collect::<String>();
        let mut start = 0;
        for end in 0..=characters.len() {
            let character = characters.get(end).copied();
            if character.is_none_or(must_escape) {
                if start < end {
                    self.put(&slice(start, end));
                    start = end;
                }
                if let Some(character) = character {
                    self.put(&escape(character));
                    start = end + 1;
                }
            }
            let inner = 0 < end && end + 1 < characters.len();
            if inner
                && (character == Some(' ') || start >= end)
                // After an escape, `start` is one ahead of `end`: PyYAML then counts one column less.
                && self.column + end > WIDTH + start
                && split
            {
                if start < end {
                    self.put(&slice(start, end));
                    start = end;
                }
                self.put("\\");
                self.indent(indent);
                (self.whitespace, self.indention) = (false, false);
                if characters.get(start) == Some(&' ') {
                    self.put("\\");
                }
            }
        }
        self.indicator("\"", false, false, false);
    }

    fn put(&mut self, text: &str) {
        self.out.push_str(text);
        self.column += text.chars().count();
    }

    fn indicator(&mut self, text: &str, need_whitespace: bool, whitespace: bool, indention: bool) {
        if need_whitespace && !self.whitespace {
            self.put(" ");
        }
        self.put(text);
        self.whitespace = whitespace;
        self.indention = self.indention && indention;
    }

    fn line_break(&mut self) {
        self.out.push('\n');
        (self.column, self.whitespace, self.indention) = (0, true, true);
    }

    fn indent(&mut self, indent: usize) {
        if !self.indention || self.column > indent || (self.column == indent && !self.whitespace) {
            self.line_break();
        }
        if self.column < indent {
            self.out.extend(std::iter::repeat_n(' ', indent - self.column));
            (self.column, self.whitespace) = (indent, true);
        }
    }
}

/// A float as PyYAML spells it: Python's `repr`, with `.0` before an exponent, `.inf`, `.nan`.
fn float(value: f64) -> String {
    if value.is_nan() {
        return ".nan".to_owned();
    }
    if value.is_infinite() {
        return if value > 0.0 { ".inf".to_owned() } else { "-.inf".to_owned() };
    }
    let text = python::float_repr(value);
    if text.contains('.') { text } else { text.replacen('e', ".0e", 1) }
}

/// Alternating runs of blanks and of everything else.
fn runs(text: &str) -> impl Iterator<Item = (&str, bool)> {
    let mut rest = text;
    std::iter::from_fn(move || {
        let blanks = rest.chars().next()? == ' ';
        let end = rest.find(|next| (next == ' ') != blanks).unwrap_or(rest.len());
        let (run, tail) = rest.split_at(end);
        rest = tail;
        Some((run, blanks))
    })
}

fn is_break(character: char) -> bool {
    matches!(character, '\n' | '\u{85}' | '\u{2028}' | '\u{2029}')
}

fn must_escape(character: char) -> bool {
    matches!(character, '"' | '\\' | '\u{85}' | '\u{2028}' | '\u{2029}' | '\u{feff}')
        || !matches!(character, ' '..='~' | '\u{a0}'..='\u{d7ff}' | '\u{e000}'..='\u{fffd}')
}

fn escape(character: char) -> String {
    let short = match character {
        '\0' => '0',
        '\u{7}' => 'a',
        '\u{8}' => 'b',
        '\t' => 't',
        '\n' => 'n',
        '\u{b}' => 'v',
        '\u{c}' => 'f',
        '\r' => 'r',
        '\u{1b}' => 'e',
        '"' => '"',
        '\\' => '\\',
        '\u{85}' => 'N',
        '\u{2028}' => 'L',
        '\u{2029}' => 'P',
        _ => {
            let code = u32::from(character);
            return match code {
                0..=0xff => format!("\\x{code:02X}"),
                0x100..=0xffff => format!("\\u{code:04X}"),
                _ => format!("\\U{code:08X}"),
            };
        }
    };
    format!("\\{short}")
}

/// Which styles a text may be written in outside flow collections.
struct Look {
    plain: bool,
    single: bool,
    multiline: bool,
}

impl Look {
    fn at(text: &str) -> Self {
        let characters: Vec<char> = text.chars().collect();
        let blank = |index: usize| {
            characters
                .get(index)
                .is_none_or(|next| matches!(next, '\0' | ' ' | '\t' | '\r') || is_break(*next))
        };
        let mut indicators = text.starts_with("---") || text.starts_with("...");
        let (mut special, mut breaks, mut break_space, mut space_break) = (false, false, false, false);
        for (index, &character) in characters.iter().enumerate() {
            let followed = blank(index + 1);
            indicators |= match character {
                '#' | ',' | '[' | ']' | '{' | '}' | '&' | '*' | '!' | '|' | '>' | '\'' | '"' | '%' | '@'
                | '`'
                    if index == 0 =>
                {
                    true
                }
                '?' | '-' if index == 0 => followed,
                ':' => followed,
                '#' => blank(index - 1),
                _ => false,
            };
            breaks |= is_break(character);
            let ordinary = character == '\n'
                || matches!(character, ' '..='~' | '\u{85}' | '\u{a0}'..='\u{d7ff}' | '\u{e000}'..='\u{fffd}' | '\u{10000}'..)
                    && character != '\u{feff}';
            special |= !ordinary;
            if index > 0 {
                let before = characters[index - 1];
                break_space |= character == ' ' && is_break(before);
                space_break |= is_break(character) && before == ' ';
            }
        }
        let edge = |character: Option<&char>| character.is_some_and(|next| *next == ' ' || is_break(*next));
        let edges = edge(characters.first()) || edge(characters.last());
        Self {
            plain: !indicators && !special && !breaks && !edges,
            single: !special && !break_space && !space_break,
            multiline: breaks,
        }
    }
}

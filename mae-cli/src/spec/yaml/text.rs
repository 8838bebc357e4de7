//! The characters of a spec: decoding, and the places that PyYAML complains about and a YAML 1.2 scanner does not.

use crate::spec::error::{Error, Kind, Origin, Result};
use std::sync::Arc;

/// A decoded spec.
pub(super) struct Text {
    file: Arc<str>,
    text: String,
    characters: Vec<char>,
}

impl Text {
    /// UTF-8 without a byte-order mark, with `\n` line ends, or an error with its place.
    pub(super) fn decode(bytes: &[u8], file: &Arc<str>) -> Result<Self> {
        let bytes = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes);
        let text = std::str::from_utf8(bytes).map_err(|error| {
            let before = String::from_utf8_lossy(&bytes[..error.valid_up_to()]).into_owned();
            let bad = bytes.get(error.valid_up_to()).copied().unwrap_or_default();
            let problem = format!("byte 0x{bad:02x} at position {} is not UTF-8 text", error.valid_up_to());
            Error::new(Kind::Encoding, problem).at(&place(file, &before)).remedy("save the file as UTF-8")
        })?;
        let text = text.replace("\r\n", "\n").replace('\r', "\n");
        if let Some((index, character)) = text.char_indices().find(|(_, character)| !printable(*character)) {
            let problem = format!("the character U+{:04X} is not allowed in YAML", u32::from(character));
            return Err(Error::new(Kind::YamlSyntax, problem)
                .at(&place(file, &text[..index]))
                .remedy("remove it, or write it as an escape in double quotes"));
        }
        Ok(Self { file: file.clone(), characters: text.chars().collect(), text })
    }

    pub(super) fn as_str(&self) -> &str {
        &self.text
    }

    /// The character at an index counted in characters.
    pub(super) fn character(&self, index: usize) -> Option<char> {
        self.characters.get(index).copied()
    }

    /// A place; line and column count from 1.
    pub(super) fn origin(&self, line: usize, column: usize) -> Origin {
        Origin::File { file: self.file.clone(), line, column }
    }

    /// Where PyYAML would point for a problem that the scanner reports at the start of a token.
    pub(super) fn place_of(&self, problem: &str, start: usize) -> Option<Origin> {
        if problem.contains("unexpected end of stream") {
            return Some(place(&self.file, &self.text));
        }
        if problem.contains("indentation in quoted scalar") {
            // PyYAML reads on to the closing quote, or to the end.
            let quote = self.character(start)?;
            let closed = self.characters.iter().skip(start + 1).any(|next| *next == quote);
            return (!closed).then(|| place(&self.file, &self.text));
        }
        if problem.contains("did not find expected key") {
            return self.before_dash(start);
        }
        if problem.contains("comment intercepting") {
            return self.next_content(start);
        }
        let rest = self.characters.get(start + 1..)?;
        let skip = |from: usize, same: &dyn Fn(char) -> bool| {
            from + rest.iter().skip(from).take_while(|next| same(**next)).count()
        };
        let end = if problem.contains("escape character") {
            return self.bad_escape(start);
        } else if problem.contains("comment or line break") {
            // A block text's header: indicators, blanks, then what should not be there.
            let sign = |next: char| matches!(next, '+' | '-');
            let one = |from: usize, same: &dyn Fn(char) -> bool| {
                from + usize::from(rest.get(from).is_some_and(|next| same(*next)))
            };
            let after_sign = one(one(0, &sign), &|next| next.is_ascii_digit());
            let indicators = if after_sign == 1 { one(1, &sign) } else { after_sign };
            skip(indicators, &|next| next == ' ')
        } else if problem.contains("alphabetic or numeric") {
            0
        } else if problem.contains("unknown anchor") {
            // The name may be followed by few characters only.
            let end = skip(0, &|next| next.is_alphanumeric() || next == '-' || next == '_');
            if rest.get(end).is_none_or(|next| " \t\n?:,]}%@`".contains(*next)) {
                return None;
            }
            end
        } else {
            return None;
        };
        Some(self.place_at(start + 1 + end))
    }

    /// The `-` of a list entry whose content starts at `start`.
    fn before_dash(&self, start: usize) -> Option<Origin> {
        let line =
            self.characters.get(..start)?.iter().rposition(|next| *next == '\n').map_or(0, |index| index + 1);
        let mut before =
            self.characters.get(line..start)?.iter().enumerate().skip_while(|(_, next)| **next == ' ');
        let (offset, _) = before.next().filter(|(_, next)| **next == '-')?;
        before.all(|(_, next)| matches!(next, ' ' | '-')).then(|| self.place_at(line + offset))
    }

    /// The first character after the line of `start` that is neither blank nor part of a comment.
    fn next_content(&self, start: usize) -> Option<Origin> {
        let mut comment = true;
        for (index, &character) in self.characters.iter().enumerate().skip(start) {
            match character {
                '\n' => comment = false,
                '#' => comment = true,
                ' ' => {}
                _ if comment => {}
                _ => return Some(self.place_at(index)),
            }
        }
        None
    }

    fn place_at(&self, index: usize) -> Origin {
        place(&self.file, &self.characters.iter().take(index).collect::<String>())
    }

    /// The character after the backslash of the first unknown escape in the quoted text that starts at `start`.
    fn bad_escape(&self, start: usize) -> Option<Origin> {
        let mut backslash = false;
        for (index, &character) in self.characters.iter().enumerate().skip(start) {
            if backslash && !"0abt\tnvfre \"/\\N_LPxuU\n".contains(character) {
                return Some(self.place_at(index));
            }
            backslash = character == '\\' && !backslash;
        }
        None
    }

    /// The first tab up to `limit` that is outside of quotes, block text and comments: PyYAML refuses those, YAML 1.2
    /// allows some of them. `quoted` are the spans of text in which a tab is text, in order.
    pub(super) fn tab_before(&self, limit: usize, quoted: &[(usize, usize)]) -> Option<Origin> {
        let (mut line, mut column, mut comment, mut before) = (1, 0, false, ' ');
        let mut quoted = quoted.iter().peekable();
        for (index, &character) in self.characters.iter().enumerate().take_while(|(index, _)| *index <= limit)
        {
            while quoted.next_if(|(_, end)| *end <= index).is_some() {}
            let inside = quoted.peek().is_some_and(|(start, _)| *start <= index);
            column += 1;
            match character {
                '\n' => (line, column, comment) = (line + 1, 0, false),
                '#' if !inside && before.is_whitespace() => comment = true,
                '\t' if !inside && !comment => return Some(self.origin(line, column)),
                _ => {}
            }
            before = character;
        }
        None
    }
}

fn printable(character: char) -> bool {
    matches!(
        character,
        '\t' | '\n' | '\r' | ' '..='~' | '\u{85}' | '\u{a0}'..='\u{d7ff}' | '\u{e000}'..='\u{fffd}' | '\u{10000}'..
    )
}

fn place(file: &Arc<str>, before: &str) -> Origin {
    let line = before.matches('\n').count() + 1;
    let column = before.rsplit('\n').next().unwrap_or("").chars().count() + 1;
    Origin::File { file: file.clone(), line, column }
}

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

    /// The character after the backslash of the first unknown escape in the quoted text that starts at `start`.
    pub(super) fn bad_escape(&self, start: usize, mut line: usize, mut column: usize) -> Option<Origin> {
        let mut backslash = false;
        for &character in self.characters.get(start..)? {
            if backslash && !"0abt\tnvfre \"/\\N_LPxuU\n".contains(character) {
                return Some(self.origin(line, column));
            }
            backslash = character == '\\' && !backslash;
            (line, column) = if character == '\n' { (line + 1, 1) } else { (line, column + 1) };
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

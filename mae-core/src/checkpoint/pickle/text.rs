//! Texts of protocol 0, which are written with Python's escapes.

/// A Python 2 `str` literal with its quotes, for example `'a\\x00b'`.
pub(super) fn unquote(literal: &[u8]) -> Option<Vec<u8>> {
    let (first, last) = (literal.first()?, literal.last()?);
    if literal.len() < 2 || first != last || !matches!(first, b'\'' | b'"') {
        return None;
    }
    let mut bytes = literal[1..literal.len() - 1].iter().copied();
    let mut out = Vec::with_capacity(literal.len());
    while let Some(byte) = bytes.next() {
        if byte != b'\\' {
            out.push(byte);
            continue;
        }
        out.push(match bytes.next()? {
            b'n' => b'\n',
            b't' => b'\t',
            b'r' => b'\r',
            b'x' => (hex(bytes.next()?)? << 4 | hex(bytes.next()?)?) as u8,
            plain @ (b'\\' | b'\'' | b'"') => plain,
            _ => return None,
        });
    }
    Some(out)
}

/// Latin-1 with `\\uXXXX` and `\\UXXXXXXXX`.
pub(super) fn raw_unicode(line: &[u8]) -> Option<String> {
    let mut out = String::with_capacity(line.len());
    let mut at = 0;
    while at < line.len() {
        let digits = match line.get(at..at + 2) {
            Some(b"\\u") => 4,
            Some(b"\\U") => 8,
            _ => {
                out.push(char::from(line[at]));
                at += 1;
                continue;
            }
        };
        let code = line.get(at + 2..at + 2 + digits)?;
        let code = code.iter().try_fold(0_u32, |code, digit| Some(code << 4 | hex(*digit)?))?;
        // Python keeps halves of surrogate pairs, which are no text.
        out.push(char::from_u32(code).unwrap_or(char::REPLACEMENT_CHARACTER));
        at += 2 + digits;
    }
    Some(out)
}

fn hex(digit: u8) -> Option<u32> {
    char::from(digit).to_digit(16)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn escapes() {
        assert_eq!(unquote(br"'a\x00\'b\\'"), Some(b"a\0'b\\".to_vec()));
        assert_eq!(unquote(br#""it's""#), Some(b"it's".to_vec()));
        assert_eq!(unquote(b"'"), None);
        assert_eq!(unquote(br"'\x0'"), None);
        assert_eq!(raw_unicode(br"m\u00e4e \U0001f600"), Some("m\u{e4}e \u{1f600}".to_owned()));
        assert_eq!(raw_unicode(b"m\xe4e"), Some("m\u{e4}e".to_owned()));
        assert_eq!(raw_unicode(br"\u12"), None);
    }
}

//! Python's spelling of values: what `repr`, `int(text)` and `float(text)` give and accept.

/// `repr()` of a Python float: shortest digits that read back, `1e-05`, `1e+16`, `inf`, `nan`.
pub fn float_repr(value: f64) -> String {
    if value.is_nan() {
        return "nan".into();
    }
    if value.is_infinite() {
        return if value > 0.0 { "inf".into() } else { "-inf".into() };
    }
    let scientific = format!("{value:e}");
    let (mantissa, exponent) = scientific.split_once('e').unwrap_or((&scientific, "0"));
    let exponent: i32 = exponent.parse().unwrap_or(0);
    if (-4..16).contains(&exponent) {
        let plain = format!("{value}");
        if plain.contains('.') { plain } else { format!("{plain}.0") }
    } else {
        let sign = if exponent < 0 { '-' } else { '+' };
        format!("{mantissa}e{sign}{:02}", exponent.abs())
    }
}

/// `repr()` of a Python text: single quotes, double ones when it holds single quotes only.
pub fn str_repr(text: &str) -> String {
    let quote = if text.contains('\'') && !text.contains('"') { '"' } else { '\'' };
    let mut out = String::from(quote);
    for character in text.chars() {
        match character {
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            '\\' => out.push_str("\\\\"),
            _ if character == quote => out.extend(['\\', quote]),
            _ => out.push(character),
        }
    }
    out.push(quote);
    out
}

/// `int(text)`: decimal digits, a sign, single underscores between digits, blanks around; no other base.
pub fn parse_int(text: &str) -> Option<i128> {
    let text = text.trim();
    let (negative, digits) = match text.as_bytes().first()? {
        b'-' => (true, &text[1..]),
        b'+' => (false, &text[1..]),
        _ => (false, text),
    };
    let value: i128 = without_underscores(digits)?.parse().ok()?;
    Some(if negative { -value } else { value })
}

/// `float(text)`: as Python, so `1e-4`, `.5`, `5.`, `1_0.5`, `inf`, `Infinity`, `nan`.
pub fn parse_float(text: &str) -> Option<f64> {
    let text = text.trim();
    let unsigned = text.strip_prefix(['+', '-']).unwrap_or(text);
    let lower = unsigned.to_ascii_lowercase();
    if matches!(lower.as_str(), "inf" | "infinity" | "nan") {
        let value = if lower == "nan" { f64::NAN } else { f64::INFINITY };
        return Some(if text.starts_with('-') { -value } else { value });
    }
    let (mantissa, exponent) = match lower.split_once('e') {
        Some((mantissa, exponent)) => (mantissa, Some(exponent)),
        None => (lower.as_str(), None),
    };
    let (whole, fraction) = match mantissa.split_once('.') {
        Some((whole, fraction)) => (whole, Some(fraction)),
        None => (mantissa, None),
    };
    let part =
        |digits: &str| if digits.is_empty() { Some(String::new()) } else { without_underscores(digits) };
    let whole = part(whole)?;
    let fraction = part(fraction.unwrap_or(""))?;
    if whole.is_empty() && fraction.is_empty() {
        return None;
    }
    let exponent = match exponent {
        None => String::new(),
        Some(exponent) => {
            let digits = exponent.strip_prefix(['+', '-']).unwrap_or(exponent);
            let sign = if exponent.starts_with('-') { "-" } else { "" };
            format!("e{sign}{}", without_underscores(digits)?)
        }
    };
    let value: f64 = format!("{whole}.{fraction}0{exponent}").parse().ok()?;
    Some(if text.starts_with('-') { -value } else { value })
}

/// Digits with single underscores between them.
pub fn is_digits(text: &str) -> bool {
    let bytes = text.as_bytes();
    !bytes.is_empty()
        && bytes.iter().all(|byte| byte.is_ascii_digit() || *byte == b'_')
        && bytes.first() != Some(&b'_')
        && bytes.last() != Some(&b'_')
        && !text.contains("__")
}

/// Digits as in [`is_digits`], without the underscores.
fn without_underscores(digits: &str) -> Option<String> {
    is_digits(digits).then(|| digits.replace('_', ""))
}

/// A text as Python's `json.dumps` writes it: in double quotes, ASCII only.
pub fn json_str(text: &str) -> String {
    let mut out = String::from("\"");
    for character in text.chars() {
        match character {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            '\u{8}' => out.push_str("\\b"),
            '\u{c}' => out.push_str("\\f"),
            ' '..='~' => out.push(character),
            _ => {
                for unit in character.encode_utf16(&mut [0; 2]) {
                    out.push_str(&format!("\\u{unit:04x}"));
                }
            }
        }
    }
    out.push('"');
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn floats_are_spelled_as_python_does() {
        for (value, text) in [
            (1.0, "1.0"),
            (0.0001, "0.0001"),
            (1e-5, "1e-05"),
            (1.5e-7, "1.5e-07"),
            (1e15, "1000000000000000.0"),
            (1e16, "1e+16"),
            (-0.0, "-0.0"),
            (5e-324, "5e-324"),
            (1.5e300, "1.5e+300"),
            (0.1 + 0.2, "0.30000000000000004"),
            (f64::NEG_INFINITY, "-inf"),
        ] {
            assert_eq!(float_repr(value), text);
        }
    }

    #[test]
    fn texts_become_numbers_as_in_python() {
        assert_eq!(parse_int(" +1_000 "), Some(1000));
        assert_eq!(parse_int("007"), Some(7));
        for bad in ["", "1__0", "_1", "1_", "0x10", "1.0", "--1", "- 1"] {
            assert_eq!(parse_int(bad), None, "{bad}");
        }
        assert_eq!(parse_float("1_0.5"), Some(10.5));
        assert_eq!(parse_float("-.5E-1"), Some(-0.05));
        assert_eq!(parse_float("5."), Some(5.0));
        assert_eq!(parse_float("-Infinity"), Some(f64::NEG_INFINITY));
        for bad in ["", ".", "e5", "1e", "1e+", "0x1p3", "1 2", "1_.5"] {
            assert_eq!(parse_float(bad), None, "{bad}");
        }
    }
}

//! YAML 1.1 scalars as PyYAML's loader resolves them, with OmegaConf's wider rule for floats.

use crate::spec::python;
use crate::spec::value::Value;

/// What a plain (unquoted) scalar means. Timestamps stay text, as OmegaConf turns them off.
///
/// `None` when it is an integer too large for any field.
pub fn plain(text: &str) -> Option<Value> {
    Some(match text {
        "" | "~" | "null" | "Null" | "NULL" => Value::Null,
        "yes" | "Yes" | "YES" | "true" | "True" | "TRUE" | "on" | "On" | "ON" => Value::Bool(true),
        "no" | "No" | "NO" | "false" | "False" | "FALSE" | "off" | "Off" | "OFF" => Value::Bool(false),
        // The float rules come first: they cannot match what the integer rules match, except sexagesimals, which
        // need a fraction to be floats.
        _ if is_float(text) => Value::Float(float(text)?),
        _ if is_int(text) => Value::Int(int(text)?),
        _ => Value::Str(text.to_owned()),
    })
}

/// Whether PyYAML's resolver would read the text as something else than text (then a dump must quote it).
pub fn is_ambiguous(text: &str) -> bool {
    matches!(
        text,
        "" | "~"
            | "null"
            | "Null"
            | "NULL"
            | "yes"
            | "Yes"
            | "YES"
            | "true"
            | "True"
            | "TRUE"
            | "on"
            | "On"
            | "ON"
            | "no"
            | "No"
            | "NO"
            | "false"
            | "False"
            | "FALSE"
            | "off"
            | "Off"
            | "OFF"
            | "="
            | "<<"
            | "y"
            | "Y"
            | "n"
            | "N"
    ) || is_float(text)
        || is_int(text)
        || python::parse_int(text).is_some()
        || python::parse_float(text).is_some()
        || is_timestamp(text)
}

fn digits(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit() || byte == b'_')
}

fn unsigned(text: &str) -> &str {
    text.strip_prefix(['-', '+']).unwrap_or(text)
}

/// `[-+]?0b[0-1_]+ | [-+]?0[0-7_]+ | [-+]?(?:0|[1-9][0-9_]*) | [-+]?0x[0-9a-fA-F_]+ | [-+]?[1-9][0-9_]*(?::[0-5]?[0-9])+`
fn is_int(text: &str) -> bool {
    let body = unsigned(text);
    if let Some(rest) = body.strip_prefix("0b") {
        return !rest.is_empty() && rest.bytes().all(|byte| matches!(byte, b'0' | b'1' | b'_'));
    }
    if let Some(rest) = body.strip_prefix("0x") {
        return !rest.is_empty() && rest.bytes().all(|byte| byte.is_ascii_hexdigit() || byte == b'_');
    }
    if let Some(rest) = body.strip_prefix('0') {
        return rest.bytes().all(|byte| matches!(byte, b'0'..=b'7' | b'_'));
    }
    if !body.starts_with(|first: char| ('1'..='9').contains(&first)) {
        return false;
    }
    let mut parts = body.split(':');
    parts.next().is_some_and(digits) && parts.all(is_sixtieth)
}

/// `[0-5]?[0-9]`
fn is_sixtieth(text: &str) -> bool {
    match text.as_bytes() {
        [digit] => digit.is_ascii_digit(),
        [tens, digit] => (b'0'..=b'5').contains(tens) && digit.is_ascii_digit(),
        _ => false,
    }
}

fn int(text: &str) -> Option<i128> {
    let negative = text.starts_with('-');
    let body = unsigned(text).replace('_', "");
    let value = if let Some(rest) = body.strip_prefix("0b") {
        i128::from_str_radix(rest, 2).ok()?
    } else if let Some(rest) = body.strip_prefix("0x") {
        i128::from_str_radix(rest, 16).ok()?
    } else if body.len() > 1 && body.starts_with('0') {
        i128::from_str_radix(&body[1..], 8).ok()?
    } else if body.contains(':') {
        body.split(':')
            .try_fold(0i128, |sum, part| sum.checked_mul(60)?.checked_add(part.parse::<i128>().ok()?))?
    } else {
        body.parse().ok()?
    };
    Some(if negative { -value } else { value })
}

/// PyYAML's rule or OmegaConf's. PyYAML: `[-+]?[0-9][0-9_]*\.[0-9_]*([eE][-+][0-9]+)?`, `\.[0-9][0-9_]*([eE][-+][0-9]+)?`,
/// sexagesimals with a fraction, `[-+]?\.inf`, `\.nan`. OmegaConf adds, for digits with single underscores between
/// them, an exponent without a sign, and an exponent without a dot.
fn is_float(text: &str) -> bool {
    if matches!(text, ".nan" | ".NaN" | ".NAN") || matches!(unsigned(text), ".inf" | ".Inf" | ".INF") {
        return true;
    }
    let starts = |text: &str| text.starts_with(|first: char| first.is_ascii_digit());
    if let Some(rest) = text.strip_prefix('.') {
        let (fraction, exponent) = split_exponent(rest);
        return starts(fraction) && digits(fraction) && exponent.is_none_or(is_signed_exponent);
    }
    let body = unsigned(text);
    if !starts(body) {
        return false;
    }
    let Some((whole, fraction)) = body.split_once('.') else {
        let (whole, exponent) = split_exponent(body);
        return python::is_digits(whole) && exponent.is_some_and(is_exponent);
    };
    let mut parts = whole.split(':');
    if !parts.next().is_some_and(digits) {
        return false;
    }
    if whole.contains(':') {
        return parts.all(is_sixtieth) && (fraction.is_empty() || digits(fraction));
    }
    let (fraction, exponent) = split_exponent(fraction);
    let grouped = python::is_digits(whole);
    (fraction.is_empty() || digits(fraction))
        && exponent.is_none_or(|exponent| is_signed_exponent(exponent) || (grouped && is_exponent(exponent)))
}

fn is_signed_exponent(text: &str) -> bool {
    text.starts_with(['-', '+']) && is_exponent(text)
}

fn split_exponent(text: &str) -> (&str, Option<&str>) {
    match text.split_once(['e', 'E']) {
        Some((before, exponent)) => (before, Some(exponent)),
        None => (text, None),
    }
}

fn is_exponent(text: &str) -> bool {
    let digits = unsigned(text);
    !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit())
}

fn float(text: &str) -> Option<f64> {
    let body = text.replace('_', "").to_ascii_lowercase();
    match body.as_str() {
        ".nan" => return Some(f64::NAN),
        ".inf" | "+.inf" => return Some(f64::INFINITY),
        "-.inf" => return Some(f64::NEG_INFINITY),
        _ => {}
    }
    if body.contains(':') {
        let negative = body.starts_with('-');
        let value = unsigned(&body)
            .split(':')
            .try_fold(0.0, |sum, part| Some(sum * 60.0 + python::parse_float(part)?))?;
        return Some(if negative { -value } else { value });
    }
    python::parse_float(&body)
}

/// `YYYY-MM-DD`, or a date with a time; PyYAML's dumper quotes these even where OmegaConf's loader reads text.
fn is_timestamp(text: &str) -> bool {
    let bytes = text.as_bytes();
    let digit = |index: usize| bytes.get(index).is_some_and(u8::is_ascii_digit);
    if bytes.len() == 10 {
        return (0..10)
            .all(|index| if index == 4 || index == 7 { bytes[index] == b'-' } else { digit(index) });
    }
    // year-month-day ([Tt]|[ \t]+) hour:minute:second(.fraction)?([ \t]*(Z|[-+]hh(:mm)?))?
    let Some((date, rest)) = text.split_once(['T', 't', ' ', '\t']) else { return false };
    let parts: Vec<&str> = date.split('-').collect();
    let is_number = |text: &str, low: usize, high: usize| {
        (low..=high).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_digit())
    };
    let [year, month, day] = parts.as_slice() else { return false };
    if !(is_number(year, 4, 4) && is_number(month, 1, 2) && is_number(day, 1, 2)) {
        return false;
    }
    let rest = rest.trim_start_matches([' ', '\t']);
    let mut clock = rest.splitn(3, ':');
    let (Some(hour), Some(minute), Some(tail)) = (clock.next(), clock.next(), clock.next()) else {
        return false;
    };
    let second: String = tail.chars().take_while(char::is_ascii_digit).collect();
    if !(is_number(hour, 1, 2) && is_number(minute, 2, 2) && second.len() == 2) {
        return false;
    }
    let mut tail = &tail[2..];
    if let Some(fraction) = tail.strip_prefix('.') {
        tail = fraction.trim_start_matches(|character: char| character.is_ascii_digit());
    }
    let zone = tail.trim_start_matches([' ', '\t']);
    match zone.strip_prefix(['-', '+']) {
        Some(offset) => {
            let (hours, minutes) = offset.split_once(':').map_or((offset, None), |(h, m)| (h, Some(m)));
            is_number(hours, 1, 2) && minutes.is_none_or(|minutes| is_number(minutes, 2, 2))
        }
        None => (zone.is_empty() && tail.is_empty()) || zone == "Z",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Recorded from OmegaConf 2.3.0 with PyYAML 6.0.3.
    #[test]
    fn scalars_mean_what_omegaconf_makes_of_them() {
        for (text, value) in [
            ("1", Value::Int(1)),
            ("0", Value::Int(0)),
            ("-3", Value::Int(-3)),
            ("+4", Value::Int(4)),
            ("007", Value::Int(7)),
            ("010", Value::Int(8)),
            ("0x1F", Value::Int(31)),
            ("0b11", Value::Int(3)),
            ("1_000", Value::Int(1000)),
            ("1__0", Value::Int(10)),
            ("1_", Value::Int(1)),
            ("1.0", Value::Float(1.0)),
            ("1.", Value::Float(1.0)),
            (".5", Value::Float(0.5)),
            ("1e3", Value::Float(1000.0)),
            ("1e-4", Value::Float(0.0001)),
            ("1.5e3", Value::Float(1500.0)),
            ("1.5E+3", Value::Float(1500.0)),
            ("1.e-4", Value::Float(0.0001)),
            (".5e+3", Value::Float(500.0)),
            ("1_0.5", Value::Float(10.5)),
            ("1__0.5", Value::Float(10.5)),
            ("1:30", Value::Int(90)),
            ("1:30:15", Value::Int(5415)),
            ("1:30.5", Value::Float(90.5)),
            ("-1:30", Value::Int(-90)),
            (".inf", Value::Float(f64::INFINITY)),
            ("-.inf", Value::Float(f64::NEG_INFINITY)),
            ("+.Inf", Value::Float(f64::INFINITY)),
            (".nan", Value::Float(f64::NAN)),
            ("true", Value::Bool(true)),
            ("TRUE", Value::Bool(true)),
            ("yes", Value::Bool(true)),
            ("On", Value::Bool(true)),
            ("off", Value::Bool(false)),
            ("null", Value::Null),
            ("Null", Value::Null),
            ("~", Value::Null),
            ("12:30:45", Value::Int(45045)),
            ("0_7", Value::Int(7)),
            ("0b_1", Value::Int(1)),
            ("0x_f", Value::Int(15)),
            (".5_0", Value::Float(0.5)),
        ] {
            let read = plain(text).unwrap();
            // `nan` differs from itself, its spelling does not.
            assert_eq!(read.to_text(), value.to_text(), "{text}");
            assert!(is_ambiguous(text), "{text} must be quoted when it is text");
        }
        for text in [
            "09",
            "0xg",
            "0b2",
            "0o17",
            "_1",
            "-.5",
            "+.5",
            ".5e3",
            "1_e5",
            "1:60",
            "0:30",
            "inf",
            "NaN",
            "tRue",
            "y",
            "n",
            "???",
            "2024-01-02",
            "1,000",
            "1.2.3",
            "._5",
        ] {
            assert_eq!(plain(text), Some(Value::Str(text.to_owned())), "{text}");
        }
        assert_eq!(plain(&"9".repeat(50)), None, "too large for any field");
    }
}

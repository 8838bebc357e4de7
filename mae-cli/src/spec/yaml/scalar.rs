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

/// OmegaConf's rule: `[-+]?[0-9][0-9_]*\.[0-9_]*(?:[eE][-+]?[0-9]+)? | [-+]?[0-9][0-9_]*[eE][-+]?[0-9]+ |
/// \.[0-9_]+(?:[eE][-+][0-9]+)? | [-+]?[0-9][0-9_]*(?::[0-5]?[0-9])+\.[0-9_]* | [-+]?\.(?:inf|Inf|INF) | \.(?:nan|NaN|NAN)`
fn is_float(text: &str) -> bool {
    if matches!(text, ".nan" | ".NaN" | ".NAN") || matches!(unsigned(text), ".inf" | ".Inf" | ".INF") {
        return true;
    }
    if let Some(rest) = text.strip_prefix('.') {
        let (fraction, exponent) = split_exponent(rest);
        return digits(fraction)
            && exponent.is_none_or(|exponent| exponent.starts_with(['-', '+']) && is_exponent(exponent));
    }
    let body = unsigned(text);
    if !body.starts_with(|first: char| first.is_ascii_digit()) {
        return false;
    }
    if let Some((whole, fraction)) = body.split_once('.') {
        let mut parts = whole.split(':');
        if !parts.next().is_some_and(digits) {
            return false;
        }
        if whole.contains(':') {
            return parts.all(is_sixtieth) && (fraction.is_empty() || digits(fraction));
        }
        let (fraction, exponent) = split_exponent(fraction);
        return (fraction.is_empty() || digits(fraction)) && exponent.is_none_or(is_exponent);
    }
    let (whole, exponent) = split_exponent(body);
    digits(whole) && exponent.is_some_and(is_exponent)
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

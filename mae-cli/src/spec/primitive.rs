//! Unquoted text in Hydra's and OmegaConf's grammars, which agree on what is a number.

use super::python;
use super::value::Value;

/// What a trimmed text without escapes means: `null`, a boolean, a number or text.
///
/// `None` is an integer too large for any field.
pub(super) fn primitive(text: &str) -> Option<Value> {
    let lower = text.to_ascii_lowercase();
    Some(match lower.as_str() {
        "null" => Value::Null,
        "true" => Value::Bool(true),
        "false" => Value::Bool(false),
        _ if is_int(unsigned(&lower)) => Value::Int(python::parse_int(&lower)?),
        _ if is_float(unsigned(&lower)) => Value::Float(python::parse_float(&lower)?),
        _ => Value::Str(text.to_owned()),
    })
}

fn unsigned(text: &str) -> &str {
    text.strip_prefix(['+', '-']).unwrap_or(text)
}

/// `0 | [1-9](_?[0-9])*`
fn is_int(text: &str) -> bool {
    text == "0" || (!text.starts_with('0') && python::is_digits(text))
}

/// A decimal point, an exponent, or `inf` and `nan`. The part before the point has no leading zeros.
fn is_float(text: &str) -> bool {
    if matches!(text, "inf" | "nan") {
        return true;
    }
    let (mantissa, exponent) = match text.split_once('e') {
        Some((mantissa, exponent)) => (mantissa, Some(exponent)),
        None => (text, None),
    };
    let mantissa_fits = match mantissa.split_once('.') {
        Some(("", fraction)) => python::is_digits(fraction),
        Some((whole, fraction)) => is_int(whole) && (fraction.is_empty() || python::is_digits(fraction)),
        None => exponent.is_some() && is_int(mantissa),
    };
    mantissa_fits && exponent.is_none_or(|exponent| python::is_digits(unsigned(exponent)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_what_the_grammar_says() {
        for (text, value) in [
            ("1_000", Value::Int(1000)),
            ("-7", Value::Int(-7)),
            ("1e3", Value::Float(1000.0)),
            (".5", Value::Float(0.5)),
            ("5.", Value::Float(5.0)),
            ("-1_0.5E-1", Value::Float(-1.05)),
            ("NaN", Value::Str("NaN".to_owned())),
            ("TRUE", Value::Bool(true)),
            ("Null", Value::Null),
        ] {
            match (primitive(text).unwrap(), &value) {
                (Value::Float(read), _) if read.is_nan() => assert_eq!(text, "NaN"),
                (read, value) => assert_eq!(&read, value, "{text}"),
            }
        }
        for text in [
            "007", "0x10", "1e", "1__0", "_1", "1_", "007.5", "1.2.3", "infinity", "yes", "", ".", "e5",
            "- 5",
        ] {
            assert_eq!(primitive(text), Some(Value::Str(text.to_owned())), "{text}");
        }
        assert_eq!(primitive(&"9".repeat(50)), None, "too large for any field");
    }
}

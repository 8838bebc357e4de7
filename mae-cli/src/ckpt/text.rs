//! Values of a checkpoint for a person.

use mae_core::checkpoint::{TensorView, Value};

/// Lists up to this length stand on one line.
const SHORT_LIST: usize = 8;
/// Of longer lists and dicts of alike entries this many are shown.
const SHOWN: usize = 6;

/// `1,234,567`.
pub(super) fn count(number: usize) -> String {
    let digits = number.to_string();
    let mut out = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

/// `28.9 MB`.
pub(super) fn bytes(number: u64) -> String {
    let units = ["B", "kB", "MB", "GB", "TB"];
    let mut value = number as f64;
    let mut unit = 0;
    while value >= 1000.0 && unit + 1 < units.len() {
        value /= 1000.0;
        unit += 1;
    }
    if unit == 0 { format!("{number} B") } else { format!("{value:.1} {}", units[unit]) }
}

/// `float32 [64, 3, 4, 4]`.
pub(super) fn shape(view: &TensorView) -> String {
    format!("{} {:?}", view.dtype(), view.shape())
}

/// A value that fits on a line; `None` for those that need several.
pub(super) fn inline(value: &Value) -> Option<String> {
    Some(match value {
        Value::Tensor(view) => format!("tensor {}", shape(view)),
        Value::NumpyArray(view) => format!("numpy.ndarray {}", shape(view)),
        Value::Opaque(object) if !object.instance => object.class.clone(),
        Value::Opaque(object) => match value.children().is_empty() {
            true => format!("{}()", object.class),
            false => return None,
        },
        Value::List(_) | Value::Tuple(_) | Value::Set(_) => {
            let items = value.children();
            let nested = |item: &Value| !item.children().is_empty() || matches!(item, Value::Tensor(_));
            if items.len() > SHORT_LIST || items.iter().any(|(_, item)| nested(item)) {
                return None;
            }
            let items: Option<Vec<_>> = items.iter().map(|(_, item)| inline(item)).collect();
            let items = items?.join(", ");
            if matches!(value, Value::Tuple(_)) { format!("({items})") } else { format!("[{items}]") }
        }
        Value::Dict(items) | Value::OrderedDict(items) | Value::Counter(items) if !items.is_empty() => {
            return None;
        }
        Value::Dict(_) | Value::OrderedDict(_) | Value::Counter(_) => "{}".into(),
        other => match super::json::value(other) {
            serde_json::Value::Null => "None".into(),
            serde_json::Value::Object(entries) => entries
                .into_iter()
                .map(|(key, value)| format!("{key} {value}"))
                .collect::<Vec<_>>()
                .join(", "),
            json => json.to_string(),
        },
    })
}

/// The structure as indented lines; tensors are counted, not listed.
pub(super) fn structure(value: &Value, indent: usize, out: &mut String) {
    let children = value.children();
    let tensors = children.iter().filter(|(_, child)| matches!(child, Value::Tensor(_))).count();
    let pad = " ".repeat(indent);
    let mut shown = 0;
    let is_list = matches!(value, Value::List(_) | Value::Tuple(_) | Value::Set(_));
    for (key, child) in &children {
        if tensors > 1 && matches!(child, Value::Tensor(_)) {
            continue;
        }
        shown += 1;
        if (is_list || tensors == 0) && shown > SHOWN && (is_list || alike(&children)) {
            out.push_str(&format!("{pad}... {} more\n", children.len() - SHOWN));
            break;
        }
        match inline(child) {
            Some(text) => out.push_str(&format!("{pad}{key}: {text}\n")),
            None => {
                let class = child.type_name();
                let len = child.children().len();
                out.push_str(&format!("{pad}{key}: {class} of {len}\n"));
                structure(child, indent + 2, out);
            }
        }
    }
    if tensors > 1 {
        out.push_str(&format!("{pad}{tensors} tensors\n"));
    }
}

/// Whether entries are numbered, as an optimizer's are.
fn alike(children: &[(String, &Value)]) -> bool {
    children.iter().all(|(key, _)| key.bytes().all(|byte| byte.is_ascii_digit()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers() {
        assert_eq!((count(0), count(999), count(1_234_567)), ("0".into(), "999".into(), "1,234,567".into()));
        assert_eq!((bytes(999), bytes(28_930_000)), ("999 B".into(), "28.9 MB".into()));
    }
}

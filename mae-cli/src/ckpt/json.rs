//! Values of a checkpoint as JSON.
//!
//! Dicts are objects, lists, tuples and sets are arrays, and what JSON has no word for is an object with one telling
//! key. Infinities and NaN are the texts `inf`, `-inf` and `nan`.

use mae_core::checkpoint::{TensorView, Value, big_int_to_decimal};
use serde_json::{Map, Value as Json, json};

/// NumPy arrays up to this size are written out.
const SHORT_ARRAY: usize = 16;

/// A number, or the text that stands for it.
pub(super) fn number(value: f64) -> Json {
    match serde_json::Number::from_f64(value) {
        Some(number) => Json::Number(number),
        None if value.is_nan() => json!("nan"),
        None if value > 0.0 => json!("inf"),
        None => json!("-inf"),
    }
}

/// A value without the elements of its tensors.
pub(super) fn value(value: &Value) -> Json {
    match value {
        Value::None => Json::Null,
        Value::Bool(value) => json!(value),
        Value::Int(value) => json!(value),
        Value::BigInt(bytes) => json!(big_int_to_decimal(bytes)),
        Value::Float(value) => number(*value),
        Value::Str(text) => json!(text),
        Value::Bytes(bytes) => {
            json!({"bytes": bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>()})
        }
        Value::Size(sizes) => json!(sizes),
        Value::DType(dtype) => json!({"dtype": dtype.name()}),
        Value::Device(device) => json!({"device": device}),
        Value::Tensor(view) => tensor("tensor", view),
        Value::NumpyArray(view) => tensor("numpy.ndarray", view),
        Value::NumpyScalar(view) => scalar(view),
        Value::List(_) | Value::Tuple(_) | Value::Set(_) => {
            Json::Array(value.children().into_iter().map(|(_, item)| self::value(item)).collect())
        }
        Value::Dict(_) | Value::OrderedDict(_) | Value::Counter(_) => Json::Object(entries(value)),
        Value::Opaque(object) => {
            let mut out = Map::new();
            out.insert("class".into(), json!(object.class));
            if object.instance {
                out.insert("content".into(), Json::Object(entries(value)));
            }
            Json::Object(out)
        }
    }
}

fn entries(value: &Value) -> Map<String, Json> {
    value.children().into_iter().map(|(key, item)| (key, self::value(item))).collect()
}

fn tensor(kind: &str, view: &TensorView) -> Json {
    let mut out = Map::new();
    out.insert(kind.into(), json!(view.dtype().name()));
    out.insert("shape".into(), json!(view.shape()));
    if kind != "tensor"
        && view.numel() <= SHORT_ARRAY
        && let Ok(values) = view.to_f64_vec()
    {
        out.insert("values".into(), values.into_iter().map(number).collect());
    }
    Json::Object(out)
}

/// A NumPy scalar as the number or truth value that it is.
fn scalar(view: &TensorView) -> Json {
    let value = view.to_f64_vec().ok().and_then(|values| values.first().copied());
    match (value, view.dtype()) {
        (None, _) => Json::Null,
        (Some(value), mae_core::checkpoint::DType::Bool) => json!(value != 0.0),
        (Some(value), dtype) if dtype.name().contains("int") && value.abs() < 9e15 => json!(value as i64),
        (Some(value), _) => number(value),
    }
}

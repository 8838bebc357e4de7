//! Where the goldens are, and how a structure is compared with its JSON description.
#![allow(dead_code, reason = "every test file uses a part of it")]

use std::path::{Path, PathBuf};

use mae_core::checkpoint::{TensorView, Value, big_int_to_decimal};
use serde_json::Value as Json;

/// `MAE_GOLDENS`, or the folder beside the workspace, or the small copies within it.
pub fn goldens() -> PathBuf {
    let workspace = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let candidates = [
        std::env::var_os("MAE_GOLDENS").map(PathBuf::from),
        Some(workspace.join("../shared/goldens")),
        Some(workspace.join("tests/goldens")),
    ];
    candidates.into_iter().flatten().find(|path| path.join("checkpoints").is_dir()).expect("no goldens found")
}

pub fn json(path: &Path) -> Json {
    let text = std::fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    serde_json::from_str(&text).unwrap()
}

/// A number of the goldens: infinities are strings, booleans count as 0 and 1.
pub fn number(json: &Json) -> f64 {
    match json {
        Json::String(text) => text.parse().unwrap(),
        Json::Bool(value) => f64::from(u8::from(*value)),
        other => other.as_f64().unwrap(),
    }
}

pub fn close(found: f64, expected: f64) -> bool {
    found == expected || (found - expected).abs() <= 1e-6 * expected.abs().max(1e-30)
}

pub fn shape(json: &Json) -> Vec<i64> {
    json.as_array().unwrap().iter().map(|n| n.as_i64().unwrap()).collect()
}

/// Shape, dtype, l2 and first values, as far as `expected` gives them.
pub fn check_tensor(name: &str, view: &TensorView, expected: &Json) {
    assert_eq!(view.shape(), shape(&expected["shape"]), "{name}");
    if let Some(dtype) = expected.get("dtype").and_then(Json::as_str) {
        assert_eq!(view.dtype().name(), dtype, "{name}");
    }
    let values = view.to_f64_vec().unwrap();
    if let Some(l2) = expected.get("l2") {
        let found = values.iter().map(|v| v * v).sum::<f64>().sqrt();
        assert!(close(found, number(l2)), "{name}: l2 {found} instead of {l2}");
    }
    if let Some(sum) = expected.get("sum") {
        let (found, size) = (values.iter().sum::<f64>(), values.iter().map(|v| v.abs()).sum::<f64>());
        assert!(
            (found - number(sum)).abs() <= 1e-9 * size.max(1e-30),
            "{name}: sum {found} instead of {sum}"
        );
    }
    for (index, first) in expected.get("first").and_then(Json::as_array).into_iter().flatten().enumerate() {
        assert!(close(values[index], number(first)), "{name}[{index}]: {} instead of {first}", values[index]);
    }
}

/// A description as in `foreign/expected.json`.
pub fn check_content(path: &str, value: &Value, expected: &Json) {
    let fail = || -> ! { panic!("{path}: {value:?} instead of {expected}") };
    let object = expected.as_object().unwrap();
    if let Some(class) = object.get("dict") {
        let plain = matches!(value, Value::Dict(_)) && class == "dict";
        assert!(
            plain || (matches!(value, Value::OrderedDict(_)) && class == "OrderedDict"),
            "{path}: {class}"
        );
        let items = expected["items"].as_array().unwrap();
        assert_eq!(value.as_dict().unwrap().len(), items.len(), "{path}");
        // The description does not keep the order of the file.
        for item in items {
            let key = item[0].as_str().unwrap();
            let value = value.get(key).unwrap_or_else(|| panic!("{path}.{key} is missing"));
            check_content(&format!("{path}.{key}"), value, &item[1]);
        }
    } else if let Some(dtype) = object.get("tensor") {
        let Value::Tensor(view) = value else { fail() };
        assert_eq!(view.dtype().name(), dtype.as_str().unwrap(), "{path}");
        assert_eq!(view.shape(), shape(&expected["shape"]), "{path}");
        assert_eq!(view.strides(), shape(&expected["stride"]), "{path}");
        assert_eq!(view.storage_offset(), expected["storage_offset"].as_i64().unwrap(), "{path}");
        assert_eq!(view.storage_nbytes() as u64, expected["storage_nbytes"].as_u64().unwrap(), "{path}");
        check_values(path, view, &expected["values"]);
    } else if let Some(attributes) = object.get("argparse.Namespace") {
        let Value::Opaque(found) = value else { fail() };
        assert_eq!(found.class, "argparse.Namespace");
        for (name, attribute) in attributes.as_object().unwrap() {
            check_content(&format!("{path}.{name}"), value.get(name).unwrap(), attribute);
        }
    } else if let Some(dtype) = object.get("numpy_scalar") {
        let Value::NumpyScalar(view) = value else { fail() };
        assert_eq!(view.dtype().name(), dtype.as_str().unwrap(), "{path}");
        assert_eq!(value.as_f64().unwrap(), number(&expected["value"]), "{path}");
    } else if let Some(dtype) = object.get("numpy.ndarray") {
        let Value::NumpyArray(view) = value else { fail() };
        assert_eq!(view.dtype().name(), dtype.as_str().unwrap(), "{path}");
        assert_eq!(view.shape(), shape(&expected["shape"]), "{path}");
        check_values(path, view, &expected["values"]);
    } else if let Some(items) = object.get("tuple").or(object.get("list")) {
        assert_eq!(value.type_name(), if object.contains_key("tuple") { "tuple" } else { "list" }, "{path}");
        for (index, item) in items.as_array().unwrap().iter().enumerate() {
            check_content(&format!("{path}[{index}]"), &value.as_slice().unwrap()[index], item);
        }
    } else {
        check_python(path, value, expected);
    }
}

fn check_python(path: &str, value: &Value, expected: &Json) {
    let content = &expected["value"];
    let equal = match value {
        Value::None => expected["py"] == "NoneType",
        Value::Bool(found) => expected["py"] == "bool" && content == found,
        Value::Int(found) => expected["py"] == "int" && content == found,
        Value::BigInt(bytes) => expected["value_str"] == big_int_to_decimal(bytes).as_str(),
        Value::Float(found) => expected["py"] == "float" && number(content) == *found,
        Value::Str(found) => expected["py"] == "str" && content == found.as_str(),
        Value::Bytes(bytes) => {
            let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
            expected["py"] == "bytes" && expected["hex"] == hex.as_str()
        }
        Value::Device(found) => expected["py"] == "torch.device" && content == found.as_str(),
        Value::DType(found) => expected["py"] == "torch.dtype" && content == found.name(),
        Value::Size(found) => expected["py"] == "torch.Size" && &shape(content) == found,
        _ => false,
    };
    assert!(equal, "{path}: {value:?} instead of {expected}");
}

/// Only the first 256 values are listed.
fn check_values(path: &str, view: &TensorView, expected: &Json) {
    let values = view.to_f64_vec().unwrap();
    let expected = expected.as_array().unwrap();
    assert_eq!(values.len().min(256), expected.len(), "{path}");
    for (found, expected) in values.iter().zip(expected) {
        assert!(close(*found, number(expected)), "{path}: {found} instead of {expected}");
    }
}

/// A description as in `lightning_*/*.json`: class, length and items, tensors by metadata.
pub fn check_structure(path: &str, value: &Value, expected: &Json) {
    let class = expected["type"].as_str().unwrap();
    if class == "Tensor" {
        let Value::Tensor(view) = value else { panic!("{path}: {value:?} is no tensor") };
        assert_eq!(view.dtype().name(), expected["dtype"].as_str().unwrap(), "{path}");
        assert_eq!(view.shape(), shape(&expected["shape"]), "{path}");
        assert_eq!(view.strides(), shape(&expected["stride"]), "{path}");
        assert_eq!(view.storage_offset(), expected["storage_offset"].as_i64().unwrap(), "{path}");
        if !expected["value"].is_null() {
            assert_eq!(value.as_f64().unwrap(), number(&expected["value"]), "{path}");
        }
        return;
    }
    let short = class.strip_prefix("builtins.").unwrap_or(class);
    let found = if matches!(value, Value::None) { "NoneType" } else { value.type_name() };
    assert_eq!(found, short, "{path}");
    let Some(items) = expected.get("items").and_then(Json::as_array) else {
        check_python(path, value, &serde_json::json!({"py": class, "value": expected["value"]}));
        return;
    };
    if let Some(pairs) = value.as_dict() {
        assert_eq!(pairs.len(), items.len(), "{path}");
        for ((key, value), item) in pairs.iter().zip(items) {
            let name = match key {
                Value::Str(name) => name.clone(),
                Value::Int(number) => number.to_string(),
                other => panic!("{path}: key {other:?}"),
            };
            let expected_key = item[0].as_str().map_or_else(|| item[0].to_string(), str::to_owned);
            assert_eq!(name, expected_key, "{path}");
            assert_eq!(key.type_name(), item[1].as_str().unwrap(), "{path}.{name}");
            check_structure(&format!("{path}.{name}"), value, &item[2]);
        }
    } else {
        let elements = value.as_slice().unwrap();
        assert_eq!(elements.len(), items.len(), "{path}");
        for (index, (element, item)) in elements.iter().zip(items).enumerate() {
            check_structure(&format!("{path}[{index}]"), element, item);
        }
    }
}

//! Pickled models (`torch.save(model)`): opaque objects whose attributes hold the tensors.

use super::Value;

/// Parameters and buffers of a pickled `torch.nn.Module` under the names of its state dict; `None` when `value` is
/// something else.
pub(super) fn state_dict(value: &Value) -> Option<Vec<(String, &Value)>> {
    let Value::Opaque(object) = value else { return None };
    if !object.instance || value.get("_modules").is_none() || value.get("_parameters").is_none() {
        return None;
    }
    let mut found = Vec::new();
    collect(value, "", &mut found);
    Some(found)
}

fn collect<'a>(module: &'a Value, prefix: &str, found: &mut Vec<(String, &'a Value)>) {
    let items = |key: &str| module.get(key).and_then(Value::as_dict).unwrap_or_default();
    let temporary = module.get("_non_persistent_buffers_set");
    let is_temporary = |name: &str| matches!(temporary, Some(Value::Set(names)) if names.iter().any(|other| other.as_str() == Some(name)));
    for (key, value) in items("_parameters").iter().chain(items("_buffers")) {
        if let Some(name) = key.as_str()
            && !matches!(value, Value::None)
            && !is_temporary(name)
        {
            found.push((format!("{prefix}{name}"), value));
        }
    }
    for (key, child) in items("_modules") {
        if let Some(name) = key.as_str() {
            collect(child, &format!("{prefix}{name}."), found);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Opaque, TensorView};
    use super::*;

    fn module(parameters: Vec<(&str, Value)>, modules: Vec<(&str, Value)>) -> Value {
        let state = Value::dict([
            ("training", Value::Bool(true)),
            ("_parameters", Value::dict(parameters)),
            ("_buffers", Value::dict([("scratch", Value::None)])),
            ("_modules", Value::ordered_dict(modules)),
        ]);
        Value::Opaque(Box::new(Opaque {
            class: "models.Net".into(),
            instance: true,
            state: Some(state),
            ..Opaque::default()
        }))
    }

    #[test]
    fn nested_modules() {
        let tensor = || Value::Tensor(TensorView::scalar_f32(1.0));
        let inner = module(vec![("weight", tensor()), ("bias", Value::None)], vec![]);
        let outer = module(vec![("scale", tensor())], vec![("head", inner)]);
        let names: Vec<String> = state_dict(&outer).unwrap().into_iter().map(|(name, _)| name).collect();
        assert_eq!(names, ["scale", "head.weight"]);
        assert!(state_dict(&Value::Dict(vec![])).is_none());
    }
}

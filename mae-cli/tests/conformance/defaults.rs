//! The table of the schema has upstream's fields, types, defaults, bounds and options.

use crate::golden;
use mae_cli::spec::schema::{self, Condition, Found, Literal, Shape, Upstream};
use mae_cli::spec::{default_specs, yaml};

#[test]
fn default_specs_is_upstreams_text() {
    let defaults = golden::read("defaults.json");
    assert_eq!(default_specs(), defaults["default_specs_yaml"].as_str().unwrap());
}

#[test]
fn default_specs_reads_back_to_the_defaults() {
    let defaults = golden::read("defaults.json");
    let map = yaml::read(default_specs().as_bytes(), "experiment.yaml").unwrap();
    let mae_cli::spec::Value::Map(expected) = golden::value(&defaults["resolved_defaults"]) else { panic!() };
    assert_eq!(golden::leaves(&map), golden::leaves(&expected));
}

#[test]
fn every_field_of_upstream_is_a_row_with_its_type_bounds_and_options() {
    let fields = golden::read("fields.json");
    let fields = fields["fields"].as_array().unwrap();
    let mut failures = Vec::new();
    for field in fields {
        let path = field["path"].as_str().unwrap();
        let Some(Found::Leaf(_, leaf)) = schema::find(path) else {
            failures.push(format!("{path}: no such row"));
            continue;
        };
        let mut check = |what: &str, ours: String, theirs: String| {
            if ours != theirs {
                failures.push(format!("{path}: {what} is {ours}, upstream {theirs}"));
            }
        };
        let base = match leaf.shape {
            Shape::Bool => "bool",
            Shape::Int => "int",
            Shape::Float | Shape::Pair => "float",
            Shape::Text => "str",
            Shape::List(Shape::Int) => "List[int]",
            Shape::List(Shape::Float) => "List[float]",
            Shape::List(_) => "List[str]",
        };
        let ours = if leaf.optional { format!("Optional[{base}]") } else { base.to_owned() };
        check("the type", ours, field["type"].as_str().unwrap().to_owned());
        let number = |value: &serde_json::Value| match value.as_str() {
            Some("inf") => Some(f64::INFINITY),
            _ => value.as_f64(),
        };
        check("the minimum", format!("{:?}", leaf.min), format!("{:?}", number(&field["valid_min"])));
        check("the maximum", format!("{:?}", leaf.max), format!("{:?}", number(&field["valid_max"])));
        let condition = match leaf.condition {
            Some(Condition::Above(bound)) => format!("> {bound:?}"),
            Some(Condition::AtLeast(bound)) => format!(">= {bound:.0}"),
            None => String::new(),
        };
        check("the condition", condition, field["math_cond"].as_str().unwrap_or("").to_owned());
        let options: Vec<&str> = field["valid_options"]
            .as_array()
            .into_iter()
            .flatten()
            .filter_map(|option| option.as_str())
            .collect();
        check("the options", format!("{:?}", leaf.options), format!("{options:?}"));
        check(
            "the AutoML flag",
            format!("{:?}", leaf.automl),
            format!("{:?}", field["automl_enabled"].as_bool()),
        );
        check("popular", leaf.popular.to_string(), field["popular"].to_string());
    }
    assert!(fields.len() > 100, "only {} fields found", fields.len());
    assert!(failures.is_empty(), "{}", failures.join("\n"));
    let ours =
        schema::leaves().into_iter().filter(|(_, _, leaf)| leaf.upstream != Upstream::Extension).count();
    assert_eq!(ours, fields.len(), "fields that are not marked as extensions");
}

#[test]
fn every_row_has_help_and_an_option_as_default() {
    for (path, row, leaf) in schema::leaves() {
        assert!(row.help().len() > 5, "{path} has no help");
        if let (Literal::Text(text), false) = (leaf.default, leaf.options.is_empty()) {
            assert!(leaf.options.contains(&text), "{path} = {text}");
        }
    }
}

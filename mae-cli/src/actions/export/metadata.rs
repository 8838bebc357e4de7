//! What an exported model says of itself in `metadata_props`: enough to use it without the spec that made it, and to find
//! the run that it came from.

use std::path::Path;

use mae_core::checkpoint::{Checkpoint, Value};
use serde_json::json;

use crate::actions::{data, model};
use crate::spec::Plan;

/// Keys and values. Lists are JSON.
pub(super) fn entries(
    plan: &Plan,
    (height, width): (i64, i64),
    output: &str,
    checkpoint: &Checkpoint,
) -> Vec<(String, String)> {
    let augmentation = &plan.dataset.augmentation;
    let bytes = plan.export.include_preprocessing;
    let mut entries = vec![
        ("arch", plan.model.arch.clone()),
        ("stage", plan.train.stage.as_str().to_owned()),
        ("output", output.to_owned()),
        ("precision", plan.export.precision.as_str().to_owned()),
        ("input_size", json!([height, width]).to_string()),
        ("input_layout", if bytes { "NHWC" } else { "NCHW" }.to_owned()),
        ("channel_order", "RGB".to_owned()),
        ("mean", json!(augmentation.mean).to_string()),
        ("std", json!(augmentation.std).to_string()),
        ("preprocessing", preprocessing(plan, (height, width))),
    ];
    let classes = model::stored_classes(checkpoint);
    if !classes.is_empty() {
        entries.push(("classes", json!(classes).to_string()));
    }
    let file = Path::new(plan.checkpoint());
    let file = file.canonicalize().unwrap_or_else(|_| file.to_owned());
    let name = file.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    entries.push(("checkpoint", name));
    for (key, path) in [
        ("epoch", &["epoch"][..]),
        ("global_step", &["global_step"]),
        ("data_digest", &["mae", "data_digest"]),
        ("trained_by", &["mae", "mae_version"]),
    ] {
        let text = match checkpoint.root().get_path(path) {
            Some(Value::Int(number)) => number.to_string(),
            Some(value) => value.as_str().unwrap_or_default().to_owned(),
            None => String::new(),
        };
        if !text.is_empty() {
            entries.push((key, text));
        }
    }
    entries.push(("producer_version", env!("CARGO_PKG_VERSION").to_owned()));
    entries.into_iter().map(|(key, value)| (key.to_owned(), value)).collect()
}

/// What has to be done with an image before the model, in words.
fn preprocessing(plan: &Plan, (height, width): (i64, i64)) -> String {
    let share = data::crop_rule(plan).crop_pct(height.max(width) as usize);
    let frame = |side: i64| (side as f64 / share) as i64;
    let normalise = if plan.export.include_preprocessing {
        "bytes 0..255 as they are"
    } else {
        "divide by 255, subtract mean, divide by std"
    };
    format!(
        "RGB; resize (bicubic, antialiased) until it just covers {}x{} (height x width); crop the middle {height}x{width}; \
         {normalise}",
        frame(height),
        frame(width)
    )
}

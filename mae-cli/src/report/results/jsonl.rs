//! `results.jsonl`: one JSON object an image.

use std::io::{self, Write};

use serde::Serialize;

use super::Prediction;

#[derive(Serialize)]
struct Line<'a> {
    path: &'a str,
    predictions: Vec<Class<'a>>,
}

#[derive(Serialize)]
struct Class<'a> {
    class_index: u32,
    /// `null` where the model does not know its classes by name.
    class: Option<&'a str>,
    probability: f32,
}

pub(super) fn write(mut out: impl Write, names: &[String], predictions: &[Prediction]) -> io::Result<()> {
    for Prediction { path, classes, .. } in predictions {
        let class = |&(class_index, probability): &(u32, f32)| Class {
            class_index,
            class: names.get(class_index as usize).map(String::as_str),
            probability,
        };
        serde_json::to_writer(&mut out, &Line { path, predictions: classes.iter().map(class).collect() })?;
        out.write_all(b"\n")?;
    }
    Ok(())
}

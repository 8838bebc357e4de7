//! The generator that the golden tests depend on, checked bit for bit.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "a failed expectation is a failed test"
)]

mod common;

use common::{image, noise, parameter, read_json};

#[test]
fn samples_of_the_goldens() {
    let samples = read_json("generator_samples.json");
    let rows = samples["values"].as_array().unwrap();
    assert!(!rows.is_empty());
    for row in rows {
        let text = |key: &str| row[key].as_str().unwrap();
        let shape: Vec<i64> = row["shape"].as_array().unwrap().iter().map(|v| v.as_i64().unwrap()).collect();
        let tensor = match text("rule") {
            "input" => image(text("salt"), text("name"), &shape),
            "noise" => noise(text("salt"), text("name"), &shape),
            _ => parameter(text("salt"), text("name"), &shape),
        };
        let values = Vec::<f32>::try_from(tensor.flatten(0, -1)).unwrap();
        let bytes: Vec<u8> = values.iter().flat_map(|v| v.to_le_bytes()).collect();
        let crc = format!("{:08x}", crc32fast::hash(&bytes));
        assert_eq!(crc, text("crc32_of_le_f32_bytes"), "{} {}", text("rule"), text("name"));
    }
}

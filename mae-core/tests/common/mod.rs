//! What the golden tests share: where the goldens are, and the generator of parameters, images and noise
//! (section 1 of the goldens' README).

#![allow(dead_code, reason = "each test binary uses its part")]
#![allow(clippy::unwrap_used, clippy::panic, reason = "a failed expectation is a failed test")]

use std::path::PathBuf;

use mae_core::params::{ParamSpec, Params};
use serde_json::Value;
use tch::{Device, Tensor};

/// `$MAE_GOLDENS`, else the folder beside the repository, else the small copies in it.
pub fn goldens() -> PathBuf {
    let workspace = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("..");
    if let Some(folder) = std::env::var_os("MAE_GOLDENS") {
        return PathBuf::from(folder);
    }
    let beside = workspace.join("../shared/goldens");
    if beside.is_dir() { beside } else { workspace.join("tests/goldens") }
}

/// A golden JSON file.
pub fn read_json(relative: &str) -> Value {
    let path = goldens().join(relative);
    let text = std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    serde_json::from_str(&text).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

fn fnv(text: &str) -> u64 {
    text.bytes().fold(0xcbf2_9ce4_8422_2325, |h, b| (h ^ u64::from(b)).wrapping_mul(0x0100_0000_01b3))
}

fn splitmix64(x: u64) -> u64 {
    let z = x.wrapping_add(0x9E37_79B9_7F4A_7C15);
    let z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    let z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}

fn generate(salt: &str, name: &str, shape: &[i64], value: impl Fn(f64) -> f64) -> Tensor {
    let key = if salt.is_empty() { name.to_owned() } else { format!("{salt}:{name}") };
    let base = fnv(&key);
    let count = shape.iter().product::<i64>() as u64;
    let values: Vec<f32> = (0..count)
        .map(|i| value((splitmix64(base.wrapping_add(i)) >> 11) as f64 * 2f64.powi(-53)) as f32)
        .collect();
    Tensor::from_slice(&values).reshape(shape)
}

/// An image tensor in ±2.
pub fn image(salt: &str, name: &str, shape: &[i64]) -> Tensor {
    generate(salt, name, shape, |u| (2.0 * u - 1.0) * 2.0)
}

/// Mask noise in `[0, 1)`.
pub fn noise(salt: &str, name: &str, shape: &[i64]) -> Tensor {
    generate(salt, name, shape, |u| u)
}

/// A parameter's golden value.
pub fn parameter(salt: &str, name: &str, shape: &[i64]) -> Tensor {
    let last = name.rsplit('.').next().unwrap_or(name);
    let fan_in = shape.iter().product::<i64>() as f64 / shape[0] as f64;
    let scaled = |w: f64| match last {
        "gamma" => w * 0.5,
        "beta" | "bias" => w * 0.1,
        _ if shape.len() == 1 => 1.0 + w * 0.1,
        _ if shape[0] == 1 => w * 0.5,
        _ => w * (3.0 / fan_in).sqrt(),
    };
    generate(salt, name, shape, |u| scaled(2.0 * u - 1.0))
}

/// A table filled by the golden rule; fixed sin-cos positions keep their values.
pub fn golden_params(specs: Vec<ParamSpec>, salt: &str) -> Params {
    let initializer = mae_core::nn::init::Initializer::new(0);
    Params::filled(specs, Device::Cpu, |spec| {
        if spec.trainable || !spec.name.ends_with("pos_embed") {
            Ok(parameter(salt, &spec.name, &spec.shape))
        } else {
            initializer.tensor(&spec.name, &spec.shape, &spec.init)
        }
    })
    .unwrap()
}

/// `|a - b| / max(|b|, floor)`.
pub fn relative(a: f64, b: f64, floor: f64) -> f64 {
    (a - b).abs() / b.abs().max(floor)
}

/// L2 norm in f64.
pub fn l2(x: &Tensor) -> f64 {
    f64::try_from(x.detach().to_kind(tch::Kind::Double).norm()).unwrap()
}

/// A JSON number.
pub fn number(value: &Value) -> f64 {
    value.as_f64().unwrap_or_else(|| panic!("expected a number, found {value}"))
}

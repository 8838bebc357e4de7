//! Initial values: each rule by its usual name, drawn from a stream that depends on the seed and the parameter's name
//! alone, so that adding a layer does not change the others.

use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use tch::{Kind, Tensor};

use crate::error::Result;

/// How a new model fills a parameter.
#[derive(Debug, Clone, PartialEq)]
pub enum Init {
    /// Zeros.
    Zeros,
    /// Ones.
    Ones,
    /// One value everywhere.
    Constant(f64),
    /// Normal with mean zero.
    Normal {
        /// Standard deviation.
        std: f64,
    },
    /// Normal with mean zero, drawn again outside of ±2 (an absolute bound, as `torch.nn.init.trunc_normal_` has it).
    TruncatedNormal {
        /// Standard deviation before the cut.
        std: f64,
    },
    /// Uniform in ±√(6 / (fan_in + fan_out)), the tensor seen as a matrix `[shape[0], rest]` (Glorot and Bengio 2010).
    XavierUniform,
    /// Uniform in ±1/√fan_in: PyTorch's default for `Linear` and `Conv2d`, weights and biases alike.
    FanInUniform {
        /// Inputs of one output.
        fan_in: i64,
    },
    /// 2-D sin-cos positions for a grid, with a zero row for the class token or without.
    SinCos {
        /// Rows and columns.
        grid: (i64, i64),
        /// Whether a zero row comes first.
        class_token: bool,
    },
}

/// Draws initial values.
#[derive(Debug, Clone, Copy)]
pub struct Initializer {
    seed: u64,
}

impl Initializer {
    /// An initializer whose every draw follows from `seed`.
    pub fn new(seed: u64) -> Self {
        Initializer { seed }
    }

    /// The initial fp32 value of a parameter.
    ///
    /// # Errors
    /// When libtorch has no memory for it.
    pub fn tensor(&self, name: &str, shape: &[i64], init: &Init) -> Result<Tensor> {
        let numel: i64 = shape.iter().product();
        let count = numel as usize;
        let mut stream = self.stream(name);
        let values = match init {
            Init::Zeros => return Ok(Tensor::f_zeros(shape, (Kind::Float, tch::Device::Cpu))?),
            Init::Ones => return Ok(Tensor::f_ones(shape, (Kind::Float, tch::Device::Cpu))?),
            Init::Constant(value) => {
                return Ok(Tensor::f_full(shape, *value, (Kind::Float, tch::Device::Cpu))?);
            }
            Init::SinCos { grid, class_token } => {
                let dim = shape.last().copied().unwrap_or(0);
                return Ok(super::position::sincos(dim, *grid, *class_token)?.f_reshape(shape)?);
            }
            Init::Normal { std } => normal(&mut stream, count, *std, f64::INFINITY),
            Init::TruncatedNormal { std } => normal(&mut stream, count, *std, 2.0),
            Init::XavierUniform => {
                let fan_out = shape.first().copied().unwrap_or(1) as f64;
                let fan_in = numel as f64 / fan_out;
                uniform(&mut stream, count, (6.0 / (fan_in + fan_out)).sqrt())
            }
            Init::FanInUniform { fan_in } => uniform(&mut stream, count, 1.0 / (*fan_in as f64).sqrt()),
        };
        Ok(Tensor::f_from_slice(&values)?.f_reshape(shape)?)
    }

    fn stream(&self, name: &str) -> ChaCha8Rng {
        let mut hasher = blake3::Hasher::new();
        hasher.update(b"mae parameter initialisation");
        hasher.update(&self.seed.to_le_bytes());
        hasher.update(name.as_bytes());
        ChaCha8Rng::from_seed(*hasher.finalize().as_bytes())
    }
}

fn uniform(stream: &mut ChaCha8Rng, count: usize, bound: f64) -> Vec<f32> {
    (0..count).map(|_| ((stream.random::<f64>() * 2.0 - 1.0) * bound) as f32).collect()
}

/// Box-Muller pairs; draws outside of `cut` are drawn again.
fn normal(stream: &mut ChaCha8Rng, count: usize, std: f64, cut: f64) -> Vec<f32> {
    let mut values = Vec::with_capacity(count + 1);
    while values.len() < count {
        let radius = (-2.0 * (1.0 - stream.random::<f64>()).ln()).sqrt() * std;
        let angle = stream.random::<f64>() * std::f64::consts::TAU;
        for value in [radius * angle.cos(), radius * angle.sin()] {
            if value.abs() <= cut {
                values.push(value as f32);
            }
        }
    }
    values.truncate(count);
    values
}

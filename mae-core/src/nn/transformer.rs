//! The pre-norm transformer block (arXiv 2010.11929, equations 2 and 3) that ViT and both decoders use.

use super::init::Init;
use super::layers::{LayerNorm, Linear};
use crate::error::Result;
use crate::nn::DropPath;
use crate::ops::Ops;
use crate::params::Declare;

/// Multi-head self-attention over `[N, L, C]`.
#[derive(Debug, Clone, Copy)]
pub struct Attention {
    qkv: Linear,
    proj: Linear,
    heads: i64,
}

impl Attention {
    /// Declares `qkv` and `proj` at `place`.
    pub fn declare(place: &Declare, channels: i64, heads: i64, weight: &Init) -> Self {
        Attention {
            qkv: Linear::declare(&place.at("qkv"), channels, 3 * channels, weight.clone(), Init::Zeros),
            proj: Linear::declare(&place.at("proj"), channels, channels, weight.clone(), Init::Zeros),
            heads,
        }
    }

    /// `[N, L, C]` → `[N, L, C]`.
    ///
    /// # Errors
    /// When the interpreter refuses an operation.
    pub fn forward<F: Ops>(&self, ops: &F, x: &F::Value) -> Result<F::Value> {
        let shape = ops.shape(x);
        let (length, channels) = (shape[1], shape[2]);
        let qkv = ops.linear(x, &self.qkv)?;
        let qkv = ops.reshape(&qkv, &[-1, length, 3, self.heads, channels / self.heads])?;
        let qkv = ops.permute(&qkv, &[2, 0, 3, 1, 4])?; // [3, N, heads, L, d]
        let y =
            ops.attention(&ops.select(&qkv, 0, 0)?, &ops.select(&qkv, 0, 1)?, &ops.select(&qkv, 0, 2)?)?;
        let y = ops.reshape(&ops.permute(&y, &[0, 2, 1, 3])?, &[-1, length, channels])?;
        ops.linear(&y, &self.proj)
    }
}

/// `fc2(GELU(fc1(x)))`.
#[derive(Debug, Clone, Copy)]
pub struct Mlp {
    fc1: Linear,
    fc2: Linear,
}

impl Mlp {
    /// Declares `fc1` and `fc2` at `place`; the hidden layer is four times as wide.
    pub fn declare(place: &Declare, channels: i64, weights: [&Init; 2], bias: &Init) -> Self {
        let [fc1, fc2] = weights;
        Mlp {
            fc1: Linear::declare(&place.at("fc1"), channels, 4 * channels, fc1.clone(), bias.clone()),
            fc2: Linear::declare(&place.at("fc2"), 4 * channels, channels, fc2.clone(), bias.clone()),
        }
    }

    /// `[…, C]` → `[…, C]`.
    ///
    /// # Errors
    /// When the interpreter refuses an operation.
    pub fn forward<F: Ops>(&self, ops: &F, x: &F::Value) -> Result<F::Value> {
        ops.linear(&ops.gelu(&ops.linear(x, &self.fc1)?)?, &self.fc2)
    }
}

/// `x + Attention(LN(x))`, then `x + MLP(LN(x))`.
#[derive(Debug, Clone, Copy)]
pub struct TransformerBlock {
    norm1: LayerNorm,
    attn: Attention,
    norm2: LayerNorm,
    mlp: Mlp,
    drop_path: [DropPath; 2],
}

impl TransformerBlock {
    /// Declares a block at `place`. `index` numbers it within the model, for stochastic depth at `drop_path`.
    pub fn declare(
        place: &Declare,
        channels: i64,
        heads: i64,
        weight: &Init,
        index: usize,
        drop_path: f64,
    ) -> Self {
        let site = |branch: u64| DropPath { site: 2 * index as u64 + branch, rate: drop_path };
        TransformerBlock {
            norm1: LayerNorm::declare(&place.at("norm1"), channels),
            attn: Attention::declare(&place.at("attn"), channels, heads, weight),
            norm2: LayerNorm::declare(&place.at("norm2"), channels),
            mlp: Mlp::declare(&place.at("mlp"), channels, [weight, weight], &Init::Zeros),
            drop_path: [site(0), site(1)],
        }
    }

    /// `[N, L, C]` → `[N, L, C]`.
    ///
    /// # Errors
    /// When the interpreter refuses an operation.
    pub fn forward<F: Ops>(&self, ops: &F, x: &F::Value) -> Result<F::Value> {
        let attended = self.attn.forward(ops, &ops.layer_norm(x, &self.norm1)?)?;
        let x = ops.add(x, &ops.drop_path(attended, self.drop_path[0])?)?;
        let expanded = self.mlp.forward(ops, &ops.layer_norm(&x, &self.norm2)?)?;
        ops.add(&x, &ops.drop_path(expanded, self.drop_path[1])?)
    }
}

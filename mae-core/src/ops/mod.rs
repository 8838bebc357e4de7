//! The operations that backbones are written over, and their interpreters.
//!
//! A backbone's `forward` is written once against [`Ops`]. [`Eager`] computes on libtorch; the ONNX recorder of
//! [`crate::onnx`] writes the same calls down as a graph. A fused kernel replaces one operation here, and every model
//! has it.

mod eager;
pub(crate) mod precision;
mod visible;

pub use eager::{Eager, Regularization};
pub use precision::Precision;
pub use visible::VisiblePatches;

use crate::error::Result;
use crate::nn::position::Resample;
use crate::nn::{Conv2d, ConvNeXtV2Block, DropPath, GlobalResponseNorm, LayerNorm, Linear};
use crate::params::ParamId;

/// What the three families need. `N` is the batch, which an interpreter may leave open: shapes given to
/// [`reshape`](Ops::reshape) therefore say `-1` for it.
pub trait Ops {
    /// A value of the computation.
    type Value;

    /// The value's shape; `-1` where it is open.
    fn shape(&self, x: &Self::Value) -> Vec<i64>;

    /// Runs `body` as the part of the model called `name`, such as `blocks.3`. Sharded parameters are gathered for its
    /// time, and recorded nodes carry its name.
    ///
    /// # Errors
    /// What `body` returns.
    fn scope(&self, name: &str, body: impl FnOnce() -> Result<Self::Value>) -> Result<Self::Value>
    where
        Self: Sized;

    /// `x Wᵀ + b` over the last dimension.
    ///
    /// # Errors
    /// When the interpreter refuses; so for every operation below.
    fn linear(&self, x: &Self::Value, layer: &Linear) -> Result<Self::Value>;

    /// Convolution of channels-last images: `[N, H, W, C]` → `[N, H', W', C']`.
    ///
    /// # Errors
    /// As [`linear`](Ops::linear).
    fn conv2d(&self, x: &Self::Value, layer: &Conv2d) -> Result<Self::Value>;

    /// Normalisation over the last dimension.
    ///
    /// # Errors
    /// As [`linear`](Ops::linear).
    fn layer_norm(&self, x: &Self::Value, layer: &LayerNorm) -> Result<Self::Value>;

    /// Global response normalisation of `[N, H, W, C]` (ConvNeXt V2, equations 1 to 4):
    /// `γ·x·n + β + x` with `n = g/(mean_C g + 1e-6)`, `g = ‖x‖₂` over H and W.
    ///
    /// # Errors
    /// As [`linear`](Ops::linear).
    fn global_response_norm(&self, x: &Self::Value, layer: &GlobalResponseNorm) -> Result<Self::Value>;

    /// Exact (erf) GELU.
    ///
    /// # Errors
    /// As [`linear`](Ops::linear).
    fn gelu(&self, x: &Self::Value) -> Result<Self::Value>;

    /// `softmax(q kᵀ / √d) v` over the last two dimensions `[…, L, d]`.
    ///
    /// # Errors
    /// As [`linear`](Ops::linear).
    fn attention(&self, q: &Self::Value, k: &Self::Value, v: &Self::Value) -> Result<Self::Value>;

    /// Sum, with broadcasting.
    ///
    /// # Errors
    /// As [`linear`](Ops::linear).
    fn add(&self, x: &Self::Value, y: &Self::Value) -> Result<Self::Value>;

    /// A branch on its way into the residual sum: stochastic depth (arXiv 1603.09382) drops it for whole samples in
    /// training; otherwise it passes. `site` numbers the branch within the model.
    ///
    /// # Errors
    /// As [`linear`](Ops::linear).
    fn drop_path(&self, branch: Self::Value, site: DropPath) -> Result<Self::Value>;

    /// The same elements in another shape; one dimension may be `-1`.
    ///
    /// # Errors
    /// As [`linear`](Ops::linear).
    fn reshape(&self, x: &Self::Value, shape: &[i64]) -> Result<Self::Value>;

    /// Dimensions in another order.
    ///
    /// # Errors
    /// As [`linear`](Ops::linear).
    fn permute(&self, x: &Self::Value, order: &[i64]) -> Result<Self::Value>;

    /// `length` entries of dimension `dim` from `start`.
    ///
    /// # Errors
    /// As [`linear`](Ops::linear).
    fn narrow(&self, x: &Self::Value, dim: i64, start: i64, length: i64) -> Result<Self::Value>;

    /// One entry of dimension `dim`, which disappears.
    ///
    /// # Errors
    /// As [`linear`](Ops::linear).
    fn select(&self, x: &Self::Value, dim: i64, index: i64) -> Result<Self::Value>;

    /// Mean over dimensions, which disappear.
    ///
    /// # Errors
    /// As [`linear`](Ops::linear).
    fn mean(&self, x: &Self::Value, dims: &[i64]) -> Result<Self::Value>;

    /// Maximum over one dimension, which disappears; equal maxima share the gradient.
    ///
    /// # Errors
    /// As [`linear`](Ops::linear).
    fn amax(&self, x: &Self::Value, dim: i64) -> Result<Self::Value>;

    /// A position table `[1, L, C]`, resampled to another grid where asked.
    ///
    /// # Errors
    /// As [`linear`](Ops::linear).
    fn positions(&self, table: ParamId, resample: Option<Resample>) -> Result<Self::Value>;

    /// Puts `token + position`, each `[1, 1, C]`, in front of each sequence of `x` `[N, L, C]`: `[N, 1+L, C]`.
    ///
    /// # Errors
    /// As [`linear`](Ops::linear).
    fn prepend_token(&self, token: ParamId, position: &Self::Value, x: &Self::Value) -> Result<Self::Value>;

    /// The ConvNeXt V2 block, `[N, H, W, C]` → the same: depthwise 7×7, norm, expand, GELU, GRN, project, residual. An
    /// interpreter with a fused kernel replaces this composition.
    ///
    /// # Errors
    /// As [`linear`](Ops::linear).
    fn convnextv2_block(&self, x: &Self::Value, block: &ConvNeXtV2Block) -> Result<Self::Value> {
        composed_block(self, x, block)
    }
}

/// [`Ops::convnextv2_block`] as a composition of the other operations.
fn composed_block<F: Ops + ?Sized>(ops: &F, x: &F::Value, block: &ConvNeXtV2Block) -> Result<F::Value> {
    let y = ops.conv2d(x, &block.dwconv)?;
    let y = ops.layer_norm(&y, &block.norm)?;
    let y = ops.gelu(&ops.linear(&y, &block.pwconv1)?)?;
    let y = ops.global_response_norm(&y, &block.grn)?;
    let y = ops.linear(&y, &block.pwconv2)?;
    ops.add(x, &ops.drop_path(y, block.drop_path)?)
}

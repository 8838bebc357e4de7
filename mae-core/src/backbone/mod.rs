//! The three families of encoders, one file each, written over [`Ops`].
//!
//! Every encoder takes images `[N, 3, H, W]` and gives pooled features `[N, C]`; pretraining reaches the stages inside.

pub mod convnextv2;
pub mod hiera;
pub mod vit;

use crate::arch::{Arch, Family};
use crate::error::Result;
use crate::ops::Ops;
use crate::params::Declare;

pub use convnextv2::ConvNeXtV2;
pub use hiera::Hiera;
pub use vit::Vit;

/// What an encoder's tokens become.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    /// Features for a classification head that is trained on them.
    Finetune,
    /// Features of a pretrained encoder. Differs for ViT: its class token after the final norm, instead of the mean of
    /// its patches without a norm.
    Features,
}

/// An encoder of any family, with its pooling.
#[derive(Debug)]
pub enum Encoder {
    /// ConvNeXt V2.
    ConvNeXtV2(ConvNeXtV2),
    /// Hiera.
    Hiera(Hiera),
    /// Vision transformer.
    Vit(Vit),
}

impl Encoder {
    /// Declares the encoder of `arch` for images of `height` × `width`.
    ///
    /// # Errors
    /// [`Error::InputSize`](crate::Error::InputSize) when the family cannot work at that size.
    pub fn declare(
        place: &Declare,
        arch: &Arch,
        (height, width): (i64, i64),
        drop_path_rate: f64,
        purpose: Purpose,
    ) -> Result<Self> {
        let grid = arch.grid(height, width)?;
        Ok(match arch.family {
            Family::ConvNeXtV2(numbers) => {
                Encoder::ConvNeXtV2(ConvNeXtV2::declare_classifier(place, numbers, drop_path_rate))
            }
            Family::Hiera(numbers) => {
                Encoder::Hiera(Hiera::declare_classifier(place, numbers, grid, drop_path_rate))
            }
            Family::Vit(numbers) => {
                Encoder::Vit(Vit::declare_classifier(place, numbers, grid, drop_path_rate, purpose))
            }
        })
    }

    /// Images `[N, 3, H, W]` → pooled features `[N, C]`.
    ///
    /// # Errors
    /// When the interpreter refuses an operation.
    pub fn features<F: Ops>(&self, ops: &F, images: &F::Value) -> Result<F::Value> {
        match self {
            Encoder::ConvNeXtV2(encoder) => encoder.features(ops, images),
            Encoder::Hiera(encoder) => encoder.features(ops, images),
            Encoder::Vit(encoder) => encoder.features(ops, images),
        }
    }

    /// Channels of the features.
    pub fn width(&self) -> i64 {
        match self {
            Encoder::ConvNeXtV2(encoder) => encoder.width(),
            Encoder::Hiera(encoder) => encoder.width(),
            Encoder::Vit(encoder) => encoder.width(),
        }
    }
}

/// Stochastic depth's rate of each block: rising linearly from 0 to `rate` (arXiv 1603.09382, section 3).
pub(crate) fn drop_path_rates(rate: f64, depth: usize) -> impl Fn(usize) -> f64 {
    move |block| if depth > 1 { rate * block as f64 / (depth - 1) as f64 } else { 0.0 }
}

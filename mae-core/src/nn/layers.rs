//! The smallest layers: handles and the numbers that are not parameters.

use super::init::Init;
use crate::params::{Declare, ParamId};

/// `x Wᵀ + b`, W `[out, in]`.
#[derive(Debug, Clone, Copy)]
pub struct Linear {
    /// `weight`, `[out, in]`.
    pub weight: ParamId,
    /// `bias`, `[out]`.
    pub bias: Option<ParamId>,
}

impl Linear {
    /// Declares `weight` and `bias` at `place`.
    pub fn declare(place: &Declare, inputs: i64, outputs: i64, weight: Init, bias: Init) -> Self {
        Linear {
            weight: place.param("weight", &[outputs, inputs], weight),
            bias: Some(place.param("bias", &[outputs], bias)),
        }
    }
}

/// A square 2-D convolution with a bias.
#[derive(Debug, Clone, Copy)]
pub struct Conv2d {
    /// `weight`, `[out, in / groups, kernel, kernel]`.
    pub weight: ParamId,
    /// `bias`, `[out]`.
    pub bias: ParamId,
    /// Stride in both directions.
    pub stride: i64,
    /// Zeros around the image.
    pub padding: i64,
    /// Groups of channels; as many as channels in a depthwise convolution.
    pub groups: i64,
}

impl Conv2d {
    /// Declares a convolution whose kernel covers the image without overlap (patches, downsampling).
    pub fn declare_patches(
        place: &Declare,
        inputs: i64,
        outputs: i64,
        kernel: i64,
        weight: Init,
        bias: Init,
    ) -> Self {
        Conv2d {
            weight: place.param("weight", &[outputs, inputs, kernel, kernel], weight),
            bias: place.param("bias", &[outputs], bias),
            stride: kernel,
            padding: 0,
            groups: 1,
        }
    }

    /// Declares a depthwise convolution that keeps the image's size.
    pub fn declare_depthwise(place: &Declare, channels: i64, kernel: i64, weight: Init, bias: Init) -> Self {
        Conv2d {
            weight: place.param("weight", &[channels, 1, kernel, kernel], weight),
            bias: place.param("bias", &[channels], bias),
            stride: 1,
            padding: kernel / 2,
            groups: channels,
        }
    }

    /// Whether this is the convolution of a ConvNeXt block, for which there is a kernel.
    pub(crate) fn is_depthwise_7x7(&self) -> bool {
        self.groups > 1 && self.stride == 1 && self.padding == 3
    }
}

/// Layer normalisation over the last dimension (arXiv 1607.06450).
#[derive(Debug, Clone, Copy)]
pub struct LayerNorm {
    /// `weight`, `[C]`.
    pub weight: ParamId,
    /// `bias`, `[C]`.
    pub bias: ParamId,
    /// Added to the variance.
    pub eps: f64,
}

impl LayerNorm {
    /// Declares `weight` (ones) and `bias` (zeros) at `place`, with the families' common eps 1e-6.
    pub fn declare(place: &Declare, channels: i64) -> Self {
        LayerNorm {
            weight: place.param("weight", &[channels], Init::Ones),
            bias: place.param("bias", &[channels], Init::Zeros),
            eps: 1e-6,
        }
    }
}

/// Global response normalisation (ConvNeXt V2, arXiv 2301.00808, section 3.3).
#[derive(Debug, Clone, Copy)]
pub struct GlobalResponseNorm {
    /// `gamma`, `[1, 1, 1, C]`.
    pub gamma: ParamId,
    /// `beta`, `[1, 1, 1, C]`.
    pub beta: ParamId,
}

impl GlobalResponseNorm {
    /// Declares `gamma` and `beta` (zeros) at `place`.
    pub fn declare(place: &Declare, channels: i64) -> Self {
        let shape = [1, 1, 1, channels];
        GlobalResponseNorm {
            gamma: place.param("gamma", &shape, Init::Zeros),
            beta: place.param("beta", &shape, Init::Zeros),
        }
    }
}

/// A place where stochastic depth may drop a branch.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct DropPath {
    /// Which branch of the model this is.
    pub site: u64,
    /// Probability that a sample's branch is dropped.
    pub rate: f64,
}

/// The layers of a ConvNeXt V2 block (arXiv 2301.00808, figure 5).
#[derive(Debug, Clone, Copy)]
pub struct ConvNeXtV2Block {
    /// Depthwise 7×7 convolution.
    pub dwconv: Conv2d,
    /// Normalisation of its output.
    pub norm: LayerNorm,
    /// Expansion to four times the channels.
    pub pwconv1: Linear,
    /// Between the activation and the projection.
    pub grn: GlobalResponseNorm,
    /// Projection back.
    pub pwconv2: Linear,
    /// Of the whole branch.
    pub drop_path: DropPath,
}

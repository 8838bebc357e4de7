//! ConvNeXt V2 (Woo et al., arXiv 2301.00808).
//!
//! Values between layers are channels-last, `[N, H, W, C]`: normalisation and the pointwise layers then need no
//! transposition.

use super::drop_path_rates;
use crate::arch::ConvNeXtV2Numbers;
use crate::error::Result;
use crate::nn::init::Init;
use crate::nn::{Conv2d, ConvNeXtV2Block, DropPath, GlobalResponseNorm, LayerNorm, Linear};
use crate::ops::Ops;
use crate::params::Declare;

/// How a ConvNeXt V2 network is initialised.
#[derive(Debug, Clone, PartialEq)]
pub struct ConvNeXtV2Init {
    /// Weights of convolutions.
    pub conv: Init,
    /// Biases of convolutions.
    pub conv_bias: Init,
    /// Weights of the pointwise layers; `None` is PyTorch's default for `Linear`, biases included.
    pub linear: Option<Init>,
}

impl ConvNeXtV2Init {
    /// Truncated normal of std 0.02 everywhere, biases zero: the paper's.
    pub fn paper() -> Self {
        let normal = Init::TruncatedNormal { std: 0.02 };
        ConvNeXtV2Init { conv: normal.clone(), conv_bias: Init::Zeros, linear: Some(normal) }
    }

    /// TAO's FCMAE: convolutions of std 1.
    pub fn tao_fcmae() -> Self {
        ConvNeXtV2Init { conv: Init::TruncatedNormal { std: 1.0 }, ..Self::paper() }
    }
}

/// Declares a block of `channels` at `place`.
pub fn declare_block(
    place: &Declare,
    channels: i64,
    init: &ConvNeXtV2Init,
    drop_path: DropPath,
) -> ConvNeXtV2Block {
    let pointwise = |name: &str, inputs: i64, outputs: i64| {
        let (weight, bias) = match &init.linear {
            Some(weight) => (weight.clone(), Init::Zeros),
            None => (Init::FanInUniform { fan_in: inputs }, Init::FanInUniform { fan_in: inputs }),
        };
        Linear::declare(&place.at(name), inputs, outputs, weight, bias)
    };
    let (weight, bias) = (init.conv.clone(), init.conv_bias.clone());
    ConvNeXtV2Block {
        dwconv: Conv2d::declare_depthwise(&place.at("dwconv"), channels, 7, weight, bias),
        norm: LayerNorm::declare(&place.at("norm"), channels),
        pwconv1: pointwise("pwconv1", channels, 4 * channels),
        grn: GlobalResponseNorm::declare(&place.at("grn"), 4 * channels),
        pwconv2: pointwise("pwconv2", 4 * channels, channels),
        drop_path,
    }
}

/// The four stages, without a head.
#[derive(Debug)]
pub struct ConvNeXtV2 {
    stem: (Conv2d, LayerNorm),
    downsample: Vec<(LayerNorm, Conv2d)>,
    stages: Vec<Vec<ConvNeXtV2Block>>,
    norm: Option<LayerNorm>,
    path: String,
    width: i64,
}

impl ConvNeXtV2 {
    /// Declares stem and stages at `place`.
    pub fn declare(
        place: &Declare,
        numbers: ConvNeXtV2Numbers,
        drop_path_rate: f64,
        init: &ConvNeXtV2Init,
    ) -> Self {
        let dims = numbers.dims;
        let patches = |place: &Declare, inputs: i64, outputs: i64, kernel: i64| {
            Conv2d::declare_patches(place, inputs, outputs, kernel, init.conv.clone(), init.conv_bias.clone())
        };
        let layers = place.at("downsample_layers");
        let stem = layers.at(0);
        let stem = (patches(&stem.at(0), 3, dims[0], 4), LayerNorm::declare(&stem.at(1), dims[0]));
        let downsample = (1..4)
            .map(|stage| {
                let layer = layers.at(stage);
                let norm = LayerNorm::declare(&layer.at(0), dims[stage - 1]);
                (norm, patches(&layer.at(1), dims[stage - 1], dims[stage], 2))
            })
            .collect();
        let rate = drop_path_rates(drop_path_rate, numbers.depths.iter().sum());
        let mut index = 0;
        let stages = (0..4)
            .map(|stage| {
                (0..numbers.depths[stage])
                    .map(|block| {
                        let site = DropPath { site: index as u64, rate: rate(index) };
                        index += 1;
                        declare_block(&place.at("stages").at(stage).at(block), dims[stage], init, site)
                    })
                    .collect()
            })
            .collect();
        ConvNeXtV2 { stem, downsample, stages, norm: None, path: place.path().to_owned(), width: dims[3] }
    }

    /// The same with the final norm of a classifier.
    pub fn declare_classifier(place: &Declare, numbers: ConvNeXtV2Numbers, drop_path_rate: f64) -> Self {
        let encoder = Self::declare(place, numbers, drop_path_rate, &ConvNeXtV2Init::paper());
        ConvNeXtV2 { norm: Some(LayerNorm::declare(&place.at("norm"), encoder.width)), ..encoder }
    }

    /// Channels of the last stage.
    pub fn width(&self) -> i64 {
        self.width
    }

    /// Images `[N, 3, H, W]` → `[N, H/4, W/4, C]`.
    ///
    /// # Errors
    /// When the interpreter refuses an operation.
    pub fn stem<F: Ops>(&self, ops: &F, images: &F::Value) -> Result<F::Value> {
        ops.scope(&self.name("downsample_layers.0"), || {
            let x = ops.permute(images, &[0, 2, 3, 1])?;
            ops.layer_norm(&ops.conv2d(&x, &self.stem.0)?, &self.stem.1)
        })
    }

    /// The stem's output `[N, H/4, W/4, C]` → the last stage's `[N, H/32, W/32, C']`.
    ///
    /// # Errors
    /// When the interpreter refuses an operation.
    pub fn stages<F: Ops>(&self, ops: &F, mut x: F::Value) -> Result<F::Value> {
        for (stage, blocks) in self.stages.iter().enumerate() {
            if stage > 0 {
                let (norm, conv) = &self.downsample[stage - 1];
                x = ops.scope(&self.name(&format!("downsample_layers.{stage}")), || {
                    ops.conv2d(&ops.layer_norm(&x, norm)?, conv)
                })?;
            }
            for (index, block) in blocks.iter().enumerate() {
                x = ops.scope(&self.name(&format!("stages.{stage}.{index}")), || {
                    ops.convnextv2_block(&x, block)
                })?;
            }
        }
        Ok(x)
    }

    /// Images `[N, 3, H, W]` → the mean over places, normalised: `[N, C]`.
    ///
    /// # Errors
    /// When the interpreter refuses an operation.
    pub fn features<F: Ops>(&self, ops: &F, images: &F::Value) -> Result<F::Value> {
        let x = self.stages(ops, self.stem(ops, images)?)?;
        let pooled = ops.mean(&x, &[1, 2])?;
        match &self.norm {
            Some(norm) => ops.scope(&self.name("norm"), || ops.layer_norm(&pooled, norm)),
            None => Ok(pooled),
        }
    }

    fn name(&self, part: &str) -> String {
        if self.path.is_empty() { part.to_owned() } else { format!("{}.{part}", self.path) }
    }
}

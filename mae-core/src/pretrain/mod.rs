//! Masked autoencoders: hide most patches of an image, encode the rest, reconstruct the hidden pixels.

mod convnextv2;
mod hiera;
mod loss;
mod mask;
mod vit;

use tch::Tensor;

use crate::arch::{Arch, Family};
use crate::error::{Error, Result};
use crate::nn::init::Init;
use crate::nn::{LayerNorm, Linear, TransformerBlock};
use crate::ops::{Eager, Ops};
use crate::params::Declare;

pub use loss::{patchify, unpatchify};
pub use mask::{Mask, mask_noise};

/// The settings of a masked autoencoder. `None` is TAO's constant.
#[derive(Debug, Clone, PartialEq)]
pub struct PretrainConfig {
    /// Share of the patches that is hidden.
    pub mask_ratio: f64,
    /// Whether each target patch is normalised by its own mean and variance. TAO always does for Hiera.
    pub norm_pix_loss: bool,
    /// Decoder blocks: 1 for ConvNeXt V2, 8 for the others when `None`.
    pub decoder_depth: Option<usize>,
    /// Decoder channels: 512 when `None`.
    pub decoder_embed_dim: Option<i64>,
    /// Stochastic depth of the encoder's last block; none in TAO.
    pub drop_path_rate: f64,
    /// ConvNeXt V2 only: the paper's sparse encoder, which sees visible patches alone, instead of TAO's dense one, into which
    /// hidden pixels leak through the convolutions.
    pub sparse_encoder: bool,
    /// FCMAE's initial values as TAO draws them (every convolution with std 1) instead of as the paper does.
    pub tao_init: bool,
}

impl Default for PretrainConfig {
    fn default() -> Self {
        PretrainConfig {
            mask_ratio: 0.75,
            norm_pix_loss: true,
            decoder_depth: None,
            decoder_embed_dim: None,
            drop_path_rate: 0.0,
            sparse_encoder: false,
            tao_init: false,
        }
    }
}

impl PretrainConfig {
    /// Whether the family of `arch` can have these settings.
    ///
    /// # Errors
    /// [`Error::Setting`] naming the key.
    pub fn check(&self, arch: &Arch) -> Result<()> {
        let convnext = matches!(arch.family, Family::ConvNeXtV2(_));
        let refuse = |key: &str, problem: String, remedy: String| {
            Err(Error::Setting { key: key.into(), problem, remedy })
        };
        if self.sparse_encoder && !convnext {
            return refuse(
                "model.sparse_encoder",
                format!(
                    "it is a matter of ConvNeXt V2; the encoder of {} sees visible patches alone anyway",
                    arch.name
                ),
                "leave it out".into(),
            );
        }
        let multiple = if convnext { 1 } else { DECODER_HEADS };
        match self.decoder_embed_dim {
            Some(dim) if dim < 1 || dim % multiple != 0 => {
                let below = (dim / multiple).max(1) * multiple;
                refuse(
                    "model.decoder_embed_dim",
                    format!(
                        "the decoder of {} has {DECODER_HEADS} heads, and {dim} channels cannot be shared among them",
                        arch.name
                    ),
                    format!("the nearest possible widths are {below} and {}", below + multiple),
                )
            }
            _ => Ok(()),
        }
    }
}

/// What a forward pass gives.
#[derive(Debug)]
pub struct Reconstruction {
    /// Mean squared error over the hidden patches, a scalar in fp32.
    pub loss: Tensor,
    /// Predicted patches: `[N, L, p·p·3]`, or only the hidden ones `[hidden, p·p·3]` (Hiera).
    pub pred: Tensor,
    /// Which patches were hidden.
    pub mask: Mask,
}

/// A masked autoencoder of any family.
#[derive(Debug)]
pub struct MaskedAutoencoder {
    network: Network,
    grid: (i64, i64),
    config: PretrainConfig,
}

#[derive(Debug)]
enum Network {
    ConvNeXtV2(convnextv2::Fcmae),
    Hiera(hiera::MaskedHiera),
    Vit(vit::MaskedVit),
}

impl MaskedAutoencoder {
    /// Declares the network of `arch` for images of `height` × `width`.
    ///
    /// # Errors
    /// [`Error::InputSize`], [`Error::MaskRatio`], or [`Error::Setting`] for a decoder that the family cannot have.
    pub fn declare(
        place: &Declare,
        arch: &Arch,
        (height, width): (i64, i64),
        config: PretrainConfig,
    ) -> Result<Self> {
        let grid = arch.grid(height, width)?;
        let total = grid.0 * grid.1;
        let kept = mask::kept(total, config.mask_ratio);
        if kept <= 0 || kept >= total {
            return Err(Error::MaskRatio { ratio: config.mask_ratio, kept, total });
        }
        config.check(arch)?;
        let network = match arch.family {
            Family::ConvNeXtV2(numbers) => {
                Network::ConvNeXtV2(convnextv2::Fcmae::declare(place, numbers, grid, &config))
            }
            Family::Hiera(numbers) => {
                Network::Hiera(hiera::MaskedHiera::declare(place, numbers, grid, &config))
            }
            Family::Vit(numbers) => Network::Vit(vit::MaskedVit::declare(place, numbers, grid, &config)),
        };
        Ok(MaskedAutoencoder { network, grid, config })
    }

    /// Patches (mask units) of an image.
    pub fn patches(&self) -> i64 {
        self.grid.0 * self.grid.1
    }

    /// Images `[N, 3, H, W]` and noise `[N, L]` → loss and prediction; the patches with the smallest noise are kept.
    ///
    /// # Errors
    /// [`Error::Shape`] when noise and images do not fit, or when libtorch fails.
    pub fn forward(&self, ops: &Eager<'_>, images: &Tensor, noise: &Tensor) -> Result<Reconstruction> {
        let expected = vec![images.size()[0], self.patches()];
        if noise.size() != expected {
            return Err(Error::Shape {
                what: "mask noise".into(),
                expected: format!("{expected:?}"),
                found: format!("{:?}", noise.size()),
            });
        }
        let mask = Mask::from_noise(noise, self.config.mask_ratio)?;
        let (loss, pred) = match &self.network {
            Network::ConvNeXtV2(network) => network.forward(ops, images, &mask, self.config.norm_pix_loss)?,
            Network::Hiera(network) => network.forward(ops, images, &mask, self.config.norm_pix_loss)?,
            Network::Vit(network) => network.forward(ops, images, &mask, self.config.norm_pix_loss)?,
        };
        Ok(Reconstruction { loss, pred, mask })
    }

    /// The predicted patches of a forward pass as an image `[N, 3, H, W]`, in the units of the prediction (normalised
    /// per patch under `norm_pix_loss`), zero where nothing was predicted.
    ///
    /// # Errors
    /// When libtorch fails.
    pub fn prediction_as_image(&self, reconstruction: &Reconstruction) -> Result<Tensor> {
        let Reconstruction { pred, mask, .. } = reconstruction;
        match &self.network {
            Network::Hiera(network) => network.prediction_as_image(pred, mask),
            Network::ConvNeXtV2(_) | Network::Vit(_) => unpatchify(pred, self.grid),
        }
    }
}

/// The transformer decoder that ViT and Hiera share: embed, blocks, norm, pixels.
#[derive(Debug)]
struct Decoder {
    embed: Linear,
    blocks: Vec<TransformerBlock>,
    norm: LayerNorm,
    pred: Linear,
}

/// Decoder settings in TAO.
const DECODER_DIM: i64 = 512;
const DECODER_DEPTH: usize = 8;
const DECODER_HEADS: i64 = 16;

impl Decoder {
    fn declare(place: &Declare, inputs: i64, pixels: i64, config: &PretrainConfig) -> Self {
        let dim = config.decoder_embed_dim.unwrap_or(DECODER_DIM);
        let weight = Init::XavierUniform;
        Decoder {
            embed: Linear::declare(&place.at("decoder_embed"), inputs, dim, weight.clone(), Init::Zeros),
            blocks: (0..config.decoder_depth.unwrap_or(DECODER_DEPTH))
                .map(|i| {
                    let block = place.at("decoder_blocks").at(i);
                    TransformerBlock::declare(&block, dim, DECODER_HEADS, &weight, i, 0.0)
                })
                .collect(),
            norm: LayerNorm::declare(&place.at("decoder_norm"), dim),
            pred: Linear::declare(&place.at("decoder_pred"), dim, pixels, weight, Init::Zeros),
        }
    }

    /// Tokens with positions `[N, L, C]` → pixels `[N, L, p·p·3]`.
    fn forward(&self, ops: &Eager<'_>, mut x: Tensor) -> Result<Tensor> {
        for (index, block) in self.blocks.iter().enumerate() {
            x = ops.scope(&format!("decoder_blocks.{index}"), || block.forward(ops, &x))?;
        }
        let x = ops.scope("decoder_norm", || ops.layer_norm(&x, &self.norm))?;
        ops.scope("decoder_pred", || ops.linear(&x, &self.pred))
    }
}

//! FCMAE (ConvNeXt V2, arXiv 2301.00808, section 3.1), with TAO's dense encoder, whose mask is applied once, to the stem, or
//! with the paper's sparse one, which computes on the visible patches alone.

use tch::Tensor;

use super::PretrainConfig;
use super::loss::{hidden_patches_loss, normalize_patches, patchify};
use super::mask::{Mask, repeat_places};
use crate::arch::ConvNeXtV2Numbers;
use crate::backbone::convnextv2::{ConvNeXtV2, ConvNeXtV2Init, declare_block};
use crate::error::Result;
use crate::nn::init::Init;
use crate::nn::{Conv2d, ConvNeXtV2Block, DropPath};
use crate::ops::{Eager, Ops, VisiblePatches};
use crate::params::{Declare, ParamId};

/// Encoder, projection, decoder of ConvNeXt V2 blocks, prediction of 32×32 pixels a place.
#[derive(Debug)]
pub(super) struct Fcmae {
    mask_token: ParamId,
    encoder: ConvNeXtV2,
    proj: Conv2d,
    decoder: Vec<ConvNeXtV2Block>,
    pred: Conv2d,
    grid: (i64, i64),
    sparse: bool,
}

impl Fcmae {
    pub(super) fn declare(
        place: &Declare,
        numbers: ConvNeXtV2Numbers,
        grid: (i64, i64),
        config: &PretrainConfig,
    ) -> Self {
        let dim = config.decoder_embed_dim.unwrap_or(super::DECODER_DIM);
        let init = if config.tao_init { ConvNeXtV2Init::tao_fcmae() } else { ConvNeXtV2Init::paper() };
        // PyTorch's default for Linear: TAO's initialisation passes over the decoder's.
        let decoder_init = if config.tao_init {
            ConvNeXtV2Init { linear: None, ..ConvNeXtV2Init::tao_fcmae() }
        } else {
            init.clone()
        };
        let pointwise = |place: &Declare, inputs: i64, outputs: i64| {
            Conv2d::declare_patches(place, inputs, outputs, 1, init.conv.clone(), Init::Zeros)
        };
        let mask_token = place.param("mask_token", &[1, dim, 1, 1], Init::Normal { std: 0.02 });
        let encoder = ConvNeXtV2::declare(&place.at("encoder"), numbers, config.drop_path_rate, &init);
        let proj = pointwise(&place.at("proj"), encoder.width(), dim);
        let decoder = (0..config.decoder_depth.unwrap_or(1))
            .map(|i| {
                let never = DropPath { site: 0, rate: 0.0 };
                declare_block(&place.at("decoder").at(i), dim, &decoder_init, never)
            })
            .collect();
        let pred = pointwise(&place.at("pred"), dim, 32 * 32 * 3);
        Fcmae { mask_token, encoder, proj, decoder, pred, grid, sparse: config.sparse_encoder }
    }

    pub(super) fn forward(
        &self,
        ops: &Eager<'_>,
        images: &Tensor,
        mask: &Mask,
        norm_pix_loss: bool,
    ) -> Result<(Tensor, Tensor)> {
        let (rows, cols) = self.grid;
        let mut x = if self.sparse {
            self.encode_sparse(ops, images, mask)?
        } else {
            self.encode(ops, images, mask)?
        };
        for (index, block) in self.decoder.iter().enumerate() {
            x = ops.scope(&format!("decoder.{index}"), || ops.convnextv2_block(&x, block))?;
        }
        let pred =
            ops.scope("pred", || ops.conv2d(&x, &self.pred))?.f_reshape([-1, rows * cols, 32 * 32 * 3])?;
        let mut target = patchify(images, self.grid)?;
        if norm_pix_loss {
            target = normalize_patches(&target)?;
        }
        Ok((hidden_patches_loss(&pred, &target, mask)?, pred))
    }

    /// TAO's encoder, dense behind the masked stem → the decoder's input `[N, h, w, D]`.
    fn encode(&self, ops: &Eager<'_>, images: &Tensor, mask: &Mask) -> Result<Tensor> {
        let (rows, cols) = self.grid;
        let hidden = mask.hidden.f_reshape([-1, rows, cols, 1])?;
        let visible = hidden.f_neg()?.f_add_scalar(1.0)?;
        let x = self.encoder.stem(ops, images)?;
        let keep = repeat_places(&visible.f_to_kind(x.kind())?, 1, 8)?;
        let x = self.encoder.stages(ops, x.f_mul(&keep)?)?;
        let x = ops.scope("proj", || ops.conv2d(&x, &self.proj))?;
        // Hidden places get the mask token, `[1, D, 1, 1]`, here as channels-last.
        let token = ops.params().get(self.mask_token).f_reshape([1, 1, 1, -1])?;
        Ok(x.f_mul(&visible)?.f_add(&token.f_mul(&hidden)?)?)
    }

    /// The sparse encoder, which never reads a hidden pixel → the same.
    fn encode_sparse(&self, ops: &Eager<'_>, images: &Tensor, mask: &Mask) -> Result<Tensor> {
        let visible = VisiblePatches::new(&mask.keep, self.grid)?;
        let x = self.sparse_features(ops, images, &visible)?;
        let token = ops.params().get(self.mask_token).f_reshape([1, -1])?;
        visible.scatter(&x.f_to_kind(token.kind())?, &token)
    }

    /// Images `[N, 3, H, W]` → projected features of the visible patches `[N, K, 1, D]`.
    fn sparse_features(&self, ops: &Eager<'_>, images: &Tensor, visible: &VisiblePatches) -> Result<Tensor> {
        let stacks = visible.gather(&images.f_permute([0, 2, 3, 1])?)?;
        let sparse = ops.on_visible(visible);
        let x = self.encoder.stem(&sparse, &stacks.f_permute([0, 3, 1, 2])?)?;
        let x = self.encoder.stages(&sparse, x)?;
        let x = sparse.scope("proj", || sparse.conv2d(&x, &self.proj))?;
        ops.absorb(sparse);
        Ok(x)
    }
}

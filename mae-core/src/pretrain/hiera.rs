//! The masked autoencoder of Hiera (arXiv 2306.00989, section 3.2): whole mask units are hidden, the stages' outputs are
//! fused at the resolution of the last, and only hidden patches are predicted.

use tch::{Kind, Tensor};

use super::loss::normalize_patches;
use super::mask::{Mask, repeat_places};
use super::{DECODER_DIM, Decoder, PretrainConfig};
use crate::arch::HieraNumbers;
use crate::backbone::hiera::{Hiera, HieraInit, UNIT_SIDE};
use crate::error::Result;
use crate::nn::init::Init;
use crate::nn::{Conv2d, LayerNorm};
use crate::ops::{Eager, Ops};
use crate::params::{Declare, ParamId};

/// Poolings while pretraining: the last stage keeps 2×2 tokens a unit.
const POOLINGS: usize = 2;
/// Tokens along the side of a unit after them.
const LAST_SIDE: i64 = UNIT_SIDE >> POOLINGS;
/// Pixels along the side of one predicted patch.
const PATCH: i64 = 16;

/// Encoder of the visible units, fusion of its stages, decoder of all places.
#[derive(Debug)]
pub(super) struct MaskedHiera {
    encoder: Hiera,
    mask_token: ParamId,
    decoder_pos_embed: ParamId,
    encoder_norm: LayerNorm,
    /// One for each pooled stage: a convolution whose kernel is the unit's side over [`LAST_SIDE`].
    fusion_heads: Vec<Conv2d>,
    decoder: Decoder,
    grid: (i64, i64),
}

impl MaskedHiera {
    pub(super) fn declare(
        place: &Declare,
        numbers: HieraNumbers,
        grid: (i64, i64),
        config: &PretrainConfig,
    ) -> Self {
        let dim = config.decoder_embed_dim.unwrap_or(DECODER_DIM);
        let places = grid.0 * grid.1 * LAST_SIDE * LAST_SIDE;
        let normal = Init::TruncatedNormal { std: 0.02 };
        let pos_embed = Hiera::declare_positions(place, numbers, grid);
        let mask_token = place.param("mask_token", &[1, 1, dim], normal.clone());
        let decoder_pos_embed = place.param("decoder_pos_embed", &[1, places, dim], normal);
        let rate = config.drop_path_rate;
        let encoder = Hiera::declare(place, numbers, pos_embed, grid, POOLINGS, rate, HieraInit::Pretrain);
        let encoder_norm = LayerNorm::declare(&place.at("encoder_norm"), encoder.width());
        let fusion_heads = (0..POOLINGS)
            .map(|stage| {
                let (inputs, kernel) = (numbers.embed_dim << stage, (UNIT_SIDE >> stage) / LAST_SIDE);
                let fan_in = Init::FanInUniform { fan_in: inputs * kernel * kernel };
                let head = place.at("multi_scale_fusion_heads").at(stage);
                Conv2d::declare_patches(&head, inputs, encoder.width(), kernel, fan_in.clone(), fan_in)
            })
            .collect();
        let decoder = Decoder::declare(place, encoder.width(), PATCH * PATCH * 3, config);
        MaskedHiera { encoder, mask_token, decoder_pos_embed, encoder_norm, fusion_heads, decoder, grid }
    }

    pub(super) fn forward(
        &self,
        ops: &Eager<'_>,
        images: &Tensor,
        mask: &Mask,
        norm_pix_loss: bool,
    ) -> Result<(Tensor, Tensor)> {
        let units = self.grid.0 * self.grid.1;
        // Kept units in their natural order: the order of the noise does not matter here.
        let (keep, _) = mask.keep.f_sort(1, false)?;
        let kept = keep.size()[1];

        // The 7×7 patches overlap: hidden pixels are zeroed first, so that none leaks into a visible token.
        let hidden = mask.hidden.f_reshape([-1, 1, self.grid.0, self.grid.1])?;
        let visible = repeat_places(&hidden.f_neg()?.f_add_scalar(1.0)?, 2, images.size()[2] / self.grid.0)?;
        let x = self.encoder.embed(ops, &images.f_mul(&visible)?)?;
        let (batch, width) = (x.size()[0], x.size()[2]);
        let index = keep.f_reshape([batch, 1, kept, 1])?;
        let pick = |x: &Tensor, places: i64, channels: i64| -> Result<Tensor> {
            let index = index.f_expand([batch, places, kept, channels], false)?;
            Ok(x.f_reshape([batch, places, units, channels])?.f_gather(2, &index, false)?)
        };
        let visible = pick(&x, UNIT_SIDE * UNIT_SIDE, width)?.f_reshape([batch, -1, width])?;
        let latent = self.fuse(ops, self.encoder.stages(ops, visible, kept)?, kept)?;
        let latent = ops.scope("encoder_norm", || ops.layer_norm(&latent, &self.encoder_norm))?;
        let latent = ops.scope("decoder_embed", || ops.linear(&latent, &self.decoder.embed))?;

        // [N, kept, side·side, C] into the full grid of mask tokens.
        let (side, dim) = (LAST_SIDE * LAST_SIDE, latent.size()[3]);
        let token = ops.params().get(self.mask_token).f_to_kind(latent.kind())?;
        let tokens = token.f_reshape([1, 1, 1, dim])?.f_expand([batch, units, side, dim], false)?;
        let index = keep.f_reshape([batch, kept, 1, 1])?.f_expand([batch, kept, side, dim], false)?;
        let x = self.merge_units(&tokens.f_scatter(1, &index, &latent)?)?;
        let x = ops.add(&x, ops.params().get(self.decoder_pos_embed))?;
        let pred = self.decoder.forward(ops, x)?;

        let hidden = self.hidden_places(mask)?;
        let select = |x: &Tensor| -> Result<Tensor> { Ok(x.f_index(&[Some(&hidden)])?) };
        let pred = select(&pred.f_reshape([-1, PATCH * PATCH * 3])?)?.f_to_kind(Kind::Float)?;
        let mut target = select(&self.targets(images)?)?;
        if norm_pix_loss {
            target = normalize_patches(&target)?;
        }
        let loss = pred.f_sub(&target)?.f_square()?.f_mean(Kind::Float)?;
        Ok((loss, pred))
    }

    /// The predicted patches of the hidden places in an image of zeros, `[N, 3, H, W]`.
    pub(super) fn prediction_as_image(&self, pred: &Tensor, mask: &Mask) -> Result<Tensor> {
        let batch = mask.hidden.size()[0];
        let (rows, cols) = (self.grid.0 * LAST_SIDE, self.grid.1 * LAST_SIDE);
        let canvas = Tensor::f_zeros([batch * rows * cols, PATCH * PATCH * 3], (Kind::Float, pred.device()))?;
        let image = canvas.f_index_put(&[Some(&self.hidden_places(mask)?)], pred, false)?;
        let image = image.f_reshape([batch, rows, cols, 3, PATCH, PATCH])?.f_permute([0, 3, 1, 4, 2, 5])?;
        Ok(image.f_reshape([batch, 3, rows * PATCH, cols * PATCH])?)
    }

    /// Stage outputs `[N, P·kept, C]` → their sum at the last stage's resolution `[N, kept, side·side, C']`.
    fn fuse(&self, ops: &Eager<'_>, stages: Vec<Tensor>, kept: i64) -> Result<Tensor> {
        let last = self.encoder.width();
        let mut sum: Option<Tensor> = None;
        for (stage, head) in self.fusion_heads.iter().enumerate() {
            let units = reroll(&stages[stage], kept, UNIT_SIDE >> stage)?;
            let fused =
                ops.scope(&format!("multi_scale_fusion_heads.{stage}"), || ops.conv2d(&units, head))?;
            sum = Some(sum.map_or_else(|| Ok(fused.shallow_clone()), |sum| ops.add(&sum, &fused))?);
        }
        let units = reroll(&stages[stages.len() - 1], kept, LAST_SIDE)?;
        let fused = match sum {
            Some(sum) => ops.add(&sum, &units)?,
            None => units,
        };
        Ok(fused.f_reshape([-1, kept, LAST_SIDE * LAST_SIDE, last])?)
    }

    /// `[N, units, side·side, C]` → row-major places `[N, H·W, C]`.
    fn merge_units(&self, x: &Tensor) -> Result<Tensor> {
        let dim = x.size()[3];
        let (rows, cols) = self.grid;
        let x = x.f_reshape([-1, rows, cols, LAST_SIDE, LAST_SIDE, dim])?.f_permute([0, 1, 3, 2, 4, 5])?;
        Ok(x.f_reshape([-1, rows * cols * LAST_SIDE * LAST_SIDE, dim])?)
    }

    /// Which of the `N·H·W` predicted places are hidden, as a mask for indexing.
    fn hidden_places(&self, mask: &Mask) -> Result<Tensor> {
        let (rows, cols) = self.grid;
        let hidden = repeat_places(&mask.hidden.f_reshape([-1, rows, cols])?, 1, LAST_SIDE)?;
        Ok(hidden.f_reshape([-1])?.f_to_kind(Kind::Bool)?)
    }

    /// Pixels of every place, `[N·H·W, 3·16·16]`; within a patch the order is channel, row, column.
    fn targets(&self, images: &Tensor) -> Result<Tensor> {
        let (rows, cols) = (self.grid.0 * LAST_SIDE, self.grid.1 * LAST_SIDE);
        let x = images.f_reshape([-1, 3, rows, PATCH, cols, PATCH])?.f_permute([0, 2, 4, 1, 3, 5])?;
        Ok(x.f_reshape([-1, 3 * PATCH * PATCH])?)
    }
}

/// Tokens in pooling order `[N, side·side·kept, C]` → units as images `[N·kept, side, side, C]`.
fn reroll(x: &Tensor, kept: i64, side: i64) -> Result<Tensor> {
    let channels = x.size()[2];
    let halvings = side.ilog2() as usize;
    // [N, (r, c) of the next pooling, (r, c) of the one after, …, unit, C]
    let mut shape = vec![-1];
    shape.extend(std::iter::repeat_n(2, 2 * halvings));
    shape.extend([kept, channels]);
    // Rows, then columns, each from the coarsest halving to the finest.
    let mut order = vec![0, 1 + 2 * halvings as i64];
    for axis in 0..2 {
        order.extend((0..halvings).rev().map(|h| 1 + 2 * h as i64 + axis));
    }
    order.push(2 + 2 * halvings as i64);
    Ok(x.f_reshape(&shape)?.f_permute(&order)?.f_reshape([-1, side, side, channels])?)
}

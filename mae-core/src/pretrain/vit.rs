//! The masked autoencoder of ViT (He et al., arXiv 2111.06377).

use tch::Tensor;

use super::loss::{hidden_patches_loss, normalize_patches, patchify};
use super::mask::Mask;
use super::{DECODER_DIM, Decoder, PretrainConfig};
use crate::arch::VitNumbers;
use crate::backbone::vit::{Tokens, Vit};
use crate::error::Result;
use crate::nn::init::Init;
use crate::ops::{Eager, Ops};
use crate::params::{Declare, ParamId};

/// Encoder of the visible patches, decoder of all.
#[derive(Debug)]
pub(super) struct MaskedVit {
    encoder: Vit,
    mask_token: ParamId,
    decoder_pos_embed: ParamId,
    decoder: Decoder,
    grid: (i64, i64),
}

impl MaskedVit {
    pub(super) fn declare(
        place: &Declare,
        numbers: VitNumbers,
        grid: (i64, i64),
        config: &PretrainConfig,
    ) -> Self {
        let dim = config.decoder_embed_dim.unwrap_or(DECODER_DIM);
        let tokens = Tokens::declare_fixed(place, numbers.embed_dim, grid);
        let mask_token = place.param("mask_token", &[1, 1, dim], Init::Normal { std: 0.02 });
        let positions = Init::SinCos { grid, class_token: true };
        let decoder_pos_embed = place.fixed("decoder_pos_embed", &[1, 1 + grid.0 * grid.1, dim], positions);
        let encoder = Vit::declare_pretrain(place, numbers, tokens, grid, config.drop_path_rate);
        let pixels = numbers.patch * numbers.patch * 3;
        let decoder = Decoder::declare(place, numbers.embed_dim, pixels, config);
        MaskedVit { encoder, mask_token, decoder_pos_embed, decoder, grid }
    }

    pub(super) fn forward(
        &self,
        ops: &Eager<'_>,
        images: &Tensor,
        mask: &Mask,
        norm_pix_loss: bool,
    ) -> Result<(Tensor, Tensor)> {
        let visible = mask.gather(&self.encoder.embed(ops, images)?)?;
        let latent = self.encoder.blocks(ops, &visible)?;
        let latent = ops.scope("decoder_embed", || ops.linear(&latent, &self.decoder.embed))?;

        let [batch, length, dim] = [latent.size()[0], latent.size()[1], latent.size()[2]];
        let patches = self.grid.0 * self.grid.1;
        let token = ops.params().get(self.mask_token).f_to_kind(latent.kind())?;
        let tokens = token.f_expand([batch, patches + 1 - length, dim], false)?;
        let shuffled = Tensor::f_cat(&[latent.f_narrow(1, 1, length - 1)?, tokens], 1)?;
        let index = mask.restore.f_unsqueeze(-1)?.f_expand([-1, -1, dim], false)?;
        let x = Tensor::f_cat(&[latent.f_narrow(1, 0, 1)?, shuffled.f_gather(1, &index, false)?], 1)?;
        let x = ops.add(&x, ops.params().get(self.decoder_pos_embed))?;
        let pred = self.decoder.forward(ops, x)?.f_narrow(1, 1, patches)?;

        let mut target = patchify(images, self.grid)?;
        if norm_pix_loss {
            target = normalize_patches(&target)?;
        }
        Ok((hidden_patches_loss(&pred, &target, mask)?, pred))
    }
}

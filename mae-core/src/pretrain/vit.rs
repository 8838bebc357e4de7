//! The masked autoencoder of ViT (He et al., arXiv 2111.06377).

use tch::Tensor;

use super::loss::{hidden_patches_loss, normalize_patches, patchify};
use super::mask::Mask;
use super::{DECODER_DIM, Decoder, PretrainConfig};
use crate::arch::VitNumbers;
use crate::backbone::vit::{Tokens, Vit};
use crate::error::Result;
use crate::nn::init::Init;
use crate::ops::{Eager, Ops, VisiblePatches};
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
        let latent = self.encoder.blocks(ops, &self.embed_visible(ops, images, mask)?)?;
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

    /// Images `[N, 3, H, W]` → the visible patches with their positions, `[N, K, C]`. Hidden ones are not read, unless a trace
    /// is to show every layer as upstream has it.
    fn embed_visible(&self, ops: &Eager<'_>, images: &Tensor, mask: &Mask) -> Result<Tensor> {
        if ops.is_traced() {
            return mask.gather(&self.encoder.embed(ops, images)?);
        }
        let visible = VisiblePatches::in_order(&mask.keep, self.grid);
        let stacks = visible.gather(&images.f_permute([0, 2, 3, 1])?)?;
        let patches = self.encoder.patches(ops, &stacks.f_permute([0, 3, 1, 2])?)?;
        let positions = self.encoder.positions(ops)?.f_expand([images.size()[0], -1, -1], false)?;
        ops.add(&patches, &mask.gather(&positions)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::arch::{Arch, Family};
    use crate::params::Params;
    use tch::{Device, Kind};

    #[test]
    fn visible_patches_are_embedded_as_all_are() {
        let root = Declare::root();
        let arch = Arch::by_name("vit_base_patch16").unwrap();
        let Family::Vit(numbers) = arch.family else { panic!("{arch:?}") };
        let numbers = VitNumbers { depth: 1, ..numbers };
        let model = MaskedVit::declare(&root, numbers, (3, 4), &PretrainConfig::default());
        let params = Params::new(root.into_specs(), 1, Device::Cpu).unwrap();
        let images = Tensor::arange(2 * 3 * 48 * 64, (Kind::Float, Device::Cpu)).sin().view([2, 3, 48, 64]);
        let mask = Mask::from_noise(
            &Tensor::from_slice2(&[[7_f32, 3., 9., 1., 0., 5.], [2., 8., 4., 6., 1., 3.]]).repeat([1, 2]),
            0.5,
        );
        let mask = mask.unwrap();
        let visible = model.embed_visible(&Eager::new(&params), &images, &mask).unwrap();
        let all = model.embed_visible(&Eager::new(&params).with_trace(), &images, &mask).unwrap();
        assert_eq!(visible.size(), [2, 6, numbers.embed_dim]);
        let distance = f64::try_from((&visible - &all).norm() / all.norm()).unwrap();
        assert!(distance < 1e-6, "{distance:e}");
        // Hidden pixels are not even read.
        let hidden = mask.hidden.view([2, 1, 3, 4]).repeat_interleave_self_int(16, 2, None);
        let hidden = hidden.repeat_interleave_self_int(16, 3, None);
        let repainted = images.where_self(&hidden.eq(0.0), &Tensor::from(f32::NAN));
        let again = model.embed_visible(&Eager::new(&params), &repainted, &mask).unwrap();
        assert!(again.equal(&visible));
    }
}

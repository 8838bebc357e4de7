//! The vision transformer (Dosovitskiy et al., arXiv 2010.11929), as MAE uses it (He et al., arXiv 2111.06377).

use super::{Purpose, drop_path_rates};
use crate::arch::VitNumbers;
use crate::error::Result;
use crate::nn::init::Init;
use crate::nn::position::Resample;
use crate::nn::{Conv2d, LayerNorm, TransformerBlock};
use crate::ops::Ops;
use crate::params::{Declare, ParamId};

/// TAO builds its classifiers for 224 pixels and resamples the positions at run time.
const BUILT_FOR: i64 = 224;

/// Patches, class token, positions and blocks.
#[derive(Debug)]
pub struct Vit {
    cls_token: ParamId,
    pos_embed: ParamId,
    patch_embed: Conv2d,
    blocks: Vec<TransformerBlock>,
    norm: Option<LayerNorm>,
    pooling: Purpose,
    grid: (i64, i64),
    table_grid: (i64, i64),
    width: i64,
}

/// The parameters that stand first in the state dict.
#[derive(Debug, Clone, Copy)]
pub struct Tokens {
    cls_token: ParamId,
    pos_embed: ParamId,
}

impl Tokens {
    /// Declares a class token and fixed sin-cos positions for `grid`, as pretraining has them.
    pub fn declare_fixed(place: &Declare, channels: i64, grid: (i64, i64)) -> Self {
        let positions = Init::SinCos { grid, class_token: true };
        Tokens {
            cls_token: place.param("cls_token", &[1, 1, channels], Init::Normal { std: 0.02 }),
            pos_embed: place.fixed("pos_embed", &[1, 1 + grid.0 * grid.1, channels], positions),
        }
    }

    fn declare_learned(place: &Declare, channels: i64, grid: (i64, i64)) -> Self {
        Tokens {
            cls_token: place.param("cls_token", &[1, 1, channels], Init::Normal { std: 1e-6 }),
            pos_embed: place.param(
                "pos_embed",
                &[1, 1 + grid.0 * grid.1, channels],
                Init::TruncatedNormal { std: 0.02 },
            ),
        }
    }
}

impl Vit {
    /// Declares the encoder of a masked autoencoder at `place`, its [`Tokens`] declared already.
    pub fn declare_pretrain(
        place: &Declare,
        numbers: VitNumbers,
        tokens: Tokens,
        grid: (i64, i64),
        drop_path_rate: f64,
    ) -> Self {
        // MAE initialises the patch embedding like a linear layer (its appendix A.1); its bias keeps PyTorch's default.
        let fan_in = 3 * numbers.patch * numbers.patch;
        let patch = (Init::XavierUniform, Init::FanInUniform { fan_in });
        let encoder =
            Self::declare(place, numbers, tokens, patch, (grid, grid), drop_path_rate, &Init::XavierUniform);
        Vit { norm: Some(LayerNorm::declare(&place.at("norm"), numbers.embed_dim)), ..encoder }
    }

    /// Declares the encoder of a classifier at `place`.
    pub fn declare_classifier(
        place: &Declare,
        numbers: VitNumbers,
        grid: (i64, i64),
        drop_path_rate: f64,
        purpose: Purpose,
    ) -> Self {
        let table_grid = (BUILT_FOR / numbers.patch, BUILT_FOR / numbers.patch);
        let tokens = Tokens::declare_learned(place, numbers.embed_dim, table_grid);
        let fan_in = 3 * numbers.patch * numbers.patch;
        let patch = (Init::FanInUniform { fan_in }, Init::FanInUniform { fan_in });
        let weight = Init::TruncatedNormal { std: 0.02 };
        let encoder =
            Self::declare(place, numbers, tokens, patch, (grid, table_grid), drop_path_rate, &weight);
        match purpose {
            Purpose::Finetune => encoder,
            Purpose::Features => {
                let norm = Some(LayerNorm::declare(&place.at("norm"), numbers.embed_dim));
                Vit { norm, pooling: Purpose::Features, ..encoder }
            }
        }
    }

    /// Channels.
    pub fn width(&self) -> i64 {
        self.width
    }

    /// Images `[N, 3, H, W]` → patches with their positions `[N, L, C]`.
    ///
    /// # Errors
    /// When the interpreter refuses an operation.
    pub fn embed<F: Ops>(&self, ops: &F, images: &F::Value) -> Result<F::Value> {
        ops.add(&self.patches(ops, images)?, &self.positions(ops)?)
    }

    /// Images `[N, 3, H, W]` of any size in patches → patches without positions, `[N, L', C]`.
    ///
    /// # Errors
    /// When the interpreter refuses an operation.
    pub fn patches<F: Ops>(&self, ops: &F, images: &F::Value) -> Result<F::Value> {
        ops.scope("patch_embed", || {
            let patches = ops.conv2d(&ops.permute(images, &[0, 2, 3, 1])?, &self.patch_embed)?;
            let shape = ops.shape(&patches);
            ops.reshape(&patches, &[-1, shape[1] * shape[2], self.width])
        })
    }

    /// The positions of the patches, `[1, L, C]`.
    ///
    /// # Errors
    /// When the interpreter refuses an operation.
    pub fn positions<F: Ops>(&self, ops: &F) -> Result<F::Value> {
        let positions = ops.positions(self.pos_embed, self.resample())?;
        ops.narrow(&positions, 1, 1, self.grid.0 * self.grid.1)
    }

    /// Patches `[N, L, C]`, any subset in any order → `[N, 1 + L, C]`, the class token first, normalised if the encoder
    /// has a final norm.
    ///
    /// # Errors
    /// When the interpreter refuses an operation.
    pub fn blocks<F: Ops>(&self, ops: &F, patches: &F::Value) -> Result<F::Value> {
        // The class token's position is zero in a sin-cos table, but learned in a classifier's; either way it is added.
        let positions = ops.positions(self.pos_embed, self.resample())?;
        let mut x = ops.prepend_token(self.cls_token, &ops.narrow(&positions, 1, 0, 1)?, patches)?;
        for (index, block) in self.blocks.iter().enumerate() {
            x = ops.scope(&format!("blocks.{index}"), || block.forward(ops, &x))?;
        }
        match &self.norm {
            Some(norm) => ops.scope("norm", || ops.layer_norm(&x, norm)),
            None => Ok(x),
        }
    }

    /// Images `[N, 3, H, W]` → `[N, C]`: the mean of the patches, or the class token (see [`Purpose`]).
    ///
    /// # Errors
    /// When the interpreter refuses an operation.
    pub fn features<F: Ops>(&self, ops: &F, images: &F::Value) -> Result<F::Value> {
        let x = self.blocks(ops, &self.embed(ops, images)?)?;
        match self.pooling {
            Purpose::Finetune => ops.mean(&ops.narrow(&x, 1, 1, self.grid.0 * self.grid.1)?, &[1]),
            Purpose::Features => ops.select(&x, 1, 0),
        }
    }

    fn declare(
        place: &Declare,
        numbers: VitNumbers,
        tokens: Tokens,
        (patch_weight, patch_bias): (Init, Init),
        (grid, table_grid): ((i64, i64), (i64, i64)),
        drop_path_rate: f64,
        weight: &Init,
    ) -> Self {
        let VitNumbers { patch, embed_dim, depth, heads } = numbers;
        let projection = place.at("patch_embed").at("proj");
        let patch_embed = Conv2d::declare_patches(&projection, 3, embed_dim, patch, patch_weight, patch_bias);
        let rate = drop_path_rates(drop_path_rate, depth);
        let blocks = (0..depth)
            .map(|i| {
                TransformerBlock::declare(&place.at("blocks").at(i), embed_dim, heads, weight, i, rate(i))
            })
            .collect();
        Vit {
            cls_token: tokens.cls_token,
            pos_embed: tokens.pos_embed,
            patch_embed,
            blocks,
            norm: None,
            pooling: Purpose::Finetune,
            grid,
            table_grid,
            width: embed_dim,
        }
    }

    fn resample(&self) -> Option<Resample> {
        (self.grid != self.table_grid).then_some(Resample {
            prefix: 1,
            from: self.table_grid,
            to: self.grid,
            antialias: true,
        })
    }
}

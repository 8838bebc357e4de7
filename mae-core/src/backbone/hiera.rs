//! Hiera (Ryali et al., arXiv 2306.00989): a hierarchical transformer whose pooling and local attention are reshapes,
//! because the tokens are kept in an order that makes them so.
//!
//! Tokens are `[N, P, U, C]` flattened to `[N, P·U, C]`: `U` mask units (8×8 tokens each at first, 32×32 pixels), and
//! within a unit `P` places, ordered so that the four tokens that the next pooling joins differ in the slowest index.
//! Pooling is then a maximum over that index, and attention within a unit is attention over the other indices.

use super::drop_path_rates;
use crate::arch::HieraNumbers;
use crate::error::Result;
use crate::nn::DropPath;
use crate::nn::init::Init;
use crate::nn::{Conv2d, LayerNorm, Linear, Mlp};
use crate::ops::Ops;
use crate::params::{Declare, ParamId};

/// Tokens along the side of a mask unit.
pub const UNIT_SIDE: i64 = 8;
/// Poolings that [`Hiera::unroll`] prepares for, each 2×2.
const POOLINGS: usize = 3;

/// Initial values of a Hiera network.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HieraInit {
    /// Xavier-uniform, as masked autoencoders start.
    Pretrain,
    /// Truncated normal of std 0.02, the layers that write to the residual sum scaled down with depth.
    Classifier,
}

/// A block: attention (local or global, with or without pooling of the queries), then MLP.
#[derive(Debug, Clone, Copy)]
pub struct HieraBlock {
    norm1: LayerNorm,
    /// Present where the channels change.
    proj: Option<Linear>,
    qkv: Linear,
    attn_proj: Linear,
    norm2: LayerNorm,
    mlp: Mlp,
    drop_path: [DropPath; 2],
    heads: i64,
    width: i64,
    /// Tokens joined by the pooling of the queries; 1 for none.
    pool: i64,
    /// Whether attention stays within a mask unit.
    local: bool,
}

/// Patch embedding, positions and blocks.
#[derive(Debug)]
pub struct Hiera {
    pos_embed: ParamId,
    patch_embed: Conv2d,
    blocks: Vec<HieraBlock>,
    stage_ends: Vec<usize>,
    head_norm: Option<LayerNorm>,
    /// Mask units, rows and columns.
    grid: (i64, i64),
    embed_dim: i64,
    width: i64,
}

impl Hiera {
    /// Declares the position table at `place`: `[1, tokens, C]`.
    pub fn declare_positions(place: &Declare, numbers: HieraNumbers, grid: (i64, i64)) -> ParamId {
        let tokens = grid.0 * grid.1 * UNIT_SIDE * UNIT_SIDE;
        place.param("pos_embed", &[1, tokens, numbers.embed_dim], Init::TruncatedNormal { std: 0.02 })
    }

    /// Declares patch embedding and blocks at `place`; queries are pooled at the start of the stages 1 to `poolings`.
    pub fn declare(
        place: &Declare,
        numbers: HieraNumbers,
        pos_embed: ParamId,
        grid: (i64, i64),
        poolings: usize,
        drop_path_rate: f64,
        init: HieraInit,
    ) -> Self {
        let HieraNumbers { embed_dim, heads, stages } = numbers;
        let (weight, bias) = init.patch_embed();
        let projection = place.at("patch_embed").at("proj");
        let patch_embed = Conv2d {
            weight: projection.param("weight", &[embed_dim, 3, 7, 7], weight),
            bias: projection.param("bias", &[embed_dim], bias),
            stride: 4,
            padding: 3,
            groups: 1,
        };
        let depth: usize = stages.iter().sum();
        let rate = drop_path_rates(drop_path_rate, depth);
        let mut blocks = Vec::with_capacity(depth);
        let mut stage_ends = Vec::with_capacity(4);
        for (stage, &count) in stages.iter().enumerate() {
            for index in 0..count {
                let opens_stage = stage > 0 && index == 0;
                let number = blocks.len();
                blocks.push(HieraBlock::declare(
                    &place.at("blocks").at(number),
                    (embed_dim << (if opens_stage { stage - 1 } else { stage }), embed_dim << stage),
                    heads << stage,
                    if opens_stage && stage <= poolings { 4 } else { 1 },
                    // Attention is local in the first two stages; the block that opens a stage still sees the tokens of
                    // the one before, and follows its rule.
                    (if opens_stage { stage - 1 } else { stage }) < 2,
                    (number, rate(number), init),
                ));
            }
            stage_ends.push(blocks.len() - 1);
        }
        Hiera {
            pos_embed,
            patch_embed,
            blocks,
            stage_ends,
            head_norm: None,
            grid,
            embed_dim,
            width: embed_dim << 3,
        }
    }

    /// Declares the encoder of a classifier at `place`, with the norm of its head.
    pub fn declare_classifier(
        place: &Declare,
        numbers: HieraNumbers,
        grid: (i64, i64),
        drop_path_rate: f64,
    ) -> Self {
        let positions = Self::declare_positions(place, numbers, grid);
        let encoder =
            Self::declare(place, numbers, positions, grid, POOLINGS, drop_path_rate, HieraInit::Classifier);
        Hiera { head_norm: Some(LayerNorm::declare(&place.at("head").at("norm"), encoder.width)), ..encoder }
    }

    /// Channels of the last stage.
    pub fn width(&self) -> i64 {
        self.width
    }

    /// Images `[N, 3, H, W]` → tokens with positions `[N, 64·U, C]`, in the order described above.
    ///
    /// # Errors
    /// When the interpreter refuses an operation.
    pub fn embed<F: Ops>(&self, ops: &F, images: &F::Value) -> Result<F::Value> {
        let (rows, cols) = (self.grid.0 * UNIT_SIDE, self.grid.1 * UNIT_SIDE);
        let x = ops.scope("patch_embed", || {
            let patches = ops.conv2d(&ops.permute(images, &[0, 2, 3, 1])?, &self.patch_embed)?;
            ops.reshape(&patches, &[-1, rows * cols, self.embed_dim])
        })?;
        self.unroll(ops, &ops.add(&x, &ops.positions(self.pos_embed, None)?)?)
    }

    /// Tokens `[N, P·U, C]` of `units` mask units → the outputs of the four stages `[N, P', C']`, last one last.
    ///
    /// # Errors
    /// When the interpreter refuses an operation.
    pub fn stages<F: Ops>(&self, ops: &F, x: F::Value, units: i64) -> Result<Vec<F::Value>> {
        let mut outputs = Vec::with_capacity(self.stage_ends.len());
        let mut x = x;
        for (index, block) in self.blocks.iter().enumerate() {
            let y = ops.scope(&format!("blocks.{index}"), || block.forward(ops, &x, units))?;
            let input = std::mem::replace(&mut x, y);
            if index > 0 && self.stage_ends.contains(&(index - 1)) {
                outputs.push(input);
            }
        }
        outputs.push(x);
        Ok(outputs)
    }

    /// Images `[N, 3, H, W]` → the normalised mean of the last stage's tokens `[N, C]`.
    ///
    /// # Errors
    /// When the interpreter refuses an operation.
    pub fn features<F: Ops>(&self, ops: &F, images: &F::Value) -> Result<F::Value> {
        let mut x = self.embed(ops, images)?;
        for (index, block) in self.blocks.iter().enumerate() {
            x =
                ops.scope(&format!("blocks.{index}"), || block.forward(ops, &x, self.grid.0 * self.grid.1))?;
        }
        let pooled = ops.mean(&x, &[1])?;
        match &self.head_norm {
            Some(norm) => ops.scope("head.norm", || ops.layer_norm(&pooled, norm)),
            None => Ok(pooled),
        }
    }

    /// Row-major tokens `[N, H·W, C]` → `[N, (2·2)·(2·2)·(2·2)·U, C]`: each halving moves its 2×2 places outward.
    fn unroll<F: Ops>(&self, ops: &F, x: &F::Value) -> Result<F::Value> {
        let (rows, cols) = self.grid;
        // Row = (unit row, r1, r2, r3) and column alike: in a row-major token index the last halving varies fastest,
        // and it is the first to be pooled.
        let split = [-1, rows, 2, 2, 2, cols, 2, 2, 2, self.embed_dim];
        let x = ops.reshape(x, &split)?;
        let x = ops.permute(&x, &[0, 4, 8, 3, 7, 2, 6, 1, 5, 9])?;
        ops.reshape(&x, &[-1, rows * cols * UNIT_SIDE * UNIT_SIDE, self.embed_dim])
    }
}

impl HieraBlock {
    fn declare(
        place: &Declare,
        (input, width): (i64, i64),
        heads: i64,
        pool: i64,
        local: bool,
        (index, rate, init): (usize, f64, HieraInit),
    ) -> Self {
        let weight = init.weight();
        let residual = init.residual_weight(index);
        let norm1 = LayerNorm::declare(&place.at("norm1"), input);
        let project = |place: &Declare| Linear::declare(place, input, width, weight.clone(), init.bias());
        let attention = place.at("attn");
        // The order of the state dict: norm1, proj, attn, norm2, mlp.
        let proj = (input != width).then(|| project(&place.at("proj")));
        let site = |branch: u64| DropPath { site: 2 * index as u64 + branch, rate };
        HieraBlock {
            norm1,
            proj,
            qkv: Linear::declare(&attention.at("qkv"), input, 3 * width, weight.clone(), init.bias()),
            attn_proj: Linear::declare(&attention.at("proj"), width, width, residual.clone(), init.bias()),
            norm2: LayerNorm::declare(&place.at("norm2"), width),
            mlp: Mlp::declare(&place.at("mlp"), width, [&weight, &residual], &init.bias()),
            drop_path: [site(0), site(1)],
            heads,
            width,
            pool,
            local,
        }
    }

    fn forward<F: Ops>(&self, ops: &F, x: &F::Value, units: i64) -> Result<F::Value> {
        let normed = ops.layer_norm(x, &self.norm1)?;
        // Where the channels change, the residual is the projection of the normalised input, pooled like the queries.
        let residual = match &self.proj {
            Some(proj) if self.pool > 1 => Some(self.pool(ops, &ops.linear(&normed, proj)?)?),
            Some(proj) => Some(ops.linear(&normed, proj)?),
            None => None,
        };
        let attended = ops.drop_path(self.attention(ops, &normed, units)?, self.drop_path[0])?;
        let x = ops.add(residual.as_ref().unwrap_or(x), &attended)?;
        let expanded = self.mlp.forward(ops, &ops.layer_norm(&x, &self.norm2)?)?;
        ops.add(&x, &ops.drop_path(expanded, self.drop_path[1])?)
    }

    fn attention<F: Ops>(&self, ops: &F, x: &F::Value, units: i64) -> Result<F::Value> {
        let tokens = ops.shape(x)[1];
        let windows = if self.local { units } else { 1 };
        let (within, head) = (tokens / windows, self.width / self.heads);
        let qkv = ops.linear(x, &self.qkv)?;
        let qkv = ops.reshape(&qkv, &[-1, within, windows, 3, self.heads, head])?;
        let qkv = ops.permute(&qkv, &[3, 0, 4, 2, 1, 5])?; // [3, N, heads, windows, within, d]
        let mut q = ops.select(&qkv, 0, 0)?;
        let mut pooled = within;
        if self.pool > 1 {
            pooled = within / self.pool;
            q = ops.reshape(&q, &[-1, self.heads, windows, self.pool, pooled, head])?;
            q = ops.amax(&q, 3)?;
        }
        let y = ops.attention(&q, &ops.select(&qkv, 0, 1)?, &ops.select(&qkv, 0, 2)?)?;
        let y = ops.permute(&y, &[0, 3, 2, 1, 4])?; // [N, within', windows, heads, d]
        let y = ops.reshape(&y, &[-1, pooled * windows, self.width])?;
        ops.linear(&y, &self.attn_proj)
    }

    fn pool<F: Ops>(&self, ops: &F, x: &F::Value) -> Result<F::Value> {
        let tokens = ops.shape(x)[1];
        ops.amax(&ops.reshape(x, &[-1, self.pool, tokens / self.pool, self.width])?, 1)
    }
}

impl HieraInit {
    fn weight(self) -> Init {
        match self {
            HieraInit::Pretrain => Init::XavierUniform,
            HieraInit::Classifier => Init::TruncatedNormal { std: 0.02 },
        }
    }

    /// The `index`-th block's layers that write to the residual sum, divided by √(2·(index + 1)).
    fn residual_weight(self, index: usize) -> Init {
        match self {
            HieraInit::Pretrain => Init::XavierUniform,
            HieraInit::Classifier => Init::TruncatedNormal { std: 0.02 / (2.0 * (index + 1) as f64).sqrt() },
        }
    }

    fn bias(self) -> Init {
        match self {
            HieraInit::Pretrain => Init::Zeros,
            HieraInit::Classifier => Init::Constant(0.02),
        }
    }

    fn patch_embed(self) -> (Init, Init) {
        match self {
            HieraInit::Pretrain => (Init::XavierUniform, Init::FanInUniform { fan_in: 3 * 7 * 7 }),
            HieraInit::Classifier => (Init::TruncatedNormal { std: 0.02 }, Init::Constant(0.02)),
        }
    }
}

//! What makes a stored tensor fit the model's shape.

use tch::{Kind, Tensor};

use super::super::Result;
use super::names::Candidate;

/// A change of a tensor's shape or layout.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Transform {
    /// The same elements in the same order under another shape.
    Reshape(Vec<i64>),
    /// A MinkowskiEngine kernel, `[k*k, C]` (depthwise) or `[k*k, C_in, C_out]`, columns before rows, to PyTorch's
    /// `[C, 1, k, k]` or `[C_out, C_in, k, k]`.
    SparseKernel {
        /// Side of the kernel.
        size: i64,
    },
    /// Position embeddings `[1, extra + n*n, D]` to another grid, bicubic.
    Positions {
        /// Tokens before the grid (class token), kept.
        extra_tokens: i64,
        /// Side of the stored grid.
        from: i64,
        /// Rows and columns of the model's grid.
        to: (i64, i64),
    },
    /// The convolution `[C, 3, from, from]` that embeds patches, for patches of another size, bicubic.
    Patches {
        /// Side of the stored patches in pixels.
        from: i64,
        /// Side of the model's patches in pixels.
        to: i64,
    },
}

impl Transform {
    pub(super) fn apply(&self, tensor: &Tensor) -> Result<Tensor> {
        Ok(match self {
            Transform::Reshape(shape) => tensor.f_reshape(shape)?,
            Transform::SparseKernel { size } => {
                let depthwise = tensor.dim() == 2;
                let moved =
                    if depthwise { tensor.f_permute([1, 0])? } else { tensor.f_permute([2, 1, 0])? };
                let channels = moved.size();
                let shape = [channels[0], if depthwise { 1 } else { channels[1] }, *size, *size];
                moved.f_reshape(shape)?.f_transpose(2, 3)?.f_contiguous()?
            }
            Transform::Positions { extra_tokens, to, .. } => resize_positions(tensor, *extra_tokens, *to)?,
            Transform::Patches { to, .. } => {
                let kind = tensor.f_kind()?;
                let resized =
                    tensor.f_to_kind(Kind::Float)?.f_upsample_bicubic2d([*to, *to], false, None, None)?;
                resized.f_to_kind(kind)?
            }
        })
    }
}

/// Resamples position embeddings `[1, extra_tokens + n*n, D]` to `[1, extra_tokens + to.0*to.1, D]`: bicubic,
/// `align_corners` false, no antialias, as upstream does when it loads a ViT. The extra tokens stay.
///
/// # Errors
/// [`super::Error::Torch`] when the shape is another.
pub fn resize_positions(positions: &Tensor, extra_tokens: i64, to: (i64, i64)) -> Result<Tensor> {
    let kind = positions.f_kind()?;
    let tokens = positions.size().get(1).copied().unwrap_or(0);
    let from = ((tokens - extra_tokens).max(0) as f64).sqrt() as i64;
    let extra = positions.f_narrow(1, 0, extra_tokens)?;
    let grid = positions.f_narrow(1, extra_tokens, from * from)?.f_to_kind(Kind::Float)?;
    let grid = grid.f_reshape([1, from, from, -1])?.f_permute([0, 3, 1, 2])?;
    let resized = grid.f_upsample_bicubic2d([to.0, to.1], false, None, None)?;
    let resized = resized.f_permute([0, 2, 3, 1])?.f_reshape([1, to.0 * to.1, -1])?.f_to_kind(kind)?;
    Ok(Tensor::f_cat(&[extra, resized], 1)?)
}

/// What turns shape `found` into `expected`; `None` when nothing sensible does. `grid` is that of the model's positions
/// where it may be no square.
pub(super) fn between(
    candidate: &Candidate,
    found: &[i64],
    expected: &[i64],
    grid: Option<(i64, i64)>,
) -> Option<Vec<Transform>> {
    if candidate.sparse_kernel && found != expected {
        return sparse_kernel(found, expected);
    }
    if found == expected {
        return Some(vec![]);
    }
    if candidate.name.ends_with("pos_embed")
        && let Some(positions) = positions(found, expected, grid)
    {
        return Some(vec![positions]);
    }
    if candidate.name.ends_with("patch_embed.proj.weight")
        && let ([out, channels, from, from_width], [to_out, to_channels, to, to_width]) = (found, expected)
        && (out, channels, from, to) == (to_out, to_channels, from_width, to_width)
    {
        return Some(vec![Transform::Patches { from: *from, to: *to }]);
    }
    // GRN as [1, C], [1, 1, 1, C] or [1, 1, 1, 1, 1, C], biases as [1, C], 1x1 convolutions as matrices.
    let essential = |shape: &[i64]| shape.iter().copied().filter(|n| *n != 1).collect::<Vec<_>>();
    let same_data = essential(found) == essential(expected);
    same_data.then(|| vec![Transform::Reshape(expected.to_vec())])
}

fn sparse_kernel(found: &[i64], expected: &[i64]) -> Option<Vec<Transform>> {
    let [out_channels, in_channels, rows, columns] = expected else { return None };
    let fits = match found {
        [volume, channels] => *in_channels == 1 && channels == out_channels && *volume == rows * columns,
        [volume, inner, outer] => inner == in_channels && outer == out_channels && *volume == rows * columns,
        _ => false,
    };
    (fits && rows == columns).then(|| vec![Transform::SparseKernel { size: *rows }])
}

/// `[1, extra + n*n, D]` and `[1, extra + rows*columns, D]` with the same number of extra tokens, 0 or 1.
fn positions(found: &[i64], expected: &[i64], grid: Option<(i64, i64)>) -> Option<Transform> {
    let ([1, from_tokens, from_dim], [1, to_tokens, to_dim]) = (found, expected) else { return None };
    if from_dim != to_dim {
        return None;
    }
    [0, 1].into_iter().find_map(|extra_tokens| {
        let places = to_tokens - extra_tokens;
        let to = grid.filter(|(rows, columns)| rows * columns == places);
        let to = to.or_else(|| side(places).map(|side| (side, side)))?;
        Some(Transform::Positions { extra_tokens, from: side(from_tokens - extra_tokens)?, to })
    })
}

/// Side of a square grid with `tokens` tokens.
fn side(tokens: i64) -> Option<i64> {
    let side = (tokens.max(0) as f64).sqrt().round() as i64;
    (side > 0 && side * side == tokens).then_some(side)
}

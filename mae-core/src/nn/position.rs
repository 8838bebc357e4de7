//! Fixed 2-D sin-cos positions (MAE, arXiv 2111.06377, appendix A.1) and the resampling of position tables.

use tch::{Device, Kind, Tensor};

use crate::error::{Error, Result};

/// Sin-cos positions `[rows*cols (+1), dim]`, fp32: the first half of the channels encodes the column, the second the
/// row, each half as `[sin | cos]` over `1/10000^(k/(dim/4))`. The class token's row, when asked for, is zeros.
///
/// The arithmetic is fp32 throughout, as the published checkpoints' tables are.
///
/// # Errors
/// [`Error::Shape`] when `dim` is no multiple of 4.
pub fn sincos(dim: i64, grid: (i64, i64), class_token: bool) -> Result<Tensor> {
    if dim <= 0 || dim % 4 != 0 {
        return Err(Error::Shape {
            what: "sin-cos positions".into(),
            expected: "a number of channels that is a multiple of 4".into(),
            found: dim.to_string(),
        });
    }
    let options = (Kind::Float, Device::Cpu);
    let (rows, cols) = grid;
    let quarter = dim / 4;
    let exponent = Tensor::f_arange(quarter, options)?.f_divide_scalar(quarter as f64)?;
    let frequency = Tensor::f_pow_scalar(10000.0, &exponent)?.f_reciprocal()?;
    let half = |positions: &Tensor| -> Result<Tensor> {
        let angle = positions.f_reshape([-1, 1])?.f_mul(&frequency.f_reshape([1, -1])?)?;
        Ok(Tensor::f_cat(&[angle.f_sin()?, angle.f_cos()?], 1)?)
    };
    let column = Tensor::f_arange(cols, options)?.f_reshape([1, -1])?.f_expand([rows, cols], false)?;
    let row = Tensor::f_arange(rows, options)?.f_reshape([-1, 1])?.f_expand([rows, cols], false)?;
    let table = Tensor::f_cat(&[half(&column)?, half(&row)?], 1)?;
    if !class_token {
        return Ok(table);
    }
    Ok(Tensor::f_cat(&[Tensor::f_zeros([1, dim], options)?, table], 0)?)
}

/// A position table's change of grid, at run time or when a checkpoint is loaded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Resample {
    /// Leading rows that belong to tokens without a place (the class token), kept as they are.
    pub prefix: i64,
    /// Rows and columns of the table.
    pub from: (i64, i64),
    /// Rows and columns wanted.
    pub to: (i64, i64),
    /// Whether bicubic interpolation filters when it shrinks: TAO does at run time, and not when it loads.
    pub antialias: bool,
}

/// Resamples a table `[1, prefix + from.0*from.1, C]` to `[1, prefix + to.0*to.1, C]`, bicubic, differentiable.
///
/// # Errors
/// When the table does not have the shape that `resample` says.
pub fn resample(table: &Tensor, resample: Resample) -> Result<Tensor> {
    let Resample { prefix, from, to, antialias } = resample;
    if from == to {
        return Ok(table.shallow_clone());
    }
    let channels = table.size().last().copied().unwrap_or(0);
    let tokens = table.f_narrow(1, 0, prefix)?;
    let places = table.f_narrow(1, prefix, from.0 * from.1)?;
    let image = places.f_reshape([1, from.0, from.1, channels])?.f_permute([0, 3, 1, 2])?;
    let image = if antialias {
        image.f_internal_upsample_bicubic2d_aa([to.0, to.1], false, None, None)?
    } else {
        image.f_upsample_bicubic2d([to.0, to.1], false, None, None)?
    };
    let places = image.f_permute([0, 2, 3, 1])?.f_reshape([1, to.0 * to.1, channels])?;
    Ok(Tensor::f_cat(&[tokens, places], 1)?)
}

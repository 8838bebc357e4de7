//! A picture of what a masked autoencoder does: original, masked, reconstructed, a row each.

use mae_core::engine::{Batch, sample_key};
use mae_core::model::Model;
use tch::{Kind, Tensor};

use crate::error::{Error, Result};

/// RGB bytes, `[height, width, 3]`.
pub(super) struct Picture {
    pub(super) width: u32,
    pub(super) height: u32,
    pub(super) rgb: Vec<u8>,
}

/// Images shown.
const COLUMNS: i64 = 8;

/// The first images of a batch: as they are, with hidden patches grey, and with the hidden patches predicted. Predictions
/// are normalised per patch, so each shown patch takes its mean and contrast from the original.
pub(super) fn reconstruction(model: &Model, batch: &Batch, seed: u64) -> Result<Picture> {
    let _guard = tch::no_grad_guard();
    draw(model, batch, seed).map_err(Error::Core)
}

fn draw(model: &Model, batch: &Batch, seed: u64) -> mae_core::Result<Picture> {
    let count = COLUMNS.min(batch.valid);
    let images = batch.images.f_narrow(0, 0, count)?;
    let keys: Vec<u64> =
        batch.samples[..count as usize].iter().map(|&s| sample_key(seed, u64::MAX, s)).collect();
    let output = model.reconstruct(&images, &keys)?;
    let autoencoder = model.autoencoder()?;
    let (height, width) = model.size;
    let (rows, cols) = model.arch.grid(height, width)?;
    let hidden = output.mask.hidden.f_reshape([-1, 1, rows, cols])?;
    let hidden = hidden.f_upsample_nearest2d([height, width], None, None)?;
    let predicted = patch_statistics(&autoencoder.prediction_as_image(&output)?, &images, (rows, cols))?;
    let visible = images.f_mul(&hidden.f_neg()?.f_add_scalar(1.0)?)?;
    let mixed = visible.f_add(&predicted.f_mul(&hidden)?)?;
    let sheet: Vec<Tensor> = [&images, &visible, &mixed]
        .iter()
        // [N, 3, H, W] → one row of images [3, H, N·W]
        .map(|row| row.f_permute([1, 2, 0, 3])?.f_reshape([3, height, count * width]))
        .collect::<Result<_, _>>()?;
    let sheet = Tensor::f_cat(&sheet, 1)?;
    // Normalised pixels lie within about ±2.7 of zero, whatever mean and standard deviation the spec has.
    let sheet = sheet.f_mul_scalar(255.0 / 5.0)?.f_add_scalar(127.5)?.f_clamp(0.0, 255.0)?;
    let bytes = sheet.f_permute([1, 2, 0])?.f_contiguous()?.f_to_kind(Kind::Uint8)?.f_flatten(0, -1)?;
    Ok(Picture {
        width: (count * width) as u32,
        height: (3 * height) as u32,
        rgb: Vec::try_from(bytes.f_to_device(tch::Device::Cpu)?)?,
    })
}

/// Gives each patch of `prediction` mean and deviation of the same patch of `images`, per channel.
fn patch_statistics(
    prediction: &Tensor,
    images: &Tensor,
    (rows, cols): (i64, i64),
) -> Result<Tensor, tch::TchError> {
    let [count, channels, height, width] = [0, 1, 2, 3].map(|dim| images.size()[dim]);
    let patches = |x: &Tensor| -> Result<Tensor, tch::TchError> {
        x.f_reshape([count, channels, rows, height / rows, cols, width / cols])
    };
    let dims = [3i64, 5];
    let moments = |x: &Tensor| -> Result<(Tensor, Tensor), tch::TchError> {
        let mean = x.f_mean_dim(dims.as_slice(), true, Kind::Float)?;
        let deviation =
            x.f_sub(&mean)?.f_square()?.f_mean_dim(dims.as_slice(), true, Kind::Float)?.f_sqrt()?;
        Ok((mean, deviation))
    };
    let (source, wanted) = (patches(prediction)?, patches(images)?);
    let ((mean, deviation), (target_mean, target_deviation)) = (moments(&source)?, moments(&wanted)?);
    let standard = source.f_sub(&mean)?.f_div(&deviation.f_add_scalar(1e-6)?)?;
    standard.f_mul(&target_deviation)?.f_add(&target_mean)?.f_reshape([count, channels, height, width])
}

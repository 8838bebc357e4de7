//! Pixels as patches, and the reconstruction loss (MAE, arXiv 2111.06377, section 3).

use tch::{Kind, Tensor};

use super::mask::Mask;
use crate::error::Result;

/// Images `[N, 3, H, W]` → patches `[N, L, p·p·3]`; within a patch the order is row, column, channel.
///
/// # Errors
/// When the size is no multiple of the patch.
pub fn patchify(images: &Tensor, (rows, cols): (i64, i64)) -> Result<Tensor> {
    let (p, q) = (images.size()[2] / rows, images.size()[3] / cols);
    let x = images.f_reshape([-1, 3, rows, p, cols, q])?.f_permute([0, 2, 4, 3, 5, 1])?;
    Ok(x.f_reshape([-1, rows * cols, p * q * 3])?)
}

/// The inverse of [`patchify`] for square patches: `[N, L, p·p·3]` → `[N, 3, H, W]`.
///
/// # Errors
/// When the number of patches is not `rows·cols`.
pub fn unpatchify(patches: &Tensor, (rows, cols): (i64, i64)) -> Result<Tensor> {
    let p = ((patches.size()[2] / 3) as f64).sqrt().round() as i64;
    let x = patches.f_reshape([-1, rows, cols, p, p, 3])?.f_permute([0, 5, 1, 3, 2, 4])?;
    Ok(x.f_reshape([-1, 3, rows * p, cols * p])?)
}

/// Each row of `[…, P]` minus its mean, divided by `√(variance + 1e-6)`, the variance unbiased.
pub(super) fn normalize_patches(target: &Tensor) -> Result<Tensor> {
    let mean = target.f_mean_dim([-1].as_slice(), true, Kind::Float)?;
    let variance = target.f_var_dim([-1].as_slice(), true, true)?;
    Ok(target.f_sub(&mean)?.f_div(&variance.f_add_scalar(1e-6)?.f_sqrt()?)?)
}

/// Mean squared error of the hidden patches; `pred` and `target` `[N, L, P]`.
pub(super) fn hidden_patches_loss(pred: &Tensor, target: &Tensor, mask: &Mask) -> Result<Tensor> {
    let error = pred.f_to_kind(Kind::Float)?.f_sub(target)?.f_square()?;
    let error = error.f_mean_dim([-1].as_slice(), false, Kind::Float)?;
    let sum = error.f_mul(&mask.hidden)?.f_sum(Kind::Float)?;
    Ok(sum.f_div(&mask.hidden.f_sum(Kind::Float)?)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use tch::Device;

    #[test]
    fn unpatchify_undoes_patchify() {
        let images = Tensor::arange(2 * 3 * 8 * 12, (Kind::Float, Device::Cpu)).reshape([2, 3, 8, 12]);
        let patches = patchify(&images, (2, 3)).unwrap();
        assert_eq!(patches.size(), [2, 6, 48]);
        // Second patch of the first image starts at column 4: red, green, blue of that pixel.
        assert_eq!(Vec::<f32>::try_from(patches.get(0).get(1).narrow(0, 0, 3)).unwrap(), [4., 100., 196.]);
        assert_eq!(unpatchify(&patches, (2, 3)).unwrap(), images);
    }
}

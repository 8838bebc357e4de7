//! Random masking: per-sample noise, sorted; the patches with the smallest noise are kept.

use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use tch::{Device, Kind, Tensor};

use crate::error::Result;

/// Which patches of a batch are kept and which are hidden.
#[derive(Debug)]
pub struct Mask {
    /// Indices of the kept patches, by rising noise, `[N, K]` int64.
    pub keep: Tensor,
    /// For every patch its place in the order of rising noise, `[N, L]` int64.
    pub restore: Tensor,
    /// 1 where a patch is hidden, 0 where it is kept, `[N, L]` fp32.
    pub hidden: Tensor,
}

impl Mask {
    /// Masks by noise `[N, L]`.
    ///
    /// # Errors
    /// When libtorch fails.
    pub fn from_noise(noise: &Tensor, mask_ratio: f64) -> Result<Self> {
        let patches = noise.size()[1];
        let kept = kept(patches, mask_ratio);
        // Stable, so that equal noise gives the same mask on every device.
        let order = noise.f_argsort_stable(true, 1, false)?;
        let restore = order.f_argsort_stable(true, 1, false)?;
        let hidden = restore.f_ge(kept)?.f_to_kind(Kind::Float)?;
        Ok(Mask { keep: order.f_narrow(1, 0, kept)?, restore, hidden })
    }

    /// Picks the kept patches of `[N, L, C]`: `[N, K, C]`.
    ///
    /// # Errors
    /// When libtorch fails.
    pub fn gather(&self, x: &Tensor) -> Result<Tensor> {
        let channels = x.size()[2];
        let index = self.keep.f_unsqueeze(-1)?.f_expand([-1, -1, channels], false)?;
        Ok(x.f_gather(1, &index, false)?)
    }
}

/// Patches that are kept: `⌊L·(1 − ratio)⌋`.
pub(super) fn kept(patches: i64, mask_ratio: f64) -> i64 {
    (patches as f64 * (1.0 - mask_ratio)) as i64
}

/// Repeats each place of a map `times` × `times`: the rows of dimension `dim`, the columns of the one after it.
pub(super) fn repeat_places(map: &Tensor, dim: i64, times: i64) -> Result<Tensor> {
    let rows = map.f_repeat_interleave_self_int(times, dim, None)?;
    Ok(rows.f_repeat_interleave_self_int(times, dim + 1, None)?)
}

/// Uniform noise `[N, L]` fp32: row `i` follows from `sample_keys[i]` alone.
///
/// # Errors
/// When libtorch fails.
pub fn mask_noise(sample_keys: &[u64], patches: i64, device: Device) -> Result<Tensor> {
    let mut noise = Vec::with_capacity(sample_keys.len() * patches as usize);
    for &key in sample_keys {
        let mut stream = ChaCha8Rng::seed_from_u64(key);
        // Stochastic depth draws from the low streams of the same key.
        stream.set_stream(u64::MAX);
        noise.extend((0..patches).map(|_| stream.random::<f32>()));
    }
    let noise = Tensor::f_from_slice(&noise)?.f_reshape([sample_keys.len() as i64, patches])?;
    Ok(noise.f_to_device(device)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_smallest_noise_is_kept_and_the_mask_is_its_complement() {
        let noise = Tensor::from_slice2(&[[0.3f32, 0.1, 0.9, 0.2], [0.8, 0.7, 0.0, 0.5]]);
        let mask = Mask::from_noise(&noise, 0.5).unwrap();
        assert_eq!(Vec::<Vec<i64>>::try_from(&mask.keep).unwrap(), [[1, 3], [2, 3]]);
        let hidden = Vec::<Vec<f32>>::try_from(&mask.hidden).unwrap();
        assert_eq!(hidden, [[1., 0., 1., 0.], [1., 1., 0., 0.]]);
        let x = Tensor::arange(8, (Kind::Float, Device::Cpu)).reshape([2, 4, 1]);
        let kept = Vec::<f32>::try_from(mask.gather(&x).unwrap().flatten(0, -1)).unwrap();
        assert_eq!(kept, [1., 3., 6., 7.]);
    }

    #[test]
    fn a_sample_keeps_its_noise_in_any_batch() {
        let together = mask_noise(&[5, 6, 7], 49, Device::Cpu).unwrap();
        let alone = mask_noise(&[6], 49, Device::Cpu).unwrap();
        assert_eq!(together.get(1), alone.get(0));
        assert_ne!(together.get(0), together.get(2));
    }
}

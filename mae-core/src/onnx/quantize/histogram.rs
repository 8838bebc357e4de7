//! How large the values of a tensor are, over many images.

use tch::{Kind, Tensor};

use crate::error::Result;

const BINS: usize = 2048;
/// The share of values within the range. The few beyond it are cut off: a range for them would make all steps larger.
const SHARE: f64 = 0.9999;

/// Counts of absolute values. The range doubles when it has to, and neighbouring bins are then one.
#[derive(Debug, Clone, Default)]
pub(super) struct Histogram {
    range: f64,
    counts: Vec<f64>,
}

impl Histogram {
    /// Counts the values of a tensor.
    pub(super) fn add(&mut self, values: &Tensor) -> Result<()> {
        let values = values.f_to_kind(Kind::Float)?.f_abs()?;
        let largest = f64::try_from(values.f_max()?)?;
        if !largest.is_finite() || largest == 0.0 {
            return Ok(());
        }
        if self.counts.is_empty() {
            (self.range, self.counts) = (largest, vec![0.0; BINS]);
        }
        while self.range < largest {
            self.range *= 2.0;
            let pairs = self.counts.chunks_exact(2).map(|pair| pair[0] + pair[1]);
            let merged: Vec<f64> = pairs.chain(std::iter::repeat(0.0)).take(BINS).collect();
            self.counts = merged;
        }
        // Bin by bin in integers: libtorch's own histogram counts in fp32, which ends at 16 million.
        let bins =
            values.f_mul_scalar(BINS as f64 / self.range)?.f_floor()?.f_clamp_max((BINS - 1) as f64)?;
        let counts =
            bins.f_to_kind(Kind::Int64)?.f_reshape([-1])?.f_bincount::<&Tensor>(None, BINS as i64)?;
        for (sum, count) in self.counts.iter_mut().zip(Vec::<i64>::try_from(counts)?) {
            *sum += count as f64;
        }
        Ok(())
    }

    /// The absolute value that nearly all values stay within; 0 when there were none but zeros.
    pub(super) fn limit(&self) -> f64 {
        let wanted = self.counts.iter().sum::<f64>() * SHARE;
        let mut sum = 0.0;
        let bin = self.counts.iter().position(|count| {
            sum += count;
            sum >= wanted
        });
        bin.map_or(0.0, |bin| (bin + 1) as f64 * self.range / BINS as f64)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn the_limit_leaves_out_the_few_largest() {
        let mut histogram = Histogram::default();
        assert_eq!(histogram.limit(), 0.0);
        // 100,000 values from 0 to 1, then one of 100: the range doubles seven times.
        histogram
            .add(&Tensor::arange(100_000, (Kind::Float, tch::Device::Cpu)).divide_scalar(-100_000.0))
            .unwrap();
        assert!((histogram.limit() - 1.0).abs() < 1e-3, "{}", histogram.limit());
        histogram.add(&Tensor::from_slice(&[100.0_f32, 0.0])).unwrap();
        assert_eq!(histogram.counts.iter().sum::<f64>(), 100_002.0);
        assert!((histogram.limit() - 1.0).abs() < 0.1, "{}", histogram.limit());
    }
}

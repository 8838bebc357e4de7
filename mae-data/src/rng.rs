//! Random numbers that depend on a key and on nothing else.
//!
//! There is no shared generator: each use asks for its own ChaCha8 stream by (seed, epoch, index, purpose), so the
//! numbers do not depend on threads, on the order of work or on where a run was resumed.

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng as _, SeedableRng};
use rand_distr::{Beta, Distribution, StandardNormal};

/// What a stream is used for; two purposes never share numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// The order of the samples in an epoch; `index` is 0.
    Shuffle = 1,
    /// Crop, flip, colours and erasing of one sample; `index` is the sample.
    Augment = 2,
    /// Mixup and CutMix of one batch; `index` is the batch, counted over all ranks.
    Mixup = 3,
    /// Which image stands in for an unreadable one; `index` is the unreadable one, `epoch` is 0.
    Replace = 4,
    /// Which images of a class go to which part of a divided data set; `index` is the class, `epoch` is 0.
    Split = 5,
}

/// One keyed stream of random numbers.
pub struct KeyedRng(ChaCha8Rng);

impl KeyedRng {
    /// The stream of this key.
    pub fn new(seed: u64, epoch: u64, index: u64, purpose: Purpose) -> Self {
        let mut key = [0; 32];
        for (slot, word) in key.chunks_exact_mut(8).zip([seed, epoch, index, purpose as u64]) {
            slot.copy_from_slice(&word.to_le_bytes());
        }
        Self(ChaCha8Rng::from_seed(key))
    }

    /// Uniform in [0, 1), 53 bits.
    pub fn unit(&mut self) -> f64 {
        (self.0.next_u64() >> 11) as f64 / (1u64 << 53) as f64
    }

    /// Uniform in [low, high).
    pub fn uniform(&mut self, low: f64, high: f64) -> f64 {
        low + (high - low) * self.unit()
    }

    /// True with this probability; always true at 1, never at 0.
    pub fn chance(&mut self, probability: f64) -> bool {
        self.unit() < probability
    }

    /// Uniform among 0, 1, …, `n` − 1; 0 when `n` is 0. The bias is below n / 2⁶⁴.
    pub fn below(&mut self, n: usize) -> usize {
        ((u128::from(self.0.next_u64()) * n as u128) >> 64) as usize
    }

    /// Standard normal.
    pub fn normal(&mut self) -> f64 {
        StandardNormal.sample(&mut self.0)
    }

    /// Beta(alpha, alpha); 1 for an `alpha` that is not positive.
    pub fn beta(&mut self, alpha: f64) -> f64 {
        Beta::new(alpha, alpha).map_or(1.0, |beta| beta.sample(&mut self.0))
    }

    /// Shuffles uniformly (Fisher and Yates).
    pub fn shuffle<T>(&mut self, items: &mut [T]) {
        for i in (1..items.len()).rev() {
            items.swap(i, self.below(i + 1));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_part_of_the_key_counts() {
        let first = |seed, epoch, index, purpose| KeyedRng::new(seed, epoch, index, purpose).0.next_u64();
        let base = first(1, 2, 3, Purpose::Augment);
        assert_eq!(base, first(1, 2, 3, Purpose::Augment));
        for other in [
            first(0, 2, 3, Purpose::Augment),
            first(1, 0, 3, Purpose::Augment),
            first(1, 2, 0, Purpose::Augment),
            first(1, 2, 3, Purpose::Mixup),
        ] {
            assert_ne!(base, other);
        }
    }

    #[test]
    fn below_is_uniform_and_in_range() {
        let mut rng = KeyedRng::new(7, 0, 0, Purpose::Shuffle);
        let mut counts = [0u32; 7];
        for _ in 0..70_000 {
            counts[rng.below(7)] += 1;
        }
        let chi: f64 = counts.iter().map(|&c| (f64::from(c) - 10_000.0).powi(2) / 10_000.0).sum();
        assert!(chi < 22.5, "chi-squared {chi} with 6 degrees of freedom (p = 0.001)");
    }

    #[test]
    fn shuffle_keeps_all_items() {
        let mut items: Vec<u32> = (0..100).collect();
        KeyedRng::new(7, 0, 0, Purpose::Shuffle).shuffle(&mut items);
        assert_ne!(items, (0..100).collect::<Vec<_>>());
        items.sort_unstable();
        assert_eq!(items, (0..100).collect::<Vec<_>>());
    }
}

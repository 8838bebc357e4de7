//! What the engine computes on.

use tch::Tensor;

/// A batch on the model's device.
#[derive(Debug)]
pub struct Batch {
    /// Normalised images, `[N, 3, H, W]` fp32.
    pub images: Tensor,
    /// Class of each image, `[N]` int64; absent in pretraining and inference.
    pub labels: Option<Tensor>,
    /// Target distributions, `[N, num_classes]` fp32, when mixup made some.
    pub targets: Option<Tensor>,
    /// Mask noise `[N, L]` fp32 of a masked autoencoder, to repeat a known masking; `None` draws it from the samples'
    /// keys.
    pub noise: Option<Tensor>,
    /// Number of each sample in the data set.
    pub samples: Vec<u64>,
    /// How many samples, from the first, count; the others fill up the last batch of a distributed run.
    pub valid: i64,
}

/// The key from which everything random about a sample in one epoch follows (mask, stochastic depth), whatever batch,
/// rank or thread it is in.
pub fn sample_key(seed: u64, epoch: u64, sample: u64) -> u64 {
    let mut hasher = blake3::Hasher::new();
    for word in [seed, epoch, sample] {
        hasher.update(&word.to_le_bytes());
    }
    let mut key = [0; 8];
    hasher.finalize_xof().fill(&mut key);
    u64::from_le_bytes(key)
}

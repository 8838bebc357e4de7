//! Exact metrics over a data set: sums over samples, never means of batch means.

use tch::Tensor;

use super::batch::{Batch, sample_key};
use super::collective::Collective;
use crate::classify::{correct_top_k, cross_entropy};
use crate::error::Result;
use crate::model::{Model, Network};
use crate::ops::{Eager, Precision};
use crate::pretrain::mask_noise;

/// What an evaluation found.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Metrics {
    /// Samples that counted.
    pub samples: u64,
    /// Mean loss: cross entropy, or the reconstruction loss under fixed masks.
    pub loss: f64,
    /// Share of samples whose class has the largest logit; absent in pretraining.
    pub accuracy: Option<f64>,
    /// Share of samples whose class is among the five largest; absent in pretraining.
    pub accuracy_top5: Option<f64>,
}

/// An evaluation in progress.
pub struct Evaluation<'m> {
    /// Absent where the logits come from elsewhere.
    model: Option<&'m Model>,
    precision: Precision,
    seed: u64,
    loss_sum: f64,
    correct: f64,
    correct_top5: f64,
    samples: f64,
}

/// Masks of an evaluation do not change from epoch to epoch, so that its losses can be compared.
const EVALUATION_EPOCH: u64 = u64::MAX;

impl<'m> Evaluation<'m> {
    /// Starts with nothing counted.
    pub fn new(model: &'m Model, precision: Precision, seed: u64) -> Self {
        Evaluation { model: Some(model), precision, seed, ..Self::of_logits() }
    }

    /// The same for a classifier that runs elsewhere: [`add_logits`](Self::add_logits) is given what it found.
    pub fn of_logits() -> Self {
        let (loss_sum, correct, correct_top5, samples) = (0.0, 0.0, 0.0, 0.0);
        Evaluation {
            model: None,
            precision: Precision::Fp32,
            seed: 0,
            loss_sum,
            correct,
            correct_top5,
            samples,
        }
    }

    /// Adds the counted samples of a batch.
    ///
    /// # Errors
    /// When libtorch fails.
    pub fn add(&mut self, batch: &Batch) -> Result<()> {
        let _guard = tch::no_grad_guard();
        let valid = batch.valid;
        let Some(model) = self.model else { return Ok(()) };
        if valid == 0 {
            return model.join_forward();
        }
        let images = batch.images.f_narrow(0, 0, valid)?;
        let eager = Eager::new(&model.params).with_precision(self.precision);
        let loss = match &model.network {
            Network::Pretrain(autoencoder) => {
                let keys: Vec<u64> = batch.samples[..valid as usize]
                    .iter()
                    .map(|&sample| sample_key(self.seed, EVALUATION_EPOCH, sample))
                    .collect();
                let noise = mask_noise(&keys, autoencoder.patches(), images.device())?;
                // Every image hides as many patches: the batch's mean is the mean over its images.
                autoencoder.forward(&eager, &images, &noise)?.loss
            }
            Network::Classify(classifier) => {
                return self.add_logits(batch, &classifier.logits(&eager, &images)?);
            }
        };
        self.count(&loss, valid)
    }

    /// Adds the counted samples of a batch, whose first rows of `logits` `[N, num_classes]` are theirs. A batch without
    /// labels is passed over.
    ///
    /// # Errors
    /// When libtorch fails.
    pub fn add_logits(&mut self, batch: &Batch, logits: &Tensor) -> Result<()> {
        let valid = batch.valid;
        let Some(labels) = batch.labels.as_ref().filter(|_| valid > 0) else { return Ok(()) };
        let (logits, labels) = (logits.f_narrow(0, 0, valid)?, labels.f_narrow(0, 0, valid)?);
        self.correct += correct_top_k(&logits, &labels, 1, valid)? as f64;
        self.correct_top5 += correct_top_k(&logits, &labels, 5, valid)? as f64;
        self.count(&cross_entropy(&logits, &labels, 0.0)?, valid)
    }

    fn count(&mut self, loss: &Tensor, samples: i64) -> Result<()> {
        self.loss_sum += f64::try_from(loss)? * samples as f64;
        self.samples += samples as f64;
        Ok(())
    }

    /// The metrics over all ranks.
    ///
    /// # Errors
    /// When a peer fails.
    pub fn finish(self, collective: &dyn Collective) -> Result<Metrics> {
        let mut sums = [self.loss_sum, self.correct, self.correct_top5, self.samples];
        collective.sum(&mut sums)?;
        let [loss, correct, correct_top5, samples] = sums;
        let classify = self.model.is_none_or(|model| matches!(model.network, Network::Classify(_)));
        let share = |count: f64| classify.then_some(count / samples);
        Ok(Metrics {
            samples: samples as u64,
            loss: loss / samples,
            accuracy: share(correct),
            accuracy_top5: share(correct_top5),
        })
    }
}

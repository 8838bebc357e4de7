//! Exact metrics over a data set: sums over samples, never means of batch means.

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
    model: &'m Model,
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
        Evaluation { model, precision, seed, loss_sum: 0.0, correct: 0.0, correct_top5: 0.0, samples: 0.0 }
    }

    /// Adds the counted samples of a batch.
    ///
    /// # Errors
    /// When libtorch fails.
    pub fn add(&mut self, batch: &Batch) -> Result<()> {
        let _guard = tch::no_grad_guard();
        let valid = batch.valid;
        if valid == 0 {
            return Ok(());
        }
        let images = batch.images.f_narrow(0, 0, valid)?;
        let eager = Eager::new(&self.model.params).with_precision(self.precision);
        let loss = match &self.model.network {
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
                let logits = classifier.logits(&eager, &images)?;
                let Some(labels) = &batch.labels else { return Ok(()) };
                let labels = labels.f_narrow(0, 0, valid)?;
                self.correct += correct_top_k(&logits, &labels, 1, valid)? as f64;
                self.correct_top5 += correct_top_k(&logits, &labels, 5, valid)? as f64;
                cross_entropy(&logits, &labels, 0.0)?
            }
        };
        self.loss_sum += f64::try_from(loss)? * valid as f64;
        self.samples += valid as f64;
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
        let classify = matches!(self.model.network, Network::Classify(_));
        let share = |count: f64| classify.then_some(count / samples);
        Ok(Metrics {
            samples: samples as u64,
            loss: loss / samples,
            accuracy: share(correct),
            accuracy_top5: share(correct_top5),
        })
    }
}

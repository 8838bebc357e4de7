//! One training: model, optimizer, and where it stands.

use tch::Tensor;

use super::batch::{Batch, sample_key};
use super::collective::Collective;
use super::scaler::LossScaler;
use crate::checkpoint::Value;
use crate::checkpoint::dialect::Role;
use crate::checkpoint::lightning::{CheckpointContents, GradScaler, Loops, LrScheduler, LrSchedulerKind};
use crate::classify::{cross_entropy, soft_target_cross_entropy};
use crate::error::{Error, Result};
use crate::model::{Model, Network};
use crate::ops::{Eager, Precision, Regularization};
use crate::optim::{LrSchedule, Optimizer};
use crate::pretrain::mask_noise;

/// Settings of the step.
#[derive(Debug, Clone, PartialEq)]
pub struct TrainerConfig {
    /// Seed of everything random.
    pub seed: u64,
    /// Arithmetic of the products.
    pub precision: Precision,
    /// Batches whose gradients are summed before a step.
    pub accumulate: u64,
    /// Largest global gradient norm; `None` does not clip.
    pub clip_grad_norm: Option<f64>,
    /// Label smoothing, where no mixup smooths already.
    pub label_smoothing: f64,
    /// Steps in a row whose loss or gradients may be non-finite before the run gives up.
    pub max_bad_steps: u64,
}

/// Where a training is. With the model's and the optimizer's state it is all that a resumed run needs.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Cursor {
    /// Epoch, from 0.
    pub epoch: u64,
    /// Batches of this epoch that are done, on each rank.
    pub batch: u64,
    /// Batches that are done in all epochs.
    pub batches: u64,
    /// Optimizer steps that are done.
    pub step: u64,
    /// Optimizer steps of this epoch.
    pub step_in_epoch: u64,
    /// Sum of the losses of this epoch's batches.
    pub loss_sum: f64,
}

/// What one batch did.
#[derive(Debug, Clone, PartialEq)]
pub struct StepOutcome {
    /// Loss of the batch, averaged over ranks.
    pub loss: f64,
    /// Rate of the current optimizer step.
    pub lr: f64,
    /// Whether the batch completed an optimizer step.
    pub stepped: bool,
    /// Why that step was left out, if it was: something was not finite.
    pub skipped: Option<Skipped>,
}

/// A step that was left out: the parameters are as before it.
#[derive(Debug, Clone, PartialEq)]
pub struct Skipped {
    /// What was not finite.
    pub reason: SkipReason,
    /// The samples it was made of, on all ranks; those of the batches whose loss was not finite, when that is the reason.
    pub samples: Vec<u64>,
}

/// What was not finite.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum SkipReason {
    /// The loss.
    Loss,
    /// The gradients of a finite loss.
    Gradients,
    /// The gradients of a finite loss in fp16, under a loss scale that was therefore lowered. This is how the scale finds its
    /// value, and no sign of trouble.
    LossScale {
        /// The scale from now on.
        lowered_to: f64,
    },
}

/// The batches that the next optimizer step is made of.
#[derive(Debug, Default)]
struct Window {
    /// Samples of this rank.
    samples: Vec<u64>,
    /// Samples of this rank in batches whose loss, over all ranks, was not finite.
    bad_samples: Vec<u64>,
    is_bad: bool,
}

/// A training that can be stepped, saved and resumed.
pub struct Trainer<'c> {
    /// The model.
    pub model: Model,
    /// The optimizer.
    pub optimizer: Optimizer,
    /// The schedule.
    pub schedule: LrSchedule,
    /// The settings.
    pub config: TrainerConfig,
    /// The other processes.
    pub collective: &'c dyn Collective,
    cursor: Cursor,
    /// The cursor after the last optimizer step: what a checkpoint can go on from.
    stepped: Cursor,
    scaler: Option<LossScaler>,
    window: Window,
    bad_steps: u64,
    skipped_steps: u64,
    stop_asked: bool,
    stop_agreed: bool,
}

impl<'c> Trainer<'c> {
    /// A training that has not begun.
    pub fn new(
        model: Model,
        optimizer: Optimizer,
        schedule: LrSchedule,
        config: TrainerConfig,
        collective: &'c dyn Collective,
    ) -> Self {
        let scaler = (config.precision == Precision::Fp16).then(LossScaler::default);
        Trainer {
            model,
            optimizer,
            schedule,
            config,
            collective,
            cursor: Cursor::default(),
            stepped: Cursor::default(),
            scaler,
            window: Window::default(),
            bad_steps: 0,
            skipped_steps: 0,
            stop_asked: false,
            stop_agreed: false,
        }
    }

    /// Where the training is.
    pub fn cursor(&self) -> &Cursor {
        &self.cursor
    }

    /// Epoch and optimizer step of the state that [`checkpoint`](Self::checkpoint) gives.
    pub fn checkpoint_position(&self) -> (u64, u64) {
        (self.stepped.epoch, self.stepped.step)
    }

    /// Steps left out so far because something was not finite.
    pub fn skipped_steps(&self) -> u64 {
        self.skipped_steps
    }

    /// The loss scale; absent but in fp16.
    pub fn scaler(&self) -> Option<&LossScaler> {
        self.scaler.as_ref()
    }

    /// The rate of the next optimizer step.
    pub fn lr(&self) -> f64 {
        self.schedule.lr(self.cursor.epoch, self.cursor.step)
    }

    /// The rate of the optimizer step before the cursor.
    pub fn last_lr(&self) -> f64 {
        self.schedule.lr(self.cursor.epoch, self.cursor.step.saturating_sub(1))
    }

    /// Forward, backward, and an optimizer step when the window of accumulated batches is full or the epoch's last
    /// batch is in; a short last window is divided by the full factor, as TAO does.
    ///
    /// # Errors
    /// [`Error::NotFinite`] after too many bad steps in a row; when libtorch or a peer fails.
    pub fn train_batch(&mut self, batch: &Batch, last_in_epoch: bool) -> Result<StepOutcome> {
        let lr = self.lr();
        let loss = self.loss(batch)?;
        let mut sums = [f64::try_from(loss.detach())?, f64::from(u8::from(self.stop_asked))];
        self.collective.sum(&mut sums)?;
        let value = sums[0] / self.collective.world_size() as f64;
        self.stop_agreed |= sums[1] > 0.0;
        self.window.samples.extend(counted(batch));
        if !value.is_finite() {
            self.window.is_bad = true;
            self.window.bad_samples.extend(counted(batch));
        }
        let scale = self.scaler.map_or(1.0, |scaler| scaler.scale);
        let loss = loss.f_mul_scalar(scale / self.config.accumulate as f64)?;
        let stepped = last_in_epoch || (self.cursor.batch + 1).is_multiple_of(self.config.accumulate);
        if self.model.params.backward(&loss)? {
            // Whole gradients are never kept: they are summed over the ranks with each batch.
        } else if stepped {
            let mut parameters: Vec<Tensor> =
                self.model.params.trainable().map(|(_, _, tensor)| tensor.shallow_clone()).collect();
            self.collective.backward(&loss, &mut parameters)?;
        } else {
            // Nothing is sent before the window is full.
            loss.f_backward()?;
        }

        // A loss that is not finite counts as the mean of the others, and does not spoil it.
        self.cursor.loss_sum += if value.is_finite() { value } else { self.epoch_loss() };
        self.cursor.batch += 1;
        self.cursor.batches += 1;
        let skipped = if stepped { self.optimizer_step(lr, scale)? } else { None };
        Ok(StepOutcome { loss: value, lr, stepped, skipped })
    }

    /// Goes on at the same image of the epoch when a batch, on all ranks together, had `before` images and has `now`.
    /// Returns how many images of this epoch are seen a second time, because the new batches begin elsewhere.
    pub fn rescale(&mut self, before: u64, now: u64) -> u64 {
        let seen = self.cursor.batch * before;
        let batch = seen / now.max(1);
        if self.cursor.batch > 0 {
            self.cursor.loss_sum *= batch as f64 / self.cursor.batch as f64;
        }
        self.cursor.batch = batch;
        self.stepped = self.cursor;
        seen - batch * now
    }

    /// Asks to stop. All ranks must stop after the same step, so others are told with the next batch.
    pub fn ask_to_stop(&mut self) {
        self.stop_asked = true;
        self.stop_agreed |= self.collective.world_size() == 1;
    }

    /// Whether some rank asked to stop and all know it.
    pub fn stop_is_agreed(&self) -> bool {
        self.stop_agreed
    }

    /// Mean loss of this epoch's batches so far.
    pub fn epoch_loss(&self) -> f64 {
        self.cursor.loss_sum / self.cursor.batch.max(1) as f64
    }

    /// Moves the cursor to the start of the next epoch.
    pub fn finish_epoch(&mut self) {
        let Cursor { epoch, batches, step, .. } = self.cursor;
        self.cursor = Cursor { epoch: epoch + 1, batches, step, ..Cursor::default() };
        self.stepped = self.cursor;
    }

    /// The state after the last optimizer step, as Lightning lays it out, with what it has no place for under `mae`; `extra`
    /// joins that. Tensors are not copied: write them before the next step. Of a model in shares all ranks ask for it, and
    /// rank 0 gets it; elsewhere its tensors are empty.
    ///
    /// # Errors
    /// When a tensor cannot be viewed; a lost or late peer.
    pub fn checkpoint(&self, epoch_done: bool, extra: Vec<(&str, Value)>) -> Result<CheckpointContents> {
        let cursor = self.stepped;
        let next_epoch = cursor.epoch + u64::from(epoch_done);
        let (lr, initial) = (self.schedule.lr(next_epoch, cursor.step), self.schedule.initial_lr());
        let optimizer = self.optimizer.state(&self.model.params, lr, initial)?;
        let rates = |of: fn(&crate::checkpoint::lightning::ParamGroup) -> f64| -> Vec<f64> {
            optimizer.param_groups.iter().map(of).collect()
        };
        let (kind, scheduler_steps) = match &self.schedule {
            LrSchedule::MultiStep { milestones, gamma, .. } => {
                let mut counted: Vec<(i64, i64)> = Vec::new();
                for &milestone in milestones {
                    match counted.iter_mut().find(|(at, _)| *at == milestone as i64) {
                        Some((_, times)) => *times += 1,
                        None => counted.push((milestone as i64, 1)),
                    }
                }
                (LrSchedulerKind::MultiStep { milestones: counted, gamma: *gamma }, next_epoch)
            }
            LrSchedule::Cosine { .. } => (LrSchedulerKind::Lambda, cursor.step),
        };
        let by_epoch = matches!(self.schedule, LrSchedule::MultiStep { .. });
        let scheduler = LrScheduler {
            kind,
            base_lrs: rates(|group| group.initial_lr.unwrap_or(group.lr)),
            last_epoch: scheduler_steps as i64,
            last_lr: rates(|group| group.lr),
        };
        let mut state = vec![
            ("format", Value::Int(1)),
            ("arch", Value::str(self.model.arch.name)),
            ("stage", Value::str(stage_name(&self.model.network))),
            ("input_size", Value::list([self.model.size.0, self.model.size.1].map(Value::Int))),
            ("seed", Value::Int(self.config.seed as i64)),
            ("epoch_done", Value::Bool(epoch_done)),
            ("loss_sum", Value::Float(cursor.loss_sum)),
            ("skipped_steps", Value::Int(self.skipped_steps as i64)),
            ("bad_steps", Value::Int(self.bad_steps as i64)),
        ];
        state.extend(extra);
        Ok(CheckpointContents {
            epoch: cursor.epoch as i64,
            global_step: cursor.step as i64,
            loops: Loops {
                epochs_started: cursor.epoch as i64 + 1,
                epoch_done,
                batches: cursor.batches as i64,
                batches_in_epoch: cursor.batch as i64,
                optimizer_steps: cursor.step as i64,
                optimizer_steps_in_epoch: cursor.step_in_epoch as i64,
                scheduler_steps: if by_epoch { next_epoch as i64 } else { cursor.step as i64 },
                scheduler_steps_in_epoch: if by_epoch {
                    i64::from(epoch_done)
                } else {
                    cursor.step_in_epoch as i64
                },
                validation_batches: 0,
            },
            optimizer: Some(optimizer),
            lr_schedulers: vec![scheduler],
            scaler: self.scaler.map(|LossScaler { scale, good_steps }| GradScaler {
                scale,
                growth_tracker: good_steps as i64,
            }),
            extra: Some(Value::dict(state)),
            ..CheckpointContents::new(self.model.state_dict()?)
        })
    }

    /// Continues from a checkpoint that [`checkpoint`](Self::checkpoint) gave, or TAO.
    ///
    /// # Errors
    /// When model or optimizer differ from the checkpoint's.
    pub fn resume(&mut self, contents: &CheckpointContents) -> Result<()> {
        self.model.load_state_dict(&contents.state_dict, Role::Full)?;
        if let Some(state) = &contents.optimizer {
            self.optimizer.load_state(&self.model.params, state)?;
        }
        let extra = |key: &str| contents.extra.as_ref().and_then(|extra| extra.get(key));
        if let (Some(scaler), Some(stored)) = (&mut self.scaler, contents.scaler) {
            *scaler = LossScaler { scale: stored.scale, good_steps: stored.growth_tracker.max(0) as u64 };
        }
        let count = |key: &str| extra(key).and_then(Value::as_i64).unwrap_or(0) as u64;
        (self.skipped_steps, self.bad_steps) = (count("skipped_steps"), count("bad_steps"));
        let loops = &contents.loops;
        self.cursor = Cursor {
            epoch: contents.epoch as u64,
            batch: loops.batches_in_epoch as u64,
            batches: loops.batches as u64,
            step: contents.global_step as u64,
            step_in_epoch: loops.optimizer_steps_in_epoch as u64,
            loss_sum: extra("loss_sum").and_then(Value::as_f64).unwrap_or(0.0),
        };
        self.stepped = self.cursor;
        let epoch_done = extra("epoch_done").and_then(Value::as_bool).unwrap_or(loops.epoch_done);
        if epoch_done {
            self.finish_epoch();
        }
        Ok(())
    }

    fn loss(&self, batch: &Batch) -> Result<Tensor> {
        let epoch = self.cursor.epoch;
        let keys: Vec<u64> = batch.samples.iter().map(|&s| sample_key(self.config.seed, epoch, s)).collect();
        let eager = Eager::new(&self.model.params).with_precision(self.config.precision);
        match &self.model.network {
            Network::Pretrain(autoencoder) => {
                let noise = match &batch.noise {
                    Some(noise) => noise.shallow_clone(),
                    None => mask_noise(&keys, autoencoder.patches(), batch.images.device())?,
                };
                let eager = eager.with_regularization(Regularization { sample_keys: keys });
                Ok(autoencoder.forward(&eager, &batch.images, &noise)?.loss)
            }
            Network::Classify(classifier) => {
                let eager = eager.with_regularization(Regularization { sample_keys: keys });
                let logits = classifier.logits(&eager, &batch.images)?;
                match (&batch.targets, &batch.labels) {
                    (Some(targets), _) => soft_target_cross_entropy(&logits, targets),
                    (None, Some(labels)) => cross_entropy(&logits, labels, self.config.label_smoothing),
                    (None, None) => Err(Error::Shape {
                        what: "training batch".into(),
                        expected: "labels [N] or target distributions [N, classes]".into(),
                        found: "neither".into(),
                    }),
                }
            }
        }
    }

    /// Unscales, clips, steps. Returns why the step was left out, if it was.
    fn optimizer_step(&mut self, lr: f64, scale: f64) -> Result<Option<Skipped>> {
        let mut gradients: Vec<Tensor> =
            self.model.params.trainable().map(|(_, _, t)| t.grad()).filter(Tensor::defined).collect();
        if scale != 1.0 {
            for gradient in &mut gradients {
                let _ = gradient.f_div_scalar_(scale)?;
            }
        }
        let norm = match global_norm(&gradients)? {
            share if self.model.params.is_sharded() => self.model.params.sum_of_shares(share * share)?.sqrt(),
            norm => norm,
        };
        let window = std::mem::take(&mut self.window);
        let finite = norm.is_finite() && !window.is_bad;
        if let Some(scaler) = &mut self.scaler {
            scaler.update(finite);
        }
        let skipped = if finite {
            if let Some(limit) = self.config.clip_grad_norm.filter(|&limit| norm > limit) {
                for gradient in &mut gradients {
                    let _ = gradient.f_mul_scalar_(limit / (norm + 1e-6))?;
                }
            }
            self.optimizer.step(&self.model.params, lr)?;
            self.bad_steps = 0;
            None
        } else {
            Some(self.skip(window)?)
        };
        self.model.params.zero_grad()?;
        self.cursor.step += 1;
        self.cursor.step_in_epoch += 1;
        self.stepped = self.cursor;
        Ok(skipped)
    }

    /// Counts a step that is left out, and gives up after too many in a row.
    fn skip(&mut self, window: Window) -> Result<Skipped> {
        let reason = match self.scaler {
            _ if window.is_bad => SkipReason::Loss,
            Some(scaler) if scaler.scale >= 1.0 => SkipReason::LossScale { lowered_to: scaler.scale },
            _ => SkipReason::Gradients,
        };
        let samples = if window.is_bad { window.bad_samples } else { window.samples };
        let samples = self.samples_of_all_ranks(&samples)?;
        if !matches!(reason, SkipReason::LossScale { .. }) {
            self.bad_steps += 1;
        }
        if self.bad_steps >= self.config.max_bad_steps {
            let what = if reason == SkipReason::Loss { "loss" } else { "gradient norm" };
            let (steps, step) = (self.bad_steps as usize, self.cursor.step);
            // Who goes on from here has changed something, and begins to count anew.
            self.bad_steps = 0;
            return Err(Error::NotFinite { what, steps, step, samples });
        }
        self.skipped_steps += 1;
        Ok(Skipped { reason, samples })
    }

    fn samples_of_all_ranks(&self, samples: &[u64]) -> Result<Vec<u64>> {
        let bytes: Vec<u8> = samples.iter().flat_map(|sample| sample.to_le_bytes()).collect();
        let gathered = self.collective.gather_bytes(&bytes)?.concat();
        Ok(gathered
            .chunks_exact(8)
            .map(|word| u64::from_le_bytes(word.try_into().unwrap_or_default()))
            .collect())
    }
}

/// The samples of a batch that count.
fn counted(batch: &Batch) -> impl Iterator<Item = u64> {
    batch.samples.iter().copied().take(batch.valid as usize)
}

/// TAO's name of the stage a network belongs to.
fn stage_name(network: &Network) -> &'static str {
    match network {
        Network::Pretrain(_) => "pretrain",
        Network::Classify(_) => "finetune",
    }
}

/// L2 norm over all gradients; not finite when any entry is not.
fn global_norm(gradients: &[Tensor]) -> Result<f64> {
    let norms: Vec<Tensor> =
        gradients.iter().map(|gradient| gradient.f_norm()).collect::<Result<_, tch::TchError>>()?;
    if norms.is_empty() {
        return Ok(0.0);
    }
    Ok(f64::try_from(Tensor::f_stack(&norms, 0)?.f_norm()?)?)
}

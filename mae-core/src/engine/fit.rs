//! The loop around the step: epochs, validation, when to save, when to stop.

use super::batch::Batch;
use super::evaluate::{Evaluation, Metrics};
use super::trainer::{StepOutcome, Trainer};
use crate::error::Error;

/// Where the batches of a training come from. `E` is the caller's error.
pub trait Data<E> {
    /// Batches of an epoch that is about to begin, on this rank; `None` when only its last batch will tell.
    ///
    /// # Errors
    /// When the data cannot be opened.
    fn batches_per_epoch(&mut self, epoch: u64) -> Result<Option<u64>, E>;

    /// The training batches of an epoch from batch `start` on, in their fixed order.
    ///
    /// # Errors
    /// When the data cannot be opened.
    fn train(&mut self, epoch: u64, start: u64) -> Result<Batches<'_, E>, E>;

    /// The validation batches, if there is a validation set.
    ///
    /// # Errors
    /// When the data cannot be opened.
    fn validation(&mut self) -> Result<Option<Batches<'_, E>>, E>;
}

/// Batches in order.
pub type Batches<'a, E> = Box<dyn Iterator<Item = Result<Batch, E>> + 'a>;

/// What the loop tells the outside. Every method may stop the training with an error.
pub trait Hooks<E> {
    /// An epoch begins, or goes on after a resume at batch `start`; it has so many batches, if that is known.
    ///
    /// # Errors
    /// The caller's.
    fn epoch_started(&mut self, epoch: u64, start: u64, batches: Option<u64>) -> Result<(), E>;

    /// A batch is done.
    ///
    /// # Errors
    /// The caller's.
    fn batch_done(&mut self, report: &StepReport) -> Result<Control, E>;

    /// The validation of an epoch is done; the epoch is not yet.
    ///
    /// # Errors
    /// The caller's.
    fn validated(&mut self, trainer: &Trainer<'_>, metrics: &Metrics) -> Result<(), E>;

    /// An epoch is done; a checkpoint of it, if one is due, follows.
    ///
    /// # Errors
    /// The caller's.
    fn epoch_done(&mut self, report: &EpochReport) -> Result<(), E>;

    /// The state must be written now.
    ///
    /// # Errors
    /// The caller's.
    fn save(&mut self, trainer: &Trainer<'_>, reason: SaveReason) -> Result<(), E>;
}

/// What a hook wants next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Control {
    /// Go on.
    Continue,
    /// Save after the current optimizer step and end.
    Interrupt,
}

/// Why the state is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SaveReason {
    /// The interval has passed in the middle of an epoch.
    Step,
    /// The interval has passed at the end of an epoch, or the training has ended.
    Epoch,
    /// The training was interrupted; the epoch is not finished, if only for its validation.
    Interrupt,
}

impl SaveReason {
    /// Whether the epoch's batches are all done.
    pub fn epoch_done(self) -> bool {
        self == SaveReason::Epoch
    }
}

/// What `train.checkpoint_interval` counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum IntervalUnit {
    /// Epochs.
    Epoch,
    /// Optimizer steps.
    Step,
}

/// Settings of the loop.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FitConfig {
    /// Epochs in all.
    pub epochs: u64,
    /// Between two checkpoints.
    pub checkpoint_interval: u64,
    /// What the interval counts.
    pub checkpoint_unit: IntervalUnit,
    /// Epochs between two validations.
    pub validation_interval: u64,
}

/// A batch, for progress and logs.
#[derive(Debug, Clone, PartialEq)]
pub struct StepReport {
    /// Epoch, from 0.
    pub epoch: u64,
    /// Batches of the epoch that are done, this one included.
    pub batch: u64,
    /// Batches of the epoch, if that is known.
    pub batches: Option<u64>,
    /// Optimizer steps that are done in all.
    pub step: u64,
    /// Images of the batch, on this rank.
    pub images: u64,
    /// What the batch did.
    pub outcome: StepOutcome,
}

/// An epoch, for logs.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct EpochReport {
    /// Epoch, from 0.
    pub epoch: u64,
    /// Its batches.
    pub batches: u64,
    /// Mean loss of them.
    pub train_loss: f64,
    /// Rate of its last step.
    pub lr: f64,
    /// Validation, where one was due.
    pub validation: Option<Metrics>,
    /// Optimizer steps that are done in all.
    pub step: u64,
}

/// How a training ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FitEnd {
    /// All epochs are done.
    Finished,
    /// It was interrupted; its state was saved.
    Interrupted,
    /// Nothing was left to do.
    AlreadyFinished,
}

/// Trains from the trainer's cursor to the last epoch.
///
/// # Errors
/// What data, hooks and the step return. The last saved state stays as it is.
pub fn fit<E: From<Error>>(
    trainer: &mut Trainer<'_>,
    data: &mut dyn Data<E>,
    hooks: &mut dyn Hooks<E>,
    config: &FitConfig,
) -> Result<FitEnd, E> {
    if trainer.cursor().epoch >= config.epochs {
        return Ok(FitEnd::AlreadyFinished);
    }
    while trainer.cursor().epoch < config.epochs {
        let epoch = trainer.cursor().epoch;
        let Some(lr) = train_epoch(trainer, data, hooks, config)? else {
            return Ok(FitEnd::Interrupted);
        };
        let due = (epoch + 1).is_multiple_of(config.validation_interval.max(1)) || epoch + 1 == config.epochs;
        let validation = if due { validate(trainer, data)? } else { None };
        if let Some(metrics) = &validation {
            hooks.validated(trainer, metrics)?;
        }
        let (train_loss, batches, step) =
            (trainer.epoch_loss(), trainer.cursor().batch, trainer.cursor().step);
        hooks.epoch_done(&EpochReport { epoch, batches, train_loss, lr, validation, step })?;
        let last = epoch + 1 == config.epochs;
        let interval = config.checkpoint_unit == IntervalUnit::Epoch
            && (epoch + 1).is_multiple_of(config.checkpoint_interval.max(1));
        if last || interval {
            hooks.save(trainer, SaveReason::Epoch)?;
        }
        trainer.finish_epoch();
    }
    Ok(FitEnd::Finished)
}

/// Trains the rest of an epoch. Returns the last rate, or `None` when it was interrupted.
fn train_epoch<E: From<Error>>(
    trainer: &mut Trainer<'_>,
    data: &mut dyn Data<E>,
    hooks: &mut dyn Hooks<E>,
    config: &FitConfig,
) -> Result<Option<f64>, E> {
    let (epoch, start) = (trainer.cursor().epoch, trainer.cursor().batch);
    let batches = data.batches_per_epoch(epoch)?;
    hooks.epoch_started(epoch, start, batches)?;
    // Of the epoch's last step, should none of its batches be left.
    let mut lr = trainer.last_lr();
    let mut interrupted = false;
    let mut left = data.train(epoch, start)?.peekable();
    while let Some(batch) = left.next() {
        let batch = batch?;
        let last = match batches {
            Some(batches) => trainer.cursor().batch + 1 == batches,
            None => left.peek().is_none(),
        };
        let outcome = trainer.train_batch(&batch, last)?;
        lr = outcome.lr;
        let cursor = trainer.cursor();
        let (done, step) = (cursor.batch, cursor.step);
        let images = batch.samples.len() as u64;
        let report = StepReport { epoch, batch: done, batches, step, images, outcome };
        if hooks.batch_done(&report)? == Control::Interrupt {
            trainer.ask_to_stop();
        }
        interrupted |= trainer.stop_is_agreed();
        // A state between two optimizer steps would lack the gradients summed so far.
        if !report.outcome.stepped || last {
            continue;
        }
        if interrupted {
            hooks.save(trainer, SaveReason::Interrupt)?;
            return Ok(None);
        }
        if config.checkpoint_unit == IntervalUnit::Step
            && step.is_multiple_of(config.checkpoint_interval.max(1))
        {
            hooks.save(trainer, SaveReason::Step)?;
        }
    }
    if interrupted {
        // Not as a finished epoch: its validation is still to come.
        hooks.save(trainer, SaveReason::Interrupt)?;
        return Ok(None);
    }
    Ok(Some(lr))
}

fn validate<E: From<Error>>(trainer: &Trainer<'_>, data: &mut dyn Data<E>) -> Result<Option<Metrics>, E> {
    let Some(batches) = data.validation()? else { return Ok(None) };
    let mut evaluation = Evaluation::new(&trainer.model, trainer.config.precision, trainer.config.seed);
    for batch in batches {
        evaluation.add(&batch?)?;
    }
    Ok(Some(evaluation.finish(trainer.collective)?))
}

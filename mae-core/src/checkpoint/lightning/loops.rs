//! The counters of Lightning's loops.

use super::super::{Result, Value};
use super::Keys;

/// Position of a training in Lightning's terms; all other counters of `loops` follow from these.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Loops {
    /// Epochs that were begun, the running one included.
    pub epochs_started: i64,
    /// Whether all batches of the running epoch are done (a checkpoint at the end of an epoch).
    pub epoch_done: bool,
    /// Training batches so far.
    pub batches: i64,
    /// Of these, in the running epoch.
    pub batches_in_epoch: i64,
    /// Optimizer steps so far (Lightning's `global_step`).
    pub optimizer_steps: i64,
    /// Of these, in the running epoch.
    pub optimizer_steps_in_epoch: i64,
    /// Steps of the learning rate scheduler so far.
    pub scheduler_steps: i64,
    /// Of these, in the running epoch.
    pub scheduler_steps_in_epoch: i64,
    /// Batches of the latest validation.
    pub validation_batches: i64,
}

impl Loops {
    pub(super) fn to_value(&self) -> Value {
        let optimizer = Value::dict([
            ("step", progress(self.optimizer_steps, self.optimizer_steps_in_epoch, &["ready", "completed"])),
            (
                "zero_grad",
                progress(
                    self.optimizer_steps,
                    self.optimizer_steps_in_epoch,
                    &["ready", "completed", "started"],
                ),
            ),
        ]);
        let fit = Value::dict([
            ("state_dict", empty()),
            (
                "epoch_loop.state_dict",
                Value::dict([("_batches_that_stepped", Value::Int(self.optimizer_steps))]),
            ),
            ("epoch_loop.batch_progress", self.batch_progress()),
            (
                "epoch_loop.scheduler_progress",
                progress(self.scheduler_steps, self.scheduler_steps_in_epoch, &["ready", "completed"]),
            ),
            ("epoch_loop.automatic_optimization.state_dict", empty()),
            ("epoch_loop.automatic_optimization.optim_progress", Value::dict([("optimizer", optimizer)])),
            ("epoch_loop.manual_optimization.state_dict", empty()),
            ("epoch_loop.manual_optimization.optim_step_progress", progress(0, 0, &["ready", "completed"])),
            ("epoch_loop.val_loop.state_dict", empty()),
            (
                "epoch_loop.val_loop.batch_progress",
                evaluation(self.validation_batches, Some(self.validation_batches > 0)),
            ),
            ("epoch_progress", self.epoch_progress()),
        ]);
        let idle = |is_last_batch| {
            Value::dict([("state_dict", empty()), ("batch_progress", evaluation(0, is_last_batch))])
        };
        Value::dict([
            ("fit_loop", fit),
            ("validate_loop", idle(Some(false))),
            ("test_loop", idle(Some(false))),
            ("predict_loop", idle(None)),
        ])
    }

    /// Within an epoch Lightning saves before it counts the batch as completed.
    fn batch_progress(&self) -> Value {
        let open = i64::from(!self.epoch_done && self.batches_in_epoch > 0);
        let counts = |n: i64| {
            Value::dict([
                ("ready", Value::Int(n)),
                ("completed", Value::Int(n - open)),
                ("started", Value::Int(n)),
                ("processed", Value::Int(n)),
            ])
        };
        Value::dict([
            ("total", counts(self.batches)),
            ("current", counts(self.batches_in_epoch)),
            ("is_last_batch", Value::Bool(self.epoch_done)),
        ])
    }

    /// At the end of an epoch Lightning saves before it counts the epoch as completed.
    fn epoch_progress(&self) -> Value {
        let finished = (self.epochs_started - 1).max(0);
        let counts = Value::dict([
            ("ready", Value::Int(self.epochs_started)),
            ("completed", Value::Int(finished)),
            ("started", Value::Int(self.epochs_started)),
            ("processed", Value::Int(if self.epoch_done { self.epochs_started } else { finished })),
        ]);
        Value::dict([("total", counts.clone()), ("current", counts)])
    }

    pub(super) fn from_value(loops: &Keys<'_>) -> Result<Self> {
        let fit = loops.get("fit_loop")?;
        let int = |path: &[&str]| fit.path(path)?.int();
        let optimizer = "epoch_loop.automatic_optimization.optim_progress";
        let epochs_started = int(&["epoch_progress", "total", "ready"])?;
        Ok(Self {
            epochs_started,
            epoch_done: int(&["epoch_progress", "total", "processed"])? == epochs_started
                && epochs_started > 0,
            batches: int(&["epoch_loop.batch_progress", "total", "ready"])?,
            batches_in_epoch: int(&["epoch_loop.batch_progress", "current", "ready"])?,
            optimizer_steps: int(&[optimizer, "optimizer", "step", "total", "completed"])?,
            optimizer_steps_in_epoch: int(&[optimizer, "optimizer", "step", "current", "completed"])?,
            scheduler_steps: int(&["epoch_loop.scheduler_progress", "total", "completed"])?,
            scheduler_steps_in_epoch: int(&["epoch_loop.scheduler_progress", "current", "completed"])?,
            validation_batches: int(&["epoch_loop.val_loop.batch_progress", "current", "completed"])?,
        })
    }
}

fn empty() -> Value {
    Value::Dict(Vec::new())
}

fn progress(total: i64, current: i64, names: &[&str]) -> Value {
    let counts = |n: i64| Value::dict(names.iter().map(|name| (*name, Value::Int(n))));
    Value::dict([("total", counts(total)), ("current", counts(current))])
}

fn evaluation(batches: i64, is_last_batch: Option<bool>) -> Value {
    let mut value = progress(batches, batches, &["ready", "completed", "started", "processed"]);
    if let (Value::Dict(items), Some(last)) = (&mut value, is_last_batch) {
        items.push((Value::str("is_last_batch"), Value::Bool(last)));
    }
    value
}

//! Learning-rate schedules: functions of the epoch or of the optimizer step, with no state of their own.

/// A schedule, chosen by `train.optim.lr_scheduler`.
#[derive(Debug, Clone, PartialEq)]
pub enum LrSchedule {
    /// Multiplied by `gamma` at each milestone, counted in epochs.
    MultiStep {
        /// Rate before the first milestone.
        lr: f64,
        /// Epochs; one that is listed twice counts twice.
        milestones: Vec<u64>,
        /// Factor.
        gamma: f64,
    },
    /// Linear warm-up from 0, then half a cosine to 0, counted in optimizer steps.
    Cosine {
        /// Highest rate.
        lr: f64,
        /// Steps of warm-up.
        warmup_steps: f64,
        /// Steps of the whole training.
        total_steps: u64,
    },
}

impl LrSchedule {
    /// The rate of optimizer step `step` (from 0) in `epoch` (from 0).
    pub fn lr(&self, epoch: u64, step: u64) -> f64 {
        match self {
            LrSchedule::MultiStep { lr, milestones, gamma } => {
                let passed = milestones.iter().filter(|&&milestone| milestone <= epoch).count();
                lr * gamma.powi(passed as i32)
            }
            LrSchedule::Cosine { lr, warmup_steps, total_steps } => {
                let step = step as f64;
                if step < *warmup_steps {
                    return lr * step / warmup_steps.max(1.0);
                }
                let progress = (step - warmup_steps) / (*total_steps as f64 - warmup_steps).max(1.0);
                lr * (0.5 * (1.0 + (std::f64::consts::PI * progress).cos())).max(0.0)
            }
        }
    }

    /// The rate that the schedule starts from.
    pub fn initial_lr(&self) -> f64 {
        match self {
            LrSchedule::MultiStep { lr, .. } | LrSchedule::Cosine { lr, .. } => *lr,
        }
    }
}

/// Optimizer steps of a training: the last window of an epoch may be short.
pub fn estimated_steps(batches_per_epoch: u64, accumulate: u64, epochs: u64) -> u64 {
    batches_per_epoch.div_ceil(accumulate.max(1)) * epochs
}

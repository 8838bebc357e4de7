//! The training step, the loop around it, and the evaluation of a model.
//!
//! The engine knows no files of images and no terminals: batches come in through [`Data`], events go out through
//! [`Hooks`], other processes are a [`Collective`].

mod batch;
mod collective;
mod evaluate;
mod fit;
mod scaler;
mod trainer;

pub use batch::{Batch, sample_key};
pub use collective::{Collective, CollectiveError, SingleProcess};
pub use evaluate::{Evaluation, Metrics};
pub use fit::{
    Batches, Control, Data, EpochReport, FitConfig, FitEnd, Hooks, IntervalUnit, SaveReason, StepReport, fit,
};
pub use scaler::LossScaler;
pub use trainer::{Cursor, SkipReason, Skipped, StepOutcome, Trainer, TrainerConfig};

//! One file an action, and what they share.
//!
//! Each action gets a checked [`Plan`] and a [`Run`]: where results go, what the user sees, which processes take part.

mod bad_samples;
mod bench_loader;
mod checkpoints;
mod classes;
mod data;
mod data_tools;
mod device;
mod evaluate;
mod export;
mod inference;
mod model;
mod picture;
mod run;
mod signals;
mod skipped;
mod train;

use crate::error::Result;
use crate::spec::{Action, Plan};

pub use bench_loader::bench_loader;
pub use data_tools::{ToolEnd, data_tool};
pub(crate) use device::find as find_device;
pub use device::prepare as prepare_device;
pub use run::Run;

/// How an action ended, when no error ended it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// It is done.
    Done,
    /// It was interrupted; the same command resumes a training, and starts another action anew.
    Interrupted,
}

/// Runs the plan's action: opens the results folder, runs, and writes the last line of `status.json`.
///
/// # Errors
/// What ended the action early; `status.json` says so too.
pub fn execute(plan: &Plan) -> Result<End> {
    let mut run = Run::start(plan)?;
    let result = match plan.action() {
        Action::Train => train::train(plan, &mut run),
        Action::Evaluate => evaluate::evaluate(plan, &mut run),
        Action::Inference => inference::inference(plan, &mut run),
        Action::Export => export::export(plan, &mut run).map(|()| End::Done),
    };
    run.finish(&result)?;
    result
}

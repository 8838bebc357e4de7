//! One file an action, and what they share.
//!
//! Each action gets a checked [`Plan`] and a [`Run`]: where results go, what the user sees, which processes take part.

mod agreement;
mod bad_samples;
mod bench_loader;
mod checkpoints;
mod classes;
mod classifier;
mod data;
mod data_tools;
mod device;
mod evaluate;
mod export;
mod gen_trt_engine;
mod inference;
mod launch;
mod model;
mod picture;
mod run;
mod signals;
mod skipped;
mod train;

use mae_dist::Environment;

use crate::error::Result;
use crate::spec::{Action, Plan};

use launch::Placement;

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

/// Whether this process has the last word: it is no worker, or it is worker 0 of a launcher that is not ours.
#[must_use]
pub fn speaks_for_all() -> bool {
    let variables = Environment::variables();
    !mae_dist::has_launcher()
        && (!variables.contains_key("LOCAL_RANK")
            || variables.get("RANK").is_some_and(|rank| rank.trim() == "0"))
}

/// Runs the plan's action: opens the results folder, runs, and writes the last line of `status.json`. Where several
/// processes are asked for, starts and supervises those of this node, each of which runs the action.
///
/// # Errors
/// What ended the action early; `status.json` says so too.
pub fn execute(plan: &Plan) -> Result<End> {
    let environment = match launch::place(plan)? {
        Placement::Here(environment) => environment,
        Placement::Workers(launcher) => return launch::supervise(plan, &launcher),
    };
    let mut run = Run::start(plan, &environment)?;
    let result = match plan.action() {
        Action::Train => train::train(plan, &mut run),
        Action::Evaluate => evaluate::evaluate(plan, &mut run),
        Action::Inference => inference::inference(plan, &mut run),
        Action::Export => export::export(plan, &mut run).map(|()| End::Done),
        Action::GenTrtEngine => gen_trt_engine::gen_trt_engine(plan, &mut run),
    };
    run.finish(plan, &result)?;
    result
}

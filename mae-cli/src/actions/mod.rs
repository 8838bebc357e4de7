//! One file an action, and what they share.
//!
//! Each action gets a checked [`Plan`] and a [`Run`]: where results go, what the user sees, which processes take part.

mod agreement;
mod artefact;
mod bad_samples;
mod bench_loader;
mod carry;
mod checkpoints;
mod classes;
mod classifier;
mod data;
mod data_tools;
mod device;
mod doctor;
mod evaluate;
mod export;
mod gen_trt_engine;
mod inference;
mod launch;
mod model;
mod picture;
mod run;
mod show;
mod signals;
mod skipped;
mod sweep;
mod train;
mod training_data;

use std::path::Path;

use mae_dist::Environment;

use crate::error::Result;
use crate::spec::interpolation::Context;
use crate::spec::{Action, Plan, compose};

use launch::Placement;

pub use bench_loader::bench_loader;
pub use data_tools::{ToolEnd, data_tool};
pub(crate) use device::find as find_device;
pub use device::prepare as prepare_device;
pub use doctor::doctor;
pub use run::Run;
pub use show::{show_spec, write_schema_files};
pub use sweep::sweep;

/// How an action ended, when no error ended it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// It is done.
    Done,
    /// It was interrupted; the same command resumes a training, and starts another action anew.
    Interrupted,
}

/// The plan of an action: the spec with its overrides, what the environment says of several machines, and what the
/// checkpoint that the action starts from says of the model.
///
/// # Errors
/// The spec is wrong, or contradicts its checkpoint.
pub fn plan<S: AsRef<str>>(spec: &Path, overrides: &[S], action: Action) -> Result<Plan> {
    plan_of(Some(spec), overrides, action)
}

/// As [`plan`]; without a spec file, from the defaults.
fn plan_of<S: AsRef<str>>(spec: Option<&Path>, overrides: &[S], action: Action) -> Result<Plan> {
    let name = spec.and_then(Path::file_name);
    let spec_name = name.map_or_else(String::new, |name| name.to_string_lossy().into_owned());
    let env = |name: &str| std::env::var(name).ok();
    let context = Context { env: &env, spec_name: &spec_name, action: action.name() };
    let mut composed = compose(spec, overrides)?;
    let environment = Environment::resolve(&Environment::variables(), device::visible())?;
    if let mae_dist::Role::NodeLauncher(node) = &environment.role {
        composed.use_nodes(action, node.nodes, node.gpus_per_node.or(device::visible()));
    }
    carry::plan(composed, action, &context)
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

//! The `mae` command line.
//!
//! - [`actions`]: one file an action.
//! - [`args`]: what the user typed.
//! - [`ckpt`]: looks into checkpoints, converts, compares and averages them.
//! - [`tool_args`]: the same for what TAO does not have.
//! - [`spec`]: what the user wants, as a checked, typed plan.
//! - [`mod@bench`]: how fast this machine trains.
//! - [`error`]: what ends a run early, and its exit code.
//! - [`report`]: what the user sees and what a run leaves behind: progress, `status.json`, TensorBoard, `results.csv`.

pub mod actions;
pub mod args;
pub mod bench;
pub mod ckpt;
pub mod error;
pub mod report;
pub mod spec;
pub mod tool_args;

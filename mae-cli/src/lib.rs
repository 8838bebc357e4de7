//! The `mae` command line.
//!
//! - [`args`]: what the user typed.
//! - [`spec`]: what the user wants, as a checked, typed plan.
//! - [`report`]: what the user sees and what a run leaves behind: progress, `status.json`, TensorBoard, `results.csv`.

pub mod args;
pub mod report;
pub mod spec;

//! `mae bench`: how fast this machine trains, on made-up images.

mod memory;
mod report;
mod step;

pub use report::StepReport;
pub use step::{StepOptions, step};

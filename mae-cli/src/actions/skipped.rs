//! Steps that were left out because something was not finite: what the user is told, and the list of their images.

use std::fs::OpenOptions;
use std::io::Write as _;
use std::path::PathBuf;

use mae_core::engine::{SkipReason, Skipped};

use super::training_data::CurrentLoader;
use crate::error::Result;
use crate::report;

/// How many images a message names.
const NAMED: usize = 4;

/// The list `skipped_steps.csv` (step, reason, path), which begins with the first such step.
pub(super) struct SkippedSteps {
    path: PathBuf,
    /// Knows the images.
    loader: CurrentLoader,
}

impl SkippedSteps {
    pub(super) fn new(folder: &std::path::Path, loader: CurrentLoader) -> Self {
        SkippedSteps { path: folder.join("skipped_steps.csv"), loader }
    }

    /// Adds the images of a step (from 0) to the list; returns the sentence for the user.
    pub(super) fn add(&self, step: u64, skipped: &Skipped) -> Result<String> {
        let reason = match skipped.reason {
            SkipReason::LossScale { lowered_to } => {
                return Ok(format!(
                    "step {step} was left out: its gradients overflowed in fp16; the loss scale is now {lowered_to}"
                ));
            }
            SkipReason::Loss => "loss",
            SkipReason::Gradients => "gradients",
        };
        let loader = self.loader.borrow();
        let names: Vec<String> =
            skipped.samples.iter().map(|&sample| loader.dataset().display_path(sample as usize)).collect();
        self.append(step, reason, &names)
            .map_err(|source| report::Error::Write { path: self.path.clone(), source })?;
        let verb = if reason == "loss" { "was" } else { "were" };
        let first = names.iter().take(NAMED).cloned().collect::<Vec<_>>().join(", ");
        let more = match names.len().saturating_sub(NAMED) {
            0 => String::new(),
            more => format!(" and {more} more"),
        };
        Ok(format!(
            "step {step} was left out: its {reason} {verb} not finite. It was made of {first}{more} (listed in {})",
            self.path.display()
        ))
    }

    fn append(&self, step: u64, reason: &str, names: &[String]) -> std::io::Result<()> {
        let mut rows = csv::Writer::from_writer(Vec::new());
        if !self.path.exists() {
            rows.write_record(["step", "reason", "path"])?;
        }
        for name in names {
            rows.write_record([&step.to_string(), reason, name])?;
        }
        let rows = rows.into_inner().map_err(|error| error.into_error())?;
        OpenOptions::new().create(true).append(true).open(&self.path)?.write_all(&rows)
    }
}

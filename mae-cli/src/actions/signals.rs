//! SIGINT and SIGTERM: the first asks the training to end after the current step, the second ends the process at once.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::flag;

use crate::error::{Error, Result};

/// Whether the user or the system asked the run to end.
#[derive(Debug, Clone)]
pub(super) struct Interrupt(Arc<AtomicBool>);

/// The exit code of a process that a second signal ends.
const INTERRUPTED: i32 = 4;

impl Interrupt {
    /// Watches both signals from now on.
    ///
    /// # Errors
    /// When the system refuses.
    pub(super) fn watch() -> Result<Self> {
        let asked = Arc::new(AtomicBool::new(false));
        for signal in [SIGINT, SIGTERM] {
            // In this order: a handler sees the flag as the signals before left it.
            flag::register_conditional_shutdown(signal, INTERRUPTED, Arc::clone(&asked))
                .and_then(|_| flag::register(signal, Arc::clone(&asked)))
                .map_err(unwatched)?;
        }
        Ok(Interrupt(asked))
    }

    /// Set once the run is to end.
    pub(super) fn flag(&self) -> &AtomicBool {
        &self.0
    }

    pub(super) fn is_asked(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

fn unwatched(error: std::io::Error) -> Error {
    Error::Device {
        problem: format!("SIGINT and SIGTERM cannot be watched: {error}"),
        help: "start mae in an environment that lets a program handle its signals".into(),
    }
}

//! What a user sees of a run and what it leaves in its results folder.
//!
//! - [`history`]: `status.json` read back.
//! - [`progress`]: a bar on a terminal, plain lines elsewhere.
//! - [`status`]: `status.json`, line for line as TAO's monitors read it.
//! - [`tensorboard`]: event files.
//! - [`results`]: what inference found, as CSV, JSON lines or Parquet.

pub mod history;
pub mod progress;
mod publish;
mod python_json;
pub mod results;
mod rewind;
pub mod status;
pub mod tensorboard;

use std::path::{Path, PathBuf};

pub(crate) use publish::{is_unfinished, write_atomically};

/// Result of everything in [`crate::report`].
pub type Result<T> = std::result::Result<T, Error>;

/// A report that could not be written.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The file system refused.
    #[error("{path} cannot be written: {source}\n  help: check that the folder exists, is writable and has space", path = .path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// A picture whose bytes do not fit its size.
    #[error("a picture of {width} x {height} pixels needs {expected} bytes of RGB, found {found}")]
    Picture {
        /// Width in pixels.
        width: u32,
        /// Height in pixels.
        height: u32,
        /// `width * height * 3`.
        expected: usize,
        /// Bytes given.
        found: usize,
    },
}

impl Error {
    pub(crate) fn write(path: &Path) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::Write { path, source }
    }
}

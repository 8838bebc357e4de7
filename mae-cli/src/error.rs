//! What ends a run early, and the exit code it ends with.

use crate::report;
use crate::report::status::Failure;
use crate::spec;

/// This crate's result.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Why a run ended early.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The spec or the command line.
    #[error(transparent)]
    Spec(#[from] spec::Error),
    /// Images, archives, class folders.
    #[error(transparent)]
    Data(#[from] mae_data::Error),
    /// What is wrong with what a key of the spec names.
    #[error("{key}: {source}")]
    At {
        /// The key, with its value where the error does not show it.
        key: String,
        /// What is wrong with it.
        source: Box<Error>,
    },
    /// Classes of the data that do not fit the spec or each other.
    #[error("{problem}\n  help: {help}")]
    Classes {
        /// What does not fit what.
        problem: String,
        /// What to do.
        help: String,
    },
    /// Models, checkpoints, libtorch.
    #[error(transparent)]
    Core(#[from] mae_core::Error),
    /// The other processes of the run.
    #[error(transparent)]
    Dist(#[from] mae_dist::DistError),
    /// A file of the results folder.
    #[error(transparent)]
    Report(#[from] report::Error),
    /// A checkpoint that could not be written.
    #[error(
        "the checkpoint was not saved: {0}\n  help: free space on the disk or choose another results_dir; the same command resumes from the last checkpoint that is complete"
    )]
    Save(#[source] mae_core::checkpoint::Error),
    /// A checkpoint that `mae ckpt` was told to read or to write.
    #[error(transparent)]
    Checkpoint(mae_core::checkpoint::Error),
    /// A file that an action was told to use or to write.
    #[error("{key}: {problem}\n  help: {help}")]
    File {
        /// The spec's key that names the file.
        key: String,
        /// What is wrong with it.
        problem: String,
        /// What to do.
        help: String,
    },
    /// A device that is asked for, or there, but cannot be used.
    #[error("{problem}\n  help: {help}")]
    Device {
        /// What is wrong.
        problem: String,
        /// What to do.
        help: String,
    },
}

impl Error {
    /// Names the spec's key that led to the error.
    pub fn at(self, key: impl Into<String>) -> Self {
        Error::At { key: key.into(), source: Box::new(self) }
    }

    /// The documented exit code.
    pub fn exit_code(&self) -> u8 {
        match self {
            Error::At { source, .. } => source.exit_code(),
            Error::Spec(_) | Error::File { .. } => 1,
            Error::Core(error) if is_setting(error) => 1,
            Error::Data(mae_data::Error::InvalidSetting { .. }) => 1,
            Error::Data(_) | Error::Classes { .. } | Error::Checkpoint(_) => 3,
            Error::Core(_) | Error::Dist(_) | Error::Report(_) | Error::Save(_) | Error::Device { .. } => 2,
        }
    }

    /// How `status.json` calls it.
    pub fn failure(&self) -> Failure {
        match self {
            Error::At { source, .. } => source.failure(),
            Error::Spec(_) => Failure::Configuration,
            Error::File { .. } | Error::Classes { .. } | Error::Checkpoint(_) => Failure::Parameter,
            Error::Core(error) if is_setting(error) => Failure::Parameter,
            Error::Data(mae_data::Error::InvalidSetting { .. }) => Failure::Parameter,
            Error::Data(_) | Error::Report(_) | Error::Save(_) => Failure::FileSystem,
            Error::Core(_) | Error::Dist(_) | Error::Device { .. } => Failure::Runtime,
        }
    }
}

/// Whether the user's settings, not the machine, are at fault.
fn is_setting(error: &mae_core::Error) -> bool {
    use mae_core::Error as Core;
    matches!(
        error,
        Core::UnknownArch { .. }
            | Core::InputSize { .. }
            | Core::MaskRatio { .. }
            | Core::Setting { .. }
            | Core::Onnx { .. }
            | Core::Checkpoint(_)
    )
}

impl From<mae_core::checkpoint::Error> for Error {
    fn from(error: mae_core::checkpoint::Error) -> Self {
        Error::Core(error.into())
    }
}

impl From<mae_core::engine::CollectiveError> for Error {
    fn from(error: mae_core::engine::CollectiveError) -> Self {
        Error::Core(error.into())
    }
}

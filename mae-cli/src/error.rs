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
    /// The documented exit code.
    pub fn exit_code(&self) -> u8 {
        match self {
            Error::Spec(_) | Error::File { .. } => 1,
            Error::Core(error) if is_setting(error) => 1,
            Error::Data(_) | Error::Classes { .. } => 3,
            Error::Core(_) | Error::Dist(_) | Error::Report(_) | Error::Device { .. } => 2,
        }
    }

    /// How `status.json` calls it.
    pub fn failure(&self) -> Failure {
        match self {
            Error::Spec(_) => Failure::Configuration,
            Error::File { .. } | Error::Classes { .. } => Failure::Parameter,
            Error::Core(error) if is_setting(error) => Failure::Parameter,
            Error::Data(_) => Failure::FileSystem,
            Error::Report(_) => Failure::FileSystem,
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

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
    /// Processes of one run that do not do the same.
    #[error("{problem}\n  help: {help}")]
    Ranks {
        /// What differs, and between which ranks.
        problem: String,
        /// What to do.
        help: String,
        /// Whether it is the data; else it is the spec.
        data: bool,
    },
    /// What ended a training in its loop.
    #[error("{source}\n  at epoch {epoch}, batch {batch} of {batches}, after optimizer step {step}")]
    InStep {
        /// What happened.
        source: Box<Error>,
        /// The epoch, from 0.
        epoch: u64,
        /// The batch of the epoch, from 1.
        batch: u64,
        /// Batches of the epoch.
        batches: u64,
        /// Optimizer steps done.
        step: u64,
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
    /// An exported model that does not give the checkpoint's numbers.
    #[error("export.verify: {problem}\n  help: {help}")]
    Verification {
        /// How far apart the two are.
        problem: String,
        /// What to do.
        help: String,
    },
    /// A program that an action starts is missing or failed.
    #[error("{problem}\n  help: {help}")]
    Program {
        /// What is wrong.
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

    /// Whether the passphrase of a checkpoint is missing or wrong.
    pub fn is_about_the_passphrase(&self) -> bool {
        match self {
            Error::At { source, .. } | Error::InStep { source, .. } => source.is_about_the_passphrase(),
            Error::Core(mae_core::Error::Checkpoint(error)) | Error::Checkpoint(error) => {
                error.is_about_the_passphrase()
            }
            _ => false,
        }
    }

    /// The documented exit code.
    pub fn exit_code(&self) -> u8 {
        match self {
            Error::At { source, .. } | Error::InStep { source, .. } => source.exit_code(),
            Error::Ranks { data, .. } => {
                if *data {
                    3
                } else {
                    1
                }
            }
            // A worker has said what it is; its launcher ends as it did.
            Error::Dist(mae_dist::DistError::Worker { code: Some(code @ 1..=4), .. }) => *code as u8,
            Error::Dist(error) if error.is_variable() => 1,
            Error::Spec(_) | Error::File { .. } => 1,
            Error::Dist(error) if is_environment(error) => 1,
            Error::Core(error) if is_setting(error) => 1,
            Error::Data(mae_data::Error::InvalidSetting { .. }) => 1,
            Error::Data(_) | Error::Classes { .. } | Error::Checkpoint(_) => 3,
            Error::Core(_) | Error::Dist(_) | Error::Report(_) | Error::Save(_) => 2,
            Error::Device { .. } | Error::Verification { .. } | Error::Program { .. } => 2,
        }
    }

    /// How `status.json` calls it.
    pub fn failure(&self) -> Failure {
        match self {
            Error::At { source, .. } | Error::InStep { source, .. } => source.failure(),
            Error::Ranks { .. } => Failure::Parameter,
            Error::Dist(error) if error.is_variable() => Failure::Parameter,
            Error::Spec(_) => Failure::Configuration,
            Error::File { .. } | Error::Classes { .. } | Error::Checkpoint(_) => Failure::Parameter,
            Error::Core(error) if is_setting(error) => Failure::Parameter,
            Error::Dist(error) if is_environment(error) => Failure::Parameter,
            Error::Data(mae_data::Error::InvalidSetting { .. }) => Failure::Parameter,
            Error::Data(_) | Error::Report(_) | Error::Save(_) => Failure::FileSystem,
            Error::Core(_) | Error::Dist(_) | Error::Device { .. } => Failure::Runtime,
            Error::Verification { .. } | Error::Program { .. } => Failure::Runtime,
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
            | Core::OnnxFile { .. }
            | Core::Checkpoint(_)
    )
}

/// Whether variables of the environment are at fault.
fn is_environment(error: &mae_dist::DistError) -> bool {
    use mae_dist::DistError as Dist;
    matches!(
        error,
        Dist::Variable { .. }
            | Dist::MissingVariables { .. }
            | Dist::MasterAddress { .. }
            | Dist::MasterPort { .. }
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

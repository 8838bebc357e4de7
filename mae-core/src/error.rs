//! The one error type of this crate.

use std::path::PathBuf;

/// What can go wrong in `mae-core`. Every message says what was expected, what was found and where; what to do is a line
/// of its own, `help: …`.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// libtorch refused an operation.
    #[error("libtorch failed: {reason}")]
    Torch {
        /// libtorch's own words, without its C++ backtrace.
        reason: String,
    },
    /// The architecture's name is not in the catalogue.
    #[error("unknown architecture '{found}'{}; known are: {known}", suggestion.as_ref().map(|s| format!(" (did you mean '{s}'?)")).unwrap_or_default())]
    UnknownArch {
        /// The name that was asked for.
        found: String,
        /// The nearest name, when one is near.
        suggestion: Option<String>,
        /// Every name of the catalogue.
        known: String,
    },
    /// The architecture cannot work at this image size.
    #[error(
        "{arch} cannot work at {height}x{width} pixels: {rule}\n  help: the nearest legal sizes are {nearest}"
    )]
    InputSize {
        /// The architecture.
        arch: String,
        /// The height asked for.
        height: i64,
        /// The width asked for.
        width: i64,
        /// What a legal size is.
        rule: String,
        /// Legal sizes nearby.
        nearest: String,
    },
    /// No patch would be kept, or none masked.
    #[error(
        "a mask ratio of {ratio} keeps {kept} of {total} patches, and at least one must be kept and one masked\n  help: set another train.mask_ratio, or a larger dataset.augmentation.input_size, which gives more patches"
    )]
    MaskRatio {
        /// The ratio asked for.
        ratio: f64,
        /// Patches kept under it.
        kept: i64,
        /// Patches in the image.
        total: i64,
    },
    /// A batch or a tensor has another shape than the model needs.
    #[error("{what}: expected shape {expected}, found {found}")]
    Shape {
        /// The tensor, by name.
        what: String,
        /// The shape that is needed.
        expected: String,
        /// The shape that was given.
        found: String,
    },
    /// A tensor of the state dict is missing.
    #[error("the state dict has no tensor '{name}'; the nearest name is '{nearest}'")]
    MissingTensor {
        /// The tensor's name.
        name: String,
        /// The name most like it.
        nearest: String,
    },
    /// A setting contradicts another or the model.
    #[error("{key}: {problem}\n  help: {remedy}")]
    Setting {
        /// The spec's key.
        key: String,
        /// What is wrong.
        problem: String,
        /// What to do.
        remedy: String,
    },
    /// The loss or the gradients were not finite for too many steps in a row.
    #[error(
        "the {what} was not finite for {steps} steps in a row (step {step}); the last good checkpoint is kept\n  help: lower train.optim.lr, set train.clip_grad_norm, or train in fp32; train.max_bad_steps is how many are borne"
    )]
    NotFinite {
        /// `loss` or `gradient norm`.
        what: &'static str,
        /// How many steps in a row.
        steps: usize,
        /// The optimizer step at which the run gave up.
        step: u64,
        /// The samples of that step, as [`Skipped`](crate::engine::Skipped) has them.
        samples: Vec<u64>,
    },
    /// A checkpoint could not be read or written.
    #[error(transparent)]
    Checkpoint(#[from] crate::checkpoint::Error),
    /// A group of processes failed.
    #[error(transparent)]
    Collective(#[from] crate::engine::CollectiveError),
    /// A file could not be read or written.
    #[error("{action} {path}: {source}")]
    Io {
        /// `reading`, `writing`, …
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// The system's reason.
        source: std::io::Error,
    },
    /// An ONNX file that is none, or none of the kind that is needed.
    #[error("{path}: {problem}\n  help: {remedy}", path = .path.display())]
    OnnxFile {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        problem: String,
        /// What to do.
        remedy: String,
    },
    /// onnxruntime is missing or failed.
    #[error("onnxruntime: {problem}\n  help: {remedy}")]
    OnnxRuntime {
        /// What is wrong.
        problem: String,
        /// What to do.
        remedy: String,
    },
    /// What is asked for cannot be written as ONNX.
    #[error("ONNX export: {problem}\n  help: {remedy}")]
    Onnx {
        /// What is wrong.
        problem: String,
        /// What to do.
        remedy: String,
    },
}

/// This crate's result.
pub type Result<T, E = Error> = std::result::Result<T, E>;

impl From<tch::TchError> for Error {
    fn from(error: tch::TchError) -> Self {
        let text = error.to_string();
        // libtorch appends kilobytes of C++ frames; the first paragraph is the reason.
        let reason = text.split("\nException raised from").next().unwrap_or(&text).trim().to_owned();
        Error::Torch { reason }
    }
}

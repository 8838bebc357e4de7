//! What can go wrong with a checkpoint: what was expected, what was found, and on a line of its own what to do.

use std::io;
use std::path::{Path, PathBuf};

/// Every failure of [`crate::checkpoint`].
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The operating system refused a file operation.
    #[error("could not {action} {}: {source}", path.display())]
    Io {
        /// What was tried, as an infinitive ("open", "write").
        action: &'static str,
        /// The file or folder.
        path: PathBuf,
        /// What the operating system said.
        source: io::Error,
    },
    /// Wraps another error with the file it happened in.
    #[error("{}: {source}", path.display())]
    InFile {
        /// The checkpoint file.
        path: PathBuf,
        /// What is wrong with it.
        source: Box<Error>,
    },
    /// The file is none of the supported formats.
    #[error(
        "not a checkpoint: expected a PyTorch file (.pth, .pt, .ckpt, .bin) or .safetensors, found {found}\n  help: give a file that mae train, TAO or torch.save wrote"
    )]
    NotACheckpoint {
        /// What the first bytes look like.
        found: String,
    },
    /// A format that is recognised and deliberately not read.
    #[error("{what} cannot be read\n  help: {remedy}")]
    UnsupportedFormat {
        /// The format.
        what: &'static str,
        /// What the user can do.
        remedy: &'static str,
    },
    /// The container around the pickle is damaged.
    #[error("the {container} container is damaged: {problem}\n  help: copy or download the file again")]
    Container {
        /// "zip", "legacy PyTorch", "safetensors", "age".
        container: &'static str,
        /// What does not fit.
        problem: String,
    },
    /// The bytes of a record differ from those that were written.
    #[error("record {record} is damaged: {problem}\n  help: copy or download the file again")]
    Damaged {
        /// Name of the record in the archive.
        record: String,
        /// The checksum that differs, as it is and as it should be.
        problem: String,
    },
    /// The pickle is malformed.
    #[error(
        "{record} is not a valid pickle: {problem} (byte {offset})\n  help: copy or download the file again, or write it again with torch.save"
    )]
    Pickle {
        /// Name of the record.
        record: String,
        /// Offset of the opcode in the record; in the legacy format, in the file.
        offset: usize,
        /// What does not fit.
        problem: String,
    },
    /// The pickle asks for something that could run code. Nothing was run.
    #[error(
        "refused: {record} refers to `{global}` at byte {offset}, which can run code when the file is unpickled; a checkpoint has no use for it. Nothing was run\n  help: get the file from a source you trust"
    )]
    ForbiddenGlobal {
        /// Name of the record.
        record: String,
        /// `module.name` as the pickle spells it.
        global: String,
        /// Offset of the opcode in the record; in the legacy format, in the file.
        offset: usize,
    },
    /// The file claims more than a checkpoint can need.
    #[error(
        "{what}: at most {limit} is accepted; the file is damaged or made to exhaust memory\n  help: get the file again, from a source you trust"
    )]
    Limit {
        /// What grew too large.
        what: String,
        /// The limit, with its unit.
        limit: String,
    },
    /// A tensor's metadata does not fit its storage, or its dtype is not supported.
    #[error("tensor {tensor}: {problem}")]
    Tensor {
        /// Its name, or the record that stores it.
        tensor: String,
        /// What does not fit.
        problem: String,
    },
    /// A key is missing, or has another type than Lightning's.
    #[error(
        "checkpoint key {key}: expected {expected}, found {found}\n  help: only a checkpoint that mae train or TAO wrote can be resumed; weights alone go into train.pretrained_model_path"
    )]
    Key {
        /// Path of the key, dots between levels.
        key: String,
        /// What belongs there.
        expected: &'static str,
        /// What is there.
        found: String,
    },
    /// No state dict was found.
    #[error(
        "no weights found: expected a state dict under `model`, `model_state` or `state_dict`, or a dict of tensors; found {found}\n  help: save the weights with torch.save(model.state_dict(), path)"
    )]
    NoStateDict {
        /// The top-level structure.
        found: String,
    },
    /// The weights were encrypted by TAO.
    #[error(
        "the weights are encrypted by TAO (key `state_dict_encrypted`), whose cipher is not public\n  help: write the checkpoint again with TAO and no encryption_key"
    )]
    Encrypted,
    /// The file is encrypted, and no passphrase was given.
    #[error(
        "the file is encrypted (age, with a passphrase)\n  help: set encryption_key to its passphrase, for example encryption_key='${{oc.env:MAE_KEY}}'; for mae ckpt, put it into MAE_ENCRYPTION_KEY"
    )]
    Locked,
    /// The file is encrypted with another passphrase, or its header is damaged.
    #[error(
        "the file is encrypted, and the passphrase does not open it\n  help: set encryption_key to the passphrase that it was written with"
    )]
    WrongPassphrase,
    /// A value cannot be written so that `torch.load(weights_only=True)` accepts it.
    #[error(
        "cannot write {path}: {class} is not loadable with torch.load(weights_only=True)\n  help: drop it or convert it first"
    )]
    NotWritable {
        /// Path of the value in the structure.
        path: String,
        /// Its Python class.
        class: String,
    },
    /// (Nearly) nothing of a state dict fits the model.
    #[error("the weights do not fit the model: {reason}\n{report}\n  help: {remedy}")]
    LoadRefused {
        /// The deciding figure.
        reason: String,
        /// The whole report, rendered.
        report: String,
        /// What the user can do.
        remedy: String,
    },
    /// libtorch failed.
    #[error("libtorch: {0}")]
    Torch(#[from] tch::TchError),
}

impl Error {
    /// Names the file in which `self` happened; errors that already name one stay as they are.
    pub(crate) fn in_file(self, path: &Path) -> Self {
        match self {
            Error::Io { .. } | Error::InFile { .. } => self,
            other => Error::InFile { path: path.to_owned(), source: Box::new(other) },
        }
    }

    /// Whether a passphrase is missing or wrong, which is no damage.
    pub fn is_about_the_passphrase(&self) -> bool {
        matches!(self.inner(), Error::Locked | Error::WrongPassphrase)
    }

    /// The error itself, without the [`Error::InFile`] around it.
    pub fn inner(&self) -> &Error {
        match self {
            Error::InFile { source, .. } => source.inner(),
            other => other,
        }
    }

    pub(crate) fn io(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Error {
        let path = path.to_owned();
        move |source| Error::Io { action, path, source }
    }
}

/// Result of [`crate::checkpoint`].
pub type Result<T, E = Error> = std::result::Result<T, E>;

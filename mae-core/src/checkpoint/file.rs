//! [`Checkpoint`]: a file, opened.

use std::fmt;
use std::path::Path;
use std::sync::Arc;

use super::container::{legacy, safetensors, tar_reader, zip_reader};
use super::mmap::SharedBytes;
use super::module;
use super::pickle::{self, NamedGlobal, NoStorages, Origin, StorageRequest, Storages};
use super::storage::Storage;
use super::value::Opaque;
use super::{Error, Passphrase, Result, TensorView, Value, encryption};

/// Keys under which writers put their state dict, in the order in which TAO looks.
const STATE_DICT_KEYS: [&str; 3] = ["model", "model_state", "state_dict"];

/// Container of a checkpoint.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Format {
    /// `torch.save` since PyTorch 1.6.
    Zip {
        /// Name of the archive's root folder.
        root: String,
    },
    /// `torch.save` before PyTorch 1.6.
    Legacy,
    /// `torch.save` of PyTorch 0.1.
    Tar,
    /// `.safetensors`.
    Safetensors,
}

impl fmt::Display for Format {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Format::Zip { root } => write!(f, "PyTorch zip (root folder {root})"),
            Format::Legacy => f.write_str("PyTorch legacy (before 1.6)"),
            Format::Tar => f.write_str("PyTorch tar (0.1)"),
            Format::Safetensors => f.write_str("safetensors"),
        }
    }
}

/// How the weights are wrapped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// PyTorch Lightning's checkpoint (TAO's too).
    Lightning,
    /// A state dict under this key.
    Nested(&'static str),
    /// The file is a state dict.
    StateDict,
    /// No weights.
    Other,
}

/// An opened checkpoint. Its tensors stay in the file until they are read.
#[derive(Debug, Clone)]
pub struct Checkpoint {
    root: Value,
    format: Format,
    globals: Vec<NamedGlobal>,
    has_digests: bool,
    is_encrypted: bool,
}

impl Checkpoint {
    /// Opens a `.pth`, `.pt`, `.ckpt`, `.bin` or `.safetensors`; the format is recognised by content.
    ///
    /// The structure is read at once, tensors when they are asked for. Nothing in the file is executed.
    ///
    /// # Errors
    /// [`Error::Io`] when the file cannot be read, [`Error::ForbiddenGlobal`] when its pickle refers to something
    /// that could run code, and others for files that are damaged, hostile or no checkpoint; all name the file.
    pub fn open(path: impl AsRef<Path>) -> Result<Self> {
        Self::open_with(path, None)
    }

    /// As [`open`](Self::open), with the passphrase of a file that may be encrypted. Such a file is decrypted into memory,
    /// whole.
    ///
    /// # Errors
    /// As [`open`](Self::open); [`Error::Locked`] when the passphrase is missing, [`Error::WrongPassphrase`].
    pub fn open_with(path: impl AsRef<Path>, passphrase: Option<&Passphrase>) -> Result<Self> {
        let path = path.as_ref();
        let read = |bytes: SharedBytes| {
            if !encryption::is_encrypted(&bytes) {
                return Self::read(bytes);
            }
            let plain = SharedBytes::owned(encryption::decrypt(&bytes, passphrase)?);
            Ok(Self { is_encrypted: true, ..Self::read(plain)? })
        };
        SharedBytes::map(path).and_then(read).map_err(|error| error.in_file(path))
    }

    fn read(bytes: SharedBytes) -> Result<Self> {
        if bytes.starts_with(b"PK\x03\x04") || bytes.starts_with(b"PK\x05\x06") {
            let zip_reader::Contents { root, folder, globals, has_digests } = zip_reader::read(bytes)?;
            let format = Format::Zip { root: folder };
            return Ok(Self { root, format, globals, has_digests, is_encrypted: false });
        }
        let pickled = if legacy::is_legacy(&bytes) {
            Some((Format::Legacy, legacy::read(&bytes)?))
        } else if tar_reader::is_tar(&bytes) {
            Some((Format::Tar, tar_reader::read(&bytes)?))
        } else {
            None
        };
        if let Some((format, read)) = pickled {
            let (root, globals) = (read.value, read.globals);
            return Ok(Self { root, format, globals, has_digests: false, is_encrypted: false });
        }
        if safetensors::is_safetensors(&bytes) {
            let (root, has_digests) = safetensors::read(&bytes)?;
            let format = Format::Safetensors;
            return Ok(Self { root, format, globals: Vec::new(), has_digests, is_encrypted: false });
        }
        if encryption::is_encrypted(&bytes) {
            return Err(Error::Locked);
        }
        Err(unrecognised(&bytes))
    }

    /// The whole structure.
    pub fn root(&self) -> &Value {
        &self.root
    }

    /// The container.
    pub fn format(&self) -> &Format {
        &self.format
    }

    /// Every class and function that the file's pickle names, sorted. None was called.
    pub fn globals(&self) -> &[NamedGlobal] {
        &self.globals
    }

    /// Whether the file holds digests of its records, as this crate writes them.
    pub fn has_digests(&self) -> bool {
        self.has_digests
    }

    /// Whether the file was encrypted.
    pub fn is_encrypted(&self) -> bool {
        self.is_encrypted
    }

    /// Reads every tensor once and compares the checksums that the file holds; what was compared is not compared
    /// again.
    ///
    /// # Errors
    /// [`Error::Damaged`] and others when the stored bytes are not those that were written.
    pub fn verify(&self) -> Result<()> {
        self.root.tensors().into_iter().try_for_each(|(_, view)| view.storage().bytes().map(drop))
    }

    /// How the weights are wrapped.
    pub fn kind(&self) -> Kind {
        if self.root.get("pytorch-lightning_version").is_some() {
            return Kind::Lightning;
        }
        let nested = STATE_DICT_KEYS.iter().find(|key| self.root.get(key).is_some_and(is_state_dict));
        match nested {
            Some(key) => Kind::Nested(key),
            None if is_state_dict(&self.root) => Kind::StateDict,
            None => Kind::Other,
        }
    }

    /// The tensors of the first non-empty of `model`, `model_state` and `state_dict`, or of the root itself when
    /// it is a dict of tensors, in stored order; of a pickled model, its parameters and buffers. Entries that are no tensors (`_extra_state`) are left out.
    ///
    /// # Errors
    /// [`Error::NoStateDict`], [`Error::Encrypted`] for TAO's encrypted checkpoints, and [`Error::Tensor`] for a
    /// tensor of an unsupported kind (quantised, sparse, 8-bit float), by name.
    pub fn state_dict(&self) -> Result<Vec<(String, TensorView)>> {
        let nested = STATE_DICT_KEYS.iter().filter_map(|key| self.root.get(key));
        let mut candidates = nested.chain([&self.root]);
        let items: Vec<(String, &Value)> = match candidates.clone().find(|value| is_state_dict(value)) {
            Some(dict) => dict.children(),
            None => candidates.find_map(module::state_dict).ok_or_else(|| self.no_state_dict())?,
        };
        let mut tensors = Vec::with_capacity(items.len());
        for (name, value) in items {
            match value {
                Value::Tensor(view) => tensors.push((name, view.clone())),
                Value::Opaque(object) if is_unsupported_tensor(object) => {
                    return Err(Error::Tensor {
                        tensor: name,
                        problem: format!(
                            "it is stored as {}, which is not supported (quantised, sparse or 8-bit float)",
                            object.class
                        ),
                    });
                }
                _ => {}
            }
        }
        Ok(tensors)
    }

    fn no_state_dict(&self) -> Error {
        if self.root.get("state_dict_encrypted").is_some() {
            return Error::Encrypted;
        }
        let found = match self.root.as_dict() {
            Some([]) => "an empty dict".to_owned(),
            Some(items) => {
                let keys = items.iter().take(8).map(|(key, value)| {
                    let key = key.as_str().map_or_else(|| format!("{key:?}"), str::to_owned);
                    format!("{key} ({})", value.type_name())
                });
                format!("a dict with {}", keys.collect::<Vec<_>>().join(", "))
            }
            None => format!("a {}", self.root.type_name()),
        };
        Error::NoStateDict { found }
    }
}

/// Reads a checkpoint from memory; the entry point for fuzzing.
///
/// # Errors
/// Those of [`Checkpoint::open`].
pub fn parse_bytes(bytes: &[u8]) -> Result<Checkpoint> {
    Checkpoint::read(SharedBytes::owned(bytes.to_vec()))
}

/// Reads a bare pickle, in which each storage is `storage`, whatever its key; the entry point for fuzzing.
///
/// # Errors
/// Those of [`Checkpoint::open`].
pub fn parse_pickle(bytes: &[u8], storage: &[u8]) -> Result<Value> {
    struct Same(Arc<Storage>);
    impl Storages for Same {
        fn find(&mut self, _request: &StorageRequest<'_>) -> Result<Arc<Storage>> {
            Ok(self.0.clone())
        }
    }
    let origin = Origin { record: "the pickle".into(), base: 0 };
    let mut storages = Same(Arc::new(Storage::owned("storage", storage.to_vec(), false)));
    Ok(pickle::unpickle(bytes, &origin, &mut storages)?.value)
}

/// A dict with at least one tensor directly in it.
fn is_state_dict(value: &Value) -> bool {
    let is_tensor = |value: &Value| match value {
        Value::Tensor(_) => true,
        Value::Opaque(object) => is_unsupported_tensor(object),
        _ => false,
    };
    value
        .as_dict()
        .is_some_and(|items| items.iter().any(|(key, value)| key.as_str().is_some() && is_tensor(value)))
}

fn is_unsupported_tensor(object: &Opaque) -> bool {
    object.instance && object.class.starts_with("torch._utils._rebuild")
}

/// Says what a file is that is no checkpoint. A pickle is looked at for its globals, so that a hostile one is
/// named as such.
fn unrecognised(bytes: &[u8]) -> Error {
    let found = match bytes {
        [] => "an empty file".to_owned(),
        [0x80, 0..=5, ..] => {
            let origin = Origin { record: "the pickle".into(), base: 0 };
            match pickle::unpickle(bytes, &origin, &mut NoStorages) {
                Err(error @ Error::ForbiddenGlobal { .. }) => return error,
                _ => "a bare Python pickle without PyTorch's header (write it with torch.save)".to_owned(),
            }
        }
        _ if bytes.starts_with(b"version https://git-lfs.github.com/") => {
            "a Git LFS pointer (run `git lfs pull` to get the file itself)".to_owned()
        }
        [0x1f, 0x8b, ..] => "a gzip file (unpack it first)".to_owned(),
        [b'<', ..] => "an HTML or XML page (the download may have failed)".to_owned(),
        _ => {
            let head = &bytes[..bytes.len().min(24)];
            match std::str::from_utf8(head) {
                Ok(text) if !text.chars().any(|c| c.is_control() && !c.is_whitespace()) => {
                    format!("a text that starts with {text:?}")
                }
                _ => format!("bytes that start with {:02x?}", &head[..head.len().min(8)]),
            }
        }
    };
    Error::NotACheckpoint { found }
}

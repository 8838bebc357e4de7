//! Pickle as data: a small stack machine that builds [`Value`]s and never calls anything.
//!
//! | Room | What lives here |
//! |---|---|
//! | [`opcode`] | bytes → opcodes |
//! | [`globals`] | which `module.name` means what: known constructors, opaque classes, refused ones |
//! | [`graph`] | the objects while they are being built, shared and mutable as in Python |
//! | [`machine`] | the stack machine |
//! | [`reduce`] | what calling a known constructor would have given |
//! | [`text`] | texts with escapes, of protocol 0 |
//! | [`freeze`] | the finished graph as an owned tree, within limits |
//! | [`pickler`] | [`Value`] → protocol 2 bytes |

mod freeze;
mod globals;
mod graph;
mod machine;
mod opcode;
mod pickler;
mod reduce;
mod text;

use std::sync::Arc;

use super::storage::Storage;
use super::{DType, Error, Result, TensorView, Value};

pub(crate) use opcode::end_of_pickle;
pub(crate) use pickler::pickle;

/// Larger pickles are refused; a checkpoint of 10,000 tensors needs about one megabyte.
pub(crate) const MAX_PICKLE_BYTES: usize = 512 << 20;

/// Where a pickle comes from, for messages.
#[derive(Clone)]
pub(crate) struct Origin {
    /// Name of the record.
    pub(crate) record: String,
    /// Added to the offsets in messages (the legacy format reports offsets in the file).
    pub(crate) base: usize,
}

impl Origin {
    pub(crate) fn error(&self, offset: usize, problem: impl Into<String>) -> Error {
        Error::Pickle { record: self.record.clone(), offset: self.base + offset, problem: problem.into() }
    }
}

/// What a pickle says about a storage it refers to.
pub(crate) struct StorageRequest<'a> {
    /// Key of the storage in the container.
    pub(crate) key: &'a str,
    /// Bytes an element; 1 for untyped storages.
    pub(crate) element_size: usize,
    /// Number of elements of the whole storage.
    pub(crate) numel: u64,
}

/// The container's side of a pickle: finds storages by key.
pub(crate) trait Storages {
    /// The storage under `request.key`, checked to hold `numel` elements.
    fn find(&mut self, request: &StorageRequest<'_>) -> Result<Arc<Storage>>;

    /// What the tar format keeps under a plain key.
    fn object(&mut self, _key: &str) -> Result<Option<PersistentObject>> {
        Ok(None)
    }
}

/// A thing that a pickle refers to by a plain key.
pub(crate) enum PersistentObject {
    Tensor(TensorView),
    Storage(Arc<Storage>, DType),
}

/// A container without storages.
pub(crate) struct NoStorages;

impl Storages for NoStorages {
    fn find(&mut self, request: &StorageRequest<'_>) -> Result<Arc<Storage>> {
        Err(Error::Container {
            container: "legacy PyTorch",
            problem: format!("storage {} is referred to before any is defined", request.key),
        })
    }
}

/// A class or function that a pickle names. None is ever called.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NamedGlobal {
    /// `module.name`.
    pub name: String,
    /// Whether this crate builds what it stands for; otherwise it is opaque data.
    pub is_known: bool,
}

/// A pickle that was read.
pub(crate) struct Unpickled {
    pub(crate) value: Value,
    /// Number of bytes it takes.
    pub(crate) len: usize,
    /// Every class and function that it names, sorted.
    pub(crate) globals: Vec<NamedGlobal>,
}

/// Reads the pickle at the start of `bytes`.
pub(crate) fn unpickle(bytes: &[u8], origin: &Origin, storages: &mut dyn Storages) -> Result<Unpickled> {
    if bytes.len() > MAX_PICKLE_BYTES {
        return Err(Error::Limit {
            what: format!("{} has {} bytes", origin.record, bytes.len()),
            limit: format!("{MAX_PICKLE_BYTES} bytes"),
        });
    }
    let mut machine = machine::Machine::run(bytes, origin, storages)?;
    let len = machine.end;
    let globals = std::mem::take(&mut machine.globals);
    let globals = globals.into_iter().map(|(name, is_known)| NamedGlobal { name, is_known }).collect();
    Ok(Unpickled { value: freeze::freeze(machine, bytes.len(), origin)?, len, globals })
}

/// A storage as it appears inside the pickle.
#[derive(Clone)]
pub(crate) struct StorageRef {
    /// `None` for untyped storages.
    dtype: Option<DType>,
    storage: Arc<Storage>,
    /// First element of this view of the storage (legacy views).
    base: i64,
}

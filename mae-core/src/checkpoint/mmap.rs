//! The bytes of a checkpoint file, mapped or owned.
#![allow(unsafe_code)]

use std::fs::File;
use std::path::Path;
use std::sync::Arc;

use super::{Error, Result};

/// Immutable bytes that tensors borrow from for as long as they live.
#[derive(Clone)]
pub(crate) struct SharedBytes(Arc<Backing>);

enum Backing {
    Mapped(memmap2::Mmap),
    Owned(Vec<u8>),
}

impl SharedBytes {
    /// Maps the file; an empty file, which cannot be mapped, gives no bytes.
    pub(crate) fn map(path: &Path) -> Result<Self> {
        let file = File::open(path).map_err(Error::io("open", path))?;
        let metadata = file.metadata().map_err(Error::io("read the size of", path))?;
        if metadata.is_dir() {
            let source = std::io::Error::from(std::io::ErrorKind::IsADirectory);
            return Err(Error::Io { action: "read", path: path.to_owned(), source });
        }
        if metadata.len() == 0 {
            return Ok(Self::owned(Vec::new()));
        }
        // SAFETY: the map is read-only and private to this process. It is only wrong if another process
        // shortens or overwrites the file in place; every writer of this crate replaces files by rename,
        // which leaves a mapped file as it is.
        let map = unsafe { memmap2::Mmap::map(&file) }.map_err(Error::io("map", path))?;
        Ok(Self(Arc::new(Backing::Mapped(map))))
    }

    pub(crate) fn owned(bytes: Vec<u8>) -> Self {
        Self(Arc::new(Backing::Owned(bytes)))
    }
}

impl AsRef<[u8]> for SharedBytes {
    fn as_ref(&self) -> &[u8] {
        match &*self.0 {
            Backing::Mapped(map) => map,
            Backing::Owned(bytes) => bytes,
        }
    }
}

impl std::ops::Deref for SharedBytes {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        self.as_ref()
    }
}

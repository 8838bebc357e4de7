//! A read-only file mapped into memory.

use std::fs::File;
use std::io;
use std::ops::Deref;

/// The bytes of a file, read by the system as they are touched.
///
/// Whoever changes the file in place while it is mapped changes the bytes seen here, and whoever shortens it makes
/// touching the lost part a SIGBUS. Cache files are only ever replaced by renaming, which leaves a mapping intact; of
/// a user's archive this is asked in the documentation.
pub(crate) struct Map {
    bytes: Option<memmap2::Mmap>,
    /// Kept open for the lock on it.
    _file: Option<File>,
}

impl Map {
    /// Maps the whole file; an empty file gives an empty slice.
    pub(crate) fn open(file: &File) -> io::Result<Self> {
        if file.metadata()?.len() == 0 {
            return Ok(Self { bytes: None, _file: None });
        }
        // SAFETY: the mapping is read-only and private to this process. The remaining duty, that nobody changes the
        // file in place, is stated above; the bytes are only ever parsed as untrusted input, never as typed memory.
        let bytes = unsafe { memmap2::Mmap::map(file)? };
        Ok(Self { bytes: Some(bytes), _file: None })
    }

    /// Keeps the file, and the locks on it, as long as the mapping.
    pub(crate) fn keep(&mut self, file: File) {
        self._file = Some(file);
    }
}

impl Deref for Map {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        self.bytes.as_deref().unwrap_or_default()
    }
}

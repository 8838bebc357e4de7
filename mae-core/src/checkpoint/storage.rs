//! One storage: the flat bytes that one or several tensors view.

use std::borrow::Cow;
use std::io::{Cursor, Read};
use std::ops::Range;
use std::sync::{Mutex, OnceLock};

use tch::Tensor;
use zip::ZipArchive;

use super::mmap::SharedBytes;
use super::{Error, Result};

/// Flat bytes with a name for messages.
pub(crate) struct Storage {
    /// Where it is stored, for messages.
    pub(crate) record: String,
    /// Length in bytes.
    pub(crate) len: usize,
    /// Whether the bytes are in big-endian order.
    pub(crate) big_endian: bool,
    source: Source,
}

enum Source {
    /// Only the length is known yet.
    Unread,
    Owned(Vec<u8>),
    /// Part of a file. `crc` is checked at the first access.
    Mapped {
        file: SharedBytes,
        range: Range<usize>,
        crc: Option<u32>,
        actual: OnceLock<u32>,
    },
    /// Compressed record of a zip file, inflated at the first access.
    Compressed {
        archive: ZipArchive<Cursor<SharedBytes>>,
        index: usize,
        bytes: OnceLock<Result<Vec<u8>, String>>,
    },
    /// A libtorch tensor, read whenever the bytes are asked for. The lock makes the handle shareable.
    Tensor(Mutex<Tensor>),
}

impl Storage {
    pub(crate) fn owned(record: impl Into<String>, bytes: Vec<u8>, big_endian: bool) -> Self {
        Self { record: record.into(), len: bytes.len(), big_endian, source: Source::Owned(bytes) }
    }

    /// `range` must lie within `file`.
    pub(crate) fn mapped(
        record: String,
        file: SharedBytes,
        range: Range<usize>,
        crc: Option<u32>,
        big_endian: bool,
    ) -> Self {
        let len = range.len();
        let source = Source::Mapped { file, range, crc, actual: OnceLock::new() };
        Self { record, len, big_endian, source }
    }

    pub(crate) fn compressed(
        record: String,
        archive: ZipArchive<Cursor<SharedBytes>>,
        index: usize,
        len: usize,
        big_endian: bool,
    ) -> Self {
        Self {
            record,
            len,
            big_endian,
            source: Source::Compressed { archive, index, bytes: OnceLock::new() },
        }
    }

    /// A placeholder of a known length without bytes.
    pub(crate) fn unread(record: String, len: usize) -> Self {
        Self { record, len, big_endian: false, source: Source::Unread }
    }

    /// `len` is the number of bytes of all elements.
    pub(crate) fn tensor(tensor: Tensor, len: usize) -> Self {
        let source = Source::Tensor(Mutex::new(tensor));
        Self { record: "(memory)".into(), len, big_endian: cfg!(target_endian = "big"), source }
    }

    /// All bytes, in the order of [`Storage::big_endian`].
    pub(crate) fn bytes(&self) -> Result<Cow<'_, [u8]>> {
        match &self.source {
            Source::Unread => Err(Error::Container {
                container: "legacy PyTorch",
                problem: format!("{} has not been located", self.record),
            }),
            Source::Owned(bytes) => Ok(Cow::Borrowed(bytes)),
            Source::Mapped { file, range, crc, actual } => {
                let bytes = file.as_ref().get(range.clone()).unwrap_or(&[]);
                check_crc(&self.record, bytes, *crc, actual)?;
                Ok(Cow::Borrowed(bytes))
            }
            Source::Compressed { archive, index, bytes } => {
                match bytes.get_or_init(|| inflate(archive, *index, self.len)) {
                    Ok(bytes) => Ok(Cow::Borrowed(bytes)),
                    Err(problem) => Err(Error::Container {
                        container: "zip",
                        problem: format!("record {} does not decompress: {problem}", self.record),
                    }),
                }
            }
            Source::Tensor(tensor) => {
                let tensor = tensor.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
                let mut bytes = vec![0; self.len];
                let numel = tensor.numel();
                tensor.f_copy_data_u8(&mut bytes, numel)?;
                Ok(Cow::Owned(bytes))
            }
        }
    }
}

/// Compares the CRC-32 once; PyTorch writes 0 when it was told not to compute any.
fn check_crc(record: &str, bytes: &[u8], crc: Option<u32>, actual: &OnceLock<u32>) -> Result<()> {
    let Some(expected) = crc.filter(|crc| *crc != 0) else { return Ok(()) };
    let found = *actual.get_or_init(|| crc32fast::hash(bytes));
    if found == expected {
        return Ok(());
    }
    Err(Error::Damaged { record: record.to_owned(), expected, found })
}

/// Reads at most `len` bytes, whatever the stream claims; the zip crate compares the CRC-32 at its end.
fn inflate(archive: &ZipArchive<Cursor<SharedBytes>>, index: usize, len: usize) -> Result<Vec<u8>, String> {
    let mut archive = archive.clone();
    let mut entry = archive.by_index(index).map_err(|error| error.to_string())?;
    let mut bytes = Vec::new();
    entry.by_ref().take(len as u64 + 1).read_to_end(&mut bytes).map_err(|error| error.to_string())?;
    if bytes.len() != len {
        return Err(format!("{len} bytes are promised, {} come out", bytes.len()));
    }
    Ok(bytes)
}

impl std::fmt::Debug for Storage {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Storage")
            .field("record", &self.record)
            .field("len", &self.len)
            .finish_non_exhaustive()
    }
}

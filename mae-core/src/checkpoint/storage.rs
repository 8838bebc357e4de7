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
    /// Part of a file, checked at the first access.
    Mapped {
        file: SharedBytes,
        range: Range<usize>,
        checksum: Checksum,
        /// What the bytes have instead, if it differs.
        mismatch: OnceLock<Option<String>>,
    },
    /// Compressed record of a zip file, inflated at the first access.
    Compressed {
        archive: ZipArchive<Cursor<SharedBytes>>,
        index: usize,
        checksum: Checksum,
        bytes: OnceLock<Result<Vec<u8>, String>>,
    },
    /// A libtorch tensor, read whenever the bytes are asked for. The lock makes the handle shareable.
    Tensor(Mutex<Tensor>),
}

/// What the bytes of a record must have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Checksum {
    None,
    /// A zip record's CRC-32; PyTorch writes 0 when it was told not to compute any.
    Crc32(u32),
    /// The digest that this crate's writer adds.
    Blake3(blake3::Hash),
}

impl Checksum {
    /// What `bytes` have instead, if it differs.
    fn mismatch(&self, bytes: &[u8]) -> Option<String> {
        match self {
            Checksum::None | Checksum::Crc32(0) => None,
            Checksum::Crc32(expected) => {
                let found = crc32fast::hash(bytes);
                (found != *expected).then(|| format!("its CRC-32 is {found:08x}, not {expected:08x}"))
            }
            Checksum::Blake3(expected) => {
                let found = blake3::hash(bytes);
                (found != *expected).then(|| {
                    let short = |hash: &blake3::Hash| hash.to_hex()[..16].to_owned();
                    format!("its BLAKE3 digest is {}..., not {}...", short(&found), short(expected))
                })
            }
        }
    }
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
        checksum: Checksum,
        big_endian: bool,
    ) -> Self {
        let len = range.len();
        let source = Source::Mapped { file, range, checksum, mismatch: OnceLock::new() };
        Self { record, len, big_endian, source }
    }

    pub(crate) fn compressed(
        record: String,
        archive: ZipArchive<Cursor<SharedBytes>>,
        index: usize,
        len: usize,
        checksum: Checksum,
        big_endian: bool,
    ) -> Self {
        let source = Source::Compressed { archive, index, checksum, bytes: OnceLock::new() };
        Self { record, len, big_endian, source }
    }

    /// A part of a storage that lies in a file; `None` when it reaches beyond.
    pub(crate) fn part(&self, start: usize, len: usize) -> Option<Self> {
        let Source::Mapped { file, range, .. } = &self.source else { return None };
        let end = start.checked_add(len).filter(|end| *end <= self.len)?;
        let range = range.start + start..range.start + end;
        Some(Self::mapped(self.record.clone(), file.clone(), range, Checksum::None, self.big_endian))
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
            Source::Mapped { file, range, checksum, mismatch } => {
                let bytes = file.as_ref().get(range.clone()).unwrap_or(&[]);
                match mismatch.get_or_init(|| checksum.mismatch(bytes)) {
                    None => Ok(Cow::Borrowed(bytes)),
                    Some(problem) => {
                        Err(Error::Damaged { record: self.record.clone(), problem: problem.clone() })
                    }
                }
            }
            Source::Compressed { archive, index, checksum, bytes } => {
                match bytes.get_or_init(|| inflate(archive, *index, self.len, checksum)) {
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

    /// A copy of what a libtorch tensor holds now; everything else never changes and is shared.
    pub(crate) fn snapshot(&self) -> Result<Option<Self>> {
        match &self.source {
            Source::Tensor(_) => {
                let bytes = self.bytes()?.into_owned();
                Ok(Some(Self::owned(self.record.clone(), bytes, self.big_endian)))
            }
            _ => Ok(None),
        }
    }
}

/// Reads at most `len` bytes, whatever the stream claims; the zip crate compares the CRC-32 at its end.
fn inflate(
    archive: &ZipArchive<Cursor<SharedBytes>>,
    index: usize,
    len: usize,
    checksum: &Checksum,
) -> Result<Vec<u8>, String> {
    let mut archive = archive.clone();
    let mut entry = archive.by_index(index).map_err(|error| error.to_string())?;
    let mut bytes = Vec::new();
    entry.by_ref().take(len as u64 + 1).read_to_end(&mut bytes).map_err(|error| error.to_string())?;
    if bytes.len() != len {
        return Err(format!("{len} bytes are promised, {} come out", bytes.len()));
    }
    match checksum.mismatch(&bytes) {
        None => Ok(bytes),
        Some(problem) => Err(problem),
    }
}

impl std::fmt::Debug for Storage {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Storage")
            .field("record", &self.record)
            .field("len", &self.len)
            .finish_non_exhaustive()
    }
}

//! Writes the zip format of `torch.save`.
//!
//! Every storage is streamed from where it lies, so writing needs no second copy of the weights.

use std::io::{Seek, Write};

use zip::write::SimpleFileOptions;
use zip::{CompressionMethod, ZipWriter};

use super::super::pickle;
use super::super::{Error, Result, Value};
use super::digests::{self, DIGESTS};

/// Root folder of the archive: what `torch.save` uses when it writes to a stream, as Lightning does.
const ROOT: &str = "archive";
/// Format version of PyTorch's container.
const VERSION: &str = "3\n";
/// Storages start at multiples of this, so that a mapped file can be used in place.
const ALIGNMENT: u16 = 64;
/// A record from this size on needs the 64-bit fields.
const ZIP64_FROM: usize = u32::MAX as usize;

/// Writes `root` as one archive to `out`.
pub(crate) fn write<W: Write + Seek>(out: W, root: &Value) -> Result<W, WriteError> {
    fill(ZipWriter::new(out), root)
}

/// The same where there is no way back: what precedes a record cannot be completed when it has been written, and stands
/// behind it.
pub(crate) fn write_stream<W: Write>(out: W, root: &Value) -> Result<W, WriteError> {
    Ok(fill(ZipWriter::new_stream(out), root)?.into_inner())
}

fn fill<W: Write + Seek>(zip: ZipWriter<W>, root: &Value) -> Result<W, WriteError> {
    let pickled = pickle::pickle(root)?;
    let mut archive = Archive { zip, digests: String::new() };
    archive.record("data.pkl", &pickled.pickle)?;
    archive.record("byteorder", if cfg!(target_endian = "big") { b"big" } else { b"little" })?;
    for (index, (storage, dtype)) in pickled.storages.iter().enumerate() {
        let mut bytes = storage.bytes()?;
        if storage.big_endian != cfg!(target_endian = "big") && dtype.swap_unit() > 1 {
            bytes.to_mut().chunks_exact_mut(dtype.swap_unit()).for_each(<[u8]>::reverse);
        }
        archive.record(&format!("data/{index}"), &bytes)?;
    }
    archive.record("version", VERSION.as_bytes())?;
    archive.record(".data/serialization_id", serialization_id(&pickled.pickle).as_bytes())?;
    let digests = std::mem::take(&mut archive.digests);
    archive.record(DIGESTS, digests.as_bytes())?;
    Ok(archive.zip.finish()?)
}

/// Why a file could not be written: the value, or the file system.
#[derive(Debug, thiserror::Error)]
pub(crate) enum WriteError {
    #[error(transparent)]
    Value(#[from] Error),
    #[error(transparent)]
    Io(#[from] std::io::Error),
}

impl From<zip::result::ZipError> for WriteError {
    fn from(error: zip::result::ZipError) -> Self {
        WriteError::Io(match error {
            zip::result::ZipError::Io(error) => error,
            other => std::io::Error::other(other),
        })
    }
}

struct Archive<W: Write + Seek> {
    zip: ZipWriter<W>,
    digests: String,
}

impl<W: Write + Seek> Archive<W> {
    fn record(&mut self, name: &str, bytes: &[u8]) -> Result<(), WriteError> {
        let options = SimpleFileOptions::default()
            .compression_method(CompressionMethod::Stored)
            .last_modified_time(zip::DateTime::default())
            .with_alignment(ALIGNMENT)
            .large_file(bytes.len() >= ZIP64_FROM);
        digests::append(&mut self.digests, name, &blake3::hash(bytes));
        self.zip.start_file(format!("{ROOT}/{name}"), options)?;
        self.zip.write_all(bytes)?;
        Ok(())
    }
}

/// Forty digits that identify the structure, where PyTorch puts a hash of its records.
fn serialization_id(pickle: &[u8]) -> String {
    let hash = blake3::hash(pickle);
    hash.as_bytes()[..20].iter().map(|byte| format!("{:02}", byte % 100)).collect()
}

//! Zip archives, used in place: stored, deflated and zstd-compressed members.
//!
//! Members are unpacked one at a time and never beyond the size that their entry states, so that neither a member of
//! zeros nor many entries over the same bytes take memory.

use std::borrow::Cow;
use std::io::{self, Read};
use std::ops::Deref;

use flate2::bufread::DeflateDecoder;
use rawzip::{CompressionMethod, ZipArchive, ZipArchiveEntryWayfinder, ZipSliceArchive, ZipVerification};

use super::index::{Census, Sample, Skip};
use super::members::names_limit;
use super::place::{Opened, Place};
use super::tar::text;
use crate::error::{Error, human_bytes};

/// What is told the name and the bytes of each image.
pub type OnImage<'a> = &'a mut dyn FnMut(&str, Result<Cow<'_, [u8]>, Error>);

/// Unpacks all images of a zip archive in memory, and hands over the name and bytes of each.
///
/// # Errors
/// When its table of contents is damaged. A damaged member is an error of its own.
pub fn unpack(bytes: &[u8], on_image: OnImage<'_>) -> Result<(), Error> {
    let (zip, census) = Zip::open("zip", Slice(bytes))?;
    for sample in &census.samples {
        on_image(&sample.name, zip.read(sample));
    }
    Ok(())
}

/// Opens an archive that lies in memory or is mapped into it.
pub(crate) fn open(
    shown: &str,
    bytes: impl Deref<Target = [u8]> + Send + Sync + 'static,
) -> Result<Opened, Error> {
    let (zip, census) = Zip::open(shown, Slice(bytes))?;
    Ok(Opened::new(zip, census))
}

/// Bytes behind whatever owns them.
struct Slice<B>(B);

impl<B: Deref<Target = [u8]>> AsRef<[u8]> for Slice<B> {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

struct Zip<B> {
    root: String,
    archive: ZipSliceArchive<Slice<B>>,
    /// Where the members are; a sample's offset is an index into it.
    entries: Vec<(ZipArchiveEntryWayfinder, CompressionMethod)>,
}

impl<B: Deref<Target = [u8]>> Zip<B> {
    fn open(shown: &str, bytes: Slice<B>) -> Result<(Self, Census), Error> {
        let damaged =
            |detail: &dyn std::fmt::Display| Error::Zip { archive: shown.into(), detail: detail.to_string() };
        let most = names_limit(bytes.as_ref().len() as u64);
        let archive = ZipArchive::from_slice(bytes).map_err(|e| damaged(&e))?;
        let (mut census, mut entries) = (Census::default(), Vec::new());
        let (mut names, mut count) = (0, 0u64);
        for entry in archive.entries() {
            let entry = entry.map_err(|e| damaged(&e))?;
            count += 1;
            // Some Windows programs write backslashes.
            let name = text(entry.file_path().as_ref()).replace('\\', "/");
            let Some(plain) = census.plain_name(&name) else { continue };
            names += (plain.len() + size_of::<Sample>()) as u64;
            if names > most {
                let detail = format!("its names alone take more than {}", human_bytes(most));
                return Err(Error::Bomb { archive: shown.into(), detail });
            }
            let method = entry.compression_method();
            let size = entry.uncompressed_size_hint();
            if entry.is_dir() || name.ends_with('/') {
                census.folder(&plain);
            } else if entry.mode().is_symlink() {
                census.skip(Skip::Link);
            } else if !census.accepts(&plain, size) {
            } else if entry.flags().is_encrypted() {
                census.skip(Skip::Encrypted);
            } else if !matches!(
                method,
                CompressionMethod::STORE | CompressionMethod::DEFLATE | CompressionMethod::ZSTD
            ) {
                census.skip(Skip::Packing);
            } else {
                let sample = Sample { name: plain.into(), offset: entries.len() as u64, size, part: 0 };
                census.samples.push(sample);
                entries.push((entry.wayfinder(), method));
            }
        }
        if count < archive.entries_hint() {
            let detail = format!("its table of contents lists {count} of {} members", archive.entries_hint());
            return Err(damaged(&detail));
        }
        Ok((Self { root: shown.to_owned(), archive, entries }, census))
    }

    fn unpack(&self, sample: &Sample) -> io::Result<Cow<'_, [u8]>> {
        let invalid = |detail: String| io::Error::new(io::ErrorKind::InvalidData, detail);
        let (place, method) = usize::try_from(sample.offset)
            .ok()
            .and_then(|index| self.entries.get(index))
            .ok_or(io::ErrorKind::NotFound)?;
        let entry = self.archive.get_entry(*place).map_err(|e| invalid(e.to_string()))?;
        let packed = entry.data();
        let bytes = if *method == CompressionMethod::STORE {
            Cow::Borrowed(packed)
        } else {
            // Grows with what is there, not with what is claimed; one byte more tells a member that is too long.
            let mut bytes = Vec::with_capacity(sample.size.min(4 << 20) as usize);
            let unpacked = if *method == CompressionMethod::DEFLATE {
                DeflateDecoder::new(packed).take(sample.size + 1).read_to_end(&mut bytes)
            } else {
                zstd::stream::read::Decoder::with_buffer(packed)
                    .and_then(|decoder| decoder.take(sample.size + 1).read_to_end(&mut bytes))
            };
            unpacked?;
            Cow::Owned(bytes)
        };
        let found = ZipVerification { crc: crc32fast::hash(&bytes), uncompressed_size: bytes.len() as u64 };
        entry.claim_verifier().valid(found).map_err(|e| invalid(e.to_string()))?;
        Ok(bytes)
    }
}

impl<B: Deref<Target = [u8]> + Send + Sync> Place for Zip<B> {
    fn root(&self) -> &str {
        &self.root
    }

    fn read(&self, sample: &Sample) -> Result<Cow<'_, [u8]>, Error> {
        self.unpack(sample).map_err(|e| Error::io("read", format!("{}/{}", self.root, sample.name), e))
    }
}

#[cfg(test)]
#[path = "zip_tests.rs"]
mod tests;

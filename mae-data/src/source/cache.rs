//! The unpacked copy of a compressed archive: payloads of its images, one after the other, and a table of them.
//!
//! ```text
//! header, 128 bytes (numbers little-endian)
//!      0  magic "maearc\r\n"      8  version u32           12  zero u32
//!     16  archive identity [32]  48  table offset u64      56  table length u64
//!     64  file length u64        72  zero [8]              80  blake3 of the table [32]
//!    112  first 16 bytes of the blake3 of bytes 0..112
//! payloads
//! table
//!     counters: links, unsafe names, oversized (u64 each)
//!     folders: count u64, then each as length u32 + bytes
//!     members: count u64, then each as offset u64, size u64, length u32 + bytes
//! ```
//!
//! The file is written under another name and renamed when it is whole, so it is either all there or not there. It
//! carries the identity of the archive it came from, so one that is stale is seen and built anew.

use std::fs::{self, File};
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::time::UNIX_EPOCH;

use super::index::{Census, Sample};
use crate::sys::Map;

pub(crate) const HEADER: usize = 128;
const MAGIC: &[u8; 8] = b"maearc\r\n";
const VERSION: u32 = 1;
/// How much of the head and the tail of an archive goes into its identity.
const SAMPLE: u64 = 64 << 10;

/// What makes an archive this archive: path, size, time of change, content of head and tail.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct Identity([u8; 32]);

impl Identity {
    pub(crate) fn of(path: &Path, file: &mut File) -> std::io::Result<Self> {
        let metadata = file.metadata()?;
        let mut hasher = blake3::Hasher::new();
        hasher.update(path.as_os_str().as_encoded_bytes());
        hasher.update(&metadata.len().to_le_bytes());
        let modified = metadata.modified()?.duration_since(UNIX_EPOCH).unwrap_or_default();
        hasher.update(&modified.as_nanos().to_le_bytes());
        let mut part = Vec::new();
        file.seek(SeekFrom::Start(0))?;
        (&*file).take(SAMPLE).read_to_end(&mut part)?;
        file.seek(SeekFrom::Start(metadata.len().saturating_sub(SAMPLE)))?;
        (&*file).take(SAMPLE).read_to_end(&mut part)?;
        file.seek(SeekFrom::Start(0))?;
        hasher.update(&part);
        Ok(Self(*hasher.finalize().as_bytes()))
    }
}

/// Where the copy of an archive lies: one file an archive path, so that a new version replaces the old.
pub(crate) fn file_for(cache_dir: &Path, archive: &Path) -> PathBuf {
    let stem = archive.file_name().unwrap_or_default().to_string_lossy();
    let stem: String = stem
        .chars()
        .take(60)
        .map(|c| if c.is_ascii_alphanumeric() || "._-".contains(c) { c } else { '_' })
        .collect();
    let hash = blake3::hash(archive.as_os_str().as_encoded_bytes()).to_hex();
    cache_dir.join(format!("{stem}.{}.maearc", &hash[..16]))
}

/// Opens the copy when it is whole and of this archive.
pub(crate) fn open(path: &Path, identity: Identity) -> Option<(Map, Census)> {
    let map = Map::open(&File::open(path).ok()?).ok()?;
    let census = match parse(&map, identity) {
        Ok(census) => census,
        Err(reason) => {
            tracing::info!(path = %path.display(), reason, "the unpacked copy of an archive is built anew");
            return None;
        }
    };
    Some((map, census))
}

/// Reads the table of a copy.
pub(crate) fn parse(bytes: &[u8], identity: Identity) -> Result<Census, &'static str> {
    let header = bytes.get(..HEADER).ok_or("it is shorter than a header")?;
    if &header[..8] != MAGIC || header[8..12] != VERSION.to_le_bytes() {
        return Err("it was written by another version");
    }
    if header[112..] != blake3::hash(&header[..112]).as_bytes()[..16] {
        return Err("its header is damaged");
    }
    if header[16..48] != identity.0 {
        return Err("the archive has changed");
    }
    let number = |at: usize| Reader(&header[at..]).u64().unwrap_or(u64::MAX);
    if number(64) != bytes.len() as u64 {
        return Err("it is cut off");
    }
    let (offset, length) = (number(48), number(56));
    let table = usize::try_from(offset)
        .ok()
        .and_then(|start| bytes.get(start..start.checked_add(usize::try_from(length).ok()?)?))
        .ok_or("its table lies outside")?;
    if header[80..112] != *blake3::hash(table).as_bytes() {
        return Err("its table is damaged");
    }
    read_table(table, offset).ok_or("its table is damaged")
}

/// Writes table and header after the payloads, which end at `end`.
pub(crate) fn finish(file: &mut File, end: u64, census: &Census, identity: Identity) -> std::io::Result<()> {
    let table = write_table(census);
    file.seek(SeekFrom::Start(end))?;
    file.write_all(&table)?;
    let mut header = Vec::with_capacity(HEADER);
    header.extend_from_slice(MAGIC);
    header.extend_from_slice(&VERSION.to_le_bytes());
    header.extend_from_slice(&[0; 4]);
    header.extend_from_slice(&identity.0);
    for number in [end, table.len() as u64, end + table.len() as u64, 0] {
        header.extend_from_slice(&number.to_le_bytes());
    }
    header.extend_from_slice(blake3::hash(&table).as_bytes());
    let sum = blake3::hash(&header);
    header.extend_from_slice(&sum.as_bytes()[..16]);
    file.seek(SeekFrom::Start(0))?;
    file.write_all(&header)?;
    file.sync_all()
}

/// Removes what an interrupted build left behind; only under the lock.
pub(crate) fn remove_leftovers(cache_dir: &Path, prefix: &str) {
    let Ok(entries) = fs::read_dir(cache_dir) else { return };
    for entry in entries.flatten() {
        if entry.file_name().to_string_lossy().starts_with(prefix) {
            // Another user's leftover may not be ours to remove; it does no harm.
            let _ = fs::remove_file(entry.path());
        }
    }
}

fn write_table(census: &Census) -> Vec<u8> {
    let mut table = Vec::new();
    let number = |table: &mut Vec<u8>, n: u64| table.extend_from_slice(&n.to_le_bytes());
    let text = |table: &mut Vec<u8>, text: &str| {
        // Names come from headers of at most 1 MiB.
        table.extend_from_slice(&(text.len() as u32).to_le_bytes());
        table.extend_from_slice(text.as_bytes());
    };
    for counter in [census.links, census.unsafe_names, census.oversized] {
        number(&mut table, counter);
    }
    number(&mut table, census.folders.len() as u64);
    for folder in &census.folders {
        text(&mut table, folder);
    }
    number(&mut table, census.samples.len() as u64);
    for sample in &census.samples {
        number(&mut table, sample.offset);
        number(&mut table, sample.size);
        text(&mut table, &sample.name);
    }
    table
}

fn read_table(table: &[u8], payload_end: u64) -> Option<Census> {
    let mut reader = Reader(table);
    let mut census = Census {
        links: reader.u64()?,
        unsafe_names: reader.u64()?,
        oversized: reader.u64()?,
        ..Census::default()
    };
    for _ in 0..reader.u64()? {
        census.folders.insert(reader.text()?.to_owned());
    }
    for _ in 0..reader.u64()? {
        let (offset, size) = (reader.u64()?, reader.u64()?);
        let inside = offset.checked_add(size).is_some_and(|end| end <= payload_end);
        if !inside {
            return None;
        }
        census.samples.push(Sample { name: reader.text()?.into(), offset, size });
    }
    reader.0.is_empty().then_some(census)
}

struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn bytes(&mut self, n: usize) -> Option<&'a [u8]> {
        let (bytes, rest) = self.0.split_at_checked(n)?;
        self.0 = rest;
        Some(bytes)
    }

    fn u64(&mut self) -> Option<u64> {
        Some(u64::from_le_bytes(self.bytes(8)?.try_into().ok()?))
    }

    fn text(&mut self) -> Option<&'a str> {
        let length = u32::from_le_bytes(self.bytes(4)?.try_into().ok()?);
        std::str::from_utf8(self.bytes(length as usize)?).ok()
    }
}

#[cfg(test)]
#[path = "cache_tests.rs"]
mod tests;

//! The cache file of an archive: a table of its images, and, for a compressed archive, their payloads.
//!
//! ```text
//! header, 128 bytes (numbers little-endian)
//!      0  magic "maearc\r\n"      8  version u32           12  kind u32: 0 copy, 1 names, 2 restart points, 3 object
//!     16  archive identity [32]  48  table offset u64      56  table length u64
//!     64  file length u64        72  place u64             80  blake3 of the table [32]
//!    112  first 16 bytes of the blake3 of bytes 0..112
//! payloads, of a copy, or the bytes of an object
//! table
//!     skipped members by reason: count u64, then each u64
//!     folders: count u64, then each as length u32 + bytes
//!     members: count u64, then each as offset u64, size u64, length u32 + bytes
//!     restart points
//! ```
//!
//! The file is written under another name and renamed when it is whole, so it is either all there or not there. It
//! carries the identity of the archive it came from, so one that is stale is seen and built anew.

use std::fs::File;
use std::io::{Seek, SeekFrom, Write};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::time::UNIX_EPOCH;

use super::gzip::Points;
use super::index::{Census, Sample};
use crate::sys::Map;

pub(crate) const HEADER: usize = 128;
const MAGIC: &[u8; 8] = b"maearc\r\n";
const VERSION: u32 = 2;
/// How much of the head and the tail of an archive goes into its identity, and of some places between.
const SAMPLE: u64 = 64 << 10;
const SMALL_SAMPLE: u64 = 4 << 10;
const SMALL_SAMPLES: u64 = 8;

/// What a cache file holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Payloads and their table.
    Copy,
    /// The table of an archive that is read in place.
    Names,
    /// The table and the restart points of a gzip file that is read in place.
    Points,
    /// A remote object as it is.
    #[cfg(feature = "remote")]
    Object,
}

impl Kind {
    /// How such a file's name ends.
    pub(crate) fn suffix(self) -> &'static str {
        match self {
            Self::Copy => "maearc",
            Self::Names => "maenames",
            Self::Points => "maepoints",
            #[cfg(feature = "remote")]
            Self::Object => "maeobject",
        }
    }
}

/// What makes an archive this archive: size, time of change, and samples of its content. A moved archive keeps it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Identity(pub(crate) [u8; 32]);

impl Identity {
    /// The identity of a local file.
    pub(crate) fn of(file: &File) -> std::io::Result<Self> {
        let metadata = file.metadata()?;
        let size = metadata.len();
        let mut hasher = blake3::Hasher::new();
        hasher.update(&size.to_le_bytes());
        let modified = metadata.modified()?.duration_since(UNIX_EPOCH).unwrap_or_default();
        hasher.update(&modified.as_nanos().to_le_bytes());
        let mut sample = |at: u64, length: u64| -> std::io::Result<()> {
            let mut part = vec![0; length.min(size - at.min(size)) as usize];
            file.read_exact_at(&mut part, at)?;
            hasher.update(&part);
            Ok(())
        };
        sample(0, SAMPLE)?;
        for i in 1..=SMALL_SAMPLES {
            sample(size / (SMALL_SAMPLES + 1) * i, SMALL_SAMPLE)?;
        }
        sample(size.saturating_sub(SAMPLE), SAMPLE)?;
        Ok(Self(*hasher.finalize().as_bytes()))
    }

    /// The identity of something that its owner vouches for, such as an object with its entity tag.
    #[cfg(feature = "remote")]
    pub(crate) fn stated(parts: &[&[u8]]) -> Self {
        let mut hasher = blake3::Hasher::new();
        for part in parts {
            hasher.update(&(part.len() as u64).to_le_bytes()).update(part);
        }
        Self(*hasher.finalize().as_bytes())
    }
}

/// A cache file that was read.
pub(crate) struct Cached {
    pub(crate) map: Map,
    pub(crate) census: Census,
    pub(crate) points: Points,
}

/// Opens a cache file when it is whole and of this archive.
pub(crate) fn open(path: &Path, file: &File, identity: Identity, kind: Kind) -> Option<Cached> {
    let map = Map::open(file).ok()?;
    match parse(&map, identity, kind) {
        Ok((census, points)) => Some(Cached { map, census, points }),
        Err(reason) => {
            tracing::info!(path = %path.display(), reason, "the cache file of an archive is built anew");
            None
        }
    }
}

/// Reads the table of a cache file.
pub(crate) fn parse(bytes: &[u8], identity: Identity, kind: Kind) -> Result<(Census, Points), &'static str> {
    let header = bytes.get(..HEADER).ok_or("it is shorter than a header")?;
    if &header[..8] != MAGIC || header[8..12] != VERSION.to_le_bytes() {
        return Err("it was written by another version");
    }
    if header[112..] != blake3::hash(&header[..112]).as_bytes()[..16] {
        return Err("its header is damaged");
    }
    if header[12..16] != (kind as u32).to_le_bytes() || header[16..48] != identity.0 {
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
    let payload_end = if kind == Kind::Copy { offset } else { u64::MAX };
    let damaged = "its table is damaged";
    let (census, rest) = read_table(table, payload_end).ok_or(damaged)?;
    let points = match kind {
        Kind::Points => Points::parse(rest).ok_or(damaged)?,
        _ if rest.is_empty() => Points::default(),
        _ => return Err(damaged),
    };
    Ok((census, points))
}

/// What stands in the header for the place an archive came from, so that the copy of its next version replaces it.
pub(crate) fn place_of(archive: &str) -> u64 {
    let hash = blake3::hash(archive.as_bytes());
    hash.as_bytes().first_chunk().map_or(0, |bytes| u64::from_le_bytes(*bytes))
}

/// The place in the header of a cache file, if it is one.
pub(crate) fn read_place(file: &File) -> Option<u64> {
    let mut header = [0; HEADER];
    file.read_exact_at(&mut header, 0).ok()?;
    (&header[..8] == MAGIC).then(|| Reader(&header[72..]).u64())?
}

/// Writes table and header after the payloads, which end at `end`.
pub(crate) fn finish(
    file: &mut File,
    end: u64,
    census: &Census,
    points: Option<&Points>,
    (identity, kind, place): (Identity, Kind, u64),
) -> std::io::Result<()> {
    let mut table = write_table(census);
    if let Some(points) = points {
        points.write(&mut table);
    }
    file.seek(SeekFrom::Start(end))?;
    file.write_all(&table)?;
    let mut header = Vec::with_capacity(HEADER);
    header.extend_from_slice(MAGIC);
    header.extend_from_slice(&VERSION.to_le_bytes());
    header.extend_from_slice(&(kind as u32).to_le_bytes());
    header.extend_from_slice(&identity.0);
    for number in [end, table.len() as u64, end + table.len() as u64, place] {
        header.extend_from_slice(&number.to_le_bytes());
    }
    header.extend_from_slice(blake3::hash(&table).as_bytes());
    let sum = blake3::hash(&header);
    header.extend_from_slice(&sum.as_bytes()[..16]);
    file.seek(SeekFrom::Start(0))?;
    file.write_all(&header)?;
    file.sync_all()
}

fn write_table(census: &Census) -> Vec<u8> {
    let mut table = Vec::new();
    let number = |table: &mut Vec<u8>, n: u64| table.extend_from_slice(&n.to_le_bytes());
    let text = |table: &mut Vec<u8>, text: &str| {
        // Longer names were left out.
        table.extend_from_slice(&(text.len() as u32).to_le_bytes());
        table.extend_from_slice(text.as_bytes());
    };
    number(&mut table, census.skipped.len() as u64);
    for counter in census.skipped {
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

/// The census of a table, and what follows it.
fn read_table(table: &[u8], payload_end: u64) -> Option<(Census, &[u8])> {
    let mut reader = Reader(table);
    let mut census = Census::default();
    if reader.u64()? != census.skipped.len() as u64 {
        return None;
    }
    for counter in &mut census.skipped {
        *counter = reader.u64()?;
    }
    for _ in 0..reader.u64()? {
        census.folders.insert(reader.text()?.to_owned());
    }
    for _ in 0..reader.u64()? {
        let (offset, size) = (reader.u64()?, reader.u64()?);
        let inside = offset.checked_add(size).is_some_and(|end| end <= payload_end);
        if !inside {
            return None;
        }
        census.samples.push(Sample { name: reader.text()?.into(), offset, size, part: 0 });
    }
    Some((census, reader.0))
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

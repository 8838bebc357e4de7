//! The zip format of `torch.save` (PyTorch 1.6 and later).

use std::collections::HashMap;
use std::io::Cursor;
use std::ops::Range;
use std::sync::Arc;

use zip::{CompressionMethod, ZipArchive};

use super::super::mmap::SharedBytes;
use super::super::pickle::{self, MAX_PICKLE_BYTES, NamedGlobal, Origin, StorageRequest, Storages};
use super::super::storage::{Checksum, Storage};
use super::super::{Error, Result, Value};
use super::digests::{self, DIGESTS};

/// More records are refused; one storage is one record.
const MAX_RECORDS: usize = 1 << 20;
/// What deflate can gain at most.
const MAX_DEFLATE_RATIO: u64 = 1032;

/// One record of the archive.
struct Record {
    index: usize,
    /// Where its bytes lie in the file.
    range: Range<usize>,
    /// Length once decompressed.
    size: usize,
    crc: u32,
    compressed: bool,
}

/// An opened archive.
struct Archive {
    file: SharedBytes,
    zip: ZipArchive<Cursor<SharedBytes>>,
    records: HashMap<String, Record>,
    /// Folder of `data.pkl`, with its slash.
    root: String,
    big_endian: bool,
    /// What this crate's writer noted of every record; empty in other writers' files.
    digests: HashMap<String, blake3::Hash>,
    storages: HashMap<String, Arc<Storage>>,
}

/// What an archive holds.
pub(crate) struct Contents {
    pub(crate) root: Value,
    /// Name of the root folder.
    pub(crate) folder: String,
    pub(crate) globals: Vec<NamedGlobal>,
    /// Whether every record has a digest.
    pub(crate) has_digests: bool,
}

/// Reads the archive; storages stay in the file.
pub(crate) fn read(file: SharedBytes) -> Result<Contents> {
    let mut archive = Archive::open(file)?;
    let name = format!("{}data.pkl", archive.root);
    let bytes = archive.bytes(&name)?;
    let origin = Origin { record: name, base: 0 };
    let pickled = pickle::unpickle(&bytes, &origin, &mut archive)?;
    Ok(Contents {
        root: pickled.value,
        folder: archive.root.trim_end_matches('/').to_owned(),
        globals: pickled.globals,
        has_digests: !archive.digests.is_empty(),
    })
}

impl Archive {
    fn open(file: SharedBytes) -> Result<Self> {
        let mut zip = ZipArchive::new(Cursor::new(file.clone())).map_err(|error| {
            damaged(format!("its directory at the end cannot be read ({error}); the file may be cut off"))
        })?;
        if zip.has_duplicate_names() {
            return Err(damaged("two records have the same name"));
        }
        if zip.len() > MAX_RECORDS {
            return Err(Error::Limit {
                what: format!("the archive has {} records", zip.len()),
                limit: format!("{MAX_RECORDS}"),
            });
        }
        let records = records(&mut zip, file.len())?;
        let root = root(&records)?;
        let mut archive = Self {
            file,
            zip,
            records,
            root,
            big_endian: false,
            digests: HashMap::new(),
            storages: HashMap::new(),
        };
        archive.digests = archive.read_digests()?;
        archive.big_endian = archive.byte_order()?;
        Ok(archive)
    }

    fn read_digests(&self) -> Result<HashMap<String, blake3::Hash>> {
        let name = format!("{}{DIGESTS}", self.root);
        if !self.records.contains_key(&name) {
            return Ok(HashMap::new());
        }
        let digests =
            digests::parse(&self.bytes(&name)?).ok_or_else(|| damaged("its digests are garbled"))?;
        match digests.keys().find(|name| !self.records.contains_key(&format!("{}{name}", self.root))) {
            Some(missing) => Err(damaged(format!("record {missing} is missing"))),
            None => Ok(digests),
        }
    }

    /// PyTorch before 2.1 wrote no `byteorder`; its files are little-endian.
    fn byte_order(&self) -> Result<bool> {
        let name = format!("{}byteorder", self.root);
        if !self.records.contains_key(&name) {
            return Ok(false);
        }
        match self.bytes(&name)?.as_slice() {
            b"little" => Ok(false),
            b"big" => Ok(true),
            other => Err(damaged(format!("byte order {:?} is unknown", String::from_utf8_lossy(other)))),
        }
    }

    fn record(&self, name: &str) -> Result<&Record> {
        self.records.get(name).ok_or_else(|| damaged(format!("record {name} is missing")))
    }

    /// A small record as a whole, checked.
    fn bytes(&self, name: &str) -> Result<Vec<u8>> {
        let record = self.record(name)?;
        if record.size > MAX_PICKLE_BYTES {
            return Err(Error::Limit {
                what: format!("{name} has {} bytes", record.size),
                limit: format!("{MAX_PICKLE_BYTES} bytes"),
            });
        }
        Ok(self.storage(name, record).bytes()?.into_owned())
    }

    fn storage(&self, name: &str, record: &Record) -> Storage {
        let digest = name.strip_prefix(&self.root).and_then(|name| self.digests.get(name));
        let checksum = digest.map_or(Checksum::Crc32(record.crc), |digest| Checksum::Blake3(*digest));
        let name = name.to_owned();
        if record.compressed {
            let archive = self.zip.clone();
            return Storage::compressed(name, archive, record.index, record.size, checksum, self.big_endian);
        }
        Storage::mapped(name, self.file.clone(), record.range.clone(), checksum, self.big_endian)
    }
}

impl Storages for Archive {
    fn find(&mut self, request: &StorageRequest<'_>) -> Result<Arc<Storage>> {
        let name = format!("{}data/{}", self.root, request.key);
        let record = self.record(&name)?;
        let needed = request.numel.checked_mul(request.element_size as u64);
        if needed.is_none_or(|needed| needed > record.size as u64) {
            return Err(damaged(format!(
                "record {name} has {} bytes, its tensors need {} elements of {} bytes",
                record.size, request.numel, request.element_size
            )));
        }
        if let Some(storage) = self.storages.get(request.key) {
            return Ok(storage.clone());
        }
        let storage = Arc::new(self.storage(&name, record));
        self.storages.insert(request.key.to_owned(), storage.clone());
        Ok(storage)
    }
}

/// Where every record lies; refuses records outside the file, over one another, or of absurd size.
fn records(zip: &mut ZipArchive<Cursor<SharedBytes>>, file_len: usize) -> Result<HashMap<String, Record>> {
    let mut records = HashMap::with_capacity(zip.len());
    let mut ranges = Vec::with_capacity(zip.len());
    for index in 0..zip.len() {
        let entry = zip.by_index_raw(index).map_err(|error| damaged(format!("record {index}: {error}")))?;
        let name = entry.name().map_err(|error| damaged(format!("record {index}: {error}")))?.into_owned();
        if entry.encrypted() {
            return Err(damaged(format!("record {name} is encrypted")));
        }
        let compressed = match entry.compression() {
            CompressionMethod::Stored => false,
            CompressionMethod::Deflated => true,
            other => return Err(damaged(format!("record {name} is compressed with {other}"))),
        };
        let (packed, size) = (entry.compressed_size(), entry.size());
        let plausible = if compressed { size / MAX_DEFLATE_RATIO <= packed } else { size == packed };
        let start = entry.data_start();
        let end = start.and_then(|start| start.checked_add(packed)).filter(|end| *end <= file_len as u64);
        let (Some(start), Some(end), true) = (start, end, plausible) else {
            return Err(damaged(format!(
                "record {name} claims {size} bytes ({packed} stored), which are not there"
            )));
        };
        let range = start as usize..end as usize;
        if !range.is_empty() {
            ranges.push((range.start, range.end, index));
        }
        let crc = entry.crc32();
        records.insert(name, Record { index, range, size: size as usize, crc, compressed });
    }
    ranges.sort_unstable();
    if ranges.windows(2).any(|pair| pair[0].1 > pair[1].0) {
        return Err(damaged("records overlap"));
    }
    Ok(records)
}

/// The folder of `data.pkl`.
fn root(records: &HashMap<String, Record>) -> Result<String> {
    let mut roots: Vec<&str> = records
        .keys()
        .filter_map(|name| name.strip_suffix("data.pkl"))
        .filter(|root| root.is_empty() || (root.ends_with('/') && root.matches('/').count() == 1))
        .collect();
    roots.sort_unstable();
    let root = match roots.as_slice() {
        [root] => *root,
        [] => {
            let mut names: Vec<&str> = records.keys().map(String::as_str).collect();
            names.sort_unstable();
            names.truncate(5);
            return Err(Error::NotACheckpoint {
                found: format!("a zip archive without data.pkl (its records: {})", names.join(", ")),
            });
        }
        _ => return Err(damaged(format!("it has several data.pkl, in {}", roots.join(" and ")))),
    };
    if records.contains_key(&format!("{root}constants.pkl")) {
        return Err(Error::UnsupportedFormat {
            what: "a TorchScript archive (torch.jit.save)",
            remedy: "save the weights in Python with torch.save(model.state_dict(), path)",
        });
    }
    Ok(root.to_owned())
}

fn damaged(problem: impl Into<String>) -> Error {
    Error::Container { container: "zip", problem: problem.into() }
}

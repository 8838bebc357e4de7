//! Archives: a `.tar` is used in place, a `.tar.gz` through an unpacked copy that is made once.

use std::fs::{self, File};
use std::io::{self, BufReader, BufWriter, Read, Seek, SeekFrom, Write};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use flate2::bufread::MultiGzDecoder;

use super::cache::{self, Identity};
use super::index::{Census, Sample, safe_name};
use super::tar::{Cause, Kind, TarError, Walker};
use super::{OpenOptions, OpenProgress};
use crate::error::{Error, human_bytes};
use crate::sys::Map;

/// Left free on the disk of the cache.
const RESERVE: u64 = 64 << 20;
/// The free space is looked at, and progress is told, each time this much was written.
const INTERVAL: u64 = 16 << 20;

/// The bytes of an archive's images and what it holds.
pub(crate) struct Archive {
    pub(crate) map: Map,
    pub(crate) census: Census,
}

/// Opens an archive; its first bytes say what it is.
pub(crate) fn open(path: &Path, options: &OpenOptions) -> Result<Archive, Error> {
    let file = File::open(path).map_err(|e| Error::io("open", path, e))?;
    let mut head = Vec::new();
    (&file).take(512).read_to_end(&mut head).map_err(|e| Error::io("read", path, e))?;
    if head.starts_with(&[0x1f, 0x8b]) {
        return open_gzip(path, file, options);
    }
    if let Some((found, help)) = other_format(&head, path) {
        return Err(Error::UnsupportedFormat { path: path.to_owned(), found, help });
    }
    let map = Map::open(&file).map_err(|e| Error::io("map", path, e))?;
    let mut census = Census::default();
    let mut walker = Walker::new(&map[..]);
    read_members(&mut walker, &mut census, &mut |_, sample, census| {
        census.samples.push(sample);
        Ok(())
    })
    // In a .tar.gz the sum at the end of the stream tells that all of it is there; here only the marker does.
    .and_then(|()| walker.expect_end_marker())
    .map_err(|e| tar_error(path, false, e))?;
    Ok(Archive { map, census })
}

/// What a file that is no tar may be.
fn other_format(head: &[u8], path: &Path) -> Option<(String, &'static str)> {
    const REPACK: &str = "this format is not supported yet; pack the folder again as .tar or .tar.gz";
    let known: [(&[u8], &str, &'static str); 7] = [
        (b"PK\x03\x04", "a zip archive", REPACK),
        (&[0x28, 0xb5, 0x2f, 0xfd], "zstd-compressed", REPACK),
        (&[0xfd, b'7', b'z', b'X', b'Z'], "xz-compressed", REPACK),
        (b"BZh", "bzip2-compressed", REPACK),
        (b"7z\xbc\xaf", "a 7z archive", REPACK),
        (&[0xff, 0xd8, 0xff], "a single JPEG image", "give the folder it lies in"),
        (b"\x89PNG", "a single PNG image", "give the folder it lies in"),
    ];
    if head.is_empty() {
        return Some(("an empty file".to_owned(), "download or pack the archive again"));
    }
    for (magic, found, help) in known {
        if head.starts_with(magic) {
            return Some((found.to_owned(), help));
        }
    }
    let is_tar = head.get(257..262) == Some(b"ustar") || head.iter().all(|&b| b == 0);
    let named_tar = path.extension().is_some_and(|e| e.eq_ignore_ascii_case("tar"));
    // Archives from before ustar have no magic: the walk tells by their checksums.
    if is_tar || named_tar || super::tar::walk(head).is_ok_and(|members| !members.is_empty()) {
        return None;
    }
    let is_text = head.iter().all(|&b| b >= 0x20 || matches!(b, b'\t' | b'\n' | b'\r'));
    let found = if is_text { "a text file" } else { "no archive that is known here" };
    Some((found.to_owned(), "pack the images as .tar or .tar.gz, or give their folder"))
}

fn open_gzip(path: &Path, mut file: File, options: &OpenOptions) -> Result<Archive, Error> {
    let path = &path.canonicalize().map_err(|e| Error::io("open", path, e))?;
    let identity = Identity::of(path, &mut file).map_err(|e| Error::io("read", path, e))?;
    let cached = cache::file_for(&options.cache_dir, path);
    if let Some((map, census)) = cache::open(&cached, identity) {
        return Ok(Archive { map, census });
    }
    let cache_error =
        |e| Error::Cache { archive: path.to_owned(), cache_dir: options.cache_dir.clone(), source: e };
    fs::create_dir_all(&options.cache_dir).map_err(cache_error)?;
    // Of two processes that want the same copy, one builds it while the other waits here.
    let lock = File::create(cached.with_extension("lock")).map_err(cache_error)?;
    if let Err(e) = lock.lock() {
        tracing::warn!(error = %e, "the cache folder cannot be locked; a copy may be built twice");
    }
    if let Some((map, census)) = cache::open(&cached, identity) {
        return Ok(Archive { map, census });
    }
    build(path, &mut file, identity, &cached, options)?;
    let (map, census) = cache::open(&cached, identity).ok_or_else(|| {
        cache_error(io::Error::new(
            io::ErrorKind::InvalidData,
            "the copy just written cannot be read back (did the archive change meanwhile?)",
        ))
    })?;
    Ok(Archive { map, census })
}

fn build(
    path: &Path,
    file: &mut File,
    identity: Identity,
    cached: &Path,
    options: &OpenOptions,
) -> Result<(), Error> {
    let cache_dir = &options.cache_dir;
    let cache_error = |e| Error::Cache { archive: path.to_owned(), cache_dir: cache_dir.clone(), source: e };
    let total = file.metadata().map_err(|e| Error::io("read", path, e))?.len();
    let needed = estimate(file, total).map_err(|e| Error::io("read", path, e))?;
    check_space(path, cache_dir, needed)?;

    let prefix = format!("{}.building-", cached.file_name().unwrap_or_default().to_string_lossy());
    cache::remove_leftovers(cache_dir, &prefix);
    let mut temporary =
        tempfile::Builder::new().prefix(&prefix).tempfile_in(cache_dir).map_err(cache_error)?;

    let progress = Progress::new(path, total, options);
    let counted = Counted { inner: &mut *file, count: Arc::clone(&progress.done) };
    let gunzip = MultiGzDecoder::new(BufReader::with_capacity(1 << 20, counted));
    let mut walker = Walker::new(BufReader::with_capacity(1 << 20, gunzip));
    let mut census = Census::default();
    let mut out = BufWriter::with_capacity(1 << 20, temporary.as_file_mut());
    out.write_all(&[0; cache::HEADER]).map_err(cache_error)?;
    let (mut end, mut checked) = (cache::HEADER as u64, 0);
    let mut short_of_space = None;
    let walked = read_members(&mut walker, &mut census, &mut |walker, sample, census| {
        if end >= checked + INTERVAL {
            checked = end;
            progress.tell();
            if let Err(error) = check_space(path, cache_dir, sample.size) {
                short_of_space = Some(error);
                return Err(walker.write_failed(io::ErrorKind::StorageFull.into()));
            }
        }
        walker.copy_payload(&mut out)?;
        census.samples.push(Sample { offset: end, ..sample });
        end += census.samples.last().map_or(0, |s| s.size);
        Ok(())
    });
    if let Some(error) = short_of_space {
        return Err(error);
    }
    match walked {
        Ok(()) => {}
        Err(TarError { cause: Cause::Write(e), .. }) if e.kind() == io::ErrorKind::StorageFull => {
            return Err(no_space(path, cache_dir, needed.max(end), 0));
        }
        Err(TarError { cause: Cause::Write(e), .. }) => return Err(cache_error(e)),
        Err(error) => return Err(tar_error(path, true, error)),
    }
    progress.tell();
    if census.samples.is_empty() {
        // The same error as when opening; without a file left behind.
        return census.index(path, super::Layout::Flat).map(|_| ());
    }
    out.flush().map_err(cache_error)?;
    drop(out);
    cache::finish(temporary.as_file_mut(), end, &census, identity).map_err(cache_error)?;
    temporary.persist(cached).map_err(|e| cache_error(e.error))?;
    // The name is durable once its folder is.
    if let Ok(folder) = File::open(cache_dir) {
        let _ = folder.sync_all();
    }
    Ok(())
}

type OnImage<'a, R> = &'a mut dyn FnMut(&mut Walker<R>, Sample, &mut Census) -> Result<(), TarError>;

/// Reads all members, counts them, and hands each image to `on_image` while the walker is at its payload.
fn read_members<R: io::BufRead>(
    walker: &mut Walker<R>,
    census: &mut Census,
    on_image: OnImage<'_, R>,
) -> Result<(), TarError> {
    while let Some(member) = walker.next_member()? {
        let Some(name) = safe_name(&member.name) else {
            // The archive's own folder, "./", is no danger.
            census.unsafe_names += u64::from(!matches!(member.name.trim_matches('/'), "" | "."));
            continue;
        };
        match member.kind {
            Kind::Directory => census.folder(&name),
            Kind::Link | Kind::Other => census.links += 1,
            Kind::File if census.accepts(&name, member.size) => {
                let sample = Sample { name: name.into(), offset: member.offset, size: member.size };
                on_image(walker, sample, census)?;
            }
            Kind::File => {}
        }
    }
    if !walker.drain()? {
        tracing::warn!(
            "data after the end marker of the archive is not read (was it made by joining archives?)"
        );
    }
    Ok(())
}

/// How large the copy will be: images hardly shrink by compression, and the last four bytes of a gzip member are
/// its unpacked size modulo 4 GiB.
fn estimate(file: &mut File, total: u64) -> io::Result<u64> {
    let mut size = [0; 4];
    if total < 18 {
        return Ok(total);
    }
    file.seek(SeekFrom::Start(total - 4))?;
    file.read_exact(&mut size)?;
    file.seek(SeekFrom::Start(0))?;
    Ok(total.max(u64::from(u32::from_le_bytes(size)).min(total.saturating_mul(1032))))
}

fn check_space(archive: &Path, cache_dir: &Path, needed: u64) -> Result<(), Error> {
    // A file system that cannot tell is taken at its word when it is full.
    let Ok(stat) = rustix::fs::statvfs(cache_dir) else { return Ok(()) };
    let available = stat.f_bavail.saturating_mul(stat.f_frsize);
    if available < needed.saturating_add(RESERVE) {
        return Err(no_space(archive, cache_dir, needed.saturating_add(RESERVE), available));
    }
    Ok(())
}

fn no_space(archive: &Path, cache_dir: &Path, needed: u64, available: u64) -> Error {
    Error::NoSpace {
        archive: archive.to_owned(),
        cache_dir: cache_dir.to_owned(),
        needed: human_bytes(needed),
        available: human_bytes(available),
    }
}

fn tar_error(archive: &Path, compressed: bool, error: TarError) -> Error {
    let TarError { cause, at, last_member } = error;
    let archive = archive.to_owned();
    match cause {
        Cause::Truncated => Error::Truncated { archive, at, compressed, last_member },
        Cause::Malformed(detail) if at == 0 => Error::UnsupportedFormat {
            path: archive,
            found: if compressed {
                format!("a gzip stream without a tar archive in it ({detail})")
            } else {
                format!("no tar archive ({detail})")
            },
            help: "pack the images as .tar or .tar.gz, or give their folder",
        },
        Cause::Malformed(detail) | Cause::Corrupt(detail) => {
            Error::Damaged { archive, at, compressed, detail, last_member }
        }
        Cause::Io(e) | Cause::Write(e) => Error::io("read", archive, e),
    }
}

/// Tells how far the compressed file has been read.
struct Progress<'a> {
    archive: String,
    done: Arc<AtomicU64>,
    total: u64,
    options: &'a OpenOptions,
}

impl<'a> Progress<'a> {
    fn new(archive: &Path, total: u64, options: &'a OpenOptions) -> Self {
        Self { archive: archive.display().to_string(), done: Arc::default(), total, options }
    }

    fn tell(&self) {
        if let Some(tell) = &self.options.progress {
            tell(OpenProgress {
                archive: self.archive.clone(),
                bytes_done: self.done.load(Ordering::Relaxed),
                bytes_total: self.total,
            });
        }
    }
}

/// Counts the bytes read through it.
struct Counted<R> {
    inner: R,
    count: Arc<AtomicU64>,
}

impl<R: Read> Read for Counted<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let n = self.inner.read(buffer)?;
        self.count.fetch_add(n as u64, Ordering::Relaxed);
        Ok(n)
    }
}

//! Compressed tar archives: their images are copied into a cache file once, which is mapped from then on. A `.tar.gz`
//! that finds no room for a copy is read through restart points.

use std::fs::File;
use std::io::{self, BufRead, BufWriter, Read, Write};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

use super::cache::{self, Cached, Identity, Kind};
use super::gzip::{self, Cut, Members, Points};
use super::index::{Census, Sample};
#[cfg(feature = "remote")]
use super::members::read_error;
use super::members::{names_limit, read_members, tar_error};
use super::place::{Mapped, Opened, Restarted};
use super::reader::{FileReader, Piped, read_buffered};
use super::store::{Shortage, Store};
use super::tar::{Cause, TarError, Walker};
use super::writeback::Writeback;
use super::{OpenOptions, OpenProgress};
use crate::error::{Error, human_bytes};
use crate::sys::Map;

/// Progress is told, and the free space is looked at, each time this much was read or written.
const INTERVAL: u64 = 16 << 20;
/// A copy may be this large, and a hundred times larger than the archive. Images compress to nearly their own size.
/// Tests are faster with less.
const COPY: u64 = if cfg!(test) { 8 << 20 } else { 1 << 30 };
const RATIO: u64 = 100;
/// How an archive is compressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Packing {
    Gzip,
    Zstd,
}

/// A tar stream, and how far the compressed bytes behind it were read.
pub(crate) struct Input {
    pub(crate) stream: Box<dyn BufRead>,
    pub(crate) read: Arc<AtomicU64>,
    /// Compressed size in bytes.
    pub(crate) total: u64,
    pub(crate) compressed: bool,
    /// How many gzip members there were. After one that is whole, nothing is missing.
    pub(crate) members: Option<Arc<AtomicU64>>,
}

/// Why there is no copy.
#[derive(Debug)]
pub(crate) enum Obstacle {
    Shortage(Shortage),
    Folder(io::Error),
}

/// Opens a compressed archive.
pub(crate) fn open(
    path: &Path,
    file: File,
    packing: Packing,
    options: &OpenOptions,
) -> Result<Opened, Error> {
    let failed = |e| Error::io("read", path, e);
    let identity = Identity::of(&file).map_err(failed)?;
    let total = file.metadata().map_err(failed)?.len();
    let needed = estimate(&file, packing, total).map_err(failed)?;
    let shown = path.display().to_string();
    // However it is named, it is one archive.
    let place = path.canonicalize().map_err(failed)?.display().to_string();
    let store = Store::new(&place, identity, options);
    let opened = open_copy(&shown, &store, needed, options, || input(file.try_clone()?, packing, total))?;
    match opened {
        Ok(opened) => Ok(opened),
        Err(obstacle) if packing == Packing::Gzip => {
            tracing::info!(archive = shown, ?obstacle, "no copy can be made");
            open_points(&shown, &file, &store, total, obstacle, options)
        }
        Err(obstacle) => Err(obstacle.error(&shown, store.dir())),
    }
}

/// The copy of an archive, made when it is not there yet.
pub(crate) fn open_copy(
    shown: &str,
    store: &Store<'_>,
    needed: u64,
    options: &OpenOptions,
    input: impl FnOnce() -> io::Result<Input>,
) -> Result<Result<Opened, Obstacle>, Error> {
    let copy = cached(shown, store, Kind::Copy, needed, |file| {
        let input = input().map_err(|e| Error::io("read", shown, e))?;
        let unpacked = unpack(shown, input, file, store, options)?;
        match unpacked {
            // The same error as when opening; without a file left behind.
            Ok((census, _)) if census.samples.is_empty() => Err(census.empty(shown)),
            // Whoever reads along cannot start again elsewhere.
            Err(obstacle) if options.growth.as_ref().is_some_and(|growth| growth.is_arriving()) => {
                Err(obstacle.error(shown, store.dir()))
            }
            unpacked => Ok(unpacked),
        }
    })?;
    Ok(copy.map(|Cached { map, census, .. }| Opened::new(Mapped { root: shown.to_owned(), map }, census)))
}

/// The whole of an object in the cache, fetched when it is not there yet.
#[cfg(feature = "remote")]
pub(crate) fn fetch(
    shown: &str,
    store: &Store<'_>,
    total: u64,
    options: &OpenOptions,
    input: impl FnOnce() -> io::Result<Input>,
) -> Result<Result<Cached, Obstacle>, Error> {
    cached(shown, store, Kind::Object, total, |file| {
        let input = input().map_err(|e| Error::io("read", shown, e))?;
        let mut stream = Telling::new(shown, input, options);
        let mut end = cache::HEADER as u64;
        if let Err(error) = file.write_all(&[0; cache::HEADER]) {
            return Ok(Err(Obstacle::of(error, end)));
        }
        loop {
            let bytes = stream.fill_buf().map_err(|e| read_error(shown, e))?;
            if bytes.is_empty() {
                return Ok(Ok((Census::default(), end)));
            }
            if let Err(error) = file.write_all(bytes) {
                return Ok(Err(Obstacle::of(error, end)));
            }
            let n = bytes.len();
            stream.consume(n);
            end += n as u64;
        }
    })
}

/// A cache file of this archive, built when it is not there yet.
fn cached(
    shown: &str,
    store: &Store<'_>,
    kind: Kind,
    needed: u64,
    build: impl FnOnce(&mut File) -> Result<Result<(Census, u64), Obstacle>, Error>,
) -> Result<Result<Cached, Obstacle>, Error> {
    if let Some(cached) = store.find(kind) {
        return Ok(Ok(cached));
    }
    // Of two processes that want the same file, one builds it while the other waits here.
    let _lock = match store.lock() {
        Ok(lock) => lock,
        Err(error) => return Ok(Err(Obstacle::Folder(error))),
    };
    if let Some(cached) = store.find(kind) {
        return Ok(Ok(cached));
    }
    if let Err(shortage) = store.make_room(needed) {
        return Ok(Err(Obstacle::Shortage(shortage)));
    }
    let mut temporary = match store.begin(kind) {
        Ok(file) => file,
        Err(error) => return Ok(Err(Obstacle::Folder(error))),
    };
    let (census, end) = match build(temporary.as_file_mut())? {
        Ok(built) => built,
        Err(obstacle) => return Ok(Err(obstacle)),
    };
    if let Err(error) = store.commit(kind, temporary, end, &census, None) {
        return Ok(Err(Obstacle::of(error, end)));
    }
    Ok(store.find(kind).ok_or_else(|| {
        tracing::warn!(archive = shown, "a cache file just written cannot be read back");
        let message = "what was just written cannot be read back";
        Obstacle::Folder(io::Error::new(io::ErrorKind::InvalidData, message))
    }))
}

/// Copies the images of a tar stream to `file`, behind the place for a header. Gives their table and where they end.
fn unpack(
    shown: &str,
    input: Input,
    file: &mut File,
    store: &Store<'_>,
    options: &OpenOptions,
) -> Result<Result<(Census, u64), Obstacle>, Error> {
    let (total, compressed, members) = (input.total, input.compressed, input.members.clone());
    let most = COPY.saturating_add(total.saturating_mul(RATIO));
    let mut walker = Walker::new(Telling::new(shown, input, options));
    let mut census = Census::default();
    if let Some(growth) = &options.growth {
        match file.try_clone() {
            Ok(file) => growth.begin(shown, file),
            Err(error) => return Ok(Err(Obstacle::Folder(error))),
        }
    }
    let mut writeback = match Writeback::of(file) {
        Ok(writeback) => writeback,
        Err(error) => return Ok(Err(Obstacle::Folder(error))),
    };
    let mut out = BufWriter::with_capacity(1 << 20, file);
    let (mut end, mut checked) = (cache::HEADER as u64, 0);
    let (mut shortage, mut refused) = (None, None);
    if let Err(error) = out.write_all(&[0; cache::HEADER]) {
        return Ok(Err(Obstacle::of(error, end)));
    }
    let walked = read_members(&mut walker, &mut census, names_limit(total), &mut |walker, sample, census| {
        if end + sample.size > most {
            return Err(walker.excess(format!(
                "its images take more than {}, and the archive itself {}",
                human_bytes(most),
                human_bytes(total)
            )));
        }
        if end + sample.size >= checked + INTERVAL {
            checked = end + sample.size;
            if let Err(found) = store.has_room(end, sample.size) {
                shortage = Some(found);
                return Err(walker.write_failed(io::ErrorKind::StorageFull.into()));
            }
        }
        walker.copy_payload(&mut out)?;
        let sample = Sample { offset: end, ..sample };
        end += sample.size;
        writeback.at(end);
        if let Some(growth) = &options.growth {
            out.flush().map_err(|error| walker.write_failed(error))?;
            if let Err(error) = growth.add(&sample) {
                refused = Some(error);
                return Err(walker.write_failed(io::ErrorKind::Interrupted.into()));
            }
        }
        census.samples.push(sample);
        Ok(())
    })
    .and_then(|()| match members {
        // A stream of one gzip member is whole when its sum is right.
        Some(members) if members.load(Ordering::Relaxed) == 1 => Ok(()),
        _ => walker.expect_end_marker(),
    });
    if let Some(shortage) = shortage {
        return Ok(Err(Obstacle::Shortage(shortage)));
    }
    if let Some(refused) = refused {
        return Err(refused);
    }
    match walked {
        Ok(()) => {}
        Err(TarError { cause: Cause::Write(e), .. }) => return Ok(Err(Obstacle::of(e, end))),
        Err(error) => return Err(tar_error(shown, compressed, error)),
    }
    if let Err(error) = out.flush().and_then(|()| writeback.finish()) {
        return Ok(Err(Obstacle::of(error, end)));
    }
    drop(out);
    census.sort();
    Ok(Ok((census, end)))
}

/// A `.tar.gz` through its restart points, which are found when they are not there yet.
fn open_points(
    shown: &str,
    file: &File,
    store: &Store<'_>,
    total: u64,
    obstacle: Obstacle,
    options: &OpenOptions,
) -> Result<Opened, Error> {
    let map = Map::open(file).map_err(|e| Error::io("map", shown, e))?;
    let lock = store.lock();
    let (census, points) = match store.find(Kind::Points) {
        Some(Cached { census, points, .. }) => (census, points),
        None => {
            let found = find_points(shown, file, total, options)?;
            if let (Ok(lock), false) = (&lock, found.0.samples.is_empty()) {
                store.keep(lock, Kind::Points, &found.0, Some(&found.1));
            }
            found
        }
    };
    drop(lock);
    let note =
        format!("{}; it is read in place, which costs time for each image", obstacle.reason(store.dir()));
    let mut opened = Opened::new(Restarted { root: shown.to_owned(), map, points }, census);
    opened.notes.push(note);
    Ok(opened)
}

fn find_points(
    shown: &str,
    file: &File,
    total: u64,
    options: &OpenOptions,
) -> Result<(Census, Points), Error> {
    let map = Map::open(file).map_err(|e| Error::io("map", shown, e))?;
    let (read, found) = (Arc::new(AtomicU64::new(0)), Arc::new(OnceLock::new()));
    let (told, filled) = (Arc::clone(&read), Arc::clone(&found));
    let stream = Piped::spawn(move |sink| {
        let points = gzip::build_points(&map, &mut |bytes, read| {
            told.store(read, Ordering::Relaxed);
            sink.write_all(bytes)
        })?;
        // The only thread that sets it.
        let _ = filled.set(points);
        Ok(())
    })
    .map_err(|e| Error::io("read", shown, e))?;
    let input = Input { stream: Box::new(stream), read, total, compressed: true, members: None };
    let mut walker = Walker::new(Telling::new(shown, input, options));
    let mut census = Census::default();
    read_members(&mut walker, &mut census, names_limit(total), &mut |_, sample, census| {
        census.samples.push(sample);
        Ok(())
    })
    .map_err(|e| tar_error(shown, true, e))?;
    census.sort();
    // The walker has seen the end of the stream, which comes after the points.
    drop(walker);
    let points = Arc::into_inner(found).and_then(OnceLock::into_inner).unwrap_or_default();
    Ok((census, points))
}

fn input(file: File, packing: Packing, total: u64) -> io::Result<Input> {
    let read = Arc::new(AtomicU64::new(0));
    let (stream, members): (Box<dyn BufRead>, _) = match packing {
        Packing::Gzip => {
            let members = Members::new(file, Arc::clone(&read), Cut::default())?;
            let count = members.count();
            (Box::new(members), Some(count))
        }
        Packing::Zstd => {
            let reader = FileReader::new(Arc::new(file), 0, Arc::clone(&read));
            (Box::new(unzstd(reader)?), None)
        }
    };
    Ok(Input { stream, read, total, compressed: true, members })
}

/// Unpacks zstd in a thread. Frames that need more than 128 MiB of memory are refused, as by the `zstd` command.
pub(crate) fn unzstd(reader: impl BufRead + Send + 'static) -> io::Result<Piped> {
    Piped::spawn(move |sink| {
        let mut decoder = zstd::stream::read::Decoder::with_buffer(reader)?;
        sink.read_from(&mut decoder).map_err(|error| match error.get_ref() {
            Some(inner) if inner.is::<Error>() => error,
            // What the library says of bytes that it cannot understand.
            _ if error.kind() == io::ErrorKind::Other => io::Error::new(io::ErrorKind::InvalidData, error),
            _ => error,
        })
    })
}

/// How large the copy will be: images hardly shrink by compression; the last four bytes of a gzip member are its
/// unpacked size modulo 4 GiB, and a zstd frame may begin with it.
fn estimate(file: &File, packing: Packing, total: u64) -> io::Result<u64> {
    let stated = match packing {
        Packing::Gzip => {
            let mut size = [0; 4];
            file.read_exact_at(&mut size, total.saturating_sub(4))?;
            u64::from(u32::from_le_bytes(size)).min(total.saturating_mul(1032))
        }
        Packing::Zstd => {
            let mut head = [0; 18];
            let n = file.read_at(&mut head, 0)?;
            zstd::zstd_safe::get_frame_content_size(&head[..n]).ok().flatten().unwrap_or(0)
        }
    };
    Ok(total.max(stated))
}

impl Obstacle {
    fn of(error: io::Error, written: u64) -> Self {
        match error.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
                Self::Shortage(Shortage::Disk { needed: written, available: 0 })
            }
            _ => Self::Folder(error),
        }
    }

    pub(crate) fn error(self, archive: &str, cache_dir: &Path) -> Error {
        let (archive, cache_dir) = (archive.into(), cache_dir.to_owned());
        match self {
            Self::Shortage(Shortage::Disk { needed, available }) => Error::NoSpace {
                archive,
                cache_dir,
                needed: human_bytes(needed),
                available: human_bytes(available),
            },
            Self::Shortage(Shortage::Limit { needed, limit }) => {
                Error::CacheLimit { archive, needed: human_bytes(needed), limit: human_bytes(limit) }
            }
            Self::Folder(source) => Error::Cache { archive, cache_dir, source },
        }
    }

    fn reason(&self, cache_dir: &Path) -> String {
        let dir = cache_dir.display();
        match self {
            Self::Shortage(Shortage::Disk { needed, available }) => format!(
                "no room for an unpacked copy in {dir} ({} needed, {} available)",
                human_bytes(*needed),
                human_bytes(*available)
            ),
            Self::Shortage(Shortage::Limit { needed, limit }) => format!(
                "no room for an unpacked copy within dataset.cache_limit_gb ({} needed, {} allowed)",
                human_bytes(*needed),
                human_bytes(*limit)
            ),
            Self::Folder(error) => format!("no unpacked copy can be made in {dir} ({error})"),
        }
    }
}

/// A stream that tells how far its compressed bytes have been read.
struct Telling<'a> {
    input: Input,
    archive: String,
    told: u64,
    options: &'a OpenOptions,
}

impl<'a> Telling<'a> {
    fn new(archive: &str, input: Input, options: &'a OpenOptions) -> Self {
        let telling = Self { input, archive: archive.to_owned(), told: 0, options };
        telling.tell(0);
        telling
    }

    fn tell(&self, bytes_done: u64) {
        if let Some(tell) = &self.options.progress {
            let (archive, bytes_total) = (self.archive.clone(), self.input.total);
            tell(OpenProgress { archive, bytes_done: bytes_done.min(bytes_total), bytes_total });
        }
    }
}

impl BufRead for Telling<'_> {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        let read = self.input.read.load(Ordering::Relaxed);
        if read >= self.told + INTERVAL {
            self.told = read;
            self.tell(read);
        }
        self.input.stream.fill_buf()
    }

    fn consume(&mut self, n: usize) {
        self.input.stream.consume(n);
    }
}

impl Read for Telling<'_> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        read_buffered(self, out)
    }
}

//! The cache folder: finding, locking, making room, throwing away.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use tempfile::NamedTempFile;

use super::OpenOptions;
use super::cache::{self, Cached, Identity, Kind};
use super::gzip::Points;
use super::index::Census;

/// Left free on the disk.
const RESERVE: u64 = 64 << 20;
/// Builds of different archives rarely wait for each other; the lock files stay few.
const LOCKS: u8 = 64;

/// The cache folder, for one archive.
pub(crate) struct Store<'a> {
    dir: &'a Path,
    limit: Option<u64>,
    evict: bool,
    /// The archive as messages name it.
    archive: String,
    stem: String,
    identity: Identity,
}

/// Why there is no room.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Shortage {
    /// The disk is too full.
    Disk { needed: u64, available: u64 },
    /// The file would be larger than the cache may be.
    Limit { needed: u64, limit: u64 },
}

impl<'a> Store<'a> {
    pub(crate) fn new(archive: &str, identity: Identity, options: &'a OpenOptions) -> Self {
        let name = archive.split(['?', '#']).next().unwrap_or_default();
        let name = name.rsplit('/').find(|part| !part.is_empty()).unwrap_or_default();
        let stem = name
            .chars()
            .take(60)
            .map(|c| if c.is_ascii_alphanumeric() || "._-".contains(c) { c } else { '_' })
            .collect();
        Self {
            dir: &options.cache_dir,
            limit: options.cache_limit,
            evict: options.cache_eviction,
            archive: archive.to_owned(),
            stem,
            identity,
        }
    }

    pub(crate) fn dir(&self) -> &Path {
        self.dir
    }

    /// Where a file of this archive lies.
    pub(crate) fn path(&self, kind: Kind) -> PathBuf {
        let Identity(identity) = self.identity;
        let digest: String = identity[..8].iter().map(|byte| format!("{byte:02x}")).collect();
        self.dir.join(format!("{}.{digest}.{}", self.stem, kind.suffix()))
    }

    /// The cache file of this archive, when it is there and whole.
    pub(crate) fn find(&self, kind: Kind) -> Option<Cached> {
        let path = self.path(kind);
        let file = File::open(&path).ok()?;
        // Held while the file is in use, so that nobody throws it away. Nothing is lost where locks do not work.
        let _ = file.try_lock_shared();
        let mut cached = cache::open(&path, &file, self.identity, kind)?;
        // The time of change is the time of last use.
        let _ = file.set_modified(SystemTime::now());
        cached.map.keep(file);
        Some(cached)
    }

    /// Makes the folder and waits until no other process builds for this archive.
    pub(crate) fn lock(&self) -> io::Result<File> {
        fs::create_dir_all(self.dir)?;
        let slot = self.identity.0[0] % LOCKS;
        let lock = File::create(self.dir.join(format!("lock-{slot:02}")))?;
        if let Err(error) = lock.lock() {
            tracing::warn!(%error, "the cache folder cannot be locked; a copy may be built twice");
        }
        Ok(lock)
    }

    /// A file to build in. What interrupted builds of this archive left behind is removed; only under the lock.
    pub(crate) fn begin(&self, kind: Kind) -> io::Result<NamedTempFile> {
        let path = self.path(kind);
        let prefix = format!("{}.building-", path.file_name().unwrap_or_default().to_string_lossy());
        for entry in fs::read_dir(self.dir)?.flatten() {
            if entry.file_name().to_string_lossy().starts_with(&prefix) {
                // Another user's leftover may not be ours to remove; it does no harm.
                let _ = fs::remove_file(entry.path());
            }
        }
        tempfile::Builder::new().prefix(&prefix).tempfile_in(self.dir)
    }

    /// Writes the table behind the payloads, which end at `end`, and gives the file its name.
    pub(crate) fn commit(
        &self,
        kind: Kind,
        mut file: NamedTempFile,
        end: u64,
        census: &Census,
        points: Option<&Points>,
    ) -> io::Result<()> {
        let place = cache::place_of(&self.archive);
        cache::finish(file.as_file_mut(), end, census, points, (self.identity, kind, place))?;
        file.persist(self.path(kind)).map_err(|e| e.error)?;
        // The name is durable once its folder is.
        if let Ok(folder) = File::open(self.dir) {
            let _ = folder.sync_all();
        }
        self.remove_older_versions(kind, place);
        Ok(())
    }

    /// Writes a table alone. That it cannot be written costs the next run time, and nothing else.
    pub(crate) fn keep(&self, _lock: &File, kind: Kind, census: &Census, points: Option<&Points>) {
        let write = || self.commit(kind, self.begin(kind)?, cache::HEADER as u64, census, points);
        if let Err(error) = write() {
            tracing::info!(archive = self.archive, %error, "the index of an archive is not kept");
        }
    }

    /// Makes sure that `needed` more bytes fit, throwing away the copies that were not used for the longest time.
    pub(crate) fn make_room(&self, needed: u64) -> Result<(), Shortage> {
        if let Some(limit) = self.limit {
            if needed > limit {
                return Err(Shortage::Limit { needed, limit });
            }
            let used = || self.files().iter().map(|(_, _, size)| size).sum::<u64>();
            while used().saturating_add(needed) > limit {
                if !self.evict_one() {
                    return Err(Shortage::Limit { needed: used().saturating_add(needed), limit });
                }
            }
        }
        let needed = needed.saturating_add(RESERVE);
        loop {
            // A file system that cannot tell is taken at its word when it is full.
            let Ok(stat) = rustix::fs::statvfs(self.dir) else { return Ok(()) };
            let available = stat.f_bavail.saturating_mul(stat.f_frsize);
            if available >= needed {
                return Ok(());
            }
            if !self.evict_one() {
                return Err(Shortage::Disk { needed, available });
            }
        }
    }

    /// Whether a copy of this size may go on growing.
    pub(crate) fn has_room(&self, written: u64, more: u64) -> Result<(), Shortage> {
        match self.limit {
            Some(limit) if written + more > limit => Err(Shortage::Limit { needed: written + more, limit }),
            _ => {
                let stat = rustix::fs::statvfs(self.dir);
                let available = stat.map_or(u64::MAX, |stat| stat.f_bavail.saturating_mul(stat.f_frsize));
                if available < more.saturating_add(RESERVE) { self.make_room(more) } else { Ok(()) }
            }
        }
    }

    /// Cache files with the time of last use and size, the one unused for the longest time first.
    fn files(&self) -> Vec<(PathBuf, SystemTime, u64)> {
        let Ok(entries) = fs::read_dir(self.dir) else { return Vec::new() };
        let mut files: Vec<_> = entries
            .flatten()
            .map(|entry| entry.path())
            .filter(|path| {
                ["maearc", "maenames", "maepoints", "maeobject"]
                    .iter()
                    .any(|suffix| path.extension().is_some_and(|extension| extension == *suffix))
            })
            .filter_map(|path| {
                let metadata = fs::metadata(&path).ok()?;
                Some((path, metadata.modified().ok()?, metadata.len()))
            })
            .collect();
        files.sort_by(|a, b| (a.1, &a.0).cmp(&(b.1, &b.0)));
        files
    }

    fn evict_one(&self) -> bool {
        self.evict
            && self.files().into_iter().any(|(path, _, size)| {
                let removed = is_unused(&path) && fs::remove_file(&path).is_ok();
                if removed {
                    tracing::info!(path = %path.display(), size, "removed from the cache to make room");
                }
                removed
            })
    }

    fn remove_older_versions(&self, kind: Kind, place: u64) {
        let kept = self.path(kind);
        for (path, _, _) in self.files() {
            let same_kind = path.extension() == kept.extension();
            let same_place = File::open(&path).ok().and_then(|file| cache::read_place(&file)) == Some(place);
            if same_kind && same_place && path != kept && is_unused(&path) {
                let _ = fs::remove_file(&path);
            }
        }
    }
}

/// Whether no process has the file in use.
fn is_unused(path: &Path) -> bool {
    File::open(path).is_ok_and(|file| file.try_lock().is_ok())
}

#[cfg(test)]
#[path = "store_tests.rs"]
mod tests;

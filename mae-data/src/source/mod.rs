//! Where the bytes of images come from: a folder, a `.tar` used in place, a `.tar.gz` through an unpacked copy.
//!
//! Whatever the source, a [`Dataset`] is the same thing: samples sorted by name, with a digest over names and sizes
//! that all ranks of a run can compare. A source without a single sample is an error.

mod archive;
mod cache;
mod folder;
mod index;
pub mod tar;

use std::borrow::Cow;
use std::collections::HashMap;
use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::error::Error;
use crate::sys::Map;
use index::{Index, Sample};

/// How names are read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Layout {
    /// `CLASS/…/image.jpg`: the sorted names of the top-level folders are the classes, as in torchvision's
    /// `ImageFolder`. One folder in which all the others lie is looked through.
    ImageFolder,
    /// Images at any depth, without labels: pretraining and inference.
    Flat,
}

/// Settings for opening a data set.
#[derive(Clone)]
pub struct OpenOptions {
    /// Where unpacked copies of compressed archives are kept.
    pub cache_dir: PathBuf,
    /// Called now and then while an archive is unpacked.
    pub progress: Option<ProgressFn>,
}

/// A callback that is told how far the unpacking of an archive is.
pub type ProgressFn = Arc<dyn Fn(OpenProgress) + Send + Sync>;

/// How far the unpacking of an archive is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OpenProgress {
    /// The archive.
    pub archive: String,
    /// Bytes of the compressed file read so far.
    pub bytes_done: u64,
    /// Size of the compressed file in bytes.
    pub bytes_total: u64,
}

impl Default for OpenOptions {
    /// The cache folder is `$MAE_CACHE/archives`, else `$XDG_CACHE_HOME/mae/archives`, else `~/.cache/mae/archives`.
    fn default() -> Self {
        let set = |name| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
        let base = set("MAE_CACHE")
            .or_else(|| set("XDG_CACHE_HOME").map(|dir| dir.join("mae")))
            .or_else(|| set("HOME").map(|dir| dir.join(".cache/mae")))
            .unwrap_or_else(|| std::env::temp_dir().join("mae"));
        Self { cache_dir: base.join("archives"), progress: None }
    }
}

impl fmt::Debug for OpenOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OpenOptions").field("cache_dir", &self.cache_dir).finish_non_exhaustive()
    }
}

/// The images of one source, in a fixed order. Share it by `Arc`.
///
/// A `.tar` is mapped into memory and must not be changed in place while it is in use.
pub struct Dataset {
    source: String,
    storage: Storage,
    samples: Vec<Sample>,
    labels: Vec<u32>,
    classes: Vec<String>,
    digest: String,
    notes: Vec<String>,
}

enum Storage {
    Folder { root: PathBuf, odd_paths: HashMap<Box<str>, PathBuf> },
    Archive { path: PathBuf, map: Map },
}

impl Dataset {
    /// Opens a folder, a `.tar` or a `.tar.gz`, given as a path or a `file://` address.
    ///
    /// # Errors
    /// When the source does not exist, has no image, is cut off or damaged, or when its copy cannot be written.
    pub fn open(source: &str, layout: Layout, options: &OpenOptions) -> Result<Self, Error> {
        let path = local_path(source)?;
        let metadata = fs::metadata(&path).map_err(|e| match e.kind() {
            std::io::ErrorKind::NotFound => Error::NotFound { path: path.clone() },
            _ => Error::io("open", &path, e),
        })?;
        let (storage, mut census) = if metadata.is_dir() {
            let folder::Folder { census, odd_paths } = folder::walk(&path)?;
            (Storage::Folder { root: path.clone(), odd_paths }, census)
        } else {
            let archive::Archive { map, census } = archive::open(&path, options)?;
            (Storage::Archive { path: path.clone(), map }, census)
        };
        census.sort();
        let mut notes = census.notes();
        let Index { samples, labels, classes, digest, unlabelled } = census.index(&path, layout)?;
        if unlabelled > 0 {
            notes.push(format!("images outside the class folders, left out: {unlabelled}"));
        }
        for note in &notes {
            tracing::warn!(source, "{note}");
        }
        Ok(Self { source: source.to_owned(), storage, samples, labels, classes, digest, notes })
    }

    /// The source as it was given.
    pub fn source(&self) -> &str {
        &self.source
    }

    /// Number of images, at least one.
    #[allow(clippy::len_without_is_empty)]
    pub fn len(&self) -> usize {
        self.samples.len()
    }

    /// The class names in the order of their labels; empty for [`Layout::Flat`].
    pub fn classes(&self) -> &[String] {
        &self.classes
    }

    /// The label of an image, an index into [`classes`](Self::classes).
    pub fn label(&self, index: usize) -> Option<usize> {
        self.labels.get(index).map(|&label| label as usize)
    }

    /// Number of images of each class.
    pub fn class_counts(&self) -> Vec<usize> {
        let mut counts = vec![0; self.classes.len()];
        for &label in &self.labels {
            counts[label as usize] += 1;
        }
        counts
    }

    /// The path of an image inside its folder or archive.
    ///
    /// # Panics
    /// When `index` is not below [`len`](Self::len).
    pub fn name(&self, index: usize) -> &str {
        &self.samples[index].name
    }

    /// The path of an image as results show it: that of the file, or that of the archive and the member in it.
    ///
    /// # Panics
    /// When `index` is not below [`len`](Self::len).
    pub fn display_path(&self, index: usize) -> String {
        let root = match &self.storage {
            Storage::Folder { root, .. } => root,
            Storage::Archive { path, .. } => path,
        };
        root.join(self.name(index)).display().to_string()
    }

    /// Blake3 over the sorted names and sizes, in hexadecimal: equal for all ranks that see the same data.
    pub fn digest(&self) -> &str {
        &self.digest
    }

    /// What was left out (links, names that lead outside, duplicates), one line each.
    pub fn notes(&self) -> &[String] {
        &self.notes
    }

    /// The encoded bytes of an image; borrowed from an archive, read from a folder.
    ///
    /// # Errors
    /// When the file cannot be read.
    ///
    /// # Panics
    /// When `index` is not below [`len`](Self::len).
    pub fn read(&self, index: usize) -> Result<Cow<'_, [u8]>, Error> {
        let sample = &self.samples[index];
        match &self.storage {
            Storage::Archive { path, map } => usize::try_from(sample.offset)
                .ok()
                .and_then(|start| map.get(start..start.checked_add(sample.size as usize)?))
                .map(Cow::Borrowed)
                .ok_or_else(|| Error::io("read", path, std::io::ErrorKind::UnexpectedEof.into())),
            Storage::Folder { root, odd_paths } => {
                let joined;
                let path = match odd_paths.get(&sample.name) {
                    Some(path) => path,
                    None => {
                        joined = root.join(&*sample.name);
                        &joined
                    }
                };
                fs::read(path).map(Cow::Owned).map_err(|e| Error::io("read", path, e))
            }
        }
    }
}

impl fmt::Debug for Dataset {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Dataset")
            .field("source", &self.source)
            .field("len", &self.samples.len())
            .field("classes", &self.classes)
            .finish_non_exhaustive()
    }
}

/// The path behind a source: itself, or what a `file://` address names.
fn local_path(source: &str) -> Result<PathBuf, Error> {
    if source.trim().is_empty() {
        return Err(Error::NoSource);
    }
    match source.split_once("://") {
        None => Ok(PathBuf::from(source)),
        Some((scheme, rest)) if scheme.eq_ignore_ascii_case("file") => {
            let path = rest.strip_prefix("localhost").unwrap_or(rest);
            Ok(percent_decoded(path))
        }
        Some((scheme, _)) if scheme.chars().all(|c| c.is_ascii_alphanumeric()) => {
            Err(Error::UnsupportedScheme { url: source.to_owned(), scheme: scheme.to_owned() })
        }
        Some(_) => Ok(PathBuf::from(source)),
    }
}

fn percent_decoded(text: &str) -> PathBuf {
    use std::os::unix::ffi::OsStringExt;
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&byte, after)) = rest.split_first() {
        rest = after;
        let digits = after.get(..2).and_then(|d| std::str::from_utf8(d).ok());
        match digits.and_then(|d| u8::from_str_radix(d, 16).ok()) {
            Some(decoded) if byte == b'%' => {
                bytes.push(decoded);
                rest = &after[2..];
            }
            _ => bytes.push(byte),
        }
    }
    Path::new(&std::ffi::OsString::from_vec(bytes)).to_owned()
}

#[cfg(test)]
mod tests;

//! Where the bytes of images come from: folders, archives and addresses, one or many.
//!
//! | source | how it is read |
//! | --- | --- |
//! | folder | file by file |
//! | `.tar`, `.zip` | in place, mapped into memory |
//! | `.tar.gz`, `.tar.zst` | through a copy of the images, made once, in the cache |
//! | `.tar.gz` without room for a copy | in place, through restart points |
//! | several of them | as one, sorted by name |
//!
//! What a file is, is decided by its first bytes. Whatever the source, a [`Dataset`] is the same thing: samples sorted
//! by name, with a digest over names and sizes that all ranks of a run can compare. A source without a single sample
//! is an error.

mod address;
mod archive;
mod cache;
pub mod conformance;
mod folder;
mod growth;
pub mod gzip;
mod index;
mod members;
mod open;
mod packed;
mod place;
mod reader;
#[cfg(feature = "remote")]
mod remote;
mod store;
pub mod tar;
mod writeback;
pub mod zip;

use std::borrow::Cow;
use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use crate::error::Error;
use address::Address;
use growth::{Growing, Growth, in_archive_order};
use index::{Census, Index, Sample};
use place::{Opened, Place};

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
    /// Where copies and indexes of archives are kept.
    pub cache_dir: PathBuf,
    /// Bytes that the cache folder may hold; `None` for as much as the disk leaves free.
    pub cache_limit: Option<u64>,
    /// Whether copies that were not used for the longest time are thrown away when there is no room for another.
    pub cache_eviction: bool,
    /// Called now and then while an archive is unpacked.
    pub progress: Option<ProgressFn>,
    /// Who is told of each image while an archive is unpacked.
    pub(crate) growth: Option<Arc<Growth>>,
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
        Self {
            cache_dir: base.join("archives"),
            cache_limit: None,
            cache_eviction: true,
            progress: None,
            growth: None,
        }
    }
}

impl fmt::Debug for OpenOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OpenOptions")
            .field("cache_dir", &self.cache_dir)
            .field("cache_limit", &self.cache_limit)
            .field("cache_eviction", &self.cache_eviction)
            .finish_non_exhaustive()
    }
}

/// The images of one source, in a fixed order. Share it by `Arc`.
///
/// Local archives are mapped into memory and must not be changed in place while they are in use.
pub struct Dataset {
    source: String,
    contents: Contents,
    labels: Vec<u32>,
    classes: Vec<String>,
    digest: String,
    notes: Vec<String>,
}

enum Contents {
    Whole { parts: Vec<Box<dyn Place>>, samples: Vec<Sample> },
    Growing(Growing),
}

/// How many samples a data set has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Extent {
    /// So many, and maybe more: its archives are still being unpacked.
    AtLeast(usize),
    /// So many.
    Whole(usize),
}

impl Dataset {
    /// Opens a source: a folder, an archive, an address, a list or a pattern of them.
    ///
    /// # Errors
    /// When a source does not exist or is cut off or damaged, when there is no image, or when a copy that is needed
    /// cannot be written.
    pub fn open(source: &str, layout: Layout, options: &OpenOptions) -> Result<Self, Error> {
        let (addresses, notes) = addresses(source)?;
        let opened = open::open_all(source, &addresses, options)?;
        Self::from_parts(source, opened, notes, layout)
    }

    /// Opens a source without labels, with its images in the order in which they lie in their archives (those of
    /// folders by name): the order of [`open_growing`](Self::open_growing), with everything known from the start.
    ///
    /// # Errors
    /// Those of [`open`](Self::open).
    pub fn open_in_archive_order(source: &str, options: &OpenOptions) -> Result<Self, Error> {
        let (addresses, notes) = addresses(source)?;
        let opened = open::open_all(source, &addresses, options)?;
        let mut dataset = Self::from_parts(source, opened, notes, Layout::Flat)?;
        if let Contents::Whole { samples, .. } = &mut dataset.contents {
            *samples = in_archive_order(std::mem::take(samples)).collect();
        }
        Ok(dataset)
    }

    /// Opens a source without labels while its archives are still being unpacked into the cache: returns as soon as
    /// there is an image. Its [`len`](Self::len) grows. Dropped before the end, it gives the unpacking up, and nothing
    /// of it stays in the cache.
    ///
    /// # Errors
    /// Those of [`open`](Self::open), as far as they are seen before the first image; later ones end the epoch that
    /// reads it. An archive in which a name comes twice is one of them.
    pub fn open_growing(source: &str, options: &OpenOptions) -> Result<Self, Error> {
        let (addresses, notes) = addresses(source)?;
        Ok(Self::of_growing(source, Growing::start(source, addresses, options)?, notes))
    }

    fn of_growing(source: &str, growing: Growing, notes: Vec<String>) -> Self {
        Self {
            source: source.to_owned(),
            contents: Contents::Growing(growing),
            labels: Vec::new(),
            classes: Vec::new(),
            digest: String::new(),
            notes,
        }
    }

    fn from_parts(
        source: &str,
        opened: Vec<Opened>,
        mut notes: Vec<String>,
        layout: Layout,
    ) -> Result<Self, Error> {
        let (mut parts, mut census) = (Vec::new(), Census::default());
        for (part, opened) in opened.into_iter().enumerate() {
            // At most 100,000.
            census.append(opened.census, part as u32);
            notes.extend(opened.notes);
            parts.push(opened.place);
        }
        census.sort();
        notes.extend(census.notes());
        let shown = if let [part] = &parts[..] { part.root() } else { source };
        let Index { samples, labels, classes, digest, unlabelled } = census.index(shown, layout)?;
        if unlabelled > 0 {
            notes.push(format!("images outside the class folders, left out: {unlabelled}"));
        }
        for note in &notes {
            tracing::warn!(source, "{note}");
        }
        let contents = Contents::Whole { parts, samples };
        Ok(Self { source: source.to_owned(), contents, labels, classes, digest, notes })
    }

    /// The source as it was given.
    pub fn source(&self) -> &str {
        &self.source
    }

    /// Number of images, at least one; of a data set that is still growing, those known by now.
    #[allow(clippy::len_without_is_empty)]
    pub fn len(&self) -> usize {
        match &self.contents {
            Contents::Whole { samples, .. } => samples.len(),
            Contents::Growing(growing) => growing.known(),
        }
    }

    /// Whether it was opened while its archives were still being unpacked.
    pub fn is_growing(&self) -> bool {
        matches!(self.contents, Contents::Growing(_))
    }

    /// Whether all its images are known.
    pub fn is_whole(&self) -> bool {
        match &self.contents {
            Contents::Whole { .. } => true,
            Contents::Growing(growing) => growing.is_whole(),
        }
    }

    /// How many samples there are.
    ///
    /// # Errors
    /// What ended the unpacking, once.
    pub(crate) fn extent(&self) -> Result<Extent, Error> {
        match &self.contents {
            Contents::Whole { samples, .. } => Ok(Extent::Whole(samples.len())),
            Contents::Growing(growing) => growing.extent(),
        }
    }

    /// Waits until more than `count` samples are known or no more will come, but not longer than this.
    pub(crate) fn wait_beyond(&self, count: usize, patience: Duration) {
        if let Contents::Growing(growing) = &self.contents {
            growing.wait_beyond(count, patience);
        }
    }

    fn sample(&self, index: usize) -> &Sample {
        match &self.contents {
            Contents::Whole { samples, .. } => &samples[index],
            Contents::Growing(growing) => growing.sample(index),
        }
    }

    fn part(&self, sample: &Sample) -> &dyn Place {
        match &self.contents {
            Contents::Whole { parts, .. } => &*parts[sample.part as usize],
            Contents::Growing(growing) => growing.part(sample.part),
        }
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
        &self.sample(index).name
    }

    /// The path of an image as results show it: that of the file, or that of the archive and the member in it.
    ///
    /// # Panics
    /// When `index` is not below [`len`](Self::len).
    pub fn display_path(&self, index: usize) -> String {
        let sample = self.sample(index);
        let root = self.part(sample).root();
        if root.ends_with('/') { format!("{root}{}", sample.name) } else { format!("{root}/{}", sample.name) }
    }

    /// Blake3 over the sorted names and sizes, in hexadecimal: equal for all ranks that see the same data. Empty for a
    /// data set that was opened while it was still growing.
    pub fn digest(&self) -> &str {
        &self.digest
    }

    /// What was left out (links, names that lead outside, duplicates), one line each.
    pub fn notes(&self) -> &[String] {
        &self.notes
    }

    /// The encoded bytes of an image; borrowed from a mapped file where there is one.
    ///
    /// # Errors
    /// When it cannot be read, or when its bytes are damaged.
    ///
    /// # Panics
    /// When `index` is not below [`len`](Self::len).
    pub fn read(&self, index: usize) -> Result<Cow<'_, [u8]>, Error> {
        let sample = self.sample(index);
        self.part(sample).read(sample)
    }
}

/// The addresses that a source stands for, each once, and what is to be said of them.
fn addresses(source: &str) -> Result<(Vec<Address>, Vec<String>), Error> {
    let (addresses, twice) = address::expand(source)?;
    #[cfg(feature = "remote")]
    let addresses = remote::expand(addresses)?;
    let mut notes = Vec::new();
    if twice > 0 {
        notes.push(format!("sources that were named twice, used once: {twice}"));
    }
    Ok((addresses, notes))
}

impl fmt::Debug for Dataset {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Dataset")
            .field("source", &self.source)
            .field("len", &self.len())
            .field("classes", &self.classes)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod growth_tests;
#[cfg(test)]
mod hostile_tests;
#[cfg(test)]
mod tests;

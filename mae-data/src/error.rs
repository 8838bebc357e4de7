//! The one error of this crate.

use std::io;
use std::path::PathBuf;

/// What can go wrong between a data source and a batch.
///
/// Every message names the file or field, says what was found and what was expected, and how to mend it.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The data source is an empty text.
    #[error(
        "the data source is empty: give a folder of images, a .tar, .tar.gz, .tar.zst or .zip, or several of them"
    )]
    NoSource,

    /// The data source does not exist.
    #[error(
        "data source {path} does not exist\n  help: give a folder of images, a .tar, .tar.gz, .tar.zst or .zip, or several of them"
    )]
    NotFound {
        /// The path as given.
        path: PathBuf,
    },

    /// An address with a scheme that is not known.
    #[error(
        "data source {url}: {scheme}:// addresses are not known\n  help: known are file, http, https, s3, gs and az; or download it and give the path of the local file or folder"
    )]
    UnknownScheme {
        /// The address as given.
        url: String,
        /// Its scheme, for instance `ftp`.
        scheme: String,
    },

    /// An address in a program that was built without the network.
    #[error(
        "data source {url}: this program was built without network sources\n  help: build it with the feature `remote`, or download the file and give its path"
    )]
    NoRemote {
        /// The address as given.
        url: String,
    },

    /// An address that cannot be read.
    #[error("data source {url}: {detail}\n  help: {help}")]
    Remote {
        /// The address, without its query.
        url: String,
        /// What went wrong.
        detail: String,
        /// What to do.
        help: &'static str,
    },

    /// An object that was replaced while it was read.
    #[error(
        "data source {url} was changed while it was in use\n  help: start again; do not replace data in place during a run"
    )]
    RemoteChanged {
        /// The address, without its query.
        url: String,
    },

    /// A pattern that no file matches.
    #[error("data source {pattern}: no file matches\n  help: look with `ls -d {pattern}`")]
    NoMatch {
        /// The pattern.
        pattern: String,
    },

    /// A pattern that cannot be understood, or a folder in it that cannot be read.
    #[error(
        "data source {pattern}: {detail}\n  help: a pattern may hold *, ?, [a-z], {{a,b}} and {{0000..0099}}"
    )]
    BadPattern {
        /// The pattern.
        pattern: String,
        /// What is wrong with it.
        detail: String,
    },

    /// A range that stands for far too many sources.
    #[error(
        "data source {pattern} stands for more than {limit} sources\n  help: is the range right? join small archives to larger ones"
    )]
    TooManySources {
        /// The pattern.
        pattern: String,
        /// How many are allowed.
        limit: usize,
    },

    /// A file that is no archive this version reads.
    #[error(
        "data source {path} is {found}, expected a folder, a .tar, .tar.gz, .tar.zst or .zip\n  help: {help}"
    )]
    UnsupportedFormat {
        /// The file.
        path: PathBuf,
        /// What its first bytes say it is.
        found: String,
        /// What to do.
        help: &'static str,
    },

    /// A source without a single usable sample.
    #[error("found no image in {path}: {found}\n  help: {help}")]
    Empty {
        /// The folder or archive.
        path: PathBuf,
        /// What was there instead: counts by extension and the first names.
        found: String,
        /// What the layout needs.
        help: &'static str,
    },

    /// Images, but none of them in a folder that would be its class.
    #[error(
        "{path} has no image in a class folder, only at the top: {images}\n  help: put the images of each class into a folder named after it, as in CLASS/image.jpg"
    )]
    NoClassFolder {
        /// The folder or archive.
        path: PathBuf,
        /// How many images lie at the top.
        images: usize,
    },

    /// Class folders without any image.
    #[error(
        "{path}: no image in the class folder{} {}\n  help: every top-level folder is a class; add images to it or remove it (it would shift the labels of the others)",
        if .classes.len() == 1 { "" } else { "s" },
        .classes.join(", ")
    )]
    EmptyClass {
        /// The folder or archive.
        path: PathBuf,
        /// The names of the empty class folders, at most ten.
        classes: Vec<String>,
    },

    /// An archive that ends too early.
    #[error(
        "{archive} is cut off at byte {at} of the {}; {}\n  help: download or pack the archive again",
        stream(*.compressed),
        last_whole(.last_member)
    )]
    Truncated {
        /// The archive.
        archive: PathBuf,
        /// Where it ends, in bytes of the tar stream.
        at: u64,
        /// Whether the tar stream is inside a gzip stream.
        compressed: bool,
        /// The last member that is there as a whole.
        last_member: Option<String>,
    },

    /// An archive that is damaged.
    #[error(
        "{archive} is damaged at byte {at} of the {} ({detail}); {}\n  help: download or pack the archive again",
        stream(*.compressed),
        last_whole(.last_member)
    )]
    Damaged {
        /// The archive.
        archive: PathBuf,
        /// Where, in bytes of the tar stream.
        at: u64,
        /// Whether the tar stream is inside a gzip stream.
        compressed: bool,
        /// What is wrong there.
        detail: String,
        /// The last member that is there as a whole.
        last_member: Option<String>,
    },

    /// A zip archive whose table of contents is missing or damaged.
    #[error(
        "{archive} is no whole zip archive ({detail})\n  help: download or pack the archive again; the table of contents of a zip is at its end"
    )]
    Zip {
        /// The archive.
        archive: PathBuf,
        /// What is wrong with it.
        detail: String,
    },

    /// Not enough disk space for the unpacked copy of an archive.
    #[error(
        "no space to unpack {archive}: {needed} needed in {cache_dir}, {available} available\n  help: free some space, point dataset.cache_dir at a larger disk, or give the archive as a plain .tar, which is used in place"
    )]
    NoSpace {
        /// The archive.
        archive: PathBuf,
        /// Where the copy would go.
        cache_dir: PathBuf,
        /// Size needed, with its unit.
        needed: String,
        /// Size available, with its unit.
        available: String,
    },

    /// The unpacked copy of an archive would make the cache larger than it may be.
    #[error(
        "no room to unpack {archive}: {needed} needed in the cache, which may hold {limit}\n  help: raise dataset.cache_limit_gb, turn on dataset.cache_eviction, or give the archive as a plain .tar, which is used in place"
    )]
    CacheLimit {
        /// The archive.
        archive: PathBuf,
        /// Size needed, with its unit.
        needed: String,
        /// Size allowed, with its unit.
        limit: String,
    },

    /// An archive that unpacks to far more than its size lets expect.
    #[error(
        "{archive} looks like a decompression bomb: {detail}\n  help: if you trust it, unpack it yourself and give the folder"
    )]
    Bomb {
        /// The archive.
        archive: PathBuf,
        /// What is out of proportion.
        detail: String,
    },

    /// The cache folder cannot be used.
    #[error(
        "cannot use the cache folder {cache_dir} for the unpacked copy of {archive}: {source}\n  help: point dataset.cache_dir at a folder you can write to, or give the archive as a plain .tar, which is used in place"
    )]
    Cache {
        /// The archive.
        archive: PathBuf,
        /// The folder.
        cache_dir: PathBuf,
        /// What the system said.
        source: io::Error,
    },

    /// A file or folder could not be read.
    #[error("cannot {action} {path}: {source}")]
    Io {
        /// What was tried: `read`, `list`, `open`, `map`.
        action: &'static str,
        /// The file or folder.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },

    /// More unreadable images than allowed.
    #[error(
        "{bad} of {total} images in {path} cannot be read, more than the {:.2} % that max_bad_fraction allows\n  the last one is {name}: {reason}\n  help: mend or remove it, or raise dataset.max_bad_fraction",
        .max_bad_fraction * 100.0
    )]
    TooManyBadSamples {
        /// The folder or archive.
        path: String,
        /// How many were found unreadable so far.
        bad: usize,
        /// How many images there are.
        total: usize,
        /// The limit.
        max_bad_fraction: f64,
        /// The last unreadable image.
        name: String,
        /// Why it cannot be read.
        reason: String,
    },

    /// A value of the augmentation or loader settings that makes no sense.
    #[error("{field}: found {found}, expected {expected}")]
    InvalidSetting {
        /// The field, as the spec names it.
        field: &'static str,
        /// The value.
        found: String,
        /// What is legal.
        expected: String,
    },

    /// Fewer samples than one step needs.
    #[error(
        "{path} has {samples} images, fewer than the {needed} of one training step ({batch_size} per process, {world_size} process{}), and the last incomplete batch is dropped\n  help: lower dataset.batch_size or add images",
        if *.world_size == 1 { "" } else { "es" }
    )]
    TooFewSamples {
        /// The folder or archive.
        path: String,
        /// Images found.
        samples: usize,
        /// Images one step takes.
        needed: usize,
        /// `dataset.batch_size`.
        batch_size: usize,
        /// Number of processes.
        world_size: usize,
    },

    /// Labels are needed and the data set has none.
    #[error(
        "{path} was opened without class labels, but mixup needs them\n  help: use the image-folder layout (one folder a class)"
    )]
    NoLabels {
        /// The folder or archive.
        path: String,
    },

    /// A label that does not fit the number of classes.
    #[error(
        "{path} has {found} classes, but model.num_classes is {num_classes}\n  help: set model.num_classes to {found}, or give the data of the right task"
    )]
    TooManyClasses {
        /// The folder or archive.
        path: String,
        /// Classes in the data.
        found: usize,
        /// Classes of the model.
        num_classes: usize,
    },

    /// A name comes twice in an archive that is read while it is being unpacked.
    #[error(
        "archive {archive}: the name {name} comes a second time, and the first image of that name was used already\n  help: leave out dataset.first_epoch, and the last one counts, as when unpacking; or pack the images again"
    )]
    RepeatedName {
        /// The archive.
        archive: PathBuf,
        /// The name.
        name: String,
    },

    /// A worker thread of the loader failed in a way that is a defect of this program.
    #[error(
        "internal error of the data loader at {name}: {reason}\n  help: please report this with the image"
    )]
    Internal {
        /// The image.
        name: String,
        /// The message of the panic.
        reason: String,
    },
}

impl Error {
    pub(crate) fn io(action: &'static str, path: impl Into<PathBuf>, source: io::Error) -> Self {
        Self::Io { action, path: path.into(), source }
    }

    pub(crate) fn setting(field: &'static str, found: impl ToString, expected: impl ToString) -> Self {
        Self::InvalidSetting { field, found: found.to_string(), expected: expected.to_string() }
    }
}

fn stream(compressed: bool) -> &'static str {
    if compressed { "unpacked stream" } else { "file" }
}

fn last_whole(member: &Option<String>) -> String {
    match member {
        Some(name) => format!("the last whole member is {name}"),
        None => "not one member is whole".to_owned(),
    }
}

/// A number of bytes as a person reads it: `4.2 MB`.
pub(crate) fn human_bytes(bytes: u64) -> String {
    const UNITS: [&str; 5] = ["B", "kB", "MB", "GB", "TB"];
    let mut value = bytes as f64;
    let mut unit = 0;
    while value >= 1000.0 && unit + 1 < UNITS.len() {
        value /= 1000.0;
        unit += 1;
    }
    if unit == 0 { format!("{bytes} B") } else { format!("{value:.1} {}", UNITS[unit]) }
}

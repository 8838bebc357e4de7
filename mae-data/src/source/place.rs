//! One place that images come from, whatever it is.

use std::borrow::Cow;
use std::collections::HashMap;
use std::fs;
use std::io::ErrorKind;
use std::path::PathBuf;

use super::gzip::Points;
use super::index::{Census, Sample};
use crate::error::Error;
use crate::sys::Map;

/// One place that images come from. It is shared by all threads.
pub(crate) trait Place: Send + Sync {
    /// The place as results show it, without a slash at the end: a folder, an archive, an address.
    fn root(&self) -> &str;

    /// The encoded bytes of an image of this place.
    fn read(&self, sample: &Sample) -> Result<Cow<'_, [u8]>, Error>;
}

/// A place that was opened, and what it holds.
pub(crate) struct Opened {
    pub(crate) place: Box<dyn Place>,
    pub(crate) census: Census,
    /// What a person should know about how it is read.
    pub(crate) notes: Vec<String>,
}

impl Opened {
    pub(crate) fn new(place: impl Place + 'static, census: Census) -> Self {
        Self { place: Box::new(place), census, notes: Vec::new() }
    }
}

/// A folder of files.
pub(crate) struct Folder {
    pub(crate) root: String,
    pub(crate) path: PathBuf,
    /// Paths of the files whose name is not UTF-8, by the name that stands for them.
    pub(crate) odd_paths: HashMap<Box<str>, PathBuf>,
}

impl Place for Folder {
    fn root(&self) -> &str {
        &self.root
    }

    fn read(&self, sample: &Sample) -> Result<Cow<'_, [u8]>, Error> {
        let path = match self.odd_paths.get(&sample.name) {
            Some(path) => Cow::Borrowed(path),
            None => Cow::Owned(self.path.join(&*sample.name)),
        };
        fs::read(&*path).map(Cow::Owned).map_err(|e| Error::io("read", &*path, e))
    }
}

/// Payloads that lie in a mapped file: a plain `.tar`, or the copy of a compressed archive.
pub(crate) struct Mapped {
    pub(crate) root: String,
    pub(crate) map: Map,
}

impl Place for Mapped {
    fn root(&self) -> &str {
        &self.root
    }

    fn read(&self, sample: &Sample) -> Result<Cow<'_, [u8]>, Error> {
        usize::try_from(sample.offset)
            .ok()
            .and_then(|start| self.map.get(start..start.checked_add(sample.size as usize)?))
            .map(Cow::Borrowed)
            .ok_or_else(|| Error::io("read", &self.root, ErrorKind::UnexpectedEof.into()))
    }
}

/// A `.tar.gz` that is read through restart points.
pub(crate) struct Restarted {
    pub(crate) root: String,
    pub(crate) map: Map,
    pub(crate) points: Points,
}

impl Place for Restarted {
    fn root(&self) -> &str {
        &self.root
    }

    fn read(&self, sample: &Sample) -> Result<Cow<'_, [u8]>, Error> {
        self.points
            .read(&self.map, sample.offset, sample.size as usize)
            .map(Cow::Owned)
            .map_err(|e| Error::io("read", &self.root, e))
    }
}

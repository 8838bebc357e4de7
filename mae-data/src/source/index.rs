//! From what a folder or an archive holds to samples with labels, in a fixed order.

use std::collections::{BTreeMap, BTreeSet};

use super::Layout;
use crate::error::Error;

/// Larger members are no images anyone trains on.
const MAX_IMAGE_BYTES: u64 = 1 << 30;

/// File names that are taken for images; which decoder reads one is decided by its first bytes.
const EXTENSIONS: [&str; 9] = ["jpg", "jpeg", "png", "bmp", "tiff", "tif", "webp", "ppm", "pgm"];

/// Longer names are no names of images that anyone trains on.
const MAX_NAME: usize = 4096;

/// One image: its name with `/` between the parts, and where its bytes are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Sample {
    pub(crate) name: Box<str>,
    /// Where its bytes begin, in the terms of its source.
    pub(crate) offset: u64,
    pub(crate) size: u64,
    /// The source it is in, among those of the data set.
    pub(crate) part: u32,
}

/// Why a member is left out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Skip {
    /// A link, which is never followed, or a device or pipe.
    Link,
    /// A sparse file.
    Sparse,
    /// A name that leads out of the archive (`..`, absolute).
    UnsafeName,
    /// A name of more than 4096 bytes.
    LongName,
    /// The name came again; the last one counts, as when unpacking.
    Duplicate,
    /// Too large to be an image.
    Oversized,
    /// Encrypted.
    Encrypted,
    /// Packed by a method that is not supported.
    Packing,
}

const SKIPS: [(Skip, &str); 8] = [
    (Skip::Link, "links or devices, not followed"),
    (Skip::Sparse, "sparse members, left out"),
    (Skip::UnsafeName, "members with an absolute name or '..' in it, left out"),
    (Skip::LongName, "members with a name of more than 4096 bytes, left out"),
    (Skip::Duplicate, "members that came again under the same name, the last one used"),
    (Skip::Oversized, "images larger than 1 GiB, left out"),
    (Skip::Encrypted, "encrypted members, left out"),
    (Skip::Packing, "members packed by a method other than deflate and zstd, left out"),
];

/// What a walk over a folder or an archive has seen.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Census {
    pub(crate) samples: Vec<Sample>,
    /// Folders, at most two levels deep, hidden ones left out.
    pub(crate) folders: BTreeSet<String>,
    /// Number of other files by extension.
    pub(crate) others: BTreeMap<String, u64>,
    /// The first few other files by name.
    pub(crate) first_others: BTreeSet<String>,
    /// How many members were left out, by reason.
    pub(crate) skipped: [u64; SKIPS.len()],
}

/// The samples of a data set in their order, with their labels.
pub(crate) struct Index {
    pub(crate) samples: Vec<Sample>,
    /// One label a sample; empty for [`Layout::Flat`].
    pub(crate) labels: Vec<u32>,
    pub(crate) classes: Vec<String>,
    pub(crate) digest: String,
    /// Images that lie outside the class folders.
    pub(crate) unlabelled: usize,
}

impl Census {
    /// Counts a member that is left out.
    pub(crate) fn skip(&mut self, reason: Skip) {
        self.skipped[reason as usize] += 1;
    }

    fn skipped(&self, reason: Skip) -> u64 {
        self.skipped[reason as usize]
    }

    /// A member's name made plain, or `None` when the member is left out, which is counted.
    pub(crate) fn plain_name(&mut self, name: &str) -> Option<String> {
        if name.len() > MAX_NAME {
            self.skip(Skip::LongName);
            return None;
        }
        let plain = safe_name(name);
        // The archive's own folder, "./", is no danger.
        if plain.is_none() && !matches!(name.trim_matches('/'), "" | ".") {
            self.skip(Skip::UnsafeName);
        }
        plain
    }

    /// Takes over what another census of the same data set has seen, in this one's part `part`.
    pub(crate) fn append(&mut self, other: Census, part: u32) {
        let Census { samples, folders, others, first_others, skipped } = other;
        self.samples.extend(samples.into_iter().map(|sample| Sample { part, ..sample }));
        self.folders.extend(folders);
        for (kind, count) in others {
            *self.others.entry(kind).or_default() += count;
        }
        self.first_others.extend(first_others);
        while self.first_others.len() > 3 {
            self.first_others.pop_last();
        }
        for (count, more) in self.skipped.iter_mut().zip(skipped) {
            *count += more;
        }
    }

    /// Notes a folder by its relative name.
    pub(crate) fn folder(&mut self, name: &str) {
        if is_hidden(name) {
            return;
        }
        let mut depth = 0;
        for (end, _) in name.match_indices('/').chain(std::iter::once((name.len(), ""))) {
            depth += 1;
            if depth > 2 {
                break;
            }
            if !name[..end].is_empty() && !self.folders.contains(&name[..end]) {
                self.folders.insert(name[..end].to_owned());
            }
        }
    }

    /// Whether a file is taken as an image. One that is not is counted here.
    pub(crate) fn accepts(&mut self, name: &str, size: u64) -> bool {
        if let Some((folder, _)) = name.rsplit_once('/') {
            self.folder(folder);
        }
        let file = name.rsplit('/').next().unwrap_or(name);
        let extension = match file.rsplit_once('.') {
            Some((stem, extension)) if !stem.is_empty() => extension.to_ascii_lowercase(),
            _ => String::new(),
        };
        if is_hidden(name) || !EXTENSIONS.contains(&extension.as_str()) {
            let kind = if is_hidden(name) { "hidden".to_owned() } else { extension };
            // A hostile archive may hold a million extensions.
            if self.others.len() < 1000 || self.others.contains_key(&kind) {
                *self.others.entry(kind).or_default() += 1;
            }
            // Folders list their files in any order; the message is the same each time.
            if self.first_others.len() < 3
                || self.first_others.last().is_some_and(|last| name < last.as_str())
            {
                self.first_others.insert(name.to_owned());
                if self.first_others.len() > 3 {
                    self.first_others.pop_last();
                }
            }
            return false;
        }
        if size > MAX_IMAGE_BYTES {
            self.skip(Skip::Oversized);
            return false;
        }
        true
    }

    /// Sorts by name and, of samples of one source with the same name, keeps the last one.
    pub(crate) fn sort(&mut self) {
        self.samples
            .sort_by(|a, b| a.name.cmp(&b.name).then(a.part.cmp(&b.part)).then(b.offset.cmp(&a.offset)));
        let before = self.samples.len();
        self.samples.dedup_by(|later, kept| later.name == kept.name && later.part == kept.part);
        self.skipped[Skip::Duplicate as usize] += (before - self.samples.len()) as u64;
    }

    /// Things that were left out and that a person may want to know, one line each.
    pub(crate) fn notes(&self) -> Vec<String> {
        SKIPS
            .iter()
            .map(|(reason, text)| (self.skipped(*reason), text))
            .filter(|(count, _)| *count > 0)
            .map(|(count, text)| format!("{text}: {count}"))
            .collect()
    }

    /// Labels the samples, which are sorted.
    pub(crate) fn index(self, path: &str, layout: Layout) -> Result<Index, Error> {
        if self.samples.is_empty() {
            return Err(self.empty(path));
        }
        match layout {
            Layout::Flat => Ok(Index {
                digest: digest(&self.samples),
                samples: self.samples,
                labels: Vec::new(),
                classes: Vec::new(),
                unlabelled: 0,
            }),
            Layout::ImageFolder => self.label(path),
        }
    }

    /// The error of a source without images.
    pub(crate) fn empty(&self, path: &str) -> Error {
        Error::Empty {
            path: path.into(),
            found: self.describe(),
            help: "images end in .jpg .jpeg .png .bmp .tiff .tif .webp .ppm or .pgm; is this the right path?",
        }
    }

    fn label(self, path: &str) -> Result<Index, Error> {
        let prefix = self.common_folder().map(|folder| format!("{folder}/")).unwrap_or_default();
        let classes: Vec<String> = self
            .folders
            .iter()
            .filter_map(|folder| folder.strip_prefix(&prefix))
            .filter(|folder| !folder.contains('/'))
            .map(str::to_owned)
            .collect();
        let mut counts = vec![0u64; classes.len()];
        let images = self.samples.len();
        let (mut samples, mut labels) = (Vec::new(), Vec::new());
        for sample in self.samples {
            let Some((folder, _)) = sample.name[prefix.len()..].split_once('/') else { continue };
            let Ok(label) = classes.binary_search_by(|class| class.as_str().cmp(folder)) else { continue };
            counts[label] += 1;
            labels.push(label as u32);
            samples.push(sample);
        }
        if samples.is_empty() {
            return Err(Error::NoClassFolder { path: path.into(), images });
        }
        let empty = counts.iter().zip(&classes).filter(|(count, _)| **count == 0);
        let empty: Vec<String> = empty.map(|(_, class)| class.clone()).take(10).collect();
        if !empty.is_empty() {
            return Err(Error::EmptyClass { path: path.into(), classes: empty });
        }
        let unlabelled = images - samples.len();
        Ok(Index { digest: digest(&samples), samples, labels, classes, unlabelled })
    }

    /// The one top-level folder in which all images lie, in folders of their own.
    fn common_folder(&self) -> Option<&str> {
        let mut top = self.folders.iter().filter(|folder| !folder.contains('/'));
        let folder = top.next()?;
        let inside = |name: &str| {
            name.strip_prefix(folder.as_str())
                .and_then(|rest| rest.strip_prefix('/'))
                .is_some_and(|rest| rest.contains('/'))
        };
        (top.next().is_none() && self.samples.iter().all(|s| inside(&s.name))).then_some(folder)
    }

    fn describe(&self) -> String {
        let files: u64 = self.others.values().sum();
        let mut parts = Vec::new();
        if files == 0 && self.folders.is_empty() && self.skipped.iter().sum::<u64>() == 0 {
            return "it is empty".to_owned();
        }
        if files > 0 {
            let mut counts: Vec<(&String, &u64)> = self.others.iter().collect();
            counts.sort_by(|a, b| b.1.cmp(a.1));
            let counts: Vec<String> = counts
                .into_iter()
                .take(5)
                .map(|(extension, count)| match extension.as_str() {
                    "" => format!("{count} without extension"),
                    "hidden" => format!("{count} hidden"),
                    extension => format!("{count} .{extension}"),
                })
                .collect();
            let first: Vec<&str> = self.first_others.iter().map(String::as_str).collect();
            parts.push(format!("its files are {} (first: {})", counts.join(", "), first.join(", ")));
        }
        if !self.folders.is_empty() {
            let names: Vec<&str> = self.folders.iter().take(3).map(String::as_str).collect();
            parts.push(format!("it has {} folders ({})", self.folders.len(), names.join(", ")));
        }
        parts.extend(self.notes());
        parts.join("; ")
    }
}

/// A name of an archive made relative and plain, or `None` when it leads out of the archive.
pub(crate) fn safe_name(name: &str) -> Option<String> {
    if name.starts_with('/') || name.contains('\0') {
        return None;
    }
    let mut parts = Vec::new();
    for part in name.split('/') {
        match part {
            "" | "." => {}
            ".." => return None,
            part => parts.push(part),
        }
    }
    (!parts.is_empty()).then(|| parts.join("/"))
}

/// Hidden files, and what macOS puts into archives.
fn is_hidden(name: &str) -> bool {
    name.split('/').any(|part| part.starts_with('.') || part == "__MACOSX")
}

/// Blake3 over names and sizes in order, in hexadecimal.
pub(crate) fn digest(samples: &[Sample]) -> String {
    let mut hasher = blake3::Hasher::new();
    for sample in samples {
        hasher.update(&(sample.name.len() as u64).to_le_bytes());
        hasher.update(sample.name.as_bytes());
        hasher.update(&sample.size.to_le_bytes());
    }
    hasher.finalize().to_hex().to_string()
}

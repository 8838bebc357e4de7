//! Every image of a data set, read and decoded once.

use std::collections::{BTreeMap, HashMap};
use std::ops::ControlFlow;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use crate::decode::{self, ImageFormat};
use crate::error::Error;
use crate::loader::BadSample;
use crate::source::Dataset;
use crate::transform::Window;

/// What was found in a data set.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Survey {
    /// Number of images.
    pub images: usize,
    /// Their encoded size in bytes.
    pub bytes: u64,
    /// Number of readable images of each format.
    pub formats: BTreeMap<&'static str, usize>,
    /// Number of images of each class, in the order of the labels; empty without labels.
    pub classes: Vec<(String, usize)>,
    /// Heights and widths of the readable images; `None` when there is no such image.
    pub sizes: Option<SurveyedSize>,
    /// Groups of images with the same bytes, each by index, smallest first.
    pub duplicates: Vec<Vec<usize>>,
    /// Images that cannot be decoded (`replaced`), or only in part, by index.
    pub bad: Vec<BadSample>,
}

/// How large images are, as (height, width).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SurveyedSize {
    /// The one with the fewest pixels.
    pub smallest: (usize, usize),
    /// The one in the middle when ordered by pixels.
    pub median: (usize, usize),
    /// The one with the most pixels.
    pub largest: (usize, usize),
    /// Number of different sizes.
    pub distinct: usize,
}

/// One image.
struct Record {
    index: usize,
    bytes: u64,
    /// The first half of a Blake3 hash.
    hash: Option<[u8; 16]>,
    image: Option<(ImageFormat, (usize, usize))>,
    bad: Option<BadSample>,
}

/// Reads and decodes every image whole. `progress` hears how many are done, and may break off.
///
/// # Errors
/// `None` when `progress` broke off; an error when a thread failed through a defect of this program.
pub fn survey(
    dataset: &Dataset,
    threads: usize,
    progress: impl Fn(usize) -> ControlFlow<()> + Sync,
) -> Result<Option<Survey>, Error> {
    let threads = match threads {
        0 => std::thread::available_parallelism().map_or(1, std::num::NonZero::get),
        n => n,
    };
    let (next, done, stop) = (AtomicUsize::new(0), AtomicUsize::new(0), AtomicBool::new(false));
    let records = Mutex::new(Vec::with_capacity(dataset.len()));
    let work = || {
        let mut scratch = decode::Scratch::default();
        while !stop.load(Ordering::Relaxed) {
            let index = next.fetch_add(1, Ordering::Relaxed);
            if index >= dataset.len() {
                break;
            }
            let record = examine(dataset, index, &mut scratch);
            if let Ok(mut records) = records.lock() {
                records.push(record);
            }
            if progress(done.fetch_add(1, Ordering::Relaxed) + 1).is_break() {
                stop.store(true, Ordering::Relaxed);
            }
        }
    };
    std::thread::scope(|scope| {
        let helpers: Vec<_> = (1..threads).map(|_| scope.spawn(work)).collect();
        work();
        helpers.into_iter().try_for_each(|helper| {
            helper.join().map_err(|panic| Error::Internal {
                name: dataset.source().to_owned(),
                reason: decode::panic_message(&*panic),
            })
        })
    })?;
    if stop.into_inner() {
        return Ok(None);
    }
    let mut records = records.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner);
    records.sort_by_key(|record| record.index);
    Ok(Some(summarize(dataset, records)))
}

fn examine(dataset: &Dataset, index: usize, scratch: &mut decode::Scratch) -> Record {
    let bad = |reason: String, replaced: bool| BadSample {
        index: index as u64,
        name: dataset.display_path(index),
        reason,
        replaced,
    };
    let bytes = match dataset.read(index) {
        Ok(bytes) => bytes,
        Err(error) => {
            let bad = Some(bad(error.to_string(), true));
            return Record { index, bytes: 0, hash: None, image: None, bad };
        }
    };
    let hash = blake3::hash(&bytes).as_bytes().first_chunk().copied();
    let decoded = decode::decode_part(&bytes, Window::whole, scratch);
    let (image, bad) = match decoded {
        Ok((part, damage)) => {
            let size = (part.pixels.height, part.pixels.width);
            (decode::format(&bytes).map(|format| (format, size)), damage.map(|reason| bad(reason, false)))
        }
        Err(error) => (None, Some(bad(error.to_string(), true))),
    };
    Record { index, bytes: bytes.len() as u64, hash, image, bad }
}

fn summarize(dataset: &Dataset, records: Vec<Record>) -> Survey {
    let mut survey = Survey {
        images: records.len(),
        classes: dataset.classes().iter().cloned().zip(dataset.class_counts()).collect(),
        ..Survey::default()
    };
    let mut sizes = Vec::with_capacity(records.len());
    let mut same: HashMap<[u8; 16], Vec<usize>> = HashMap::new();
    for record in records {
        survey.bytes += record.bytes;
        if let Some((format, size)) = record.image {
            *survey.formats.entry(format.name()).or_default() += 1;
            sizes.push(size);
        }
        if let Some(hash) = record.hash {
            same.entry(hash).or_default().push(record.index);
        }
        survey.bad.extend(record.bad);
    }
    survey.duplicates = same.into_values().filter(|group| group.len() > 1).collect();
    survey.duplicates.sort();
    sizes.sort_by_key(|&(height, width)| (height * width, height));
    if let (Some(&smallest), Some(&largest)) = (sizes.first(), sizes.last()) {
        let median = sizes[(sizes.len() - 1) / 2];
        sizes.sort();
        sizes.dedup();
        survey.sizes = Some(SurveyedSize { smallest, median, largest, distinct: sizes.len() });
    }
    survey
}

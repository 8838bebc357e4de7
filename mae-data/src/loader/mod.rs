//! Samples to batches: a fixed order, threads in the process, bounded memory.
//!
//! What a batch holds depends on (seed, epoch, batch index, rank, world size) and nothing else: not on the number of
//! threads, not on where an epoch was entered. `N` ranks of batch size `B` see, step by step, the samples that one
//! rank of batch size `N * B` sees.

mod meter;
mod order;
mod plan;
mod stream;
mod work;

pub use meter::{Meter, Stage, Work};
pub use work::EpochIter;

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::augment::Mixup;
use crate::error::Error;
use crate::source::Dataset;
use crate::transform::Pipeline;
use order::Plan;

/// Settings of a [`Loader`].
#[derive(Clone, Debug, PartialEq)]
pub struct LoaderOptions {
    /// Samples in a batch of one rank.
    pub batch_size: usize,
    /// Order and augmentation follow from it.
    pub seed: u64,
    /// Another order each epoch instead of that of the data set.
    pub shuffle: bool,
    /// Shuffle by drawing from the next so many images of the data set, instead of from all: what a data set that is
    /// still [growing](Dataset::open_growing) needs. One rank only.
    pub shuffle_buffer: Option<usize>,
    /// Leave out the last batch when it is not full on every rank.
    pub drop_last: bool,
    /// Worker threads; 0 for as many as there are cores, at most 16.
    pub threads: usize,
    /// This process among those that share the data.
    pub rank: usize,
    /// Number of processes that share the data.
    pub world_size: usize,
    /// Batches prepared ahead of the consumer, at least one.
    pub prefetch_batches: usize,
    /// Mixes the images of each batch.
    pub mixup: Option<Mixup>,
    /// Hand over 8-bit pixels where nothing after normalisation changes them, so that a fast device can normalise.
    pub bytes: bool,
    /// Share of unreadable images up to which others stand in for them; beyond it they are an error.
    pub max_bad_fraction: f64,
}

impl Default for LoaderOptions {
    fn default() -> Self {
        Self {
            batch_size: 1,
            seed: 0,
            shuffle: false,
            shuffle_buffer: None,
            drop_last: false,
            threads: 0,
            rank: 0,
            world_size: 1,
            prefetch_batches: 2,
            mixup: None,
            bytes: false,
            max_bad_fraction: 0.01,
        }
    }
}

/// Pixels of a batch.
#[derive(Clone, Debug, PartialEq)]
pub enum Images {
    /// Normalised, `[N, 3, H, W]`.
    Normalized(Vec<f32>),
    /// Still to be normalised by [`Normalizer`](crate::transform::Normalizer)'s rule, `[N, H, W, 3]`.
    Bytes(Vec<u8>),
}

impl Images {
    /// Number of values.
    pub fn len(&self) -> usize {
        match self {
            Self::Normalized(values) => values.len(),
            Self::Bytes(values) => values.len(),
        }
    }

    /// Whether there is no value.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The images at these places of `count` images, in this order.
    #[must_use]
    pub fn select(&self, places: &[usize], count: usize) -> Self {
        fn select<T: Copy>(values: &[T], places: &[usize], count: usize) -> Vec<T> {
            let each = values.len() / count.max(1);
            places.iter().flat_map(|&place| &values[place * each..][..each]).copied().collect()
        }
        match self {
            Self::Normalized(values) => Self::Normalized(select(values, places, count)),
            Self::Bytes(values) => Self::Bytes(select(values, places, count)),
        }
    }
}

/// The images of one step on one rank.
#[derive(Clone, Debug, PartialEq)]
pub struct Batch {
    /// The pixels.
    pub images: Images,
    /// `[N, 3, H, W]`, in whichever order `images` has it.
    pub shape: [usize; 4],
    /// Class of each image, `[N]`; -1 without labels.
    pub labels: Vec<i64>,
    /// Mixed and smoothed targets, `[N, num_classes]`, when mixup is on.
    pub targets: Option<Vec<f32>>,
    /// Index into the data set of each image, `[N]`.
    pub samples: Vec<u64>,
    /// The first `valid` images count; the rest only makes the ranks equal.
    pub valid: usize,
    /// Places in the batch that hold another image because theirs could not be read: leave them out of results.
    pub replaced: Vec<usize>,
    /// The epoch.
    pub epoch: u64,
    /// The batch within the epoch.
    pub index: usize,
}

/// An image that could not be read, or only in part.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BadSample {
    /// Index into the data set.
    pub index: u64,
    /// Its path as results show it.
    pub name: String,
    /// What is wrong with it.
    pub reason: String,
    /// Whether another image stands in for it; else the part that could be read is used.
    pub replaced: bool,
}

/// Makes the batches of each epoch. A clone is the same loader.
#[derive(Clone)]
pub struct Loader {
    inner: Arc<Inner>,
}

struct Inner {
    dataset: Arc<Dataset>,
    pipeline: Pipeline,
    options: LoaderOptions,
    bad: Mutex<BTreeMap<u64, BadSample>>,
    meter: Arc<Meter>,
    /// Buffers of batches that were used up.
    spare: Mutex<Vec<Images>>,
}

impl Loader {
    /// Checks the settings against the data set.
    ///
    /// # Errors
    /// When a setting is illegal, when an epoch would have no batch, or when mixup finds no labels or too many.
    pub fn new(dataset: Arc<Dataset>, pipeline: Pipeline, options: LoaderOptions) -> Result<Self, Error> {
        let check = |ok: bool, field, found: usize, expected: &str| {
            if ok { Ok(()) } else { Err(Error::setting(field, found, expected)) }
        };
        check(options.batch_size > 0, "dataset.batch_size", 0, "at least 1")?;
        check(options.world_size > 0, "world size", 0, "at least 1")?;
        let last_rank = options.world_size - 1;
        check(options.rank <= last_rank, "rank", options.rank, &format!("0 to {last_rank}"))?;
        check(dataset.len() <= u32::MAX as usize, "number of images", dataset.len(), "at most 4294967295")?;
        if !(0.0..=1.0).contains(&options.max_bad_fraction) {
            return Err(Error::setting(
                "dataset.max_bad_fraction",
                options.max_bad_fraction,
                "a share from 0 to 1",
            ));
        }
        check(
            options.shuffle_buffer.is_none() || options.world_size == 1,
            "world size",
            options.world_size,
            "1 with a shuffle buffer",
        )?;
        check(options.shuffle_buffer != Some(0), "dataset.shuffle_buffer", 0, "at least 1")?;
        let growing = dataset.is_growing();
        check(
            !growing || options.shuffle_buffer.is_some(),
            "dataset.shuffle_buffer",
            0,
            "set for such a data set",
        )?;
        let path = || dataset.source().to_owned();
        if let Some(mixup) = &options.mixup {
            mixup.validate()?;
            let classes = dataset.classes().len();
            if classes == 0 {
                return Err(Error::NoLabels { path: path() });
            }
            if classes > mixup.num_classes {
                return Err(Error::TooManyClasses {
                    path: path(),
                    found: classes,
                    num_classes: mixup.num_classes,
                });
            }
        }
        let inner = Inner {
            dataset,
            pipeline,
            options,
            bad: Mutex::default(),
            meter: Arc::default(),
            spare: Mutex::default(),
        };
        let loader = Self { inner: Arc::new(inner) };
        if !growing && loader.batches_per_epoch() == 0 {
            let Inner { dataset, options, .. } = &*loader.inner;
            return Err(plan::too_few(dataset.source(), dataset.len(), options));
        }
        Ok(loader)
    }

    /// The data set.
    pub fn dataset(&self) -> &Arc<Dataset> {
        &self.inner.dataset
    }

    /// The settings.
    pub fn options(&self) -> &LoaderOptions {
        &self.inner.options
    }

    /// Counts what the threads do; it can be read while they work.
    pub fn meter(&self) -> &Arc<Meter> {
        &self.inner.meter
    }

    /// Number of worker threads of an epoch.
    pub fn threads(&self) -> usize {
        work::threads(&self.inner.options)
    }

    /// Batches of each rank in an epoch, the same for all ranks; of a data set that is still growing, those that are
    /// known by now.
    pub fn batches_per_epoch(&self) -> usize {
        plan::steps(self.inner.dataset.len(), &self.inner.options)
    }

    /// The batches of an epoch from `start_batch` on, which costs the same wherever it is (but a data set that is still
    /// growing has to be known as far).
    pub fn epoch(&self, epoch: u64, start_batch: usize) -> EpochIter {
        let plan = Plan::new(&self.inner.dataset, epoch, &self.inner.options);
        EpochIter::start(Arc::clone(&self.inner), plan, epoch, start_batch)
    }

    /// Takes the buffer of a batch back, which saves the system the work of handing out the same amount of memory
    /// again.
    pub fn recycle(&self, images: Images) {
        let mut spare = self.inner.spare();
        if spare.len() <= self.inner.options.prefetch_batches {
            spare.push(images);
        }
    }

    /// The images that could not be read, or only in part, in batches handed out so far; by index.
    pub fn bad_samples(&self) -> Vec<BadSample> {
        self.inner.bad().values().cloned().collect()
    }

    /// Checks what several ranks have found together. Each rank alone sees a part of the data only.
    ///
    /// # Errors
    /// When more images cannot be read than `max_bad_fraction` allows.
    pub fn check_bad_samples(&self, bad: &[BadSample]) -> Result<(), Error> {
        match bad.iter().rfind(|sample| sample.replaced) {
            Some(last) => self.inner.check_bad(bad.iter(), last, self.inner.dataset.len()),
            None => Ok(()),
        }
    }
}

impl Inner {
    /// Whether batches hold bytes: mixup and erasing work on normalised values.
    fn hands_over_bytes(&self) -> bool {
        self.options.bytes && self.mixup().is_none() && self.pipeline.ends_with_normalization()
    }

    fn mixup(&self) -> Option<&Mixup> {
        self.options.mixup.as_ref().filter(|mixup| mixup.is_active())
    }

    fn spare(&self) -> MutexGuard<'_, Vec<Images>> {
        // Buffers are pushed and popped whole.
        self.spare.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn bad(&self) -> MutexGuard<'_, BTreeMap<u64, BadSample>> {
        // Entries are inserted whole, so the map is good even if a holder panicked.
        self.bad.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes note of bad samples; an error when there are too many now, for `of` samples.
    fn note_bad(&self, found: Vec<BadSample>, of: usize) -> Result<(), Error> {
        let last = found.iter().rfind(|sample| sample.replaced).cloned();
        let mut bad = self.bad();
        bad.extend(found.into_iter().map(|sample| (sample.index, sample)));
        match last {
            Some(last) => self.check_bad(bad.values(), &last, of),
            None => Ok(()),
        }
    }

    fn check_bad<'a>(
        &self,
        bad: impl Iterator<Item = &'a BadSample>,
        last: &BadSample,
        of: usize,
    ) -> Result<(), Error> {
        let count = bad.filter(|sample| sample.replaced).count();
        let allowed = (self.options.max_bad_fraction * of as f64).floor() as usize;
        // With nothing left to stand in, no limit can allow it.
        if count <= allowed && count < of {
            return Ok(());
        }
        Err(Error::TooManyBadSamples {
            path: self.dataset.source().to_owned(),
            bad: count,
            total: of,
            max_bad_fraction: self.options.max_bad_fraction,
            name: last.name.clone(),
            reason: last.reason.clone(),
        })
    }
}

impl fmt::Debug for Loader {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Loader")
            .field("dataset", &self.inner.dataset)
            .field("options", &self.inner.options)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;

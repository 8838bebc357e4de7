//! What the loader's threads have done, and what took them longest.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// A part of a loader's work.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// Getting the encoded bytes.
    Reading,
    /// Bytes to pixels.
    Decoding,
    /// Crop, resize, colours, normalisation, mixing.
    Augmenting,
}

impl Stage {
    /// As a progress line names it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Reading => "reading",
            Self::Decoding => "decoding",
            Self::Augmenting => "augmenting",
        }
    }
}

/// Counts the work of a loader's threads, over all its epochs.
#[derive(Debug, Default)]
pub struct Meter {
    images: AtomicU64,
    bytes: AtomicU64,
    nanoseconds: [AtomicU64; 3],
}

/// What a [`Meter`] has counted. Times are sums over threads.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Work {
    /// Images prepared.
    pub images: u64,
    /// Encoded bytes read.
    pub bytes: u64,
    /// Time spent on reading.
    pub reading: Duration,
    /// Time spent on decoding.
    pub decoding: Duration,
    /// Time spent on everything after it.
    pub augmenting: Duration,
}

impl Work {
    /// What took longest.
    pub fn longest(&self) -> Stage {
        let times = [
            (self.reading, Stage::Reading),
            (self.decoding, Stage::Decoding),
            (self.augmenting, Stage::Augmenting),
        ];
        times.into_iter().max_by_key(|(time, _)| *time).map_or(Stage::Reading, |(_, stage)| stage)
    }

    /// What was done since `earlier`.
    #[must_use]
    pub fn since(&self, earlier: &Self) -> Self {
        Self {
            images: self.images.saturating_sub(earlier.images),
            bytes: self.bytes.saturating_sub(earlier.bytes),
            reading: self.reading.saturating_sub(earlier.reading),
            decoding: self.decoding.saturating_sub(earlier.decoding),
            augmenting: self.augmenting.saturating_sub(earlier.augmenting),
        }
    }
}

impl Meter {
    /// What was counted so far.
    pub fn read(&self) -> Work {
        let time = |i: usize| Duration::from_nanos(self.nanoseconds[i].load(Ordering::Relaxed));
        Work {
            images: self.images.load(Ordering::Relaxed),
            bytes: self.bytes.load(Ordering::Relaxed),
            reading: time(0),
            decoding: time(1),
            augmenting: time(2),
        }
    }

    pub(super) fn image(&self, bytes: u64) {
        self.images.fetch_add(1, Ordering::Relaxed);
        self.bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    pub(super) fn spent(&self, stage: Stage, time: Duration) {
        let nanoseconds = u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
        self.nanoseconds[stage as usize].fetch_add(nanoseconds, Ordering::Relaxed);
    }
}

//! A data set whose archives are still being unpacked.
//!
//! One thread opens the sources in their order. The images of an archive that has no copy yet come one by one, as soon
//! as their bytes are in the file that will be the copy; those of all other sources come together. Either way their
//! order is that of the archive, so it does not depend on what was there before. Readers wait for what they need; the
//! thread waits for nobody.

use std::borrow::Cow;
use std::collections::HashSet;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use super::address::Address;
use super::index::{Census, Sample};
use super::open;
use super::place::{Opened, Place};
use super::{Extent, OpenOptions};
use crate::decode::panic_message;
use crate::error::Error;

/// What is known of the data set by now.
#[derive(Default)]
pub(crate) struct Growth {
    parts: boxcar::Vec<Box<dyn Place>>,
    samples: boxcar::Vec<Sample>,
    state: Mutex<State>,
    changed: Condvar,
    given_up: AtomicBool,
}

#[derive(Default)]
struct State {
    /// Samples that readers may ask for.
    known: usize,
    /// Set when there will be no more.
    end: Option<End>,
    arriving: Option<Arriving>,
}

enum End {
    Whole,
    Failed(Option<Error>),
}

/// An archive whose images come one by one.
struct Arriving {
    part: u32,
    root: String,
    names: HashSet<Box<str>>,
    /// Images without a byte, whose place among the others only their names tell.
    empty: Vec<Sample>,
}

/// The reader's half: gives the unpacking up when it is dropped.
pub(super) struct Growing {
    growth: Arc<Growth>,
    thread: Option<JoinHandle<()>>,
}

impl Growing {
    /// Begins to open the sources, and waits for the first image.
    ///
    /// # Errors
    /// When the first source cannot be opened, or when there is no image.
    pub(super) fn start(source: &str, addresses: Vec<Address>, options: &OpenOptions) -> Result<Self, Error> {
        let growth = Arc::<Growth>::default();
        let options = OpenOptions { growth: Some(Arc::clone(&growth)), ..options.clone() };
        let (source, filled) = (source.to_owned(), Arc::clone(&growth));
        let thread = std::thread::Builder::new()
            .name("mae-unpack".to_owned())
            .spawn(move || {
                let fill = || filled.fill(&source, &addresses, &options);
                // Whoever waits must hear of the end, whatever it is.
                let result = catch_unwind(AssertUnwindSafe(fill)).unwrap_or_else(|panic| {
                    Err(Error::Internal { name: source.clone(), reason: panic_message(&*panic) })
                });
                filled.end_with(result);
            })
            .map_err(|error| Error::Internal {
                name: "start of a thread for unpacking".to_owned(),
                reason: error.to_string(),
            })?;
        let growing = Self { growth, thread: Some(thread) };
        while growing.extent()? == Extent::AtLeast(0) {
            growing.wait_beyond(0, Duration::from_secs(1));
        }
        Ok(growing)
    }

    pub(super) fn known(&self) -> usize {
        self.growth.lock().known
    }

    /// Whether all samples are known.
    pub(super) fn is_whole(&self) -> bool {
        matches!(self.growth.lock().end, Some(End::Whole))
    }

    pub(super) fn extent(&self) -> Result<Extent, Error> {
        let mut state = self.growth.lock();
        let known = state.known;
        match &mut state.end {
            None => Ok(Extent::AtLeast(known)),
            Some(End::Whole) => Ok(Extent::Whole(known)),
            Some(End::Failed(error)) => Err(error.take().unwrap_or_else(|| Error::Internal {
                name: "unpacking".to_owned(),
                reason: "it has failed before".to_owned(),
            })),
        }
    }

    /// Waits until more than `count` samples are known or no more will come, but not longer than this.
    pub(super) fn wait_beyond(&self, count: usize, patience: Duration) {
        let too_few = |state: &mut State| state.known <= count && state.end.is_none();
        drop(self.growth.changed.wait_timeout_while(self.growth.lock(), patience, too_few));
    }

    /// # Panics
    /// When fewer samples are known.
    pub(super) fn sample(&self, index: usize) -> &Sample {
        &self.growth.samples[index]
    }

    /// # Panics
    /// When there is no such part.
    pub(super) fn part(&self, part: u32) -> &dyn Place {
        &*self.growth.parts[part as usize]
    }
}

#[cfg(test)]
impl super::Dataset {
    /// A data set that a test feeds: the images of one archive, whose bytes it writes to `file`.
    pub(super) fn fed(root: &str, file: File) -> (Self, Arc<Growth>) {
        let growth = Arc::<Growth>::default();
        growth.begin(root, file);
        let growing = Growing { growth: Arc::clone(&growth), thread: None };
        (Self::of_growing(root, growing, Vec::new()), growth)
    }
}

impl Drop for Growing {
    fn drop(&mut self) {
        self.growth.given_up.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            // A panic of the thread has nobody left to hear of it.
            let _ = thread.join();
        }
    }
}

impl Growth {
    fn lock(&self) -> MutexGuard<'_, State> {
        // Nothing that can panic leaves the state half changed.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn fill(&self, source: &str, addresses: &[Address], options: &OpenOptions) -> Result<(), Error> {
        let mut seen = Census::default();
        for address in addresses {
            let Opened { place, mut census, notes } = open::open_one(address, options)?;
            for note in notes.iter().chain(&census.notes()) {
                tracing::warn!(source, "{note}");
            }
            let samples = std::mem::take(&mut census.samples);
            seen.append(census, 0);
            if !self.finish_arriving() {
                let part = self.parts.push(place) as u32;
                self.publish(in_archive_order(samples).map(|sample| Sample { part, ..sample }));
            }
        }
        if self.lock().known == 0 { Err(seen.empty(source)) } else { Ok(()) }
    }

    /// An archive is being unpacked into this file.
    pub(crate) fn begin(&self, root: &str, file: File) {
        let part = self.parts.push(Box::new(Unpacking { root: root.to_owned(), file })) as u32;
        let arriving = Arriving { part, root: root.to_owned(), names: HashSet::new(), empty: Vec::new() };
        self.lock().arriving = Some(arriving);
    }

    /// The bytes of the next image are in the file.
    ///
    /// # Errors
    /// When its name came before, or when nobody waits for it any more.
    pub(crate) fn add(&self, sample: &Sample) -> Result<(), Error> {
        if self.given_up.load(Ordering::Relaxed) {
            return Err(Error::Internal { name: "unpacking".into(), reason: "it was given up".into() });
        }
        let ready = {
            let mut state = self.lock();
            let Some(arriving) = &mut state.arriving else { return Ok(()) };
            if !arriving.names.insert(sample.name.clone()) {
                return Err(Error::RepeatedName {
                    archive: arriving.root.clone().into(),
                    name: sample.name.to_string(),
                });
            }
            arriving.empty.push(Sample { part: arriving.part, ..sample.clone() });
            if sample.size == 0 {
                return Ok(());
            }
            std::mem::take(&mut arriving.empty)
        };
        self.publish(in_archive_order(ready));
        Ok(())
    }

    /// There will be no more.
    pub(crate) fn end_with(&self, result: Result<(), Error>) {
        self.lock().end = Some(match result {
            Ok(()) => End::Whole,
            Err(error) => End::Failed(Some(error)),
        });
        self.changed.notify_all();
    }

    /// Whether images of an archive that is not whole yet are known already.
    pub(crate) fn is_arriving(&self) -> bool {
        self.lock().arriving.as_ref().is_some_and(|arriving| !arriving.names.is_empty())
    }

    /// The end of an archive whose images came one by one; `false` if the last source was none.
    fn finish_arriving(&self) -> bool {
        let Some(arriving) = self.lock().arriving.take() else { return false };
        self.publish(in_archive_order(arriving.empty));
        true
    }

    fn publish(&self, samples: impl Iterator<Item = Sample>) {
        let mut count = 0;
        for sample in samples {
            self.samples.push(sample);
            count += 1;
        }
        self.lock().known += count;
        self.changed.notify_all();
    }
}

/// Samples source by source, in the order in which they lie there. Of those without a byte, only the names tell it.
pub(super) fn in_archive_order(mut samples: Vec<Sample>) -> impl Iterator<Item = Sample> {
    let has_bytes = |sample: &Sample| sample.size > 0;
    samples.sort_by(|a, b| {
        (a.part, a.offset, has_bytes(a), &a.name).cmp(&(b.part, b.offset, has_bytes(b), &b.name))
    });
    samples.into_iter()
}

/// The file that will be the copy of an archive.
struct Unpacking {
    root: String,
    file: File,
}

impl Place for Unpacking {
    fn root(&self) -> &str {
        &self.root
    }

    fn read(&self, sample: &Sample) -> Result<Cow<'_, [u8]>, Error> {
        let mut bytes = vec![0; sample.size as usize];
        self.file
            .read_exact_at(&mut bytes, sample.offset)
            .map_err(|error| Error::io("read", &self.root, error))?;
        Ok(Cow::Owned(bytes))
    }
}

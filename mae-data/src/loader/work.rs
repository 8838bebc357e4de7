//! The threads behind an epoch.
//!
//! Workers claim one image of the earliest unfinished batch at a time and write its pixels straight into the batch;
//! the worker that finishes a batch mixes it and hands it over. At most `prefetch_batches` batches are ahead of the
//! consumer.

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::order::Plan;
use super::plan::{BatchPlan, Readiness};
use super::{BadSample, Batch, Images, Inner, LoaderOptions, Stage};
use crate::decode;
use crate::error::Error;
use crate::rng::{KeyedRng, Purpose};
use crate::sys::Chunks;
use crate::transform::Scratch;

/// Draws of an image that may stand in for an unreadable one.
const REPLACEMENTS: usize = 64;
/// How often a worker that waits for a data set to grow looks whether the epoch was given up.
const PATIENCE: Duration = Duration::from_millis(50);
/// More loader threads than this only take memory.
const MAX_AUTO_THREADS: usize = 16;

/// The batches of an epoch in order; dropping it ends its threads.
///
/// An error is the last item.
pub struct EpochIter {
    shared: Arc<Shared>,
    workers: Vec<JoinHandle<()>>,
    next: usize,
    /// Set once there is nothing more to hand out.
    over: bool,
    stalled: Duration,
    failed: Option<Error>,
}

struct Shared {
    inner: Arc<Inner>,
    plan: Plan,
    epoch: u64,
    state: Mutex<State>,
    /// A batch was finished.
    ready: Condvar,
    /// The consumer took one, or the epoch is given up.
    room: Condvar,
}

struct State {
    /// The batch whose images are being claimed, and how many of them were.
    current: Option<Arc<Building>>,
    claimed: usize,
    next: usize,
    /// Where the epoch ends, once that is known.
    end: Option<usize>,
    /// Batches below this may be started.
    limit: usize,
    finished: BTreeMap<usize, Finished>,
    stop: bool,
}

struct Finished {
    batch: Result<Batch, Error>,
    bad: Vec<BadSample>,
    /// How many samples may be bad, as far as is known here.
    pool: usize,
}

/// A batch that is being filled.
struct Building {
    index: usize,
    plan: BatchPlan,
    images: Buffer,
    filled: Vec<OnceLock<Filled>>,
}

/// The pixels of a batch that is being filled.
enum Buffer {
    Normalized(Chunks<f32>),
    Bytes(Chunks<u8>),
}

/// The place of one image in it.
enum Slot<'a> {
    Normalized(&'a mut [f32]),
    Bytes(&'a mut [u8]),
}

impl Buffer {
    fn new(inner: &Inner, count: usize) -> Self {
        let (height, width) = inner.pipeline.input_size();
        let each = 3 * height * width;
        // Every value of a place is written when it is filled, so old values are never seen.
        match (inner.hands_over_bytes(), inner.spare().pop()) {
            (true, Some(Images::Bytes(spare))) => Self::Bytes(Chunks::new(count, each, spare)),
            (true, _) => Self::Bytes(Chunks::new(count, each, Vec::new())),
            (false, Some(Images::Normalized(spare))) => Self::Normalized(Chunks::new(count, each, spare)),
            (false, _) => Self::Normalized(Chunks::new(count, each, Vec::new())),
        }
    }

    /// A place that was not taken before.
    fn take(&self, place: usize) -> Slot<'_> {
        match self {
            Self::Normalized(chunks) => Slot::Normalized(chunks.take(place).unwrap_or_default()),
            Self::Bytes(chunks) => Slot::Bytes(chunks.take(place).unwrap_or_default()),
        }
    }

    fn into_images(self) -> Images {
        match self {
            Self::Normalized(chunks) => Images::Normalized(chunks.into_inner()),
            Self::Bytes(chunks) => Images::Bytes(chunks.into_inner()),
        }
    }
}

/// What became of one place in a batch.
struct Filled {
    /// The image that is there.
    sample: Result<usize, Error>,
    bad: Vec<BadSample>,
}

/// Number of worker threads.
pub(super) fn threads(options: &LoaderOptions) -> usize {
    match options.threads {
        0 => std::thread::available_parallelism().map_or(1, |n| n.get().min(MAX_AUTO_THREADS)),
        n => n,
    }
}

impl EpochIter {
    pub(super) fn start(inner: Arc<Inner>, plan: Plan, epoch: u64, start_batch: usize) -> Self {
        let end = plan.steps();
        let next = end.map_or(start_batch, |end| start_batch.min(end));
        let over = end == Some(next);
        let ahead = inner.options.prefetch_batches.max(1);
        let threads = threads(&inner.options);
        let state = State {
            current: None,
            claimed: 0,
            next,
            end,
            limit: next + ahead,
            finished: BTreeMap::new(),
            stop: false,
        };
        let shared = Arc::new(Shared {
            inner,
            plan,
            epoch,
            state: Mutex::new(state),
            ready: Condvar::new(),
            room: Condvar::new(),
        });
        let mut iter =
            Self { shared, workers: Vec::new(), next, over, stalled: Duration::ZERO, failed: None };
        for i in 0..if over { 0 } else { threads } {
            let shared = Arc::clone(&iter.shared);
            let name = format!("mae-loader-{i}");
            match std::thread::Builder::new().name(name).spawn(move || shared.work()) {
                Ok(worker) => iter.workers.push(worker),
                // Fewer threads give the same batches.
                Err(error) if iter.workers.is_empty() => {
                    iter.failed = Some(Error::Internal {
                        name: "start of a loader thread".to_owned(),
                        reason: error.to_string(),
                    });
                    break;
                }
                Err(_) => break,
            }
        }
        iter
    }

    /// How long the consumer has waited for batches so far.
    pub fn stalled(&self) -> Duration {
        self.stalled
    }

    /// The next batch; `None` after the last.
    fn wait(&mut self) -> Option<Finished> {
        let since = Instant::now();
        let mut state = self.shared.lock();
        let finished = loop {
            match state.finished.remove(&self.next) {
                Some(finished) => break finished,
                None if state.end.is_some_and(|end| self.next >= end) => return None,
                None => state = self.shared.ready.wait(state).unwrap_or_else(PoisonError::into_inner),
            }
        };
        state.limit += 1;
        drop(state);
        self.shared.room.notify_all();
        self.stalled += since.elapsed();
        Some(finished)
    }
}

impl Iterator for EpochIter {
    type Item = Result<Batch, Error>;

    fn next(&mut self) -> Option<Self::Item> {
        if let Some(error) = self.failed.take() {
            self.over = true;
            return Some(Err(error));
        }
        if self.over {
            return None;
        }
        let Some(Finished { batch, bad, pool }) = self.wait() else {
            self.over = true;
            return None;
        };
        self.next += 1;
        let batch = self.shared.inner.note_bad(bad, pool).and(batch);
        self.over = batch.is_err() || self.shared.plan.steps() == Some(self.next);
        Some(batch)
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        let left = self.shared.plan.steps().map(|end| if self.over { 0 } else { end - self.next });
        (left.map_or(0, |left| left.min(1)), left)
    }
}

impl Drop for EpochIter {
    fn drop(&mut self) {
        self.shared.lock().stop = true;
        self.shared.room.notify_all();
        for worker in self.workers.drain(..) {
            // A panic inside a worker was caught and is in a batch.
            let _ = worker.join();
        }
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        // Nothing that can panic runs under the lock.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn work(&self) {
        let mut worker = Worker::default();
        while let Some((building, place)) = self.claim() {
            let (sample, pool) = (building.plan.samples[place], building.plan.pool);
            let filled = catch_unwind(AssertUnwindSafe(|| {
                let mut out = building.images.take(place);
                worker.fill(&self.inner, self.epoch, sample, pool, &mut out)
            }))
            .unwrap_or_else(|panic| Filled {
                sample: Err(Error::Internal {
                    name: self.inner.dataset.display_path(sample),
                    reason: decode::panic_message(&*panic),
                }),
                bad: Vec::new(),
            });
            // Each place is claimed once.
            let _ = building.filled[place].set(filled);
            // All places were claimed when the state let go of it, so the last holder has a full batch.
            if let Some(building) = Arc::into_inner(building) {
                let index = building.index;
                let finished = building.finish(&self.inner, self.epoch);
                self.lock().finished.insert(index, finished);
                self.ready.notify_all();
            }
        }
    }

    /// The next image to prepare; waits for room.
    fn claim(&self) -> Option<(Arc<Building>, usize)> {
        let mut state = self.lock();
        loop {
            if state.stop || state.end.is_some_and(|end| state.next >= end) {
                return None;
            }
            if state.next >= state.limit {
                state = self.room.wait(state).unwrap_or_else(PoisonError::into_inner);
                continue;
            }
            if state.current.is_some() {
                break;
            }
            match self.plan.readiness(state.next) {
                Readiness::Ready => break,
                Readiness::Beyond(count) => {
                    drop(state);
                    self.inner.dataset.wait_beyond(count, PATIENCE);
                    state = self.lock();
                }
                Readiness::Over(end) => {
                    state.end = Some(end);
                    self.ready.notify_all();
                }
                Readiness::Failed(error) => {
                    let next = state.next;
                    state.finished.insert(next, Finished { batch: Err(error), bad: Vec::new(), pool: 0 });
                    state.end = Some(next + 1);
                    state.next += 1;
                    self.ready.notify_all();
                }
            }
        }
        let building = match &state.current {
            Some(building) => Arc::clone(building),
            None => {
                let building = Arc::new(Building::new(state.next, self.plan.batch(state.next), &self.inner));
                state.current = Some(Arc::clone(&building));
                building
            }
        };
        let place = state.claimed;
        state.claimed += 1;
        if state.claimed == building.plan.samples.len() {
            state.current = None;
            state.claimed = 0;
            state.next += 1;
        }
        Some((building, place))
    }
}

impl Building {
    fn new(index: usize, plan: BatchPlan, inner: &Inner) -> Self {
        let n = plan.samples.len();
        Self { index, images: Buffer::new(inner, n), filled: (0..n).map(|_| OnceLock::new()).collect(), plan }
    }

    fn finish(self, inner: &Inner, epoch: u64) -> Finished {
        let (height, width) = inner.pipeline.input_size();
        let (n, pool) = (self.plan.samples.len(), self.plan.pool);
        let mut images = self.images.into_images();
        let (mut samples, mut replaced, mut all_bad) = (Vec::with_capacity(n), Vec::new(), Vec::new());
        let mut failed = None;
        for (place, filled) in self.filled.into_iter().enumerate() {
            // Set by the worker that claimed the place, before it let go of the batch.
            let Some(Filled { sample, bad }) = filled.into_inner() else { continue };
            all_bad.extend(bad);
            match sample {
                Ok(sample) => {
                    if sample != self.plan.samples[place] {
                        replaced.push(place);
                    }
                    samples.push(sample);
                }
                Err(error) => failed = failed.or(Some(error)),
            }
        }
        if let Some(error) = failed {
            return Finished { batch: Err(error), bad: all_bad, pool };
        }
        let labels: Vec<i64> = samples
            .iter()
            .map(|&sample| inner.dataset.label(sample).map_or(-1, |label| label as i64))
            .collect();
        let targets = match (inner.mixup(), &mut images) {
            (Some(mixup), Images::Normalized(images)) => {
                let key = self.plan.global_index;
                let mut rng = KeyedRng::new(inner.options.seed, epoch, key, Purpose::Mixup);
                Some(mixup.apply(images, &labels, (height, width), &mut rng))
            }
            _ => None,
        };
        let batch = Batch {
            images,
            shape: [n, 3, height, width],
            labels,
            targets,
            samples: samples.into_iter().map(|sample| sample as u64).collect(),
            valid: self.plan.valid,
            replaced,
            epoch,
            index: self.index,
        };
        Finished { batch: Ok(batch), bad: all_bad, pool }
    }
}

/// Memory of one thread.
#[derive(Default)]
struct Worker {
    decoding: decode::Scratch,
    scratch: Scratch,
}

impl Worker {
    /// Prepares a sample, or the one of the first `pool` that stands in for it.
    fn fill(&mut self, inner: &Inner, epoch: u64, sample: usize, pool: usize, out: &mut Slot<'_>) -> Filled {
        let seed = inner.options.seed;
        let mut bad = Vec::new();
        let mut substitutes = KeyedRng::new(seed, 0, sample as u64, Purpose::Replace);
        let mut candidate = sample;
        for _ in 0..=REPLACEMENTS {
            let mut rng = KeyedRng::new(seed, epoch, sample as u64, Purpose::Augment);
            match self.prepare(inner, candidate, &mut rng, out) {
                Ok(damage) => {
                    if let Some(reason) = damage {
                        bad.push(bad_sample(inner, candidate, reason, false));
                    }
                    return Filled { sample: Ok(candidate), bad };
                }
                Err(reason) => bad.push(bad_sample(inner, candidate, reason, true)),
            }
            candidate = substitutes.below(pool);
        }
        let (name, reason) = bad.first().map(|b| (b.name.clone(), b.reason.clone())).unwrap_or_default();
        let sample = Err(Error::TooManyBadSamples {
            path: inner.dataset.source().to_owned(),
            bad: bad.len(),
            total: pool,
            max_bad_fraction: inner.options.max_bad_fraction,
            name,
            reason,
        });
        Filled { sample, bad }
    }

    /// Reads, decodes and transforms one image; says what is wrong with a damaged one that gave pixels all the same.
    fn prepare(
        &mut self,
        inner: &Inner,
        sample: usize,
        rng: &mut KeyedRng,
        out: &mut Slot<'_>,
    ) -> Result<Option<String>, String> {
        let start = Instant::now();
        let bytes = inner.dataset.read(sample).map_err(|e| e.to_string())?;
        let read = Instant::now();
        inner.meter.image(bytes.len() as u64);
        inner.meter.spent(Stage::Reading, read - start);
        let mut frame = None;
        let choose = |size| frame.insert(inner.pipeline.frame(size, rng)).needs();
        let decoded = decode::decode_part(&bytes, choose, &mut self.decoding);
        let (image, damage) = decoded.map_err(|e| e.to_string())?;
        let decoded = Instant::now();
        inner.meter.spent(Stage::Decoding, decoded - read);
        // A decoder that gave pixels has asked which ones are wanted.
        let frame = frame.ok_or_else(|| "the decoder did not say the size".to_owned())?;
        match out {
            Slot::Normalized(out) => inner.pipeline.finish(frame, image, rng, &mut self.scratch, out),
            Slot::Bytes(out) => inner.pipeline.finish_bytes(frame, image, rng, &mut self.scratch, out),
        }
        inner.meter.spent(Stage::Augmenting, decoded.elapsed());
        Ok(damage)
    }
}

fn bad_sample(inner: &Inner, sample: usize, reason: String, replaced: bool) -> BadSample {
    BadSample { index: sample as u64, name: inner.dataset.display_path(sample), reason, replaced }
}

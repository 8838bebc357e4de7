//! An epoch in the order of the data set, through a shuffle buffer.
//!
//! The buffer holds the next samples; each draw takes one of them at random, and the next sample takes its place. So
//! only a stretch of the data set has to be known at any time, and it may still be growing. The order depends on
//! (seed, epoch, size of the buffer) and the order of the data set alone, not on when its samples became known.

use std::sync::{Arc, Mutex, PoisonError};

use super::LoaderOptions;
use super::plan::{BatchPlan, Readiness, steps, too_few};
use crate::rng::{KeyedRng, Purpose};
use crate::source::{Dataset, Extent};

pub(super) struct Stream {
    dataset: Arc<Dataset>,
    options: LoaderOptions,
    size: usize,
    drawn: Mutex<Draws>,
}

/// What was drawn so far.
struct Draws {
    rng: KeyedRng,
    /// Samples that may be drawn next; the following ones begin at `next`.
    buffer: Vec<u32>,
    next: usize,
    order: Vec<u32>,
}

impl Stream {
    /// For one rank alone.
    pub(super) fn new(dataset: Arc<Dataset>, epoch: u64, size: usize, options: &LoaderOptions) -> Self {
        let rng = KeyedRng::new(options.seed, epoch, 0, Purpose::Shuffle);
        let drawn = Mutex::new(Draws { rng, buffer: Vec::new(), next: 0, order: Vec::new() });
        Self { dataset, options: options.clone(), size: size.max(1), drawn }
    }

    pub(super) fn readiness(&self, step: usize) -> Readiness {
        match self.dataset.extent() {
            Err(error) => Readiness::Failed(error),
            Ok(Extent::Whole(len)) => match steps(len, &self.options) {
                0 => Readiness::Failed(too_few(self.dataset.source(), len, &self.options)),
                steps if step >= steps => Readiness::Over(steps),
                _ => Readiness::Ready,
            },
            Ok(Extent::AtLeast(len)) if len >= self.horizon(step) => Readiness::Ready,
            Ok(Extent::AtLeast(_)) => Readiness::Beyond(self.horizon(step) - 1),
        }
    }

    pub(super) fn batch(&self, step: usize) -> BatchPlan {
        // Not what happens to be known by now, which differs from run to run.
        let pool = self.horizon(step).min(self.dataset.len());
        let start = step * self.options.batch_size;
        let valid = self.options.batch_size.min(pool.saturating_sub(start));
        // Nothing that can panic leaves the draws half done.
        let mut drawn = self.drawn.lock().unwrap_or_else(PoisonError::into_inner);
        drawn.draw(start + valid, self.size, pool);
        let samples = drawn.order[start..start + valid].iter().map(|&sample| sample as usize).collect();
        BatchPlan { samples, valid, global_index: step as u64, pool }
    }

    /// How many samples have to be known for a batch, unless there are fewer: its own and those of a full buffer.
    fn horizon(&self, step: usize) -> usize {
        (step + 1).saturating_mul(self.options.batch_size).saturating_add(self.size)
    }
}

impl Draws {
    /// Draws until `count` samples are in order, of the first `pool` of the data set.
    fn draw(&mut self, count: usize, size: usize, pool: usize) {
        while self.order.len() < count {
            while self.buffer.len() < size && self.next < pool {
                self.buffer.push(self.next as u32);
                self.next += 1;
            }
            let place = self.rng.below(self.buffer.len());
            self.order.push(self.buffer.swap_remove(place));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn draws() -> Draws {
        let rng = KeyedRng::new(7, 0, 0, Purpose::Shuffle);
        Draws { rng, buffer: Vec::new(), next: 0, order: Vec::new() }
    }

    proptest! {
        /// Each sample comes once, none earlier than the buffer allows, and the order does not depend on the steps in
        /// which it is drawn.
        #[test]
        fn each_sample_comes_once(len in 1usize..500, size in 1usize..80, batch in 1usize..40) {
            let mut whole = draws();
            whole.draw(len, size, len);
            let mut parts = draws();
            for step in 0..len.div_ceil(batch) {
                let end = ((step + 1) * batch).min(len);
                parts.draw(end, size, len.min((step + 1) * batch + size));
            }
            prop_assert_eq!(&whole.order, &parts.order);
            for (place, &sample) in whole.order.iter().enumerate() {
                prop_assert!((sample as usize) < place + size);
            }
            let mut sorted = whole.order.clone();
            sorted.sort_unstable();
            prop_assert!(sorted.into_iter().eq(0..len as u32));
        }
    }

    #[test]
    fn a_buffer_of_one_keeps_the_order() {
        let mut draws = draws();
        draws.draw(20, 1, 20);
        assert!(draws.order.into_iter().eq(0..20));
    }
}

//! Which samples are in which batch.

use super::LoaderOptions;
use crate::error::Error;
use crate::rng::{KeyedRng, Purpose};

/// Whether a batch can be put together.
pub(super) enum Readiness {
    /// It can.
    Ready,
    /// Not before more samples are known than these.
    Beyond(usize),
    /// There are so many batches, and this is none of them.
    Over(usize),
    /// It never will be.
    Failed(Error),
}

/// The error of a data set of `len` samples that does not fill a batch.
pub(super) fn too_few(path: &str, len: usize, options: &LoaderOptions) -> Error {
    Error::TooFewSamples {
        path: path.to_owned(),
        samples: len,
        needed: options.batch_size.saturating_mul(options.world_size),
        batch_size: options.batch_size,
        world_size: options.world_size,
    }
}

/// Batches of each rank in an epoch over `len` samples.
pub(super) fn steps(len: usize, options: &LoaderOptions) -> usize {
    let global = options.batch_size.saturating_mul(options.world_size);
    if options.drop_last { len / global } else { len.div_ceil(global) }
}

/// The order of one epoch, cut into batches for one rank.
///
/// The order is cut into global batches of `world_size * batch_size`, and rank `r` takes the `r`-th part of each. The
/// last global batch may be smaller: its parts shrink to equal size, filled up with the first samples of the order.
pub(super) struct Drawn {
    len: usize,
    steps: usize,
    batch_size: usize,
    rank: usize,
    world_size: usize,
    order: Option<Vec<u32>>,
}

/// One batch of one rank.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct BatchPlan {
    /// Indices into the data set.
    pub(super) samples: Vec<usize>,
    /// How many of them, from the front, count.
    pub(super) valid: usize,
    /// The batch among those of all ranks.
    pub(super) global_index: u64,
    /// How many samples of the data set, from its front, may stand in for those that cannot be read.
    pub(super) pool: usize,
}

impl Drawn {
    pub(super) fn new(len: usize, epoch: u64, options: &LoaderOptions) -> Self {
        let order = options.shuffle.then(|| {
            let mut order: Vec<u32> = (0..len as u32).collect();
            KeyedRng::new(options.seed, epoch, 0, Purpose::Shuffle).shuffle(&mut order);
            order
        });
        Self {
            len,
            steps: steps(len, options),
            batch_size: options.batch_size,
            rank: options.rank,
            world_size: options.world_size,
            order,
        }
    }

    pub(super) fn steps(&self) -> usize {
        self.steps
    }

    pub(super) fn batch(&self, step: usize) -> BatchPlan {
        let start = step * self.batch_size * self.world_size;
        let left = self.len.saturating_sub(start);
        let size = self.batch_size.min(left.div_ceil(self.world_size));
        let first = start + self.rank * size;
        BatchPlan {
            samples: (first..first + size).map(|position| self.sample(position % self.len)).collect(),
            valid: self.len.saturating_sub(first).min(size),
            global_index: (step * self.world_size + self.rank) as u64,
            pool: self.len,
        }
    }

    fn sample(&self, position: usize) -> usize {
        self.order.as_ref().map_or(position, |order| order[position] as usize)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn options(batch_size: usize, rank: usize, world_size: usize, drop_last: bool) -> LoaderOptions {
        LoaderOptions {
            batch_size,
            rank,
            world_size,
            drop_last,
            shuffle: true,
            seed: 5,
            ..Default::default()
        }
    }

    proptest! {
        #[test]
        fn ranks_share_an_epoch_as_one_rank_sees_it(
            len in 1usize..200, batch in 1usize..9, world in 1usize..6, drop_last: bool,
        ) {
            let whole = Drawn::new(len, 3, &options(batch * world, 0, 1, drop_last));
            let parts: Vec<Drawn> =
                (0..world).map(|rank| Drawn::new(len, 3, &options(batch, rank, world, drop_last))).collect();
            let mut seen = Vec::new();
            for step in 0..whole.steps() {
                let whole = whole.batch(step);
                let parts: Vec<BatchPlan> = parts.iter().map(|plan| plan.batch(step)).collect();
                let size = parts[0].samples.len();
                prop_assert!(size > 0 && parts.iter().all(|part| part.samples.len() == size));
                let joined: Vec<usize> =
                    parts.iter().flat_map(|part| part.samples[..part.valid].to_vec()).collect();
                prop_assert_eq!(&joined, &whole.samples);
                prop_assert_eq!(whole.valid, whole.samples.len());
                seen.extend(joined);
            }
            prop_assert!(parts.iter().all(|plan| plan.steps() == whole.steps()));
            let expected = if drop_last { len / (batch * world) * (batch * world) } else { len };
            prop_assert_eq!(seen.len(), expected);
            seen.sort_unstable();
            seen.dedup();
            prop_assert_eq!(seen.len(), expected, "a sample came twice");
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(40))]

        /// Any number of ranks up to 4,096, more ranks than samples among them: as many steps on each, batches of one
        /// size in a step, each sample once or, with `drop_last`, at most once; the rest is marked as padding.
        #[test]
        fn thousands_of_ranks_share_an_epoch(
            len in 1usize..40_000, batch in 1usize..5, world in 1usize..=4096, drop_last: bool, epoch: u64,
        ) {
            // The order is the same for all ranks; they differ in what they take of it.
            let mut plan = Drawn::new(len, epoch, &options(batch, 0, world, drop_last));
            let mut seen = vec![0u8; len];
            for step in 0..plan.steps() {
                plan.rank = 0;
                let size = plan.batch(step).samples.len();
                prop_assert!((1..=batch).contains(&size));
                let mut counted = 0;
                for rank in 0..world {
                    plan.rank = rank;
                    let part = plan.batch(step);
                    prop_assert_eq!(part.samples.len(), size);
                    prop_assert_eq!(part.global_index, (step * world + rank) as u64);
                    part.samples[..part.valid].iter().for_each(|&sample| seen[sample] += 1);
                    counted += part.valid;
                }
                let whole = counted == size * world;
                prop_assert!(whole || !drop_last && step + 1 == plan.steps(), "padding only at the very end");
            }
            let expected = if drop_last { len / (batch * world) * (batch * world) } else { len };
            prop_assert_eq!(seen.iter().map(|&n| usize::from(n)).sum::<usize>(), expected);
            prop_assert!(seen.iter().all(|&n| n <= 1), "a sample came twice");
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(40))]

        /// An epoch that one number of ranks begins and another ends, on as many images a step: nothing of the past is
        /// needed to go on, and each image comes once.
        #[test]
        fn an_epoch_goes_on_with_other_ranks(
            len in 1usize..40_000,
            (before, now) in prop_oneof![Just((4096, 1024)), Just((512, 4096)), Just((3, 1)), Just((8, 2))],
            at in 0.0f64..1.0,
        ) {
            let batch = 4096 / before * 2;
            let global = batch * before;
            let mut first = Drawn::new(len, 1, &options(batch, 0, before, false));
            let mut second = Drawn::new(len, 1, &options(global / now, 0, now, false));
            prop_assert_eq!(first.steps(), second.steps());
            let stop = (first.steps() as f64 * at) as usize;
            let mut seen = vec![0u8; len];
            for step in 0..first.steps() {
                let (plan, ranks) = if step < stop { (&mut first, before) } else { (&mut second, now) };
                for rank in 0..ranks {
                    plan.rank = rank;
                    let part = plan.batch(step);
                    part.samples[..part.valid].iter().for_each(|&sample| seen[sample] += 1);
                }
            }
            prop_assert!(seen.iter().all(|&n| n == 1));
        }
    }

    #[test]
    fn epochs_differ_and_repeat() {
        let order = |epoch| Drawn::new(50, epoch, &options(50, 0, 1, false)).batch(0).samples;
        assert_eq!(order(1), order(1));
        assert_ne!(order(1), order(2));
    }
}

//! Which samples are in which batch.

use super::LoaderOptions;
use crate::rng::{KeyedRng, Purpose};

/// Batches of each rank in an epoch over `len` samples.
pub(super) fn steps(len: usize, options: &LoaderOptions) -> usize {
    let global = options.batch_size.saturating_mul(options.world_size);
    if options.drop_last { len / global } else { len.div_ceil(global) }
}

/// The order of one epoch, cut into batches for one rank.
///
/// The order is cut into global batches of `world_size * batch_size`, and rank `r` takes the `r`-th part of each. The
/// last global batch may be smaller: its parts shrink to equal size, filled up with the first samples of the order.
pub(super) struct Plan {
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
}

impl Plan {
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
            let whole = Plan::new(len, 3, &options(batch * world, 0, 1, drop_last));
            let parts: Vec<Plan> =
                (0..world).map(|rank| Plan::new(len, 3, &options(batch, rank, world, drop_last))).collect();
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

    /// ImageNet on 4,096 ranks: no image twice, none lost but those of the last incomplete batch; a run that is resumed
    /// at any step, on half as many ranks, goes on with the same images.
    #[test]
    fn four_thousand_ranks_share_an_epoch() {
        let (images, batch, world) = (1_281_167, 64, 4096);
        // The order is the same on all ranks: one plan stands for all, with its rank changed.
        let mut plan = Plan::new(images, 7, &options(batch, 0, world, true));
        let mut half = Plan::new(images, 7, &options(2 * batch, 0, world / 2, true));
        let mut seen = vec![false; images];
        for step in 0..plan.steps() {
            for rank in 0..world {
                (plan.rank, half.rank) = (rank, rank / 2);
                let part = plan.batch(step);
                assert_eq!((part.samples.len(), part.valid), (batch, batch));
                for &sample in &part.samples {
                    assert!(!std::mem::replace(&mut seen[sample], true), "image {sample} came twice");
                }
                let resumed = half.batch(step).samples;
                assert_eq!(resumed[rank % 2 * batch..][..batch], part.samples, "step {step}, rank {rank}");
            }
        }
        let lost = seen.iter().filter(|seen| !**seen).count();
        assert_eq!(lost, images % (batch * world));
    }

    #[test]
    fn epochs_differ_and_repeat() {
        let order = |epoch| Plan::new(50, epoch, &options(50, 0, 1, false)).batch(0).samples;
        assert_eq!(order(1), order(1));
        assert_ne!(order(1), order(2));
    }
}

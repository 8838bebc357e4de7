//! The order of an epoch, whichever way it is made.

use std::sync::Arc;

use super::LoaderOptions;
use super::plan::{BatchPlan, Drawn, Readiness};
use super::stream::Stream;
use crate::source::Dataset;

/// The batches of one epoch on one rank.
pub(super) enum Plan {
    /// In an order that is drawn at its start.
    Drawn(Drawn),
    /// In the order of the data set, through a shuffle buffer.
    Stream(Box<Stream>),
}

impl Plan {
    pub(super) fn new(dataset: &Arc<Dataset>, epoch: u64, options: &LoaderOptions) -> Self {
        match options.shuffle_buffer {
            Some(size) => Self::Stream(Box::new(Stream::new(Arc::clone(dataset), epoch, size, options))),
            None => Self::Drawn(Drawn::new(dataset.len(), epoch, options)),
        }
    }

    /// Number of batches, unless it is not known yet.
    pub(super) fn steps(&self) -> Option<usize> {
        match self {
            Self::Drawn(plan) => Some(plan.steps()),
            Self::Stream(_) => None,
        }
    }

    pub(super) fn readiness(&self, step: usize) -> Readiness {
        match self {
            Self::Drawn(plan) if step < plan.steps() => Readiness::Ready,
            Self::Drawn(plan) => Readiness::Over(plan.steps()),
            Self::Stream(stream) => stream.readiness(step),
        }
    }

    /// A batch that is ready.
    pub(super) fn batch(&self, step: usize) -> BatchPlan {
        match self {
            Self::Drawn(plan) => plan.batch(step),
            Self::Stream(stream) => stream.batch(step),
        }
    }
}

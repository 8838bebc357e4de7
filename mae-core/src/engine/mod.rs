//! The step and the loop around it.

mod collective;

pub use collective::{Collective, CollectiveError, SingleProcess};

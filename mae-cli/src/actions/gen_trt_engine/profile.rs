//! What an engine takes.

use std::fmt;

/// The batches that an engine takes, and the shape of its input.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Profile {
    /// The input's name.
    pub input: String,
    /// Its dimensions behind the batch.
    pub image: Vec<i64>,
    /// The batch of a file that has a fixed one.
    pub fixed: Option<i64>,
    /// Smallest, tuned and largest batch.
    pub batches: [i64; 3],
}

impl Profile {
    /// The input's shape with a batch, as trtexec reads it.
    pub(super) fn shape(&self, batch: i64) -> String {
        let sizes = std::iter::once(&batch).chain(&self.image);
        format!("{}:{}", self.input, sizes.map(i64::to_string).collect::<Vec<_>>().join("x"))
    }
}

impl fmt::Display for Profile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.fixed, self.batches) {
            (Some(batch), _) => write!(f, "batches of {batch}"),
            (None, [min, opt, max]) => write!(f, "batches of {min} to {max}, tuned for {opt}"),
        }
    }
}

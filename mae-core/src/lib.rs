//! Masked autoencoders on libtorch.

pub mod checkpoint;

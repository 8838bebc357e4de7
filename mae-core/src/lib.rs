//! Masked autoencoders on libtorch.

pub mod engine;

//! The only unsafe code of this crate: a file mapped into memory, and a buffer that threads fill together.
#![allow(unsafe_code)]

mod chunks;
mod map;

pub(crate) use chunks::Chunks;
pub(crate) use map::Map;

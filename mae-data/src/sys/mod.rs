//! The only unsafe code of this crate: a file mapped into memory, a buffer that threads fill together, and zlib's own
//! interface.
#![allow(unsafe_code)]

mod chunks;
mod inflate;
mod map;

pub(crate) use chunks::Chunks;
pub(crate) use inflate::{At, Inflate, Wrapping};
pub(crate) use map::Map;

//! The only unsafe code of this crate: a file mapped into memory, a buffer that threads fill together, the vector code of
//! the resize, and zlib's own interface.
#![allow(unsafe_code)]

#[cfg(target_arch = "x86_64")]
pub(crate) mod avx2;
mod chunks;
mod inflate;
mod map;
mod rows;

pub(crate) use chunks::Chunks;
pub(crate) use inflate::{At, Inflate, Wrapping};
pub(crate) use map::Map;
pub(crate) use rows::{Rows, Taps};

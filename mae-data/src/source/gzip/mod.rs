//! Gzip: several members at once, and random access.

mod members;
mod points;

#[cfg(feature = "remote")]
use std::io::{self, BufRead};
#[cfg(feature = "remote")]
use std::sync::atomic::{AtomicU64, Ordering};

#[cfg(feature = "remote")]
use flate2::bufread::GzDecoder;

#[cfg(feature = "remote")]
use super::reader::Sink;

pub(crate) use members::{Cut, Members};
pub use points::{Points, build as build_points};

/// Whether a gzip member begins here, or as much of one as there is. What else may follow a member is padding.
pub(crate) fn is_member(bytes: &[u8]) -> bool {
    let magic = &bytes[..bytes.len().min(3)];
    !magic.is_empty()
        && b"\x1f\x8b\x08".starts_with(magic)
        && bytes.get(3).is_none_or(|flags| flags & 0xe0 == 0)
}

/// Unpacks the members of a stream one after the other, and counts them.
#[cfg(feature = "remote")]
pub(crate) fn unpack_stream(
    mut reader: impl BufRead,
    sink: &mut Sink,
    members: &AtomicU64,
) -> io::Result<()> {
    loop {
        let mut decoder = GzDecoder::new(reader);
        sink.read_from(&mut decoder)?;
        reader = decoder.into_inner();
        members.fetch_add(1, Ordering::Relaxed);
        // What the buffer shows of the next header may be a part of it, which is enough.
        let next = reader.fill_buf()?;
        if !next.starts_with(&[0x1f]) {
            return io::copy(&mut reader, &mut io::sink()).map(|_| ());
        }
    }
}

#[cfg(test)]
mod tests;

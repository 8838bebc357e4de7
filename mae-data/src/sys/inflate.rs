//! Inflate with what only zlib's own interface offers: stopping at block boundaries, and starting at one.

use std::io;
use std::mem::size_of;
use std::ptr;

use libz_rs_sys as z;

/// What surrounds the compressed blocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Wrapping {
    /// A gzip member: header, blocks, checked sum.
    Gzip,
    /// Nothing.
    Raw,
}

/// How far one call came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Step {
    /// Bytes taken from the input.
    pub(crate) consumed: usize,
    /// Bytes written to the output.
    pub(crate) produced: usize,
    pub(crate) at: At,
}

/// Where in the compressed stream a call ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum At {
    /// Anywhere.
    Inside,
    /// In front of a block; this many bits of the last input byte belong to it.
    Block {
        /// 0 to 7.
        unused_bits: u8,
    },
    /// Behind the last block and what follows it.
    End,
}

/// An inflating stream.
pub(crate) struct Inflate {
    /// Boxed, since its state refers back to it.
    stream: Box<z::z_stream>,
}

// SAFETY: the stream owns its state, which nothing else refers to, and the allocator behind it is the global one.
unsafe impl Send for Inflate {}

impl Inflate {
    pub(crate) fn new(wrapping: Wrapping) -> io::Result<Self> {
        let window_bits = match wrapping {
            Wrapping::Gzip => 15 + 16,
            Wrapping::Raw => -15,
        };
        let mut stream = Box::new(z::z_stream::default());
        let size = size_of::<z::z_stream>() as i32;
        // SAFETY: the stream is a valid one with default allocators, and version and size are those of the library.
        let code = unsafe { z::inflateInit2_(&mut *stream, window_bits, z::zlibVersion(), size) };
        if code != z::Z_OK {
            return Err(io::Error::new(io::ErrorKind::OutOfMemory, "cannot set up the decompressor"));
        }
        Ok(Self { stream })
    }

    /// Hands over the upper `bits` bits (1 to 7) of a byte whose lower ones belong to the block before.
    pub(crate) fn prime(&mut self, byte: u8, bits: u8) -> io::Result<()> {
        // SAFETY: the stream was set up by `new`.
        let code =
            unsafe { z::inflatePrime(&mut *self.stream, i32::from(bits), i32::from(byte >> (8 - bits))) };
        check(code)
    }

    /// Sets the bytes before the first block, at most 32 KiB.
    pub(crate) fn set_window(&mut self, window: &[u8]) -> io::Result<()> {
        // SAFETY: the stream was set up by `new`; pointer and length are those of a slice, which is copied.
        let code =
            unsafe { z::inflateSetDictionary(&mut *self.stream, window.as_ptr(), window.len() as u32) };
        check(code)
    }

    /// Inflates until the input is used up, the output is full, the stream ends, or, when `stop_at_blocks`, a block
    /// ends.
    pub(crate) fn run(&mut self, input: &[u8], output: &mut [u8], stop_at_blocks: bool) -> io::Result<Step> {
        const MOST: usize = 1 << 30;
        let (available_in, available_out) = (input.len().min(MOST) as u32, output.len().min(MOST) as u32);
        let stream = &mut *self.stream;
        stream.next_in = input.as_ptr().cast_mut();
        stream.avail_in = available_in;
        stream.next_out = output.as_mut_ptr();
        stream.avail_out = available_out;
        let flush = if stop_at_blocks { z::Z_BLOCK } else { z::Z_NO_FLUSH };
        // SAFETY: the stream was set up by `new`; input and output are slices of at least the stated lengths, which
        // outlive the call, and the input is only read.
        let code = unsafe { z::inflate(stream, flush) };
        let step = |at| Step {
            consumed: (available_in - stream.avail_in) as usize,
            produced: (available_out - stream.avail_out) as usize,
            at,
        };
        let step = match code {
            z::Z_STREAM_END => step(At::End),
            z::Z_OK | z::Z_BUF_ERROR => {
                // Bit 7: behind a block or the header; bit 6: inside the last block.
                let kind = stream.data_type;
                step(if stop_at_blocks && kind & 128 != 0 && kind & 64 == 0 {
                    At::Block { unused_bits: (kind & 7) as u8 }
                } else {
                    At::Inside
                })
            }
            _ => return Err(damaged()),
        };
        stream.next_in = ptr::null_mut();
        stream.next_out = ptr::null_mut();
        Ok(step)
    }
}

impl Drop for Inflate {
    fn drop(&mut self) {
        // SAFETY: the stream was set up by `new` and is not used afterwards.
        unsafe { z::inflateEnd(&mut *self.stream) };
    }
}

fn check(code: i32) -> io::Result<()> {
    if code == z::Z_OK { Ok(()) } else { Err(damaged()) }
}

fn damaged() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, "corrupt deflate stream")
}

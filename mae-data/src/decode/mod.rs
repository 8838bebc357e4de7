//! Encoded bytes to RGB pixels, equal to what Pillow's `Image.open(file).convert("RGB")` gives.
//!
//! Alpha is dropped, not blended; EXIF orientation is ignored; 16-bit grey saturates at 255; a JPEG or PNG that is cut
//! off gives the rows that are there. Third-party decoders run with limits, and a panic in one is an error of that
//! one image.

mod baseline;
mod jpeg;
mod other;
pub(crate) mod pixels;
mod png;

use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Once;

pub use pixels::{Part, RgbImage};

use crate::transform::resample::Window;

/// Images with more pixels are refused; the number is Pillow's limit against decompression bombs.
pub const MAX_PIXELS: u64 = 178_956_970;

/// What decoders may allocate besides the pixels.
const MAX_ALLOCATION: usize = 1 << 30;

/// Larger pixel buffers are given back after use.
const KEPT_BYTES: usize = 64 << 20;

/// Memory that is used again from image to image.
#[derive(Default)]
pub struct Scratch {
    image: RgbImage,
    baseline: baseline::Scratch,
}

/// Where the decoded part of an image lies, and what is wrong with the image.
struct Place {
    top: usize,
    left: usize,
    damage: Option<String>,
}

/// The formats that can be decoded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ImageFormat {
    /// JPEG: baseline, progressive, arithmetic, lossless; grey, colour, CMYK.
    Jpeg,
    /// PNG; the first image of an APNG.
    Png,
    /// Windows bitmap.
    Bmp,
    /// TIFF; the first page.
    Tiff,
    /// WebP; the first frame of an animation.
    WebP,
    /// Netpbm: PPM, PGM, PBM.
    Pnm,
}

impl ImageFormat {
    /// Its usual name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Jpeg => "JPEG",
            Self::Png => "PNG",
            Self::Bmp => "BMP",
            Self::Tiff => "TIFF",
            Self::WebP => "WebP",
            Self::Pnm => "PNM",
        }
    }
}

/// What was decoded, or that something was missing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Decoded {
    /// The pixels.
    pub image: RgbImage,
    /// Set when the file is damaged but gave an image, for instance when it is cut off; says what is wrong.
    pub damage: Option<String>,
}

/// Why an image could not be decoded.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// The file has no bytes.
    #[error("the file is empty")]
    Empty,
    /// The first bytes are those of no image format that is supported.
    #[error("not an image of a supported format (it begins with {0})")]
    UnknownFormat(String),
    /// A legal file of a kind that is not supported.
    #[error("unsupported {0}")]
    Unsupported(String),
    /// Too many pixels.
    #[error("{width} x {height} pixels, more than the {MAX_PIXELS} allowed")]
    TooLarge {
        /// Pixels in a row.
        width: u64,
        /// Rows.
        height: u64,
    },
    /// The bytes are damaged.
    #[error("damaged {format}: {reason}")]
    Damaged {
        /// `JPEG`, `PNG` …
        format: &'static str,
        /// What the decoder said.
        reason: String,
    },
    /// The decoder failed in a way that is its defect.
    #[error("the decoder failed: {0}")]
    Panicked(String),
}

/// The format that the first bytes of a file name.
pub fn format(bytes: &[u8]) -> Option<ImageFormat> {
    Some(match bytes {
        [0xff, 0xd8, 0xff, ..] => ImageFormat::Jpeg,
        [0x89, b'P', b'N', b'G', b'\r', b'\n', 0x1a, b'\n', ..] => ImageFormat::Png,
        [b'B', b'M', ..] => ImageFormat::Bmp,
        [b'I', b'I', 42, 0, ..] | [b'M', b'M', 0, 42, ..] => ImageFormat::Tiff,
        [b'R', b'I', b'F', b'F', _, _, _, _, b'W', b'E', b'B', b'P', ..] => ImageFormat::WebP,
        [b'P', b'1'..=b'6', next, ..] if next.is_ascii_whitespace() || *next == b'#' => ImageFormat::Pnm,
        _ => return None,
    })
}

/// Decodes an image file.
///
/// # Errors
/// When the bytes are no image, an unsupported one, one that is too large, or too damaged to give any pixel. Never
/// panics, whatever the bytes.
pub fn decode(bytes: &[u8]) -> Result<Decoded, DecodeError> {
    let mut scratch = Scratch::default();
    let (_, damage) = decode_part(bytes, Window::whole, &mut scratch)?;
    Ok(Decoded { image: scratch.image, damage })
}

/// Decodes at least the window that `choose` returns for the image's height and width, and says whether the file is
/// damaged. What lies below the window may not be looked at.
///
/// # Errors
/// As [`decode`].
pub fn decode_part<'s>(
    bytes: &[u8],
    choose: impl FnOnce((usize, usize)) -> Window,
    scratch: &'s mut Scratch,
) -> Result<(Part<'s>, Option<String>), DecodeError> {
    if bytes.is_empty() {
        return Err(DecodeError::Empty);
    }
    let format = format(bytes).ok_or_else(|| {
        let head: Vec<String> = bytes.iter().take(8).map(|b| format!("{b:02x}")).collect();
        DecodeError::UnknownFormat(head.join(" "))
    })?;
    // An image of rare size shall not hold its memory for the rest of the run.
    if scratch.image.data.capacity() > KEPT_BYTES {
        scratch.image.data = Vec::new();
    }
    // What a decoder that panics leaves in the scratch memory is overwritten by the next image.
    let decoded = quietly(AssertUnwindSafe(|| {
        let decoded = match format {
            ImageFormat::Jpeg => return jpeg::decode(bytes, choose, scratch),
            ImageFormat::Png => png::decode(bytes)?,
            other => other::decode(bytes, other)?,
        };
        scratch.image = decoded.image;
        choose((scratch.image.height, scratch.image.width));
        Ok(Place { top: 0, left: 0, damage: decoded.damage })
    }));
    let Place { top, left, damage } = decoded.unwrap_or_else(|reason| Err(DecodeError::Panicked(reason)))?;
    Ok((Part { pixels: &scratch.image, top, left }, damage))
}

/// Runs a decoder; a panic in it becomes its message, and is not printed.
fn quietly<T>(decoder: impl FnOnce() -> T + std::panic::UnwindSafe) -> Result<T, String> {
    static HOOK: Once = Once::new();
    HOOK.call_once(|| {
        let previous = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |panic| {
            if !DECODING.get() {
                previous(panic);
            }
        }));
    });
    DECODING.set(true);
    let result = catch_unwind(decoder);
    DECODING.set(false);
    result.map_err(|panic| panic_message(&*panic))
}

thread_local! {
    /// Whether this thread runs a decoder, whose panics are reported as unreadable images.
    static DECODING: Cell<bool> = const { Cell::new(false) };
}

/// The text of a panic.
pub(crate) fn panic_message(panic: &(dyn std::any::Any + Send)) -> String {
    panic
        .downcast_ref::<&str>()
        .map(|text| (*text).to_owned())
        .or_else(|| panic.downcast_ref::<String>().cloned())
        .unwrap_or_else(|| "no message".to_owned())
}

fn check_size(width: u64, height: u64) -> Result<(), DecodeError> {
    if width == 0 || height == 0 {
        return Err(DecodeError::Unsupported(format!("size of {width} x {height} pixels")));
    }
    if width.saturating_mul(height) > MAX_PIXELS {
        return Err(DecodeError::TooLarge { width, height });
    }
    Ok(())
}

#[cfg(test)]
mod odd_tests;
#[cfg(test)]
mod tests;

//! Decoded pixels.

/// Packed RGB pixels, `[height, width, 3]`, 8 bits a channel.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RgbImage {
    /// Pixels in a row.
    pub width: usize,
    /// Rows.
    pub height: usize,
    /// `height * width * 3` bytes.
    pub data: Vec<u8>,
}

/// Pixels of a part of an image, and where that part is.
#[derive(Clone, Copy, Debug)]
pub struct Part<'a> {
    /// The pixels of the part.
    pub pixels: &'a RgbImage,
    /// Row of the image where the part begins.
    pub top: usize,
    /// Column of the image where the part begins.
    pub left: usize,
}

impl<'a> Part<'a> {
    /// An image as the only part of itself.
    pub fn whole(pixels: &'a RgbImage) -> Self {
        Self { pixels, top: 0, left: 0 }
    }
}

//! What the resize hands to its vector code.

/// Rows of packed RGB pixels, each `width` pixels wide and `stride` bytes after the one before.
#[derive(Clone, Copy)]
pub(crate) struct Rows<'a> {
    pub(crate) data: &'a [u8],
    pub(crate) stride: usize,
    pub(crate) width: usize,
    pub(crate) height: usize,
}

impl<'a> Rows<'a> {
    /// The pixels of one row.
    pub(crate) fn row(&self, y: usize) -> &'a [u8] {
        &self.data[y * self.stride..][..self.width * 3]
    }
}

/// For each output position the first input position and the number of coefficients; the coefficients of a position
/// begin `each` after those of the one before.
#[derive(Clone, Copy)]
pub(crate) struct Taps<'a> {
    pub(crate) positions: &'a [(usize, usize)],
    pub(crate) values: &'a [i32],
    pub(crate) each: usize,
}

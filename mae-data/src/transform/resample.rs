//! Pillow's antialiased resize of 8-bit images, bit for bit.
//!
//! Two passes with coefficients rounded to 22 bits of fixed point, and an 8-bit image between them. Pillow 13 runs
//! the vertical pass first when `h > oh` and `h - oh > 2 * (w - ow)`, else the horizontal one; the order changes
//! results. As with torchvision's crop-then-resize, pixels outside the window are never seen.

use std::ops::Range;

pub use super::coefficients::Filter;
use super::coefficients::{BITS, Coefficients, needed};
use crate::decode::pixels::{Part, RgbImage};
use crate::sys::{Rows, Taps};

/// A rectangle of an image in pixels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Window {
    /// Row of its top.
    pub top: usize,
    /// Column of its left side.
    pub left: usize,
    /// Rows.
    pub height: usize,
    /// Columns.
    pub width: usize,
}

impl Window {
    /// All of an image.
    pub fn whole((height, width): (usize, usize)) -> Self {
        Self { top: 0, left: 0, height, width }
    }

    fn rows(&self) -> Range<usize> {
        self.top..self.top + self.height
    }

    fn columns(&self) -> Range<usize> {
        self.left..self.left + self.width
    }
}

/// A resize of a window of an image, of whose result a part is wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Resize {
    /// What is resized. Pixels outside are never seen.
    pub window: Window,
    /// Height and width that the window is resized to.
    pub size: (usize, usize),
    /// The wanted part of the resized window; its pixels are those of the whole result.
    pub part: Window,
    /// How pixels are interpolated.
    pub filter: Filter,
}

impl Resize {
    /// Resizes a window to `size`.
    pub fn to(window: Window, size: (usize, usize), filter: Filter) -> Self {
        Self { window, size, part: Window::whole(size), filter }
    }

    /// The pixels of the image that the result depends on.
    pub fn needs(&self) -> Window {
        let rows = needed(self.window.height, self.size.0, self.part.rows(), self.filter);
        let columns = needed(self.window.width, self.size.1, self.part.columns(), self.filter);
        Window {
            top: self.window.top + rows.start,
            left: self.window.left + columns.start,
            height: rows.len(),
            width: columns.len(),
        }
    }

    /// Carries it out on a part of the image in which all that it [needs](Self::needs) lies; `out` becomes the result.
    ///
    /// # Panics
    /// When something needed lies outside `image`.
    pub fn apply(&self, image: Part<'_>, scratch: &mut ResizeScratch, out: &mut RgbImage) {
        let needs = self.needs();
        let source = Rows {
            data: &image.pixels.data
                [((needs.top - image.top) * image.pixels.width + needs.left - image.left) * 3..],
            stride: image.pixels.width * 3,
            width: needs.width,
            height: needs.height,
        };
        (out.height, out.width) = (self.part.height, self.part.width);
        out.data.resize(out.height * out.width * 3, 0);
        let ResizeScratch { between, rows, columns, vector } = scratch;
        let (height, width) = (self.window.height, self.window.width);
        let changes = (height != self.size.0, width != self.size.1);
        if changes.0 {
            rows.compute(height, self.size.0, self.part.rows(), self.filter);
            rows.shift(needs.top - self.window.top);
        }
        if changes.1 {
            columns.compute(width, self.size.1, self.part.columns(), self.filter);
            columns.shift(needs.left - self.window.left);
        }
        let shrinks_by = (height as i64 - self.size.0 as i64, width as i64 - self.size.1 as i64);
        match changes {
            (false, false) => {
                for (y, row) in out.data.chunks_exact_mut(source.width * 3).enumerate() {
                    row.copy_from_slice(source.row(y));
                }
            }
            (false, true) => horizontal(source, columns.taps(), vector, &mut out.data),
            (true, false) => vertical(source, rows.taps(), vector, &mut out.data),
            _ if shrinks_by.0 > 0 && shrinks_by.0 > 2 * shrinks_by.1 => {
                between.resize(source.width * out.height * 3, 0);
                vertical(source, rows.taps(), vector, between);
                let between =
                    Rows { data: between, stride: source.width * 3, width: source.width, height: out.height };
                horizontal(between, columns.taps(), vector, &mut out.data);
            }
            _ => {
                between.resize(out.width * source.height * 3, 0);
                horizontal(source, columns.taps(), vector, between);
                let between =
                    Rows { data: between, stride: out.width * 3, width: out.width, height: source.height };
                vertical(between, rows.taps(), vector, &mut out.data);
            }
        }
    }
}

/// Memory that is used again from image to image.
#[derive(Default)]
pub struct ResizeScratch {
    between: Vec<u8>,
    rows: Coefficients,
    columns: Coefficients,
    vector: Vector,
}

/// Memory of the passes, and whether they may use vector code.
struct Vector {
    #[cfg(target_arch = "x86_64")]
    avx2: Option<crate::sys::avx2::Scratch>,
    sums: Vec<i32>,
}

impl Default for Vector {
    fn default() -> Self {
        Self {
            #[cfg(target_arch = "x86_64")]
            avx2: crate::sys::avx2::is_available().then(Default::default),
            sums: Vec::new(),
        }
    }
}

#[cfg(test)]
impl ResizeScratch {
    /// With the code that runs on every processor.
    pub(super) fn portable() -> Self {
        let mut scratch = Self::default();
        #[cfg(target_arch = "x86_64")]
        {
            scratch.vector.avx2 = None;
        }
        scratch
    }
}

fn horizontal(source: Rows<'_>, taps: Taps<'_>, vector: &mut Vector, out: &mut [u8]) {
    #[cfg(target_arch = "x86_64")]
    if let Some(scratch) = &mut vector.avx2 {
        return crate::sys::avx2::horizontal::<BITS>(source, taps, scratch, out);
    }
    let _ = &vector;
    for (y, out) in out.chunks_exact_mut(taps.positions.len() * 3).enumerate() {
        let row = source.row(y).as_chunks::<3>().0;
        for (out, (low, values)) in out.as_chunks_mut::<3>().0.iter_mut().zip(each(taps)) {
            let mut sums = [1i32 << (BITS - 1); 3];
            for (pixel, &value) in row[low..].iter().zip(values) {
                for (sum, &channel) in sums.iter_mut().zip(pixel) {
                    *sum = sum.wrapping_add(i32::from(channel).wrapping_mul(value));
                }
            }
            *out = sums.map(to_u8);
        }
    }
}

fn vertical(source: Rows<'_>, taps: Taps<'_>, vector: &mut Vector, out: &mut [u8]) {
    #[cfg(target_arch = "x86_64")]
    if let Some(scratch) = &mut vector.avx2 {
        return crate::sys::avx2::vertical::<BITS>(source, taps, scratch, out);
    }
    let sums = &mut vector.sums;
    for (out, (low, values)) in out.chunks_exact_mut(source.width * 3).zip(each(taps)) {
        sums.clear();
        sums.resize(out.len(), 1 << (BITS - 1));
        for (y, &value) in values.iter().enumerate() {
            for (sum, &channel) in sums.iter_mut().zip(source.row(low + y)) {
                *sum = sum.wrapping_add(i32::from(channel).wrapping_mul(value));
            }
        }
        for (out, &sum) in out.iter_mut().zip(&*sums) {
            *out = to_u8(sum);
        }
    }
}

fn each(taps: Taps<'_>) -> impl Iterator<Item = (usize, &[i32])> {
    taps.positions
        .iter()
        .zip(taps.values.chunks_exact(taps.each))
        .map(|(&(low, n), values)| (low, &values[..n]))
}

fn to_u8(sum: i32) -> u8 {
    (sum >> BITS).clamp(0, 255) as u8
}

//! Pillow's antialiased resize of 8-bit images, bit for bit.
//!
//! Two passes with coefficients rounded to 22 bits of fixed point, and an 8-bit image between them. Pillow 13 runs
//! the vertical pass first when `h > oh` and `h - oh > 2 * (w - ow)`, else the horizontal one; the order changes
//! results. As with torchvision's crop-then-resize, pixels outside the window are never seen.

use crate::decode::RgbImage;

/// Fractional bits of a coefficient: 32, less 8 for the pixel, less 2 for the overshoot of the bicubic filter.
const BITS: u32 = 32 - 8 - 2;

/// How pixels are interpolated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Filter {
    /// Triangle of width 2.
    Bilinear,
    /// Cubic convolution with a = -0.5, of width 4.
    Bicubic,
}

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

/// Memory that is used again from image to image.
#[derive(Default)]
pub struct ResizeScratch {
    between: Vec<u8>,
    sums: Vec<i32>,
}

/// Resizes a window of an image to `height` × `width`.
///
/// `out` becomes the result. The window must lie inside the image and, like the result, not be empty.
pub fn resize(
    image: &RgbImage,
    window: Window,
    (height, width): (usize, usize),
    filter: Filter,
    scratch: &mut ResizeScratch,
    out: &mut RgbImage,
) {
    let source = View {
        data: &image.data[(window.top * image.width + window.left) * 3..],
        stride: image.width * 3,
        width: window.width,
        height: window.height,
    };
    out.width = width;
    out.height = height;
    out.data.resize(height * width * 3, 0);
    let ResizeScratch { between, sums } = scratch;
    let shrinks_by = (window.height as i64 - height as i64, window.width as i64 - width as i64);
    match (width != window.width, height != window.height) {
        (false, false) => {
            for (y, row) in out.data.chunks_exact_mut(width * 3).enumerate() {
                row.copy_from_slice(source.row(y));
            }
        }
        (true, false) => horizontal(source, width, filter, &mut out.data),
        (false, true) => vertical(source, height, filter, sums, &mut out.data),
        _ if shrinks_by.0 > 0 && shrinks_by.0 > 2 * shrinks_by.1 => {
            between.resize(window.width * height * 3, 0);
            vertical(source, height, filter, sums, between);
            let between = View { data: between, stride: window.width * 3, width: window.width, height };
            horizontal(between, width, filter, &mut out.data);
        }
        _ => {
            between.resize(width * window.height * 3, 0);
            horizontal(source, width, filter, between);
            let between = View { data: between, stride: width * 3, width, height: window.height };
            vertical(between, height, filter, sums, &mut out.data);
        }
    }
}

/// Packed RGB pixels that may be part of a wider image.
#[derive(Clone, Copy)]
struct View<'a> {
    data: &'a [u8],
    stride: usize,
    width: usize,
    height: usize,
}

impl<'a> View<'a> {
    fn row(&self, y: usize) -> &'a [u8] {
        &self.data[y * self.stride..][..self.width * 3]
    }
}

/// For each output position: the first input position and its fixed-point coefficients.
struct Coefficients {
    taps: Vec<(usize, usize)>,
    values: Vec<i32>,
    per_position: usize,
}

impl Coefficients {
    fn new(input: usize, output: usize, filter: Filter) -> Self {
        let scale = input as f64 / output as f64;
        let filter_scale = scale.max(1.0);
        let support = filter.support() * filter_scale;
        let per_position = support.ceil() as usize * 2 + 1;
        let mut taps = Vec::with_capacity(output);
        let mut values = vec![0; output * per_position];
        let mut weights = Vec::with_capacity(per_position);
        for (position, values) in values.chunks_exact_mut(per_position).enumerate() {
            let center = (position as f64 + 0.5) * scale;
            // Truncation towards zero, as a cast in C does it.
            let low = ((center - support + 0.5) as i64).max(0) as usize;
            let high = ((center + support + 0.5) as i64).min(input as i64) as usize;
            weights.clear();
            weights.extend((low..high).map(|i| filter.at((i as f64 - center + 0.5) * (1.0 / filter_scale))));
            let sum: f64 = weights.iter().sum();
            for (value, weight) in values.iter_mut().zip(&weights) {
                let weight = if sum == 0.0 { *weight } else { weight / sum };
                let fixed = weight * f64::from(1 << BITS);
                *value = if fixed < 0.0 { (fixed - 0.5) as i32 } else { (fixed + 0.5) as i32 };
            }
            taps.push((low, high - low));
        }
        Self { taps, values, per_position }
    }

    fn iter(&self) -> impl Iterator<Item = (usize, &[i32])> {
        let values = self.values.chunks_exact(self.per_position);
        self.taps.iter().zip(values).map(|(&(low, n), values)| (low, &values[..n]))
    }
}

impl Filter {
    fn support(self) -> f64 {
        match self {
            Self::Bilinear => 1.0,
            Self::Bicubic => 2.0,
        }
    }

    fn at(self, x: f64) -> f64 {
        const A: f64 = -0.5;
        let x = x.abs();
        match self {
            Self::Bilinear if x < 1.0 => 1.0 - x,
            Self::Bicubic if x < 1.0 => ((A + 2.0) * x - (A + 3.0)) * x * x + 1.0,
            Self::Bicubic if x < 2.0 => (((x - 5.0) * x + 8.0) * x - 4.0) * A,
            _ => 0.0,
        }
    }
}

fn horizontal(source: View<'_>, width: usize, filter: Filter, out: &mut [u8]) {
    let coefficients = Coefficients::new(source.width, width, filter);
    for (y, out) in out.chunks_exact_mut(width * 3).enumerate().take(source.height) {
        let row = source.row(y).as_chunks::<3>().0;
        for (out, (low, values)) in out.as_chunks_mut::<3>().0.iter_mut().zip(coefficients.iter()) {
            let mut sums = [1i32 << (BITS - 1); 3];
            for (pixel, &value) in row[low..].iter().zip(values) {
                for (sum, &channel) in sums.iter_mut().zip(pixel) {
                    *sum = sum.wrapping_add(i32::from(channel) * value);
                }
            }
            *out = sums.map(to_u8);
        }
    }
}

fn vertical(source: View<'_>, height: usize, filter: Filter, sums: &mut Vec<i32>, out: &mut [u8]) {
    let coefficients = Coefficients::new(source.height, height, filter);
    for (out, (low, values)) in out.chunks_exact_mut(source.width * 3).zip(coefficients.iter()) {
        sums.clear();
        sums.resize(out.len(), 1 << (BITS - 1));
        for (y, &value) in values.iter().enumerate() {
            for (sum, &channel) in sums.iter_mut().zip(source.row(low + y)) {
                *sum = sum.wrapping_add(i32::from(channel) * value);
            }
        }
        for (out, &sum) in out.iter_mut().zip(&*sums) {
            *out = to_u8(sum);
        }
    }
}

fn to_u8(sum: i32) -> u8 {
    (sum >> BITS).clamp(0, 255) as u8
}

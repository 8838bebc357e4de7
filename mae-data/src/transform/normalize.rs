//! 8-bit pixels to normalised floats, and the horizontal flip.

use crate::decode::pixels::RgbImage;

/// `(x / 255 - mean) / std` of each value of each channel, every step rounded to `f32` as in torchvision.
pub struct Normalizer {
    table: [[f32; 256]; 3],
}

impl Normalizer {
    /// For the mean and the standard deviation of each channel, in units of 0..1.
    pub fn new(mean: [f32; 3], std: [f32; 3]) -> Self {
        let value = |c: usize, v: usize| (v as f32 / 255.0 - mean[c]) / std[c];
        Self { table: std::array::from_fn(|c| std::array::from_fn(|v| value(c, v))) }
    }

    /// `[H, W, 3]` bytes to `[3, H, W]` floats; `out` has `3 * H * W` elements.
    pub fn apply(&self, image: &RgbImage, out: &mut [f32]) {
        let plane = image.width * image.height;
        let (red, rest) = out.split_at_mut(plane);
        let (green, blue) = rest.split_at_mut(plane);
        let pixels = image.data.as_chunks::<3>().0;
        for (((pixel, red), green), blue) in pixels.iter().zip(red).zip(green).zip(blue) {
            *red = self.table[0][usize::from(pixel[0])];
            *green = self.table[1][usize::from(pixel[1])];
            *blue = self.table[2][usize::from(pixel[2])];
        }
    }
}

/// Mirrors left and right.
pub fn flip_horizontal(image: &mut RgbImage) {
    for row in image.data.chunks_exact_mut(image.width * 3) {
        row.as_chunks_mut::<3>().0.reverse();
    }
}

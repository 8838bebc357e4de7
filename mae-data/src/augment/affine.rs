//! Pillow's affine transform: `Image.transform(size, AFFINE, …)` and `Image.rotate`.

use crate::decode::RgbImage;
use crate::transform::resample::Filter;

/// Output pixel centre to input position: `x' = a x + b y + c`, `y' = d x + e y + f`.
pub(super) type Matrix = [f64; 6];

/// The matrix of Pillow's `rotate(degrees)` about the middle of the image, counter-clockwise.
pub(super) fn rotation(degrees: f64, image: &RgbImage) -> Matrix {
    // Pillow rounds to 15 decimals so that right angles are exact.
    let round = |v: f64| (v * 1e15).round_ties_even() / 1e15;
    let angle = -degrees.rem_euclid(360.0).to_radians();
    let (sin, cos) = (round(angle.sin()), round(angle.cos()));
    let (cx, cy) = (image.width as f64 / 2.0, image.height as f64 / 2.0);
    [cos, sin, (cos * -cx + sin * -cy) + cx, -sin, cos, (-sin * -cx + cos * -cy) + cy]
}

/// Transforms `image` in place with the help of `other`; pixels from outside become `fill`.
pub(super) fn transform(
    image: &mut RgbImage,
    other: &mut RgbImage,
    matrix: Matrix,
    filter: Filter,
    fill: [u8; 3],
) {
    other.width = image.width;
    other.height = image.height;
    other.data.resize(image.data.len(), 0);
    let (width, height) = (image.width as f64, image.height as f64);
    let [a, b, c, d, e, f] = matrix;
    let mut out = other.data.as_chunks_mut::<3>().0.iter_mut();
    for row in 0..image.height {
        for (column, out) in (0..image.width).zip(&mut out) {
            let (x, y) = (column as f64 + 0.5, row as f64 + 0.5);
            let (x, y) = (a * x + b * y + c, d * x + e * y + f);
            *out = if x < 0.0 || x >= width || y < 0.0 || y >= height {
                fill
            } else {
                match filter {
                    Filter::Bilinear => bilinear(image, x - 0.5, y - 0.5),
                    Filter::Bicubic => bicubic(image, x - 0.5, y - 0.5),
                }
            };
        }
    }
    std::mem::swap(image, other);
}

/// The pixel at a place that may lie outside; the border pixel then.
fn pixel(image: &RgbImage, x: i64, y: i64) -> [f64; 3] {
    let x = x.clamp(0, image.width as i64 - 1) as usize;
    let y = y.clamp(0, image.height as i64 - 1) as usize;
    let at = (y * image.width + x) * 3;
    [0, 1, 2].map(|channel| f64::from(image.data[at + channel]))
}

fn bilinear(image: &RgbImage, x: f64, y: f64) -> [u8; 3] {
    let (left, top) = (x.floor() as i64, y.floor() as i64);
    let (dx, dy) = (x - x.floor(), y - y.floor());
    let corners = [(0, 0), (1, 0), (0, 1), (1, 1)].map(|(i, j)| pixel(image, left + i, top + j));
    [0, 1, 2].map(|c| {
        let between = |a: f64, b: f64, share: f64| a + (b - a) * share;
        let upper = between(corners[0][c], corners[1][c], dx);
        let lower = between(corners[2][c], corners[3][c], dx);
        between(upper, lower, dy) as u8
    })
}

fn bicubic(image: &RgbImage, x: f64, y: f64) -> [u8; 3] {
    let (left, top) = (x.floor() as i64 - 1, y.floor() as i64 - 1);
    let (dx, dy) = (x - x.floor(), y - y.floor());
    // Cubic convolution with a = -1, as Pillow's transform (not its resize) uses.
    let cubic = |v: [f64; 4], share: f64| {
        let p2 = v[2] - v[0];
        let p3 = 2.0 * (v[0] - v[1]) + v[2] - v[3];
        let p4 = v[1] - v[0] - v[2] + v[3];
        v[1] + share * (p2 + share * (p3 + share * p4))
    };
    [0, 1, 2].map(|c| {
        let rows = [0, 1, 2, 3].map(|j| cubic([0, 1, 2, 3].map(|i| pixel(image, left + i, top + j)[c]), dx));
        cubic(rows, dy).clamp(0.0, 255.0) as u8
    })
}

//! Pillow's `ImageOps` and `ImageEnhance` on RGB images, in place.

use crate::decode::RgbImage;

/// Luma as Pillow's `convert("L")`: ITU-R 601-2 in 16-bit fixed point.
pub(super) fn luma([r, g, b]: [u8; 3]) -> u8 {
    ((u32::from(r) * 19595 + u32::from(g) * 38470 + u32::from(b) * 7471 + 0x8000) >> 16) as u8
}

/// `from + factor * (to - from)` in `f32`, cut to 0..255 and truncated, as `Image.blend`.
fn blend(from: u8, to: u8, factor: f32) -> u8 {
    let value = f32::from(from) + factor * (f32::from(to) - f32::from(from));
    value.clamp(0.0, 255.0) as u8
}

/// `ImageEnhance.Brightness`: 0 is black, 1 the image.
pub(super) fn brightness(image: &mut RgbImage, factor: f64) {
    image.data.iter_mut().for_each(|value| *value = blend(0, *value, factor as f32));
}

/// `ImageEnhance.Color`: 0 is grey, 1 the image.
pub(super) fn saturation(image: &mut RgbImage, factor: f64) {
    for pixel in image.data.as_chunks_mut::<3>().0 {
        let grey = luma(*pixel);
        *pixel = pixel.map(|value| blend(grey, value, factor as f32));
    }
}

/// `ImageEnhance.Contrast`: 0 is the mean luma everywhere, 1 the image.
pub(super) fn contrast(image: &mut RgbImage, factor: f64) {
    let pixels = image.data.as_chunks::<3>().0;
    let sum: u64 = pixels.iter().map(|pixel| u64::from(luma(*pixel))).sum();
    let mean = (sum as f64 / pixels.len().max(1) as f64 + 0.5) as u8;
    image.data.iter_mut().for_each(|value| *value = blend(mean, *value, factor as f32));
}

/// `ImageEnhance.Sharpness`: 0 is smoothed, 1 the image.
pub(super) fn sharpness(image: &mut RgbImage, other: &mut RgbImage, factor: f64) {
    let stride = image.width * 3;
    other.clone_from(image);
    if image.width >= 3 && image.height >= 3 {
        for y in 1..image.height - 1 {
            for i in 3..stride - 3 {
                let at = y * stride + i;
                let mut sum = 4 * u32::from(image.data[at]);
                for row in [at - stride, at, at + stride] {
                    sum += [row - 3, row, row + 3].iter().map(|&i| u32::from(image.data[i])).sum::<u32>();
                }
                // The kernel is 1 around a 5, divided by 13 and rounded.
                other.data[at] = ((2 * sum + 13) / 26) as u8;
            }
        }
    }
    for (value, smooth) in image.data.iter_mut().zip(&other.data) {
        *value = blend(*smooth, *value, factor as f32);
    }
}

/// `ImageOps.invert`.
pub(super) fn invert(image: &mut RgbImage) {
    image.data.iter_mut().for_each(|value| *value = 255 - *value);
}

/// `ImageOps.solarize`: inverts values from the threshold on.
pub(super) fn solarize(image: &mut RgbImage, threshold: i32) {
    for value in &mut image.data {
        if i32::from(*value) >= threshold {
            *value = 255 - *value;
        }
    }
}

/// Adds to values below 128, up to 255.
pub(super) fn solarize_add(image: &mut RgbImage, add: i32) {
    for value in &mut image.data {
        if *value < 128 {
            *value = (i32::from(*value) + add).clamp(0, 255) as u8;
        }
    }
}

/// `ImageOps.posterize`: keeps the highest bits. No bit at all gives black, as Pillow did before version 11.
pub(super) fn posterize(image: &mut RgbImage, bits: i32) {
    let mask = match bits {
        ..=0 => 0,
        1..=7 => !0u8 << (8 - bits),
        _ => !0,
    };
    image.data.iter_mut().for_each(|value| *value &= mask);
}

/// `ImageOps.autocontrast`: stretches each channel to 0..255.
pub(super) fn autocontrast(image: &mut RgbImage) {
    map_channels(image, |histogram| {
        let low = histogram.iter().position(|&n| n > 0)?;
        let high = histogram.iter().rposition(|&n| n > 0)?;
        if high <= low {
            return None;
        }
        let scale = 255.0 / (high - low) as f64;
        let offset = -(low as f64) * scale;
        Some(std::array::from_fn(|i| (i as f64 * scale + offset).clamp(0.0, 255.0) as u8))
    });
}

/// `ImageOps.equalize`: makes the histogram of each channel flat.
pub(super) fn equalize(image: &mut RgbImage) {
    map_channels(image, |histogram| {
        let last = *histogram.iter().rfind(|&&n| n > 0)?;
        let step = (histogram.iter().sum::<u64>() - last) / 255;
        if step == 0 {
            return None;
        }
        let mut n = step / 2;
        Some(std::array::from_fn(|i| {
            let value = (n / step).min(255) as u8;
            n += histogram[i];
            value
        }))
    });
}

/// Maps each channel through a table made from its histogram; `None` leaves the channel alone.
fn map_channels(image: &mut RgbImage, table: impl Fn(&[u64; 256]) -> Option<[u8; 256]>) {
    for channel in 0..3 {
        let mut histogram = [0; 256];
        for pixel in image.data.as_chunks::<3>().0 {
            histogram[usize::from(pixel[channel])] += 1;
        }
        if let Some(table) = table(&histogram) {
            for pixel in image.data.as_chunks_mut::<3>().0 {
                pixel[channel] = table[usize::from(pixel[channel])];
            }
        }
    }
}

/// `ImageFilter.GaussianBlur`: three box blurs along rows, then three along columns.
pub(super) fn gaussian_blur(image: &mut RgbImage, radius: f64) {
    const PASSES: usize = 3;
    if radius <= 0.0 {
        return;
    }
    let variance = (radius * radius) as f32 / PASSES as f32;
    let length = (12.0 * variance + 1.0).sqrt();
    let whole = ((length - 1.0) / 2.0).floor();
    let part = (2.0 * whole + 1.0) * (whole * (whole + 1.0) - 3.0 * variance)
        / (6.0 * (variance - (whole + 1.0) * (whole + 1.0)));
    let radius = whole + part;
    let mut line = Vec::new();
    for _ in 0..PASSES {
        for y in 0..image.height {
            box_blur(image, y * image.width, 1, image.width, radius, &mut line);
        }
    }
    for _ in 0..PASSES {
        for x in 0..image.width {
            box_blur(image, x, image.width, image.height, radius, &mut line);
        }
    }
}

/// Blurs `n` pixels from `start`, `step` apart, with a box of a fractional radius; the border pixel is repeated.
fn box_blur(image: &mut RgbImage, start: usize, step: usize, n: usize, radius: f32, line: &mut Vec<[u8; 3]>) {
    let pixels = image.data.as_chunks_mut::<3>().0;
    line.clear();
    line.extend((0..n).map(|i| pixels[start + i * step]));
    let whole = radius as i64;
    let weight = ((1u32 << 24) as f32 / (radius * 2.0 + 1.0)) as u32;
    let edge = ((1u32 << 24) - (whole as u32 * 2 + 1) * weight) / 2;
    let at = |i: i64| line[i.clamp(0, n as i64 - 1) as usize];
    for i in 0..n as i64 {
        let (before, after) = (at(i - whole - 1), at(i + whole + 1));
        pixels[start + i as usize * step] = std::array::from_fn(|c| {
            let inside: u32 = (i - whole..=i + whole).map(|j| u32::from(at(j)[c])).sum();
            let sum = inside * weight + (u32::from(before[c]) + u32::from(after[c])) * edge + (1 << 23);
            (sum >> 24) as u8
        });
    }
}

//! PNG, row by row, so that a file that is cut off gives what it has.

use std::io::Cursor;

use png::{BitDepth, ColorType, DecodingError, Limits, Transformations};

use super::{DecodeError, Decoded, MAX_ALLOCATION, RgbImage, check_size};

pub(super) fn decode(bytes: &[u8]) -> Result<Decoded, DecodeError> {
    let damaged = |e: DecodingError| DecodeError::Damaged { format: "PNG", reason: e.to_string() };
    let limits = Limits { bytes: MAX_ALLOCATION };
    let mut decoder = png::Decoder::new_with_limits(Cursor::new(bytes), limits);
    // Palettes and 1, 2 and 4 bits become 8; transparency becomes a channel, which is dropped below.
    decoder.set_transformations(Transformations::EXPAND);
    decoder.ignore_checksums(false);
    let mut reader = decoder.read_info().map_err(damaged)?;
    let info = reader.info();
    let (width, height) = (info.width as usize, info.height as usize);
    check_size(width as u64, height as u64)?;
    let grey_16 = info.bit_depth == BitDepth::Sixteen && info.color_type == ColorType::Grayscale;
    let interlaced = info.interlaced;
    // Missing pixels are index 0 of a palette, else black, as with Pillow.
    let missing =
        info.palette.as_deref().and_then(|palette| palette.first_chunk()).copied().unwrap_or([0; 3]);
    let (color, depth) = reader.output_color_type();
    let channels = color.samples();
    let wide = depth == BitDepth::Sixteen;

    let mut image = RgbImage { width, height, data: vec![0; width * height * 3] };
    let mut damage = None;
    if interlaced {
        let size = reader
            .output_buffer_size()
            .ok_or(DecodeError::TooLarge { width: width as u64, height: height as u64 })?;
        let mut buffer = vec![0; size];
        reader.next_frame(&mut buffer).map_err(damaged)?;
        to_rgb(&buffer, channels, wide, grey_16, &mut image.data);
    } else {
        let mut rows = image.data.chunks_exact_mut(width * 3).enumerate();
        for (y, out) in &mut rows {
            match reader.next_row() {
                Ok(Some(row)) => to_rgb(row.data(), channels, wide, grey_16, out),
                Ok(None) => break,
                Err(error) if y == 0 => return Err(damaged(error)),
                Err(error) => {
                    damage = Some(format!("{error}; rows from {y} on are blank"));
                    fill(out, missing);
                    break;
                }
            }
        }
        rows.for_each(|(_, out)| fill(out, missing));
    }
    Ok(Decoded { image, damage })
}

fn fill(out: &mut [u8], color: [u8; 3]) {
    out.as_chunks_mut::<3>().0.fill(color);
}

/// One run of pixels with 1 to 4 channels of 8 or 16 bits to RGB.
fn to_rgb(from: &[u8], channels: usize, wide: bool, grey_16: bool, out: &mut [u8]) {
    let pixels = out.as_chunks_mut::<3>().0;
    match (channels, wide) {
        (3, false) => out.copy_from_slice(from),
        (1 | 2, false) => {
            for (pixel, grey) in pixels.iter_mut().zip(from.iter().step_by(channels)) {
                *pixel = [*grey; 3];
            }
        }
        (4, false) => {
            for (pixel, &[r, g, b, _]) in pixels.iter_mut().zip(from.as_chunks::<4>().0) {
                *pixel = [r, g, b];
            }
        }
        _ => {
            for (pixel, from) in pixels.iter_mut().zip(from.chunks_exact(channels * 2)) {
                // Pillow keeps 16-bit grey as it is and clips it later; of all else it reads the high byte.
                let value = |i: usize| match from[2 * i] {
                    high if !grey_16 => high,
                    0 => from[2 * i + 1],
                    _ => 255,
                };
                *pixel = if channels < 3 { [value(0); 3] } else { [value(0), value(1), value(2)] };
            }
        }
    }
}

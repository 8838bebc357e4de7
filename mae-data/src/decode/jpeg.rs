//! JPEG through libjpeg-turbo-rs, whose pixels equal those of libjpeg-turbo, which Pillow uses.

use libjpeg_turbo_rs::{Decoder, PixelFormat};

use super::{DecodeError, Decoded, MAX_ALLOCATION, MAX_PIXELS, RgbImage, check_size};

/// Progressive files beyond this number of scans are an attack on the decoder's time.
const MAX_SCANS: u32 = 500;

pub(super) fn decode(bytes: &[u8]) -> Result<Decoded, DecodeError> {
    let damaged =
        |e: libjpeg_turbo_rs::JpegError| DecodeError::Damaged { format: "JPEG", reason: e.to_string() };
    let mut decoder = Decoder::new(bytes).map_err(damaged)?;
    let header = decoder.header();
    let (width, height) = (header.width(), header.height());
    check_size(width as u64, height as u64)?;
    if header.precision != 8 {
        return Err(DecodeError::Unsupported(format!("JPEG of {} bits a channel", header.precision)));
    }
    let cmyk = match header.components.len() {
        1 | 3 => false,
        4 => true,
        n => return Err(DecodeError::Unsupported(format!("JPEG of {n} channels"))),
    };
    decoder.set_max_pixels(MAX_PIXELS as usize);
    decoder.set_max_memory(MAX_ALLOCATION);
    decoder.set_scan_limit(MAX_SCANS);
    // A file that is cut off gives the rows that are there, as with Pillow.
    decoder.set_lenient(true);
    decoder.set_output_format(if cmyk { PixelFormat::Cmyk } else { PixelFormat::Rgb });

    let mut data = vec![0; width * height * if cmyk { 4 } else { 3 }];
    let info = decoder.decode_image_into(&mut data).map_err(damaged)?;
    if cmyk {
        data = data.as_chunks::<4>().0.iter().flat_map(|&pixel| cmyk_to_rgb(pixel)).collect();
    }
    let damage = info.warnings.first().map(ToString::to_string);
    Ok(Decoded { image: RgbImage { width, height, data }, damage })
}

/// CMYK as JPEG files hold it, inverted: each colour times black, divided by 255 and rounded as Pillow does.
fn cmyk_to_rgb([c, m, y, k]: [u8; 4]) -> [u8; 3] {
    [c, m, y].map(|ink| {
        let product = u32::from(ink) * u32::from(k) + 128;
        (((product >> 8) + product) >> 8) as u8
    })
}

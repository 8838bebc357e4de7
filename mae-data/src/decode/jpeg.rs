//! JPEG through libjpeg-turbo-rs, whose pixels equal those of libjpeg-turbo, which Pillow uses.

use libjpeg_turbo_rs::decode::marker::MarkerReader;
use libjpeg_turbo_rs::{Decoder, JpegError, PixelFormat};

use super::{DecodeError, MAX_ALLOCATION, MAX_PIXELS, Place, RgbImage, Scratch, baseline, check_size};
use crate::transform::resample::Window;

/// Progressive files beyond this number of scans are an attack on the decoder's time.
const MAX_SCANS: u32 = 500;

/// Decodes at least the window that `choose` wants.
pub(super) fn decode(
    bytes: &[u8],
    choose: impl FnOnce((usize, usize)) -> Window,
    scratch: &mut Scratch,
) -> Result<Place, DecodeError> {
    let mut reader = MarkerReader::new(bytes);
    reader.set_scan_cap(MAX_SCANS as usize);
    let metadata = reader.read_markers().map_err(damaged)?;
    let (width, height) = (metadata.frame.width(), metadata.frame.height());
    check_size(width as u64, height as u64)?;
    let window = choose((height, width));
    if baseline::is_plain(&metadata)
        && baseline::decode(bytes, &metadata, window, &mut scratch.baseline, &mut scratch.image).is_some()
    {
        return Ok(Place { top: window.top, left: window.left, damage: None });
    }
    drop(metadata);
    whole(bytes, &mut scratch.image)
}

/// Decodes any kind of JPEG, also a damaged one, as far as it goes.
pub(super) fn whole(bytes: &[u8], image: &mut RgbImage) -> Result<Place, DecodeError> {
    let mut decoder = Decoder::new(bytes).map_err(damaged)?;
    let header = decoder.header();
    let (width, height) = (header.width(), header.height());
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

    (image.width, image.height) = (width, height);
    image.data.clear();
    image.data.resize(width * height * if cmyk { 4 } else { 3 }, 0);
    let info = decoder.decode_image_into(&mut image.data).map_err(damaged)?;
    if cmyk {
        image.data = image.data.as_chunks::<4>().0.iter().flat_map(|&pixel| cmyk_to_rgb(pixel)).collect();
    }
    Ok(Place { top: 0, left: 0, damage: info.warnings.first().map(ToString::to_string) })
}

fn damaged(error: JpegError) -> DecodeError {
    DecodeError::Damaged { format: "JPEG", reason: error.to_string() }
}

/// CMYK as JPEG files hold it, inverted: each colour times black, divided by 255 and rounded as Pillow does.
fn cmyk_to_rgb([c, m, y, k]: [u8; 4]) -> [u8; 3] {
    [c, m, y].map(|ink| {
        let product = u32::from(ink) * u32::from(k) + 128;
        (((product >> 8) + product) >> 8) as u8
    })
}

//! BMP, TIFF, WebP and Netpbm through the `image` crate.

use std::io::Cursor;

use image::metadata::Orientation;
use image::{DynamicImage, ImageDecoder, ImageReader, Limits};

use super::{DecodeError, Decoded, ImageFormat, MAX_ALLOCATION, RgbImage, check_size};

pub(super) fn decode(bytes: &[u8], format: ImageFormat) -> Result<Decoded, DecodeError> {
    let name = format.name();
    let format = match format {
        ImageFormat::Jpeg => image::ImageFormat::Jpeg,
        ImageFormat::Png => image::ImageFormat::Png,
        ImageFormat::Bmp => image::ImageFormat::Bmp,
        ImageFormat::Tiff => image::ImageFormat::Tiff,
        ImageFormat::WebP => image::ImageFormat::WebP,
        ImageFormat::Pnm => image::ImageFormat::Pnm,
    };
    let failed = |e: image::ImageError| match e {
        image::ImageError::Unsupported(e) => DecodeError::Unsupported(format!("{name}: {e}")),
        e => DecodeError::Damaged { format: name, reason: e.to_string() },
    };
    let reader = || ImageReader::with_format(Cursor::new(bytes), format);
    let (width, height) = reader().into_dimensions().map_err(failed)?;
    check_size(width.into(), height.into())?;
    let mut reader = reader();
    let mut limits = Limits::default();
    limits.max_alloc = Some(MAX_ALLOCATION as u64);
    reader.limits(limits);
    let mut decoder = reader.into_decoder().map_err(failed)?;
    // Of all formats, Pillow turns TIFF alone as its orientation says.
    let orientation = match format {
        image::ImageFormat::Tiff => decoder.orientation().map_err(failed)?,
        _ => Orientation::NoTransforms,
    };
    let mut decoded = DynamicImage::from_decoder(decoder).map_err(failed)?;
    decoded.apply_orientation(orientation);
    let (width, height) = (decoded.width() as usize, decoded.height() as usize);
    let data = match decoded {
        DynamicImage::ImageRgb8(image) => image.into_raw(),
        DynamicImage::ImageRgba8(image) => drop_alpha(&image.into_raw()),
        DynamicImage::ImageLuma8(image) => image.into_raw().into_iter().flat_map(|v| [v; 3]).collect(),
        DynamicImage::ImageLumaA8(image) => {
            image.into_raw().as_chunks::<2>().0.iter().flat_map(|&[v, _]| [v; 3]).collect()
        }
        // Pillow keeps 16-bit grey and clips it; of 16-bit colour it reads the high byte.
        DynamicImage::ImageLuma16(image) => {
            image.into_raw().into_iter().flat_map(|v| [v.min(255) as u8; 3]).collect()
        }
        DynamicImage::ImageLumaA16(image) => {
            image.into_raw().as_chunks::<2>().0.iter().flat_map(|&[v, _]| [(v >> 8) as u8; 3]).collect()
        }
        DynamicImage::ImageRgb16(image) => image.into_raw().into_iter().map(|v| (v >> 8) as u8).collect(),
        DynamicImage::ImageRgba16(image) => {
            let high: Vec<u8> = image.into_raw().into_iter().map(|v| (v >> 8) as u8).collect();
            drop_alpha(&high)
        }
        other => return Err(DecodeError::Unsupported(format!("{name} with pixels of {:?}", other.color()))),
    };
    Ok(Decoded { image: RgbImage { width, height, data }, damage: None })
}

fn drop_alpha(rgba: &[u8]) -> Vec<u8> {
    rgba.as_chunks::<4>().0.iter().flat_map(|&[r, g, b, _]| [r, g, b]).collect()
}

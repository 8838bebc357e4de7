//! Decoders against Pillow's pixels, and against bytes that are no image.

use std::fs;

use libjpeg_turbo_rs::{Encoder, PixelFormat, Subsampling};
use proptest::prelude::*;

use super::*;
use crate::rng::{KeyedRng, Purpose};
use crate::testing::{goldens, png};

fn input(name: &str) -> Vec<u8> {
    fs::read(goldens("preprocess").join("inputs").join(name)).unwrap()
}

#[test]
fn pixels_equal_pillows() {
    let folder = goldens("preprocess");
    let mut checked = 0;
    for entry in fs::read_dir(folder.join("inputs")).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        let decoded = decode(&input(&name)).unwrap_or_else(|e| panic!("{name}: {e}"));
        let expected = png(&folder.join("decoded").join(name.replace('.', "_") + ".png")).unwrap();
        assert!(decoded.image == expected, "{name} differs from Pillow");
        assert_eq!(decoded.damage.is_some(), name == "truncated.jpg", "{name}: {:?}", decoded.damage);
        checked += 1;
    }
    assert!(checked >= 14, "only {checked} files");
}

/// Cut off at any place a file gives an image or an error, and what is above the cut stays as it was.
#[test]
fn files_cut_off_never_panic() {
    for name in ["jpeg_420.jpg", "jpeg_progressive_444.jpg", "rgb.png", "rgb.bmp", "cmyk.jpg"] {
        let bytes = input(name);
        for length in (0..bytes.len()).step_by(bytes.len() / 97) {
            if let Err(DecodeError::Panicked(reason)) = decode(&bytes[..length]) {
                panic!("{name} cut at {length}: {reason}");
            }
        }
    }
}

#[test]
fn a_png_cut_off_keeps_its_first_rows() {
    let bytes = input("rgb.png");
    let whole = decode(&bytes).unwrap().image;
    let part = decode(&bytes[..bytes.len() * 3 / 4]).unwrap();
    let row = whole.width * 3;
    assert_eq!(part.image.data[..row * 10], whole.data[..row * 10]);
    assert!(part.image.data[row * (whole.height - 1)..].iter().all(|&v| v == 0), "the rest is black");
    insta::assert_snapshot!(part.damage.unwrap());

    let bytes = input("palette_p.png");
    let cut = decode(&bytes[..bytes.len() * 4 / 5]).unwrap().image;
    let palette = bytes.windows(4).position(|w| w == b"PLTE").unwrap() + 4;
    assert!(cut.data.ends_with(&bytes[palette..palette + 3]), "the first colour of the palette");
}

#[test]
fn errors_say_what_is_wrong() {
    let mut huge = input("rgb.png");
    huge[16..24].copy_from_slice(&[0, 1, 0, 0, 0, 1, 0, 0]);
    // The header's sum, over its type and content.
    let crc = crc32(&huge[12..29]);
    huge[29..33].copy_from_slice(&crc.to_be_bytes());
    let mut twelve_bit = input("jpeg_420.jpg");
    let sof = twelve_bit.windows(2).position(|w| w == [0xff, 0xc0]).unwrap();
    twelve_bit[sof + 4] = 12;
    let cases: [(&str, &[u8]); 6] = [
        ("empty", b""),
        ("html", b"<!DOCTYPE html>"),
        ("huge png", &huge),
        ("png header alone", &input("rgb.png")[..20]),
        ("jpeg header alone", &input("jpeg_420.jpg")[..20]),
        ("12-bit jpeg", &twelve_bit),
    ];
    let lines: Vec<String> =
        cases.iter().map(|(what, bytes)| format!("{what}: {}", decode(bytes).unwrap_err())).collect();
    insta::assert_snapshot!(lines.join("\n"));
}

/// The sum that ends a PNG chunk.
fn crc32(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(!0u32, |crc, &byte| {
        (0..8).fold(
            crc ^ u32::from(byte),
            |crc, _| {
                if crc & 1 == 1 { (crc >> 1) ^ 0xEDB8_8320 } else { crc >> 1 }
            },
        )
    })
}

/// An image with structure and noise, as a JPEG.
fn jpeg(size: (usize, usize), seed: u64, change: impl FnOnce(Encoder<'_>) -> Encoder<'_>) -> Vec<u8> {
    let mut rng = KeyedRng::new(seed, 0, 0, Purpose::Augment);
    let pixels: Vec<u8> = (0..size.0 * size.1 * 3)
        .map(|i| {
            let (x, y) = (i / 3 % size.1, i / 3 / size.1);
            ((x * (5 + i % 3) + y * 3) as f64 + 40.0 * rng.unit()) as u8
        })
        .collect();
    change(Encoder::new(&pixels, size.1, size.0, PixelFormat::Rgb)).encode().unwrap()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    /// A window of a JPEG equals that window of all of it, and of the other decoder's image.
    #[test]
    fn windows_are_parts_of_the_whole(
        size in (1usize..90, 1usize..90),
        corner in (0.0..1.0f64, 0.0..1.0f64),
        share in (0.0..1.0f64, 0.0..1.0f64),
        sampling in prop::sample::select(vec![
            Subsampling::S444, Subsampling::S422, Subsampling::S420, Subsampling::S440, Subsampling::S411,
        ]),
        grey: bool,
        restart in 0u16..6,
        quality in 20u8..100,
        seed: u64,
    ) {
        let bytes = jpeg(size, seed, |encoder| {
            encoder.subsampling(sampling).grayscale_from_color(grey).restart_blocks(restart).quality(quality)
        });
        let mut expected = RgbImage::default();
        jpeg::whole(&bytes, &mut expected).unwrap();
        let side = |size: usize, share: f64| 1 + (share * (size - 1) as f64) as usize;
        let (height, width) = (side(size.0, share.0), side(size.1, share.1));
        let top = (corner.0 * (size.0 - height + 1) as f64) as usize;
        let left = (corner.1 * (size.1 - width + 1) as f64) as usize;
        let mut scratch = Scratch::default();
        for window in [Window { top, left, height, width }, Window::whole(size)] {
            let (part, damage) = decode_part(&bytes, |_| window, &mut scratch).unwrap();
            prop_assert_eq!(damage, None);
            for y in window.top..window.top + window.height {
                let of = |image: &RgbImage, top: usize, left: usize| {
                    let start = ((y - top) * image.width + window.left - left) * 3;
                    image.data[start..start + window.width * 3].to_vec()
                };
                prop_assert!(of(part.pixels, part.top, part.left) == of(&expected, 0, 0), "row {}", y);
            }
        }
    }

    #[test]
    fn damaged_files_never_panic(
        name in prop::sample::select(vec![
            "jpeg_420.jpg", "jpeg_progressive_444.jpg", "cmyk.jpg", "rgb.png", "palette_p.png", "gray16.png", "rgb.bmp",
        ]),
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..20),
    ) {
        let mut bytes = input(name);
        for (index, value) in changes {
            let at = index.index(bytes.len());
            bytes[at] = value;
        }
        if let Ok(decoded) = decode(&bytes) {
            let RgbImage { width, height, data } = decoded.image;
            prop_assert_eq!(data.len(), width * height * 3);
        }
    }

    #[test]
    fn arbitrary_bytes_are_refused(
        magic in prop::sample::select(vec![
            &b"\xff\xd8\xff"[..], b"\x89PNG\r\n\x1a\n", b"BM", b"II*\0", b"MM\0*", b"RIFF\0\0\0\0WEBP", b"P6\n", b"P5 ", b"",
        ]),
        tail in prop::collection::vec(any::<u8>(), 0..300),
    ) {
        if let Ok(decoded) = decode(&[magic, &tail].concat()) {
            let RgbImage { width, height, data } = decoded.image;
            prop_assert_eq!(data.len(), width * height * 3);
        }
    }
}

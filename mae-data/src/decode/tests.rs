//! Decoders against Pillow's pixels, and against bytes that are no image.

use std::fs;

use proptest::prelude::*;

use super::*;
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

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

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

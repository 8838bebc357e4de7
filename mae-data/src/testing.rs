//! What the tests of several rooms share: the golden files and generated inputs.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::decode::RgbImage;

/// A folder of golden files: `$MAE_GOLDENS`, else the full set beside the workspace, else the copies inside it.
pub(crate) fn goldens(part: &str) -> PathBuf {
    let workspace = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let set = std::env::var_os("MAE_GOLDENS").map(PathBuf::from);
    let beside = workspace.join("../shared/goldens");
    let root = set.unwrap_or(if beside.is_dir() { beside } else { workspace.join("tests/goldens") });
    let folder = root.join(part);
    assert!(folder.is_dir(), "no golden files in {}", folder.display());
    folder
}

pub(crate) fn json(path: &Path) -> Value {
    serde_json::from_slice(&fs::read(path).unwrap()).unwrap()
}

/// Reads an 8-bit PNG by the `image` crate; `None` when this copy of the goldens lacks it.
pub(crate) fn png(path: &Path) -> Option<RgbImage> {
    let image = image::load_from_memory(&fs::read(path).ok()?).unwrap().into_rgb8();
    Some(RgbImage { width: image.width() as usize, height: image.height() as usize, data: image.into_raw() })
}

/// Reads a float32 `.npy` file; `None` when this copy of the goldens lacks it.
pub(crate) fn npy(path: &Path) -> Option<Vec<f32>> {
    let bytes = fs::read(path).ok()?;
    let header = 10 + usize::from(u16::from_le_bytes([bytes[8], bytes[9]]));
    assert!(String::from_utf8_lossy(&bytes[10..header]).contains("'<f4'"), "{}", path.display());
    Some(bytes[header..].as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b)).collect())
}

pub(crate) fn number(value: &Value) -> usize {
    value.as_u64().unwrap() as usize
}

/// The goldens' generated input tensor of this name: splitmix64 over an FNV-1a hash, in -2..2.
pub(crate) fn generated_input(name: &str, len: usize) -> Vec<f32> {
    let hash = name
        .bytes()
        .fold(0xcbf2_9ce4_8422_2325_u64, |h, b| (h ^ u64::from(b)).wrapping_mul(0x0100_0000_01b3));
    let value = |i: u64| {
        let mut z = hash.wrapping_add(i).wrapping_add(0x9E37_79B9_7F4A_7C15);
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        let u = ((z ^ (z >> 31)) >> 11) as f64 / (1u64 << 53) as f64;
        ((2.0 * u - 1.0) * 2.0) as f32
    };
    (0..len as u64).map(value).collect()
}

/// The largest difference of two images of equal size.
pub(crate) fn largest_difference(a: &RgbImage, b: &RgbImage) -> u8 {
    assert_eq!((a.width, a.height), (b.width, b.height));
    a.data.iter().zip(&b.data).map(|(a, b)| a.abs_diff(*b)).max().unwrap()
}

/// A small PNG whose pixels depend on `seed`.
pub(crate) fn sample_png(seed: u8) -> Vec<u8> {
    let image = image::RgbImage::from_fn(12, 9, |x, y| {
        let value = |k: u32| (x * k + y * 7).wrapping_mul(u32::from(seed) + 3) as u8;
        image::Rgb([value(3), value(5), value(11)])
    });
    let mut bytes = std::io::Cursor::new(Vec::new());
    image.write_to(&mut bytes, image::ImageFormat::Png).unwrap();
    bytes.into_inner()
}

/// A tar archive of these files, in this order.
pub(crate) fn tar_of(files: &[(&str, Vec<u8>)]) -> Vec<u8> {
    let mut builder = tar::Builder::new(Vec::new());
    for (name, bytes) in files {
        let mut header = tar::Header::new_gnu();
        header.set_size(bytes.len() as u64);
        header.set_mode(0o644);
        builder.append_data(&mut header, name, &bytes[..]).unwrap();
    }
    builder.into_inner().unwrap()
}

pub(crate) fn gzip(bytes: &[u8]) -> Vec<u8> {
    use std::io::Write;
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

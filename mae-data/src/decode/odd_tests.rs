//! Odd images (`tests/odd`, made by Pillow 13) against Pillow's pixels.

use std::fs;
use std::path::Path;

use super::*;
use crate::testing::{largest_difference, png};

/// What is refused with a clear error instead of decoded. Nothing else is decoded to other pixels than Pillow's.
const REFUSED: [&str; 4] = ["float.tif", "grey_alpha.tif", "int_32.tif", "palette.tif"];

/// A JPEG inside a TIFF is decoded by another library, whose values differ by this much at most.
const CLOSE: (&str, u8) = ("rgb_jpeg.tif", 4);

#[test]
fn odd_images_are_pillows_or_refused() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/odd");
    let mut names: Vec<String> = fs::read_dir(&folder)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .filter(|name| !name.ends_with(".rgb.png") && !name.ends_with(".py"))
        .collect();
    names.sort();
    assert!(names.len() > 60);
    let mut wrong = Vec::new();
    for name in &names {
        let decoded = decode(&fs::read(folder.join(name)).unwrap());
        let expected = png(&folder.join(format!("{name}.rgb.png")));
        match (decoded, expected) {
            (Ok(decoded), Some(expected)) if decoded.image == expected => {
                if REFUSED.contains(&name.as_str()) || decoded.damage.is_some() {
                    wrong.push(format!("{name}: {:?}", decoded.damage));
                }
            }
            (Ok(decoded), Some(expected)) if name == CLOSE.0 => {
                let difference = largest_difference(&decoded.image, &expected);
                if difference > CLOSE.1 {
                    wrong.push(format!("{name}: differs by {difference}"));
                }
            }
            (Ok(_), Some(_)) => wrong.push(format!("{name}: other pixels")),
            (Err(_), _) if REFUSED.contains(&name.as_str()) => {}
            (Err(error), Some(_)) => wrong.push(format!("{name}: {error}")),
            (_, None) => wrong.push(format!("{name}: Pillow's pixels are missing")),
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

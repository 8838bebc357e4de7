//! JPEG: any bytes give an image or an error, and a window that is decoded alone equals that window of the whole.
#![no_main]

use libfuzzer_sys::fuzz_target;
use mae_data::decode::{self, Scratch};
use mae_data::transform::Window;

fuzz_target!(|bytes: &[u8]| {
    let bytes = [b"\xff\xd8\xff", bytes].concat();
    let Ok(whole) = decode::decode(&bytes) else { return };
    let image = whole.image;
    assert_eq!(image.data.len(), image.width * image.height * 3);
    // A window that the input chooses.
    let draw = |i: usize, below: usize| usize::from(bytes[bytes.len() - 1 - i % bytes.len()]) * below / 256;
    let (top, left) = (draw(0, image.height), draw(1, image.width));
    let (height, width) = (1 + draw(2, image.height - top), 1 + draw(3, image.width - left));
    let window = Window { top, left, height, width };
    let mut scratch = Scratch::default();
    let (part, _) = decode::decode_part(&bytes, |_| window, &mut scratch).expect("a window of a readable image");
    for y in top..top + height {
        let start = ((y - part.top) * part.pixels.width + left - part.left) * 3;
        let expected = (y * image.width + left) * 3;
        assert_eq!(
            part.pixels.data[start..start + width * 3],
            image.data[expected..expected + width * 3],
            "row {y} of {window:?}"
        );
    }
});

//! PNG: any bytes give an image of the size it says, or an error.
#![no_main]

use libfuzzer_sys::fuzz_target;
use mae_data::decode;

fuzz_target!(|bytes: &[u8]| {
    if let Ok(decoded) = decode::decode(&[b"\x89PNG\r\n\x1a\n", bytes].concat()) {
        let image = decoded.image;
        assert_eq!(image.data.len(), image.width * image.height * 3);
    }
});

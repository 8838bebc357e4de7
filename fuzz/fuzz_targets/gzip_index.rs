//! Restart points of a gzip file: any bytes give an error, or points that give back what was unpacked.
#![no_main]

use std::io::{Error, ErrorKind};

use libfuzzer_sys::fuzz_target;
use mae_data::source::gzip::build_points;

/// A small file may unpack to much, which takes time and shows nothing new.
const MOST: usize = 4 << 20;

fuzz_target!(|bytes: &[u8]| {
    let mut whole = Vec::new();
    let points = build_points(bytes, &mut |piece, _| {
        whole.extend_from_slice(piece);
        if whole.len() > MOST { Err(Error::from(ErrorKind::FileTooLarge)) } else { Ok(()) }
    });
    let Ok(points) = points else { return };
    for offset in (0..whole.len()).step_by(whole.len() / 8 + 1) {
        let size = (whole.len() - offset).min(5000);
        match points.read(bytes, offset as u64, size) {
            Ok(read) => assert!(read == whole[offset..offset + size]),
            Err(error) => panic!("{size} bytes at {offset}: {error}"),
        }
    }
    assert!(points.read(bytes, whole.len() as u64, 1).is_err());
});

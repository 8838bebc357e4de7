//! Members in parallel and restart points, against plain gunzip.

use std::fs::File;
use std::io::{self, Read, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use flate2::Compression;
use flate2::write::GzEncoder;
use proptest::prelude::*;

use super::*;

fn gzip(bytes: &[u8], level: u32) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::new(level));
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

/// Bytes of which some repeat, near and far, and some do not.
fn data(length: usize, seed: u8) -> Vec<u8> {
    let mut noise = vec![0; length];
    blake3::Hasher::new().update(&[seed]).finalize_xof().fill(&mut noise);
    let mut bytes: Vec<u8> = Vec::with_capacity(length);
    while bytes.len() < length {
        let at = bytes.len();
        let choice = noise[at];
        let run = 1 + usize::from(noise[(at + 1) % length]) * 3;
        if choice < 120 || at < 40_000 {
            bytes.extend_from_slice(&noise[at..(at + run).min(length)]);
        } else {
            let back = 1 + (usize::from(noise[(at + 2) % length]) * 137) % 32_000;
            for i in 0..run.min(length - at) {
                bytes.push(bytes[at + i - back]);
            }
        }
    }
    bytes
}

fn unpack(packed: &[u8], cut: Cut) -> (io::Result<Vec<u8>>, u64) {
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(packed).unwrap();
    let mut members = Members::new(file, Arc::new(AtomicU64::new(0)), cut).unwrap();
    let mut out = Vec::new();
    let result = members.read_to_end(&mut out).map(|_| out);
    (result, members.count().load(Ordering::Relaxed))
}

const SMALL: Cut = Cut { part: 3000, search: 200_000, threads: 3 };

#[test]
fn members_are_read_in_order_by_any_number_of_threads() {
    let parts: Vec<Vec<u8>> = (0..40).map(|i| data(1 + (i * 977) % 9000, i as u8)).collect();
    let whole = parts.concat();
    let packed: Vec<u8> = parts.iter().flat_map(|part| gzip(part, 1)).collect();
    for threads in [1, 2, 5] {
        let (out, count) = unpack(&packed, Cut { threads, ..SMALL });
        assert!(out.unwrap() == whole && count == 40, "{threads} threads");
    }
    // Padding behind the last member, as on tapes, and one member alone.
    assert!(unpack(&[&packed[..], &[0; 5000]].concat(), SMALL).0.unwrap() == whole);
    let (out, count) = unpack(&gzip(&whole, 6), SMALL);
    assert!(out.unwrap() == whole && count == 1);
}

#[test]
fn what_only_looks_like_a_member_is_none() {
    // A header stored inside a member's data, and a whole member inside another.
    let fake = b"\x1f\x8b\x08\x00\x00\x00\x00\x00\x00\x03 and so on ".repeat(400);
    let inner = gzip(&data(9000, 1), 1);
    let parts = [fake, data(5000, 2), [inner.clone(), inner].concat(), data(20_000, 3)];
    let packed: Vec<u8> = parts.iter().flat_map(|part| gzip(part, 0)).collect();
    let (out, count) = unpack(&packed, SMALL);
    assert!(out.unwrap() == parts.concat() && count == 4);
}

#[test]
fn damage_and_missing_ends_are_errors() {
    let packed: Vec<u8> = (0..10).flat_map(|i| gzip(&data(8000, i), 1)).collect();
    for length in (1..packed.len()).step_by(packed.len() / 50) {
        let (out, _) = unpack(&packed[..length], SMALL);
        let whole = (0..10).scan(0, |end, i| {
            *end += gzip(&data(8000, i), 1).len();
            Some(*end)
        });
        assert_eq!(out.is_ok(), whole.into_iter().any(|end| end == length), "cut at {length}");
    }
    let mut damaged = packed.clone();
    damaged[packed.len() / 2] ^= 0x55;
    assert!(unpack(&damaged, SMALL).0.is_err());
}

fn points_of(packed: &[u8]) -> (Points, Vec<u8>) {
    let mut out = Vec::new();
    let points = build_points(packed, &mut |bytes, read| {
        assert!(read <= packed.len() as u64);
        out.extend_from_slice(bytes);
        Ok(())
    });
    (points.unwrap(), out)
}

#[test]
fn any_range_can_be_read_from_restart_points() {
    let whole = data(900_000, 9);
    let (first, second) = whole.split_at(400_000);
    for packed in [gzip(&whole, 6), gzip(&whole, 0), [gzip(first, 9), gzip(second, 1)].concat()] {
        let (points, out) = points_of(&packed);
        assert!(out == whole);
        let mut table = Vec::new();
        points.write(&mut table);
        assert!(Points::parse(&table) == Some(points.clone()));
        assert!(table.len() < packed.len() / 2, "{} of {}", table.len(), packed.len());
        for (offset, size) in
            (0..whole.len() - 70_000).step_by(7919).zip([1, 100, 5000, 70_000].into_iter().cycle())
        {
            let read = points.read(&packed, offset as u64, size).unwrap();
            assert!(read == whole[offset..offset + size], "{size} bytes at {offset}");
        }
        assert!(points.read(&packed, whole.len() as u64 - 5, 6).is_err(), "beyond the end");
        assert!(points.read(&packed, u64::MAX, 1).is_err());
        assert!(points.read(&packed[..100], 500_000, 10).is_err(), "another file");
    }
}

#[test]
fn incompressible_data_takes_small_windows() {
    let mut noise = vec![0; 4 << 20];
    blake3::Hasher::new().finalize_xof().fill(&mut noise);
    let packed = gzip(&noise, 6);
    let (points, _) = points_of(&packed);
    let mut table = Vec::new();
    points.write(&mut table);
    assert!(table.len() < packed.len() / 200, "{} bytes of points for {}", table.len(), packed.len());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn damaged_files_and_points_never_panic(
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..5),
        offset in 0u64..200_000,
    ) {
        let whole = data(150_000, 4);
        let good = gzip(&whole, 6);
        let mut packed = good.clone();
        for (index, value) in &changes {
            let at = index.index(packed.len());
            packed[at] = *value;
        }
        let _ = build_points(&packed, &mut |_, _| Ok(()));
        let (points, _) = points_of(&good);
        let _ = points.read(&packed, offset, 1000);
        let mut table = Vec::new();
        points.write(&mut table);
        for (index, value) in &changes {
            let at = index.index(table.len());
            table[at] = *value;
        }
        if let Some(points) = Points::parse(&table) {
            let _ = points.read(&good, offset, 1000);
        }
    }

    #[test]
    fn arbitrary_points_never_panic(table in prop::collection::vec(any::<u8>(), 0..300)) {
        if let Some(points) = Points::parse(&table) {
            let _ = points.read(&gzip(&[7; 1000], 6), 10, 10);
        }
    }
}

#[test]
fn a_file_that_is_no_gzip_is_an_error() {
    let file: File = tempfile::tempfile().unwrap();
    let mut members = Members::new(file, Arc::default(), SMALL).unwrap();
    assert!(members.read_to_end(&mut Vec::new()).is_err());
    assert!(build_points(b"no gzip", &mut |_, _| Ok(())).is_err());
    assert!(build_points(b"", &mut |_, _| Ok(())).is_err());
}

//! Zip archives, good and hostile.

use std::io::{Cursor, Write};

use ::zip::write::{SimpleFileOptions, ZipWriter};
use proptest::prelude::*;

use super::*;

fn options(method: ::zip::CompressionMethod) -> SimpleFileOptions {
    SimpleFileOptions::default().compression_method(method).unix_permissions(0o644)
}

fn archive(add: impl FnOnce(&mut ZipWriter<Cursor<Vec<u8>>>)) -> Vec<u8> {
    let mut writer = ZipWriter::new(Cursor::new(Vec::new()));
    add(&mut writer);
    writer.finish().unwrap().into_inner()
}

fn list(bytes: &[u8]) -> (Vec<String>, Vec<String>) {
    let (zip, mut census) = Zip::open("a.zip", Slice(bytes)).unwrap();
    census.sort();
    let read = |sample: &Sample| match zip.unpack(sample) {
        Ok(bytes) => format!("{}: {} bytes", sample.name, bytes.len()),
        Err(error) => format!("{}: {error}", sample.name),
    };
    (census.samples.iter().map(read).collect(), census.notes())
}

#[test]
fn hostile_members_are_counted_and_left_out() {
    let stored = options(::zip::CompressionMethod::Stored);
    let bytes = archive(|zip| {
        for name in ["cat/a.png", "../../outside.png", "/absolute.png", "cat\\windows.png", "cat/c.png"] {
            zip.start_file(name, stored).unwrap();
            zip.write_all(name.as_bytes()).unwrap();
        }
        zip.add_directory("dog/", stored).unwrap();
        zip.add_symlink("cat/link.png", "/etc/passwd", stored).unwrap();
        zip.start_file(format!("{}.png", "n".repeat(5000)), stored).unwrap();
    });
    let (images, notes) = list(&bytes);
    assert_eq!(images, ["cat/a.png: 9 bytes", "cat/c.png: 9 bytes", "cat/windows.png: 15 bytes"]);
    assert_eq!(
        notes,
        [
            "links or devices, not followed: 1",
            "members with an absolute name or '..' in it, left out: 2",
            "members with a name of more than 4096 bytes, left out: 1"
        ]
    );
}

#[test]
fn a_member_is_never_longer_than_its_entry_says() {
    let deflated = options(::zip::CompressionMethod::Deflated);
    let mut bytes = archive(|zip| {
        zip.start_file("bomb.png", deflated).unwrap();
        zip.write_all(&vec![0; 3 << 20]).unwrap();
        zip.start_file("fine.png", deflated).unwrap();
        zip.write_all(&[5; 1000]).unwrap();
    });
    assert_eq!(list(&bytes).0, ["bomb.png: 3145728 bytes", "fine.png: 1000 bytes"]);
    // The table of contents now claims 1000 bytes.
    let entry = bytes.windows(4).position(|w| w == b"PK\x01\x02").unwrap();
    bytes[entry + 24..entry + 28].copy_from_slice(&1000u32.to_le_bytes());
    let (images, _) = list(&bytes);
    assert!(images[0].starts_with("bomb.png: Invalid size"), "{images:?}");
    // And 1 GiB, which is not taken at its word.
    bytes[entry + 24..entry + 28].copy_from_slice(&(1u32 << 30).to_le_bytes());
    assert!(list(&bytes).0[0].starts_with("bomb.png: Invalid size"));
}

#[test]
fn encrypted_and_unknown_members_are_counted() {
    let stored = options(::zip::CompressionMethod::Stored);
    let mut bytes = archive(|zip| {
        for name in ["a.png", "b.png", "c.png"] {
            zip.start_file(name, stored).unwrap();
            zip.write_all(b"content").unwrap();
        }
    });
    let entries: Vec<usize> =
        bytes.windows(4).enumerate().filter(|(_, w)| *w == b"PK\x01\x02").map(|(i, _)| i).collect();
    bytes[entries[0] + 8] |= 1;
    bytes[entries[1] + 10] = 14;
    let (images, notes) = list(&bytes);
    assert_eq!(images, ["c.png: 7 bytes"]);
    assert_eq!(
        notes,
        [
            "encrypted members, left out: 1",
            "members packed by a method other than deflate and zstd, left out: 1"
        ]
    );
}

#[test]
fn damage_is_seen() {
    let stored = options(::zip::CompressionMethod::Stored);
    let mut bytes = archive(|zip| {
        zip.start_file("a.png", stored).unwrap();
        zip.write_all(b"content").unwrap();
    });
    let open = |bytes: &[u8]| Zip::open("a.zip", Slice(bytes)).err().map(|e| e.to_string());
    assert!(open(&bytes[..bytes.len() - 30]).unwrap().contains("no whole zip archive"));
    let at = bytes.windows(7).position(|w| w == b"content").unwrap();
    bytes[at] ^= 1;
    assert!(list(&bytes).0[0].starts_with("a.png: Invalid checksum"));
}

proptest! {
    #[test]
    fn damaged_archives_never_panic(
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..8),
    ) {
        let mut bytes = archive(|zip| {
            for method in [::zip::CompressionMethod::Stored, ::zip::CompressionMethod::Deflated] {
                zip.start_file(format!("{method}/a.png"), options(method)).unwrap();
                zip.write_all(&[7; 300]).unwrap();
            }
        });
        for (index, value) in changes {
            let at = index.index(bytes.len());
            bytes[at] = value;
        }
        let _ = unpack(&bytes, &mut |_, bytes| { let _ = bytes; });
    }
}

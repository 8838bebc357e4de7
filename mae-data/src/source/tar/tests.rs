//! The walker against archives of the `tar` crate, and against bytes that are no archive.

use std::io::BufReader;

use proptest::prelude::*;

use super::*;

/// An archive with every kind of member and name, and what the `tar` crate sees in it.
fn varied() -> Vec<u8> {
    let mut builder = tar::Builder::new(Vec::new());
    let mut add = |kind: tar::EntryType, name: &str, bytes: &[u8], mut header: tar::Header| {
        header.set_entry_type(kind);
        header.set_size(bytes.len() as u64);
        header.set_mode(0o644);
        if matches!(kind, tar::EntryType::Symlink | tar::EntryType::Link) {
            builder.append_link(&mut header, name, "target").unwrap();
        } else {
            builder.append_data(&mut header, name, bytes).unwrap();
        }
    };
    let (gnu, ustar) = (tar::Header::new_gnu, tar::Header::new_ustar);
    let long = format!("{}/image.png", "folder".repeat(30));
    let prefixed = format!("{}/{}.png", "p".repeat(120), "n".repeat(80));
    add(tar::EntryType::Directory, "cat/", b"", gnu());
    add(tar::EntryType::Regular, "cat/a.png", &[7; 1000], gnu());
    add(tar::EntryType::Regular, "cat/empty.png", b"", ustar());
    add(tar::EntryType::Regular, &long, b"long name", gnu());
    add(tar::EntryType::Regular, &prefixed, b"ustar prefix", ustar());
    add(tar::EntryType::Symlink, "cat/link.png", b"", gnu());
    add(tar::EntryType::Link, "cat/hard.png", b"", gnu());
    add(tar::EntryType::Fifo, "cat/pipe.png", b"", gnu());
    builder.append_pax_extensions([("path", "pax/näme.png".as_bytes()), ("mtime", b"1.5")]).unwrap();
    let mut header = gnu();
    header.set_size(3);
    header.set_path("short").unwrap();
    header.set_cksum();
    builder.append(&header, &b"pax"[..]).unwrap();
    builder.into_inner().unwrap()
}

#[test]
fn members_are_those_that_the_tar_crate_sees() {
    let bytes = varied();
    let members = walk(&bytes).unwrap();
    let mut archive = tar::Archive::new(&bytes[..]);
    let expected: Vec<(String, u64, u64)> = archive
        .entries()
        .unwrap()
        .map(|entry| {
            let entry = entry.unwrap();
            let name = String::from_utf8_lossy(&entry.path_bytes()).into_owned();
            (name, entry.raw_file_position(), entry.size())
        })
        .collect();
    let found: Vec<(String, u64, u64)> = members.iter().map(|m| (m.name.clone(), m.offset, m.size)).collect();
    assert_eq!(found, expected);
    let kinds: Vec<Kind> = members.iter().map(|m| m.kind).collect();
    use Kind::{Directory, File, Link, Other};
    assert_eq!(kinds, [Directory, File, File, File, File, Link, Link, Other, File]);
}

#[test]
fn a_stream_in_small_pieces_is_the_same() {
    let bytes = varied();
    let mut walker = Walker::new(BufReader::with_capacity(7, &bytes[..]));
    let mut members = Vec::new();
    while let Some(member) = walker.next_member().unwrap() {
        let mut payload = Vec::new();
        walker.copy_payload(&mut payload).unwrap();
        assert_eq!(payload, bytes[member.offset as usize..][..member.size as usize]);
        members.push(member);
    }
    assert_eq!(members, walk(&bytes).unwrap());
    assert!(walker.expect_end_marker().is_ok() && walker.drain().unwrap());
}

#[test]
fn an_archive_cut_off_names_its_last_whole_member() {
    let bytes = varied();
    let members = walk(&bytes).unwrap();
    let end = members.last().unwrap().offset as usize + 3;
    for length in (1..end).step_by(41).filter(|length| length % 512 != 0) {
        let error = match walk(&bytes[..length]) {
            // The padding of the last member may be missing.
            Ok(found) => {
                let last = found.last().unwrap();
                assert!(last.offset + last.size <= length as u64);
                continue;
            }
            Err(error) => error,
        };
        assert!(matches!(error.cause, Cause::Truncated), "{error:?}");
        assert_eq!(error.at, length as u64);
        let whole = members.iter().rfind(|m| m.offset + m.size <= length as u64).map(|m| m.name.clone());
        // A member without payload is whole only once the next header was asked for, so it may be the one before.
        if error.last_member != whole {
            let before = members.iter().rev().skip_while(|m| Some(&m.name) != whole.as_ref()).nth(1);
            assert_eq!(error.last_member, before.map(|m| m.name.clone()), "cut at {length}");
        }
    }
}

/// A header with its checksum, changed by `change` before the sum is taken.
fn header(change: impl Fn(&mut [u8; BLOCK])) -> Vec<u8> {
    let mut header = [0; BLOCK];
    header[..5].copy_from_slice(b"a.png");
    header[124..135].copy_from_slice(b"00000000000");
    header[156] = b'0';
    change(&mut header);
    header[148..156].fill(b' ');
    let sum: u32 = header.iter().map(|b| u32::from(*b)).sum();
    header[148..155].copy_from_slice(format!("{sum:06o}\0").as_bytes());
    header.to_vec()
}

#[test]
fn hostile_headers_are_errors() {
    let pax = |record: &[u8]| {
        let mut bytes = header(|h| {
            h[156] = b'x';
            h[124..135].copy_from_slice(format!("{:011o}", record.len()).as_bytes());
        });
        bytes.extend_from_slice(record);
        bytes.resize(bytes.len().next_multiple_of(BLOCK), 0);
        bytes
    };
    let cases: Vec<(&str, Vec<u8>)> = vec![
        ("no tar", b"PK\x03\x04".repeat(200)),
        ("not octal", header(|h| h[124] = b'9')),
        ("negative size", header(|h| h[124..136].fill(0xff))),
        (
            "size of 2^63",
            header(|h| h[124..136].copy_from_slice(&[0x80, 0, 0, 0, 0x80, 0, 0, 0, 0, 0, 0, 0])),
        ),
        (
            "size near 2^64",
            header(|h| h[124..136].copy_from_slice(&[0x80, 0, 0, 0, 255, 255, 255, 255, 255, 255, 255, 255])),
        ),
        ("number beyond 64 bits", header(|h| h[124..136].copy_from_slice(&[0x81; 12]))),
        (
            "name of 1 GiB",
            header(|h| {
                h[156] = b'L';
                h[124..135].copy_from_slice(b"10000000000");
            }),
        ),
        ("PAX length of 0", pax(b"0 path=x\n")),
        ("PAX length beyond the end", pax(b"99 path=x\n")),
        ("PAX length beyond 64 bits", pax(b"99999999999999999999999 path=x\n")),
        ("PAX without equals sign", pax(b"9 pathx.\n")),
        ("PAX size that is no number", pax(b"12 size=abc\n")),
        ("PAX without end", pax(b"")),
    ];
    let lines: Vec<String> = cases
        .iter()
        .map(|(what, bytes)| match walk(bytes) {
            Ok(members) => format!("{what}: {} members", members.len()),
            Err(error) => format!("{what}: {:?} at {}", error.cause, error.at),
        })
        .collect();
    insta::assert_snapshot!(lines.join("\n"));
}

#[test]
fn sparse_members_are_not_files() {
    let mut old = header(|h| {
        h[156] = b'S';
        h[482] = 1;
    });
    let mut map = vec![0; 2 * BLOCK];
    map[504] = 1;
    old.extend_from_slice(&map);
    old.extend(header(|_| {}));
    let members = walk(&old).unwrap();
    assert_eq!(members.iter().map(|m| m.kind).collect::<Vec<_>>(), [Kind::Sparse, Kind::File]);
}

#[test]
fn a_million_empty_members_need_little_memory() {
    let one = header(|_| {});
    let bytes: Vec<u8> = one.iter().copied().cycle().take(BLOCK * 100_000).collect();
    let mut walker = Walker::new(&bytes[..]);
    let mut count = 0;
    while walker.next_member().unwrap().is_some() {
        count += 1;
    }
    assert_eq!(count, 100_000);
    assert!(matches!(walker.expect_end_marker(), Err(TarError { cause: Cause::Truncated, .. })));
}

proptest! {
    #[test]
    fn arbitrary_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..3000)) {
        let _ = walk(&bytes);
    }

    #[test]
    fn damaged_archives_never_panic(
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..8),
        fix_sums: bool,
    ) {
        let mut bytes = varied();
        for (index, value) in changes {
            let at = index.index(bytes.len());
            bytes[at] = value;
        }
        if fix_sums {
            for block in bytes.chunks_exact_mut(BLOCK).filter(|b| b[148] != 0 && b[156] != 0) {
                block[148..156].fill(b' ');
                let sum: u32 = block.iter().map(|b| u32::from(*b)).sum();
                block[148..155].copy_from_slice(format!("{sum:06o}\0").as_bytes());
            }
        }
        if let Ok(members) = walk(&bytes) {
            for member in members {
                prop_assert!(member.offset + member.size <= bytes.len() as u64);
            }
        }
    }
}

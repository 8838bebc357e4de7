//! The cache file's format.

use proptest::prelude::*;

use std::io::Read;

use super::*;
use crate::source::index::Skip;

fn identity(byte: u8) -> Identity {
    Identity([byte; 32])
}

fn census() -> Census {
    let sample = |name: &str, offset, size| Sample { name: name.into(), offset, size, part: 0 };
    let mut census = Census::default();
    for skip in [Skip::Link, Skip::Link, Skip::UnsafeName, Skip::Oversized] {
        census.skip(skip);
    }
    census.folder("a/b");
    census.samples =
        vec![sample("a/b/1.png", 128, 10), sample("a/b/ü.png", 138, 0), sample("a/c.png", 138, 62)];
    census
}

fn written_as(kind: Kind, points: Option<&Points>) -> Vec<u8> {
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(&[7; 200]).unwrap();
    finish(&mut file, 200, &census(), points, (identity(1), kind, place_of("/d/a.tar.gz"))).unwrap();
    assert_eq!(read_place(&file), Some(place_of("/d/a.tar.gz")));
    let mut bytes = Vec::new();
    file.seek(SeekFrom::Start(0)).unwrap();
    file.read_to_end(&mut bytes).unwrap();
    bytes
}

fn written() -> Vec<u8> {
    written_as(Kind::Copy, None)
}

#[test]
fn a_table_comes_back_as_it_was() {
    assert!(parse(&written(), identity(1), Kind::Copy) == Ok((census(), Points::default())));
    let bytes = written_as(Kind::Points, Some(&Points::default()));
    assert!(parse(&bytes, identity(1), Kind::Points) == Ok((census(), Points::default())));
    assert!(parse(&bytes, identity(1), Kind::Copy).is_err(), "another kind");
}

#[test]
fn an_archive_is_told_by_size_time_and_content() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.tar.gz");
    let time = std::time::SystemTime::now() - std::time::Duration::from_secs(1000);
    let identity = |bytes: &[u8], time| {
        std::fs::write(&path, bytes).unwrap();
        let file = File::options().write(true).read(true).open(&path).unwrap();
        file.set_modified(time).unwrap();
        Identity::of(&file).unwrap()
    };
    let bytes = vec![1; 300_000];
    let base = identity(&bytes, time);
    assert_eq!(base, identity(&bytes, time));
    assert_ne!(base, identity(&bytes, time + std::time::Duration::from_nanos(1)));
    assert_ne!(base, identity(&bytes[1..], time));
    for at in [0, 65_535, 299_999, 300_000 / 9 * 4 + 5] {
        let mut other = bytes.clone();
        other[at] = 2;
        assert_ne!(base, identity(&other, time), "byte {at}");
    }
    for short in [&b""[..], b"x"] {
        identity(short, time);
    }
}

#[test]
fn stale_torn_and_foreign_files_are_seen() {
    let good = written();
    let changed = |at: usize| {
        let mut bytes = good.clone();
        bytes[at] ^= 1;
        parse(&bytes, identity(1), Kind::Copy).unwrap_err()
    };
    insta::assert_snapshot!(
        [
            format!("another archive: {}", parse(&good, identity(2), Kind::Copy).unwrap_err()),
            format!("cut off: {}", parse(&good[..good.len() - 1], identity(1), Kind::Copy).unwrap_err()),
            format!("too short: {}", parse(&good[..50], identity(1), Kind::Copy).unwrap_err()),
            format!("another version: {}", changed(8)),
            format!("identity: {}", changed(20)),
            format!("offset: {}", changed(50)),
            format!("header sum: {}", changed(120)),
            format!("table: {}", changed(good.len() - 1)),
        ]
        .join("\n")
    );
}

proptest! {
    #[test]
    fn arbitrary_tables_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
        let _ = read_table(&bytes, 1000);
        let _ = parse(&bytes, identity(1), Kind::Points);
    }

    #[test]
    fn changed_tables_stay_inside(changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6)) {
        let mut table = write_table(&census());
        for (index, value) in changes {
            let at = index.index(table.len());
            table[at] = value;
        }
        if let Some((census, _)) = read_table(&table, 200) {
            prop_assert!(census.samples.iter().all(|s| s.offset + s.size <= 200));
        }
    }
}

//! The cache file's format.

use proptest::prelude::*;

use super::*;

fn identity(byte: u8) -> Identity {
    Identity([byte; 32])
}

fn census() -> Census {
    let sample = |name: &str, offset, size| Sample { name: name.into(), offset, size };
    let mut census = Census { links: 3, unsafe_names: 2, oversized: 1, ..Census::default() };
    census.folder("a/b");
    census.samples =
        vec![sample("a/b/1.png", 128, 10), sample("a/b/ü.png", 138, 0), sample("a/c.png", 138, 62)];
    census
}

fn written() -> Vec<u8> {
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(&[7; 200]).unwrap();
    finish(&mut file, 200, &census(), identity(1)).unwrap();
    let mut bytes = Vec::new();
    file.seek(SeekFrom::Start(0)).unwrap();
    file.read_to_end(&mut bytes).unwrap();
    bytes
}

#[test]
fn a_table_comes_back_as_it_was() {
    assert!(parse(&written(), identity(1)) == Ok(census()));
}

#[test]
fn stale_torn_and_foreign_files_are_seen() {
    let good = written();
    let changed = |at: usize| {
        let mut bytes = good.clone();
        bytes[at] ^= 1;
        parse(&bytes, identity(1)).unwrap_err()
    };
    insta::assert_snapshot!(
        [
            format!("another archive: {}", parse(&good, identity(2)).unwrap_err()),
            format!("cut off: {}", parse(&good[..good.len() - 1], identity(1)).unwrap_err()),
            format!("too short: {}", parse(&good[..50], identity(1)).unwrap_err()),
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
        let _ = parse(&bytes, identity(1));
    }

    #[test]
    fn changed_tables_stay_inside(changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6)) {
        let mut table = write_table(&census());
        for (index, value) in changes {
            let at = index.index(table.len());
            table[at] = value;
        }
        if let Some(census) = read_table(&table, 200) {
            prop_assert!(census.samples.iter().all(|s| s.offset + s.size <= 200));
        }
    }
}

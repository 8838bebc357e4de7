//! Archives that were made to do harm: nothing is written outside the cache, nothing grows without bounds, and each
//! is a clear error or a counted member that is left out.

use std::fs;
use std::io::Write;
use std::path::Path;

use super::{Dataset, Layout, OpenOptions};
use crate::testing::gzip;

/// A header of one member, whatever its name is.
fn header(name: &[u8], kind: u8, size: u64) -> Vec<u8> {
    let mut header = tar::Header::new_gnu();
    header.as_old_mut().name[..name.len()].copy_from_slice(name);
    header.as_old_mut().linkflag = [kind];
    header.set_size(size);
    header.set_mode(0o644);
    header.set_cksum();
    header.as_bytes().to_vec()
}

fn member(name: &[u8], kind: u8, payload: &[u8]) -> Vec<u8> {
    let mut bytes = header(name, kind, payload.len() as u64);
    bytes.extend_from_slice(payload);
    bytes.resize(bytes.len().next_multiple_of(512), 0);
    bytes
}

fn pax(key: &str, value: &[u8]) -> Vec<u8> {
    let rest = key.len() + value.len() + 3;
    let length = (rest + 1..).find(|n| n.to_string().len() + rest == *n).unwrap();
    let record = [format!("{length} {key}=").as_bytes(), value, b"\n"].concat();
    member(b"pax", b'x', &record)
}

struct Case {
    dir: tempfile::TempDir,
}

impl Case {
    fn new() -> Self {
        Self { dir: tempfile::tempdir().unwrap() }
    }

    /// Opens an archive of these members, plain and compressed, and says what is in it, or the error.
    fn open(&self, members: &[Vec<u8>]) -> String {
        let tar = [members.concat(), vec![0; 1024]].concat();
        let plain = self.open_bytes(&tar);
        for packed in [gzip(&tar), zstd::encode_all(&tar[..], 1).unwrap()] {
            assert_eq!(self.open_bytes(&packed), plain);
        }
        plain
    }

    fn open_bytes(&self, bytes: &[u8]) -> String {
        let path = self.dir.path().join("archive");
        fs::write(&path, bytes).unwrap();
        let options = OpenOptions { cache_dir: self.dir.path().join("cache"), ..OpenOptions::default() };
        let text = match Dataset::open(path.to_str().unwrap(), Layout::Flat, &options) {
            Ok(dataset) => {
                let names = (0..dataset.len())
                    .map(|i| format!("{}: {} bytes", dataset.name(i), dataset.read(i).unwrap().len()));
                names.chain(dataset.notes().iter().cloned()).collect::<Vec<_>>().join("\n")
            }
            Err(error) => error.to_string(),
        };
        let mut left: Vec<_> = names_in(self.dir.path());
        left.retain(|name| name != "cache");
        assert_eq!(left, ["archive"], "nothing is written elsewhere");
        text.replace(self.dir.path().to_str().unwrap(), "DIR")
    }

    fn cached(&self) -> Vec<String> {
        let mut names = names_in(&self.dir.path().join("cache"));
        names.retain(|name| !name.starts_with("lock-"));
        names
    }
}

fn names_in(dir: &Path) -> Vec<String> {
    fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
}

#[test]
fn odd_members_are_left_out_or_kept_apart() {
    let case = Case::new();
    let long = vec![b'n'; 5000];
    let text = case.open(&[
        member(b"caf\xe9.png", b'0', b"1"),
        member(b"caf\xe8.png", b'0', b"22"),
        member(b"new\nline.png", b'0', b"333"),
        [pax("path", &[&long[..], b".png"].concat()), member(b"x", b'0', b"long")].concat(),
        [
            member(b"././@LongLink", b'L', &[&[b'm'; 300], &b".png\0"[..]].concat()),
            member(b"x", b'0', b"4444"),
        ]
        .concat(),
        [pax("GNU.sparse.major", b"1"), member(b"sparse.png", b'0', b"holes")].concat(),
        member(b"/etc/passwd.png", b'0', b"x"),
        member(b"a/../../up.png", b'0', b"x"),
        member(b"hard.png", b'1', b""),
        member(b"soft.png", b'2', b""),
        member(b"char.png", b'3', b""),
        member(b"block.png", b'4', b""),
        member(b"pipe.png", b'6', b""),
        member(b"unknown.png", b'Z', b"x"),
        member(b"empty.png", b'0', b""),
        member(b"twice.png", b'0', b"first"),
        member(b"./twice.png", b'0', b"second"),
    ]);
    insta::assert_snapshot!(text);
}

#[test]
fn bombs_are_errors_and_leave_nothing() {
    let case = Case::new();
    // Zeros in an image, in a member that is none, names alone, and a size that is not there.
    let zeros = [header(b"zeros.png", b'0', 24 << 20), vec![0; 24 << 20]].concat();
    let zst = |bytes: &[u8]| zstd::encode_all(bytes, 1).unwrap();
    let text = case.open_bytes(&zst(&zeros));
    insta::assert_snapshot!("a_bomb_of_zeros", text);
    let names: Vec<u8> = (0..60_000).flat_map(|i| header(format!("{i}.png").as_bytes(), b'0', 0)).collect();
    insta::assert_snapshot!("a_bomb_of_names", case.open_bytes(&zst(&names)));
    let claimed = header(b"claimed.png", b'0', 1 << 29);
    insta::assert_snapshot!("a_size_that_is_not_there", case.open_bytes(&gzip(&claimed)));
    assert_eq!(case.cached(), [""; 0]);
    // What is skipped takes time and nothing else.
    let skipped = [
        header(b"skipped.bin", b'0', 24 << 20),
        vec![0; 24 << 20],
        member(b"a.png", b'0', b"x"),
        vec![0; 1024],
    ];
    assert_eq!(case.open_bytes(&gzip(&skipped.concat())), "a.png: 1 bytes");
    // A gzip file in a gzip file is not unpacked twice.
    let noise: Vec<u8> = (0..5000u32).flat_map(|i| i.wrapping_mul(2_654_435_761).to_le_bytes()).collect();
    let inner = gzip(&member(b"a.png", b'0', &noise));
    assert!(case.open_bytes(&gzip(&inner)).contains("without a tar archive in it"));
}

#[test]
fn a_window_that_takes_too_much_memory_is_refused() {
    let mut encoder = zstd::Encoder::new(Vec::new(), 1).unwrap();
    encoder.window_log(28).unwrap();
    encoder.write_all(&[member(b"a.png", b'0', b"x"), vec![0; 1024]].concat()).unwrap();
    let packed = encoder.finish().unwrap();
    let text = Case::new().open_bytes(&packed);
    assert!(text.contains("requires too much memory"), "{text}");
}

#[test]
fn a_million_members_of_nothing_are_counted() {
    let one = header(b"a.txt", b'0', 0);
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    for _ in 0..1_000_000 / 1000 {
        encoder.write_all(&one.repeat(1000)).unwrap();
    }
    let case = Case::new();
    let text = case.open_bytes(&encoder.finish().unwrap());
    assert!(text.contains("decompression bomb"), "{text}");
    assert_eq!(case.cached(), [""; 0]);
}

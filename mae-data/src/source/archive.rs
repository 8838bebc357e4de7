//! Local archives: what a file is, and a `.tar` that is used in place.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use super::OpenOptions;
use super::cache::{Identity, Kind};
use super::index::Census;
use super::members::{names_limit, read_members, tar_error};
use super::packed::{self, Packing};
use super::place::{Mapped, Opened};
use super::store::Store;
use super::tar::{self, Walker};
use super::zip;
use crate::error::Error;
use crate::sys::Map;

/// Archives with fewer images are walked again each time: that is as fast as reading their index.
const WORTH_AN_INDEX: usize = 1000;

/// What an archive is, by its first bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Format {
    Tar,
    Packed(Packing),
    Zip,
}

/// Opens an archive.
pub(crate) fn open(path: &Path, options: &OpenOptions) -> Result<Opened, Error> {
    let file = File::open(path).map_err(|e| Error::io("open", path, e))?;
    let mut head = Vec::new();
    (&file).take(512).read_to_end(&mut head).map_err(|e| Error::io("read", path, e))?;
    let shown = path.display().to_string();
    match format(&head, &shown)? {
        Format::Tar => open_tar(&shown, &file, options),
        Format::Packed(packing) => packed::open(path, file, packing, options),
        Format::Zip => {
            let map = Map::open(&file).map_err(|e| Error::io("map", path, e))?;
            zip::open(&shown, map)
        }
    }
}

fn open_tar(shown: &str, file: &File, options: &OpenOptions) -> Result<Opened, Error> {
    let map = Map::open(file).map_err(|e| Error::io("map", shown, e))?;
    let identity = Identity::of(file).map_err(|e| Error::io("read", shown, e))?;
    let store = Store::new(shown, identity, options);
    let census = match store.find(Kind::Names) {
        Some(cached) => cached.census,
        None => {
            let mut census = Census::default();
            let mut walker = Walker::new(&map[..]);
            let most = names_limit(map.len() as u64);
            read_members(&mut walker, &mut census, most, &mut |_, sample, census| {
                census.samples.push(sample);
                Ok(())
            })
            // In a .tar.gz the sum at the end of the stream tells that all of it is there; here only the marker does.
            .and_then(|()| walker.expect_end_marker())
            .map_err(|e| tar_error(shown, false, e))?;
            census.sort();
            if census.samples.len() >= WORTH_AN_INDEX
                && let Ok(lock) = store.lock()
            {
                store.keep(&lock, Kind::Names, &census, None);
            }
            census
        }
    };
    Ok(Opened::new(Mapped { root: shown.to_owned(), map }, census))
}

/// What the first bytes of a file say.
pub(crate) fn format(head: &[u8], shown: &str) -> Result<Format, Error> {
    const REPACK: &str =
        "this format is not supported; pack the folder again as .tar, .tar.gz, .tar.zst or .zip";
    const PACK: &str = "pack the images as .tar, .tar.gz, .tar.zst or .zip, or give their folder";
    let refuse = |found: &str, help| {
        Err(Error::UnsupportedFormat { path: shown.into(), found: found.to_owned(), help })
    };
    match head {
        [] => return refuse("an empty file", "download or pack the archive again"),
        [0x1f, 0x8b, ..] => return Ok(Format::Packed(Packing::Gzip)),
        // A frame, or one that is skipped.
        [0x28, 0xb5, 0x2f, 0xfd, ..] | [0x50..=0x5f, 0x2a, 0x4d, 0x18, ..] => {
            return Ok(Format::Packed(Packing::Zstd));
        }
        // The second is that of an archive without any member.
        [b'P', b'K', 3, 4, ..] | [b'P', b'K', 5, 6, ..] => return Ok(Format::Zip),
        _ => {}
    }
    let known: [(&[u8], &str, &'static str); 7] = [
        (&[0xfd, b'7', b'z', b'X', b'Z'], "xz-compressed", REPACK),
        (b"BZh", "bzip2-compressed", REPACK),
        (b"7z\xbc\xaf", "a 7z archive", REPACK),
        (b"Rar!", "a RAR archive", REPACK),
        (&[0xff, 0xd8, 0xff], "a single JPEG image", "give the folder it lies in"),
        (b"\x89PNG", "a single PNG image", "give the folder it lies in"),
        (b"\x89HDF", "an HDF5 file", PACK),
    ];
    for (magic, found, help) in known {
        if head.starts_with(magic) {
            return refuse(found, help);
        }
    }
    let is_tar = head.get(257..262) == Some(b"ustar") || head.iter().all(|&b| b == 0);
    let named_tar =
        Path::new(shown).extension().is_some_and(|extension| extension.eq_ignore_ascii_case("tar"));
    // Archives from before ustar have no magic: the walk tells by their checksums.
    if is_tar || named_tar || tar::walk(head).is_ok_and(|members| !members.is_empty()) {
        return Ok(Format::Tar);
    }
    let is_text = head.iter().all(|&b| b >= 0x20 || matches!(b, b'\t' | b'\n' | b'\r'));
    refuse(if is_text { "a text file" } else { "no archive that is known here" }, PACK)
}

//! The members of a tar stream, as a data set sees them, and the errors of reading them.

use std::io::{self, BufRead};
use std::path::Path;

use super::index::{Census, Sample, Skip};
use super::tar::{self, Cause, TarError, Walker};
use crate::error::{Error, human_bytes};

/// What names and the like may take in memory: this, and a few times the size of the archive itself. Tests are faster
/// with less.
const NAMES: u64 = if cfg!(test) { 1 << 20 } else { 256 << 20 };

/// How many bytes of names an archive of this size may have.
pub(crate) fn names_limit(archive_size: u64) -> u64 {
    NAMES.saturating_add(archive_size.saturating_mul(4))
}

type OnImage<'a, R> = &'a mut dyn FnMut(&mut Walker<R>, Sample, &mut Census) -> Result<(), TarError>;

/// Reads all members, counts them, and hands each image to `on_image` while the walker is at its payload. More than
/// `most` bytes of names are an error: members of nothing but a header compress a thousandfold.
pub(crate) fn read_members<R: BufRead>(
    walker: &mut Walker<R>,
    census: &mut Census,
    most: u64,
    on_image: OnImage<'_, R>,
) -> Result<(), TarError> {
    let mut names = 0;
    while let Some(member) = walker.next_member()? {
        let Some(name) = census.plain_name(&member.name) else { continue };
        names += (name.len() + size_of::<Sample>()) as u64;
        if names > most {
            return Err(walker.excess(format!("its names alone take more than {}", human_bytes(most))));
        }
        match member.kind {
            tar::Kind::Directory => census.folder(&name),
            tar::Kind::Link | tar::Kind::Other => census.skip(Skip::Link),
            tar::Kind::Sparse => census.skip(Skip::Sparse),
            tar::Kind::File if census.accepts(&name, member.size) => {
                let sample = Sample { name: name.into(), offset: member.offset, size: member.size, part: 0 };
                on_image(walker, sample, census)?;
            }
            tar::Kind::File => {}
        }
    }
    if !walker.drain()? {
        tracing::warn!(
            "data after the end marker of the archive is not read (was it made by joining archives?)"
        );
    }
    Ok(())
}

pub(crate) fn tar_error(archive: &str, compressed: bool, error: TarError) -> Error {
    let TarError { cause, at, last_member } = error;
    let archive = Path::new(archive).to_owned();
    match cause {
        Cause::Truncated => Error::Truncated { archive, at, compressed, last_member },
        Cause::Malformed(detail) if at == 0 => Error::UnsupportedFormat {
            path: archive,
            found: if compressed {
                format!("a compressed stream without a tar archive in it ({detail})")
            } else {
                format!("no tar archive ({detail})")
            },
            help: "pack the images as .tar, .tar.gz, .tar.zst or .zip, or give their folder",
        },
        Cause::Malformed(detail) | Cause::Corrupt(detail) => {
            Error::Damaged { archive, at, compressed, detail, last_member }
        }
        Cause::Excess(detail) => Error::Bomb { archive, detail },
        Cause::Io(e) | Cause::Write(e) => read_error(&archive.display().to_string(), e),
    }
}

/// The error behind an error of reading: a source that knows more says it itself.
pub(crate) fn read_error(archive: &str, error: io::Error) -> Error {
    error.downcast::<Error>().unwrap_or_else(|error| Error::io("read", archive, error))
}

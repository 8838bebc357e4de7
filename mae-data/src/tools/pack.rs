//! Images into plain tar archives of a limited size, in which each image can be found without reading the others.

use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use crate::error::Error;
use crate::source::Dataset;

/// Bytes of a member's header and of the end of an archive.
const BLOCK: u64 = 512;

/// How shards are written.
#[derive(Clone, Debug)]
pub struct PackOptions {
    /// Folder of the shards; it is made when it is missing.
    pub folder: PathBuf,
    /// Shard `i` is `<stem>-<i in four digits>.tar`.
    pub stem: String,
    /// Size that a shard stays below, if a single image allows it.
    pub shard_bytes: u64,
}

/// A shard that was written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Shard {
    /// The archive.
    pub path: PathBuf,
    /// Images in it.
    pub images: usize,
    /// Its size in bytes.
    pub bytes: u64,
}

/// Writes these images of a data set, in this order and under their names, into plain tar archives. The same images
/// give the same bytes. `progress` hears how many images are done, and may break off.
///
/// A shard appears under its name when it is whole and on the disk. Shards that are there already are an error.
///
/// # Errors
/// When an image cannot be read or a shard not be written. The result is `None` when `progress` broke off.
pub fn pack(
    dataset: &Dataset,
    images: &[usize],
    options: &PackOptions,
    progress: impl Fn(usize) -> ControlFlow<()>,
) -> Result<Option<Vec<Shard>>, Error> {
    let folder = &options.folder;
    fs::create_dir_all(folder).map_err(|e| Error::io("make the folder", folder, e))?;
    refuse_old_shards(options)?;
    let mut shards = Vec::new();
    let mut open: Option<Writer> = None;
    for (done, &index) in images.iter().enumerate() {
        let bytes = dataset.read(index)?;
        let size = BLOCK + (bytes.len() as u64).next_multiple_of(BLOCK);
        if let Some(full) = open.take_if(|shard| shard.bytes + size + 2 * BLOCK > options.shard_bytes) {
            shards.push(full.finish()?);
        }
        let shard = match &mut open {
            Some(shard) => shard,
            None => open.insert(Writer::create(options, shards.len())?),
        };
        shard.add(dataset.name(index), &bytes, size)?;
        if progress(done + 1).is_break() {
            return Ok(None);
        }
    }
    if let Some(last) = open {
        shards.push(last.finish()?);
    }
    sync_folder(folder).map_err(|e| Error::io("write", folder, e))?;
    Ok(Some(shards))
}

fn shard_path(options: &PackOptions, number: usize) -> PathBuf {
    options.folder.join(format!("{}-{number:04}.tar", options.stem))
}

/// Shards of an earlier run would be read together with the new ones.
fn refuse_old_shards(options: &PackOptions) -> Result<(), Error> {
    let first = shard_path(options, 0);
    if first.exists() {
        return Err(Error::io("write", first, io::ErrorKind::AlreadyExists.into()));
    }
    Ok(())
}

/// The name itself is only on the disk when its folder is.
fn sync_folder(folder: &Path) -> io::Result<()> {
    File::open(folder)?.sync_all()
}

struct Writer {
    path: PathBuf,
    archive: tar::Builder<BufWriter<tempfile::NamedTempFile>>,
    images: usize,
    bytes: u64,
}

impl Writer {
    fn create(options: &PackOptions, number: usize) -> Result<Self, Error> {
        let path = shard_path(options, number);
        let permissions = std::os::unix::fs::PermissionsExt::from_mode(0o666);
        let file = tempfile::Builder::new()
            .prefix(".pack")
            .permissions(permissions)
            .tempfile_in(&options.folder)
            .map_err(|e| Error::io("write", &path, e))?;
        Ok(Self {
            archive: tar::Builder::new(BufWriter::with_capacity(1 << 20, file)),
            path,
            images: 0,
            bytes: 0,
        })
    }

    fn add(&mut self, name: &str, bytes: &[u8], size: u64) -> Result<(), Error> {
        let mut header = tar::Header::new_gnu();
        header.set_size(bytes.len() as u64);
        header.set_mode(0o644);
        self.archive.append_data(&mut header, name, bytes).map_err(|e| Error::io("write", &self.path, e))?;
        self.images += 1;
        self.bytes += size;
        Ok(())
    }

    fn finish(self) -> Result<Shard, Error> {
        let Self { path, archive, images, .. } = self;
        let finish = || -> io::Result<u64> {
            let mut writer = archive.into_inner()?;
            writer.flush()?;
            let file = writer.into_inner().map_err(io::IntoInnerError::into_error)?;
            file.as_file().sync_all()?;
            let bytes = file.as_file().metadata()?.len();
            file.persist_noclobber(&path).map_err(|e| e.error)?;
            Ok(bytes)
        };
        match finish() {
            Ok(bytes) => Ok(Shard { path, images, bytes }),
            Err(error) => Err(Error::io("write", path, error)),
        }
    }
}

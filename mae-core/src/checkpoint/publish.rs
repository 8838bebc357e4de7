//! Files that are either complete or absent, whatever happens in between.

use std::fs::{File, Permissions};
use std::io::{BufWriter, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use super::container::safetensors;
use super::container::zip_writer::{self, WriteError};
use super::{Error, Passphrase, Result, TensorView, Value, encryption};

/// Writes `root` as a `.pth` that `torch.load(weights_only=True)` reads.
///
/// The file appears under its name only when it is complete and on the disk: a temporary file in the same
/// folder, fsync, rename, fsync of the folder. An existing file is replaced.
///
/// # Errors
/// [`Error::NotWritable`] for values that `weights_only` would refuse (nothing is written then), [`Error::Io`]
/// when the disk refuses; the temporary file is removed, an existing file stays as it was.
pub fn write(path: &Path, root: &Value) -> Result<()> {
    publish(path, |file| zip_writer::write(file, root).map(drop))
}

/// As [`write()`], encrypted: [`Checkpoint::open_with`](super::Checkpoint::open_with) reads the file with the same
/// passphrase, and `age -d` makes a plain `.pth` of it.
///
/// # Errors
/// As [`write()`].
pub fn write_encrypted(path: &Path, root: &Value, passphrase: &Passphrase) -> Result<()> {
    publish(path, |file| {
        let sealed = encryption::encrypt(file, passphrase)?;
        zip_writer::write_stream(sealed, root)?.finish()?;
        Ok(())
    })
}

/// Writes `tensors` as `.safetensors`, in the same way.
///
/// # Errors
/// [`Error::Tensor`] for complex128 tensors, [`Error::Io`] when the disk refuses.
pub fn write_safetensors(path: &Path, tensors: &[(String, TensorView)]) -> Result<()> {
    publish(path, |file| safetensors::write(file, tensors))
}

/// Points `link` at `target_name`, a file in the same folder; readers see the old or the new target, never none.
///
/// # Errors
/// [`Error::Io`] when the file system refuses; an existing link stays as it was.
pub fn swap_symlink(link: &Path, target_name: &str) -> Result<()> {
    let folder = folder_of(link);
    let name = link.file_name().unwrap_or_default().to_string_lossy();
    let temporary = tempfile::Builder::new()
        .prefix(&format!(".{name}."))
        .suffix(".tmp")
        .make_in(folder, |path| std::os::unix::fs::symlink(target_name, path))
        .map_err(Error::io("create a symbolic link in", folder))?;
    temporary.persist(link).map_err(|error| Error::io("replace", link)(error.error))?;
    sync_folder(folder)
}

fn publish(path: &Path, fill: impl FnOnce(&mut BufWriter<&File>) -> Result<(), WriteError>) -> Result<()> {
    let folder = folder_of(path);
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    // tempfile's default is 0600; a checkpoint has the permissions of any other new file.
    let temporary = tempfile::Builder::new()
        .prefix(&format!(".{name}."))
        .suffix(".tmp")
        .permissions(Permissions::from_mode(0o666))
        .tempfile_in(folder)
        .map_err(Error::io("create a temporary file in", folder))?;
    let mut writer = BufWriter::with_capacity(1 << 20, temporary.as_file());
    fill(&mut writer).map_err(|error| match error {
        WriteError::Value(error) => error,
        WriteError::Io(source) => Error::Io { action: "write", path: path.to_owned(), source },
    })?;
    writer.flush().map_err(Error::io("write", path))?;
    drop(writer);
    temporary.as_file().sync_all().map_err(Error::io("flush to disk", path))?;
    temporary.persist(path).map_err(|error| Error::io("replace", path)(error.error))?;
    sync_folder(folder)
}

/// Makes the rename itself durable.
fn sync_folder(folder: &Path) -> Result<()> {
    File::open(folder).and_then(|folder| folder.sync_all()).map_err(Error::io("flush to disk", folder))
}

fn folder_of(path: &Path) -> &Path {
    match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    }
}

/// Where a symbolic link such as `<arch>_latest.pth` leads, if it is one.
///
/// # Errors
/// [`Error::Io`] when the file system refuses.
pub fn link_target(link: &Path) -> Result<Option<PathBuf>> {
    match std::fs::read_link(link) {
        Ok(target) => Ok(Some(folder_of(link).join(target))),
        Err(error)
            if matches!(error.kind(), std::io::ErrorKind::NotFound | std::io::ErrorKind::InvalidInput) =>
        {
            Ok(None)
        }
        Err(source) => Err(Error::Io { action: "read the link", path: link.to_owned(), source }),
    }
}

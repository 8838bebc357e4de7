//! A folder of image files.

use std::collections::HashMap;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use super::index::{Census, Sample};
use crate::error::Error;

/// What a walk over a folder found.
pub(crate) struct Folder {
    pub(crate) census: Census,
    /// Paths of the files whose name is not UTF-8, by the name that stands for them.
    pub(crate) odd_paths: HashMap<Box<str>, PathBuf>,
}

/// Walks a folder; links to folders are followed as upstream does, circles of them are not.
pub(crate) fn walk(root: &Path) -> Result<Folder, Error> {
    let mut folder = Folder { census: Census::default(), odd_paths: HashMap::new() };
    let metadata = fs::metadata(root).map_err(|e| Error::io("read", root, e))?;
    let mut ancestors = vec![(metadata.dev(), metadata.ino())];
    visit(root, "", &mut ancestors, &mut folder)?;
    Ok(folder)
}

fn visit(path: &Path, name: &str, ancestors: &mut Vec<(u64, u64)>, folder: &mut Folder) -> Result<(), Error> {
    let entries = fs::read_dir(path).map_err(|e| Error::io("list", path, e))?;
    for entry in entries {
        let entry = entry.map_err(|e| Error::io("list", path, e))?;
        let file_name = entry.file_name();
        let entry_path = entry.path();
        let shown = file_name.to_string_lossy();
        let entry_name = if name.is_empty() { shown.to_string() } else { format!("{name}/{shown}") };
        // `metadata` follows links; a link that leads nowhere is like an entry that is not there.
        let Ok(metadata) = fs::metadata(&entry_path) else {
            folder.census.links += 1;
            continue;
        };
        if metadata.is_dir() {
            if shown.starts_with('.') {
                continue;
            }
            let identity = (metadata.dev(), metadata.ino());
            if ancestors.contains(&identity) {
                folder.census.links += 1;
                continue;
            }
            folder.census.folder(&entry_name);
            ancestors.push(identity);
            visit(&entry_path, &entry_name, ancestors, folder)?;
            ancestors.pop();
        } else if metadata.is_file() && folder.census.accepts(&entry_name, metadata.len()) {
            let sample = Sample { name: entry_name.into(), offset: 0, size: metadata.len() };
            if file_name.to_str().is_none() || path.to_str().is_none() {
                folder.odd_paths.insert(sample.name.clone(), entry_path);
            }
            folder.census.samples.push(sample);
        }
    }
    Ok(())
}

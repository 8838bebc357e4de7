//! A folder of image files.

use std::collections::HashMap;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use super::index::{Census, Sample, Skip};
use super::place::{Folder, Opened};
use super::tar::text;
use crate::error::Error;

/// Walks a folder; links to folders are followed as upstream does, circles of them are not.
pub(crate) fn open(root: &Path) -> Result<Opened, Error> {
    let mut folder =
        Folder { root: root.display().to_string(), path: root.to_owned(), odd_paths: HashMap::new() };
    let mut census = Census::default();
    let metadata = fs::metadata(root).map_err(|e| Error::io("read", root, e))?;
    let mut ancestors = vec![(metadata.dev(), metadata.ino())];
    visit(root, "", &mut ancestors, &mut folder, &mut census)?;
    Ok(Opened::new(folder, census))
}

fn visit(
    path: &Path,
    name: &str,
    ancestors: &mut Vec<(u64, u64)>,
    folder: &mut Folder,
    census: &mut Census,
) -> Result<(), Error> {
    let entries = fs::read_dir(path).map_err(|e| Error::io("list", path, e))?;
    for entry in entries {
        let entry = entry.map_err(|e| Error::io("list", path, e))?;
        let file_name = entry.file_name();
        let entry_path = entry.path();
        let shown = text(file_name.as_encoded_bytes());
        let entry_name = if name.is_empty() { shown.clone() } else { format!("{name}/{shown}") };
        // `metadata` follows links; a link that leads nowhere is like an entry that is not there.
        let Ok(metadata) = fs::metadata(&entry_path) else {
            census.skip(Skip::Link);
            continue;
        };
        if metadata.is_dir() {
            if shown.starts_with('.') {
                continue;
            }
            let identity = (metadata.dev(), metadata.ino());
            if ancestors.contains(&identity) {
                census.skip(Skip::Link);
                continue;
            }
            census.folder(&entry_name);
            ancestors.push(identity);
            visit(&entry_path, &entry_name, ancestors, folder, census)?;
            ancestors.pop();
        } else if metadata.is_file() && census.accepts(&entry_name, metadata.len()) {
            let sample = Sample { name: entry_name.into(), offset: 0, size: metadata.len(), part: 0 };
            if file_name.to_str().is_none() || path.to_str().is_none() {
                folder.odd_paths.insert(sample.name.clone(), entry_path);
            }
            census.samples.push(sample);
        }
    }
    Ok(())
}

//! `results.csv` of inference: `path,class index`, no header, sorted by path.

use super::{Error, Result};
use std::path::Path;

/// Writes `<results_dir>/results.csv` in one move, so that nobody sees half of it. Sorts the rows by path.
///
/// # Errors
/// The file cannot be written.
pub fn write(results_dir: &Path, mut rows: Vec<(String, usize)>) -> Result<()> {
    rows.sort();
    let path = results_dir.join("results.csv");
    let temporary = tempfile::NamedTempFile::new_in(results_dir).map_err(Error::write(&path))?;
    let mut writer = csv::WriterBuilder::new().has_headers(false).from_writer(temporary);
    for (image, class) in rows {
        writer
            .write_record([image, class.to_string()])
            .map_err(|error| Error::write(&path)(std::io::Error::other(error)))?;
    }
    let temporary = writer.into_inner().map_err(|error| Error::write(&path)(error.into_error()))?;
    // A temporary file is private; results are as readable as every other file of the folder.
    let permissions = std::os::unix::fs::PermissionsExt::from_mode(0o644);
    temporary.as_file().set_permissions(permissions).map_err(Error::write(&path))?;
    temporary.persist(&path).map_err(|error| Error::write(&path)(error.error))?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_sorted_and_quoted_only_when_needed() {
        let folder = tempfile::tempdir().unwrap();
        let rows = vec![
            ("/b/x.png".to_owned(), 3),
            ("/a/with, comma.png".to_owned(), 11),
            ("/a/b.png".to_owned(), 0),
        ];
        write(folder.path(), rows).unwrap();
        let text = std::fs::read_to_string(folder.path().join("results.csv")).unwrap();
        assert_eq!(text, "/a/b.png,0\n\"/a/with, comma.png\",11\n/b/x.png,3\n");
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1, "no temporary file stays");
    }

    #[test]
    fn a_missing_folder_is_an_error_that_names_the_file() {
        let error = write(Path::new("/nonexistent/folder"), Vec::new()).unwrap_err();
        assert!(error.to_string().contains("results.csv"), "{error}");
    }
}

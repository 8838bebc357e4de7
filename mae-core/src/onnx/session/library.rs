//! Where onnxruntime's library is: as told, in a Python's packages, or with the system's libraries.

use std::fs;
use std::path::{Path, PathBuf};

use crate::error::{Error, Result};

/// The file, whose name may go on with a version.
const NAME: &str = "libonnxruntime.so";

/// Folders of the system's libraries.
const SYSTEM: [&str; 7] = [
    "/usr/local/lib",
    "/usr/local/lib64",
    "/usr/lib/x86_64-linux-gnu",
    "/usr/lib/aarch64-linux-gnu",
    "/usr/lib64",
    "/usr/lib",
    "/opt/onnxruntime/lib",
];

/// Finds libonnxruntime.so: `setting`, else `ORT_DYLIB_PATH`, else the package `onnxruntime` of the active Python
/// environment, of the `python3` on `PATH`, of the user or the system, else the system's libraries. `variable` reads the
/// environment. A folder stands for the library in it.
///
/// # Errors
/// [`Error::OnnxRuntime`] when there is none, or none where it was said to be.
pub fn find_library(setting: Option<&Path>, variable: &dyn Fn(&str) -> Option<String>) -> Result<PathBuf> {
    let variable = |name: &str| variable(name).filter(|value| !value.is_empty());
    let told = setting.map(|path| ("the setting onnxruntime", path.to_owned()));
    let told =
        told.or_else(|| variable("ORT_DYLIB_PATH").map(|path| ("ORT_DYLIB_PATH", PathBuf::from(path))));
    if let Some((who, path)) = told {
        let found = if path.is_dir() { newest(&path) } else { path.is_file().then(|| path.clone()) };
        return found.ok_or_else(|| Error::OnnxRuntime {
            problem: format!("{who} names {}, and there is no {NAME}", path.display()),
            remedy: "name the file itself; without it, an installed onnxruntime is looked for".into(),
        });
    }
    let places = prefixes(&variable).into_iter().flat_map(|prefix| packages(&prefix));
    let libraries = variable("LD_LIBRARY_PATH").unwrap_or_default();
    let system = std::env::split_paths(&libraries).chain(SYSTEM.map(PathBuf::from)).collect::<Vec<_>>();
    places.chain(system).find_map(|folder| newest(&folder)).ok_or_else(|| Error::OnnxRuntime {
        problem: format!(
            "{NAME} was not found, neither in a Python's packages nor among the system's libraries"
        ),
        remedy:
            "pip install onnxruntime, or name the library with onnxruntime=/path/to/libonnxruntime.so or \
                 ORT_DYLIB_PATH"
                .into(),
    })
}

/// Roots under which a Python may have its packages, the active one first.
fn prefixes(variable: &dyn Fn(&str) -> Option<String>) -> Vec<PathBuf> {
    let mut prefixes: Vec<PathBuf> =
        ["VIRTUAL_ENV", "CONDA_PREFIX"].iter().filter_map(|name| variable(name)).map(PathBuf::from).collect();
    let path = variable("PATH").unwrap_or_default();
    let python = std::env::split_paths(&path).find(|folder| folder.join("python3").exists());
    prefixes.extend(python.as_deref().and_then(Path::parent).map(Path::to_owned));
    prefixes.extend(variable("HOME").map(|home| Path::new(&home).join(".local")));
    prefixes.extend([PathBuf::from("/usr/local"), PathBuf::from("/usr")]);
    prefixes
}

/// The folders of onnxruntime's package below a prefix.
fn packages(prefix: &Path) -> Vec<PathBuf> {
    let versions = fs::read_dir(prefix.join("lib")).into_iter().flatten().flatten().map(|entry| entry.path());
    let is_python =
        |path: &PathBuf| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("python3"));
    let mut versions: Vec<PathBuf> = versions.filter(is_python).collect();
    versions.sort();
    let folders = versions.iter().rev().flat_map(|version| {
        ["site-packages", "dist-packages"].map(|packages| version.join(packages).join("onnxruntime/capi"))
    });
    folders.collect()
}

/// The library in a folder, that of the last name where it is there in several versions.
fn newest(folder: &Path) -> Option<PathBuf> {
    let files = fs::read_dir(folder).ok()?.flatten().map(|entry| entry.path());
    files.filter(|path| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with(NAME))).max()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    fn library(folder: &Path, name: &str) -> PathBuf {
        fs::create_dir_all(folder).unwrap();
        let path = folder.join(name);
        fs::write(&path, "").unwrap();
        path
    }

    #[test]
    fn what_was_told_comes_first_and_must_be_there() {
        let folder = tempfile::tempdir().unwrap();
        let file = library(folder.path(), "libonnxruntime.so.1.32.0");
        let text = |path: &Path| path.to_str().unwrap().to_owned();
        let (of_setting, of_variable) = (folder.path().join("a.so"), file.clone());
        fs::write(&of_setting, "").unwrap();
        let variable = |name: &str| (name == "ORT_DYLIB_PATH").then(|| text(&of_variable));
        assert_eq!(find_library(Some(&of_setting), &variable).unwrap(), of_setting);
        assert_eq!(find_library(None, &variable).unwrap(), file);
        // A folder stands for the library in it.
        assert_eq!(find_library(Some(folder.path()), &|_| None).unwrap(), file);
        let missing = folder.path().join("missing.so");
        let error =
            find_library(None, &|name| (name == "ORT_DYLIB_PATH").then(|| text(&missing))).unwrap_err();
        assert!(error.to_string().contains("ORT_DYLIB_PATH names "), "{error}");
        let error = find_library(Some(&missing), &variable).unwrap_err().to_string();
        assert!(error.contains("missing.so, and there is no libonnxruntime.so"), "{error}");
    }

    #[test]
    fn the_active_python_comes_before_the_one_on_the_path() {
        let folder = tempfile::tempdir().unwrap();
        let capi = |prefix: &str, version: &str| {
            folder.path().join(prefix).join("lib").join(version).join("site-packages/onnxruntime/capi")
        };
        let on_path = library(&capi("system", "python3.12"), "libonnxruntime.so.1.30.0");
        library(&capi("system", "python3.12"), "libonnxruntime_providers_shared.so");
        library(&folder.path().join("system/bin"), "python3");
        let active = library(&capi("venv", "python3.11"), "libonnxruntime.so.1.32.0");
        let text = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
        let mut venv = Some(text("venv"));
        let find = |venv: &Option<String>| {
            find_library(None, &|name| match name {
                "VIRTUAL_ENV" => venv.clone(),
                "PATH" => Some(text("system/bin")),
                _ => None,
            })
        };
        assert_eq!(find(&venv).unwrap(), active);
        venv = None;
        assert_eq!(find(&venv).unwrap(), on_path);
    }
}

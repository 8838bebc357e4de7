//! `mae default_specs`: a spec file with every default.

use super::error::{Error, Kind, Result};
use super::overrides::{self, Operation};
use super::plan::default_specs;
use super::value::Value;
use std::path::PathBuf;

/// Writes `experiment.yaml` into the folder that `results_dir=` names and returns its path; an old one is replaced.
///
/// # Errors
/// No folder is given, another module than `mae` is asked for, or the file cannot be written.
pub fn write_default_specs<S: AsRef<str>>(overrides: &[S]) -> Result<PathBuf> {
    let mut folder = None;
    for given in overrides::parse_all(overrides)? {
        let value = given.value.clone().unwrap_or(Value::Null);
        match (given.key.as_str(), given.operation) {
            ("results_dir", operation) if operation != Operation::Delete => folder = Some(value.to_text()),
            ("module_name", _) if value == Value::Str("mae".to_owned()) => {}
            ("module_name", _) => {
                return Err(Error::new(Kind::NotAnOption, "the only module is mae")
                    .key("module_name")
                    .value(value.shown())
                    .at(&given.origin));
            }
            (key, _) => {
                return Err(Error::new(Kind::UnknownKey, "default_specs takes results_dir only")
                    .key(key)
                    .at(&given.origin)
                    .remedy("write the defaults first, then edit the file"));
            }
        }
    }
    let Some(folder) = folder.filter(|folder| !folder.is_empty() && folder != super::MISSING) else {
        return Err(Error::new(Kind::Required, "no folder is given")
            .key("results_dir")
            .remedy("mae default_specs results_dir=specs"));
    };
    let folder = PathBuf::from(folder);
    let path = folder.join("experiment.yaml");
    std::fs::create_dir_all(&folder).and_then(|()| std::fs::write(&path, default_specs())).map_err(
        |error| {
            Error::new(Kind::ConfigNotFound, format!("{} cannot be written: {error}", path.display()))
                .remedy("name a folder that you can write to")
        },
    )?;
    Ok(path)
}

//! `mae spec show` and `mae schema --out`: what is said about specs, without a run.

use std::fs;
use std::path::Path;

use super::plan_of;
use crate::args::View;
use crate::error::{Error, Result};
use crate::report::write_atomically;
use crate::spec::generate::{self, Strictness};
use crate::spec::{Action, compose};

/// A spec as it is understood; without a file, the defaults with the overrides.
///
/// # Errors
/// The spec is wrong, or, for [`View::Resolved`], contradicts its checkpoint.
pub fn show_spec<S: AsRef<str>>(
    spec: Option<&Path>,
    overrides: &[S],
    action: Action,
    view: View,
) -> Result<String> {
    let text = match view {
        View::Composed => compose(spec, overrides)?.to_yaml(),
        View::Origins => compose(spec, overrides)?.origins(),
        View::Resolved => {
            let plan = plan_of(spec, overrides, action)?;
            let notes: String = plan.notes().iter().map(|note| format!("# {note}\n")).collect();
            format!("{notes}{}", plan.to_resolved_yaml())
        }
    };
    Ok(text.trim_end().to_owned())
}

/// Writes TAO's packaged files into a folder: `manifest.json`, `schemas/<action>.schema.json` and
/// `references/spec_template_<action>.yaml`. Returns their number.
///
/// # Errors
/// The folder cannot be made or written.
pub fn write_schema_files(folder: &Path, strictness: Strictness) -> Result<usize> {
    let mut files = vec![("manifest.json".to_owned(), generate::manifest())];
    for action in generate::ACTIONS {
        files.push((format!("schemas/{action}.schema.json"), generate::json_schema(action, strictness)));
        files.push((format!("references/spec_template_{action}.yaml"), generate::template(action)));
    }
    for below in ["schemas", "references"] {
        let below = folder.join(below);
        fs::create_dir_all(&below).map_err(|source| Error::File {
            key: "--out".into(),
            problem: format!("the folder {} cannot be made: {source}", below.display()),
            help: "name a folder below one that you can write to".into(),
        })?;
    }
    for (name, text) in &files {
        write_atomically(&folder.join(name), text.as_bytes())?;
    }
    Ok(files.len())
}

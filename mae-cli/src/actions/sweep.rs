//! `--multirun`: an action once for each combination of values, one after the other, each in a folder of its own.
//!
//! As in Hydra, the folder is `multirun/DATE/TIME/NUMBER`, and each run works inside it: relative paths in the spec, such as
//! `results_dir: ./results`, are below it.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::signals::Interrupt;
use crate::error::{Error, Result};
use crate::report::progress::Progress;
use crate::spec::overrides::sweep;
use crate::spec::{Action, compose};

/// The exit code of a run that was interrupted.
const INTERRUPTED: u8 = 4;

/// Runs all of them and returns the exit code of the first that failed; an interrupt ends the sweep.
///
/// # Errors
/// An override cannot be understood, or a run cannot be started. All are checked before the first one starts.
pub fn sweep<S: AsRef<str>>(spec: &Path, overrides: &[S], action: Action) -> Result<u8> {
    let runs = sweep::expand(overrides)?;
    for run in &runs {
        compose(Some(spec), run)?;
    }
    let failed = |path: &Path, problem: String| Error::File {
        key: "--multirun".into(),
        problem: format!("{}: {problem}", path.display()),
        help: "start in a folder that you can write to".into(),
    };
    let spec = fs::canonicalize(spec).map_err(|error| failed(spec, error.to_string()))?;
    let program = std::env::current_exe().map_err(|error| failed(Path::new("mae"), error.to_string()))?;
    let started = jiff::Zoned::now();
    let root = PathBuf::from(format!("multirun/{}", started.strftime("%Y-%m-%d/%H-%M-%S")));
    let progress = Progress::detect();
    let watched = Interrupt::watch().map_err(|error| failed(&root, error.to_string()))?;
    let mut code = 0;
    for (number, run) in runs.iter().enumerate() {
        let folder = root.join(number.to_string());
        fs::create_dir_all(&folder).map_err(|error| failed(&folder, error.to_string()))?;
        progress.say(&format!(
            "Run {} of {} in {}: {}",
            number + 1,
            runs.len(),
            folder.display(),
            run.join(" ")
        ));
        let status = Command::new(&program)
            .arg(action.name())
            .arg("-e")
            .arg(&spec)
            .arg("--")
            .args(run)
            .current_dir(&folder)
            .status()
            .map_err(|error| failed(&program, error.to_string()))?;
        let ended = status.code().and_then(|code| u8::try_from(code).ok()).unwrap_or(2);
        if code == 0 {
            code = ended;
        }
        if watched.is_asked() || ended == INTERRUPTED {
            return Ok(INTERRUPTED);
        }
    }
    Ok(code)
}

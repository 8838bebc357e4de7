//! `mae doctor`: what works on this machine and what a spec would run into, before anybody waits for it.
//!
//! Nothing is trained and nothing is written, but for the cache of an archive that a run would unpack anyway.

mod machine;
mod report;
mod run;

use std::path::Path;

use report::Report;

use crate::report::progress::Progress;
use crate::spec::Action;

/// Looks at the machine, then, when a spec is given, at what `action` would do with it.
///
/// Returns the exit code: 0 when nothing is in the way, else that which the run would end with.
pub fn doctor<S: AsRef<str>>(
    spec: Option<&Path>,
    overrides: &[S],
    action: Action,
    progress: &Progress,
) -> (String, u8) {
    let mut report = Report::default();
    machine::examine(&mut report);
    match spec {
        Some(spec) => run::examine(spec, overrides, action, progress, &mut report),
        None => {
            report.note("spec", "none given; `mae doctor -e spec.yaml` looks at its data, model and disk too")
        }
    }
    report.finish()
}

//! Specs and overrides compose to what Hydra composes, or fail in the same way at the same place.

use crate::golden;
use base64::Engine as _;
use mae_cli::args::Request;
use mae_cli::spec::interpolation::Context;
use mae_cli::spec::{self, Composed, Kind, Map, Value};
use std::collections::BTreeMap;
use std::path::Path;

/// Cases in which we differ on purpose. Each names a case by its id without the leading number, so that a new recording
/// of the same cases keeps the list, and says why.
///
/// All but the last are what the recording itself advises (`advice`) or forbids (`security`).
const DIFFERENT: &[(&str, &str)] = &[
    ("yaml_number.huge-int", "a number that no field can hold is refused"),
    ("yaml_list.nested-list", "a list of lists is refused where a list of numbers is expected"),
    ("cli_list.nested", "a list of lists is refused where a list of numbers is expected"),
    ("defaults_list.package-header", "a comment is a comment, also `# @package`"),
    ("resolver.eval-import", "nothing is executed: ${eval:} is arithmetic"),
    ("hydra_flags.config-name-missing", "a spec that does not exist is an error"),
    ("spec_file_name.no-ext", "the file is read as given, not silently ignored"),
    ("spec_file_name.yaml-upper-ext", "the file is read as given, not silently ignored"),
    // argparse refuses it for a reason of its own; nothing is misunderstood by reading it.
    ("hydra_flags.option-between-positionals", "options may stand between overrides"),
];

struct Case<'a> {
    id: &'a str,
    json: &'a serde_json::Value,
}

impl Case<'_> {
    fn overrides(&self) -> Vec<String> {
        let overrides = self.json["overrides"].as_array().unwrap();
        overrides.iter().map(|text| text.as_str().unwrap().to_owned()).collect()
    }

    fn request(&self, folder: &Path) -> Result<Request, clap::Error> {
        let file = folder.join(self.json["spec_file"].as_str().unwrap());
        match self.json["spec_base64"].as_str() {
            Some(text) => {
                std::fs::write(&file, base64::engine::general_purpose::STANDARD.decode(text).unwrap())
                    .unwrap();
            }
            None => std::fs::write(&file, self.json["spec_yaml"].as_str().unwrap()).unwrap(),
        }
        for (name, text) in self.json["extra_files"].as_object().into_iter().flatten() {
            std::fs::write(folder.join(name), text.as_str().unwrap()).unwrap();
        }
        let mut arguments =
            vec!["mae".to_owned(), "train".to_owned(), "-e".to_owned(), file.display().to_string()];
        arguments.extend(self.overrides());
        Ok(mae_cli::args::parse(arguments)?.request().unwrap())
    }

    fn resolve(&self, composed: &Composed) -> spec::Result<Map> {
        let set = &self.json["env"];
        let env = |name: &str| match set.get(name) {
            Some(value) => value.as_str().map(str::to_owned),
            None => std::env::var(name).ok(),
        };
        let spec_name = self.json["spec_file"].as_str().unwrap();
        composed.resolved(&Context { env: &env, spec_name, action: "train" })
    }

    /// What is wrong, or nothing.
    fn check(&self, defaults: &BTreeMap<String, String>) -> Result<(), String> {
        let folder = tempfile::tempdir().unwrap();
        let expect = &self.json["expect"];
        let request = self.request(folder.path());
        if expect["ran_task"] == false {
            return self.check_shown(request);
        }
        let composed = match request {
            Ok(Request::Run { spec, overrides, .. }) => spec::compose(Some(&spec), &overrides),
            Ok(Request::Sweep { spec, overrides, .. }) => {
                let runs = spec::overrides::sweep::expand(&overrides).map_err(|error| error.to_string())?;
                let calls = expect["task_calls"].as_u64().unwrap_or(1);
                if runs.len() as u64 != calls || expect["multirun"] != true {
                    return Err(format!("{} runs, expected {calls}", runs.len()));
                }
                // The recording shows the last of them.
                spec::compose(Some(&spec), runs.last().unwrap())
            }
            Ok(other) => return Err(format!("does not run: {other:?}")),
            Err(error) => Err(spec::Error::new(Kind::Usage, error.to_string())),
        };
        if expect["ok"] == false {
            return match composed {
                Ok(_) => Err(format!("composes, expected {}", expect["error_kind"])),
                Err(error) => self.check_error(&error),
            };
        }
        let composed = composed.map_err(|error| format!("fails: {error}"))?;
        let resolved = self.resolve(&composed);
        if expect["resolve_ok"] == false {
            return match resolved {
                Ok(_) => Err("resolves, expected an error".to_owned()),
                Err(_) => Ok(()),
            };
        }
        let ours = golden::leaves(&resolved.map_err(|error| format!("does not resolve: {error}"))?);
        let Some(changed) = expect["changed"].as_object() else { return Ok(()) };
        let mut theirs = defaults.clone();
        for (path, value) in changed {
            theirs.insert(path.clone(), golden::spelled(&golden::value(value)));
        }
        for path in expect["removed"].as_array().into_iter().flatten() {
            theirs.remove(path.as_str().unwrap());
        }
        if ours != theirs {
            let differences: Vec<String> = ours
                .keys()
                .chain(theirs.keys())
                .filter(|path| ours.get(*path) != theirs.get(*path))
                .map(|path| format!("{path}: {:?}, expected {:?}", ours.get(path), theirs.get(path)))
                .collect();
            return Err(differences.join("; "));
        }
        self.check_dump(&composed, expect)
    }

    /// Cases that print something instead of running.
    fn check_shown(&self, request: Result<Request, clap::Error>) -> Result<(), String> {
        match request {
            Ok(Request::Show { spec, overrides, resolve, package, .. }) => {
                let composed = spec::compose(Some(&spec), &overrides).map_err(|error| error.to_string())?;
                let context = Context { env: &|_| None, spec_name: "spec.yaml", action: "train" };
                let shown = composed.show(resolve.then_some(&context), package.as_deref());
                let shown = shown.map_err(|error| error.to_string())?;
                let expected = self.json["expect"]["stdout"].as_str().unwrap();
                if shown == expected { Ok(()) } else { Err(format!("shows {shown}")) }
            }
            // Help and version are our own texts.
            Err(error) if !error.use_stderr() => Ok(()),
            other => Err(format!("{other:?}")),
        }
    }

    fn check_error(&self, error: &spec::Error) -> Result<(), String> {
        let expect = &self.json["expect"];
        let mut wrong = Vec::new();
        if Some(error.kind().name()) != expect["error_kind"].as_str() {
            wrong.push(format!("kind {}, expected {}", error.kind().name(), expect["error_kind"]));
        }
        if let Some(key) = expect["key"].as_str()
            && error.path() != Some(key)
        {
            wrong.push(format!("key {:?}, expected {key}", error.path()));
        }
        if let Some(location) = expect.get("location") {
            let expected =
                (location["line"].as_u64().unwrap() as usize, location["column"].as_u64().unwrap() as usize);
            if error.origin().line_column() != Some(expected) {
                wrong.push(format!("place {:?}, expected {expected:?}", error.origin().line_column()));
            }
        }
        if wrong.is_empty() { Ok(()) } else { Err(format!("{} ({error})", wrong.join(", "))) }
    }

    fn check_dump(&self, composed: &Composed, expect: &serde_json::Value) -> Result<(), String> {
        let Some(lines) = expect["dump_lines_changed"].as_array() else { return Ok(()) };
        let ours = composed.to_yaml();
        let defaults = spec::default_specs();
        let defaults: Vec<&str> = defaults.lines().collect();
        let theirs: Vec<&str> = lines.iter().filter_map(|line| line.as_str()).collect();
        let ours: Vec<&str> = ours.lines().filter(|line| !defaults.contains(line)).collect();
        let missing: Vec<&&str> =
            theirs.iter().filter(|line| !ours.contains(line) && !defaults.contains(line)).collect();
        if missing.is_empty() { Ok(()) } else { Err(format!("the dump lacks {missing:?}, it has {ours:?}")) }
    }
}

#[test]
fn every_recorded_case_composes_or_fails_as_upstream() {
    let cases = golden::read("override_cases.json");
    let cases = cases["cases"].as_array().unwrap();
    let defaults = golden::read("defaults.json");
    let Value::Map(defaults) = golden::value(&defaults["resolved_defaults"]) else { panic!("no mapping") };
    let defaults = golden::leaves(&defaults);
    let mut failures = Vec::new();
    for json in cases {
        let case = Case { id: json["id"].as_str().unwrap(), json };
        let outcome = case.check(&defaults);
        let known = DIFFERENT.iter().any(|(name, _)| case.id.ends_with(name));
        // In another recording too, what it forbids or advises against may be refused here.
        let marked = json["security"] == true || json["advice"].is_string();
        let refused =
            |problem: &str| problem.starts_with("fails: ") || problem.starts_with("does not resolve: ");
        match outcome {
            Ok(()) if known => {
                failures.push(format!("{}: agrees, take it off the list of differences", case.id));
            }
            Ok(()) => {}
            Err(_) if known => {}
            Err(problem) if marked && refused(&problem) => {}
            Err(problem) => failures.push(format!("{}: {problem}", case.id)),
        }
    }
    assert!(cases.len() >= 20, "only {} cases found", cases.len());
    assert!(failures.is_empty(), "{} of {} cases:\n{}", failures.len(), cases.len(), failures.join("\n"));
}

//! The entry point: every recorded command line is accepted or refused as upstream does, with the same devices, folders and
//! values, or differs on purpose.
//!
//! The recordings were made with a task that does nothing, so what is compared ends where the task would begin.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use crate::golden;
use mae_cli::actions;
use mae_cli::args::{self, Request};
use mae_cli::spec::{Action, Plan, compose, select, write_default_specs, yaml};
use mae_dist::{Environment, Role};
use serde_json::Value as Json;

/// Where we differ on purpose: the case by its name without the number, what happens here, and why.
const DIFFERENT: &[(&str, Here, &str)] = &[
    // The recording advises the opposite of what it recorded.
    ("spec_lookup.bare-filename", Here::Accepted, "a spec without a folder is read from the current one"),
    (
        "spec_lookup.bare-sample-name",
        Here::Accepted,
        "the user's file is read, not a packaged one of that name",
    ),
    ("spec_lookup.no-extension", Here::Accepted, "the file is read as given"),
    ("spec_lookup.yml-extension", Here::Accepted, ".yml is .yaml"),
    ("spec_lookup.path-with-space", Here::Accepted, "the command line is not split again"),
    ("shlex.list-with-space", Here::Accepted, "the command line is not split again"),
    ("shlex.inner-quotes-number", Here::Accepted, "quotes are kept, so the text stays text"),
    ("shlex.space-unquoted", Here::Accepted, "the command line is not split again"),
    ("shlex.backslash", Here::Accepted, "the command line is not split again"),
    ("gpu.cli-num-gpus-spec-ids-ignored", Here::Accepted, "command line over spec, key by key"),
    ("gpu.spec-num-gpus-interp", Here::Accepted, "the composed spec counts"),
    ("results_dir.url", Here::Refused, "an address is no folder"),
    (
        "results_dir.is-a-file",
        Here::Accepted,
        "refused as upstream does, when the folder is made: see the end-to-end tests",
    ),
    // Upstream's bounds hold here, so that a run without a device does not pass.
    ("gpu.num-gpus-zero", Here::Refused, "at least one device"),
    // A number for another action is not for this one.
    ("gpu.cli-other-section", Here::Accepted, "evaluate.num_gpus is not train's"),
    (
        "gpu.cli-cuda-blocking",
        Here::Accepted,
        "one key on the command line does not make the spec's others vanish",
    ),
    // The file is never healed by rewriting it.
    ("multinode.rewrite-heals-dup-keys", Here::Refused, "a key written twice is an error"),
    // Without a device there is nothing to count: the spec's number of processes stays.
    ("multinode.gpus-none-on-machine", Here::Accepted, "the CPU is a device"),
];

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Here {
    Accepted,
    Refused,
}

struct Case<'a> {
    id: &'a str,
    json: &'a Json,
    folder: tempfile::TempDir,
}

impl<'a> Case<'a> {
    fn new(json: &'a Json) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        for name in json["dirs"].as_array().into_iter().flatten() {
            fs::create_dir_all(at(name.as_str().unwrap())).unwrap();
        }
        for (name, text) in json["files"].as_object().into_iter().flatten() {
            fs::create_dir_all(at(name).parent().unwrap()).unwrap();
            fs::write(at(name), text.as_str().unwrap()).unwrap();
        }
        for (name, target) in json["symlinks"].as_object().into_iter().flatten() {
            std::os::unix::fs::symlink(target.as_str().unwrap(), at(name)).unwrap();
        }
        Case { id: json["id"].as_str().unwrap(), json, folder }
    }

    fn category(&self) -> &str {
        self.json["category"].as_str().unwrap()
    }

    fn expect(&self) -> &Json {
        &self.json["expect"]
    }

    fn arguments(&self) -> Vec<String> {
        let absolute = self.folder.path().display().to_string();
        let given = self.json["argv"].as_array().unwrap().iter();
        given.map(|text| text.as_str().unwrap().replace("<ABS>", &absolute)).collect()
    }

    fn different(&self) -> Option<Here> {
        DIFFERENT.iter().find(|(name, ..)| self.id.ends_with(name)).map(|(_, here, _)| *here)
    }

    /// What the program is asked for, or what the user reads.
    fn request(&self) -> Result<Request, String> {
        let arguments = std::iter::once("mae".to_owned()).chain(self.arguments());
        match args::parse(arguments) {
            Ok(parsed) => parsed.request().map_err(|error| error.to_string()),
            Err(error) => Err(error.to_string()),
        }
    }

    /// The plan of a run, with what the environment says of several machines.
    fn plan(&self, spec: &Path, overrides: &[String], action: Action) -> Result<Plan, String> {
        // Joined with nothing, the folder itself would be the file.
        let named = !spec.as_os_str().is_empty();
        let spec = if named { self.folder.path().join(spec) } else { spec.to_owned() };
        // What upstream's task would miss first.
        let mut overrides = overrides.to_vec();
        if action != Action::Train {
            overrides.push(format!("{}.checkpoint=/c.pth", action.name()));
        }
        overrides.extend(["train", "val", "test"].map(|set| format!("dataset.{set}_data_sources=/d")));
        let mut composed = compose(Some(&spec), &overrides).map_err(|error| error.to_string())?;
        let gpus = self.json["gpus_on_machine"].as_u64().map(|gpus| gpus as usize).filter(|gpus| *gpus > 0);
        let variables: BTreeMap<String, String> = self.json["env"]
            .as_object()
            .into_iter()
            .flatten()
            .filter_map(|(name, value)| Some((name.clone(), value.as_str()?.to_owned())))
            .collect();
        let environment = Environment::resolve(&variables, gpus).map_err(|error| error.to_string())?;
        if let Role::NodeLauncher(node) = &environment.role {
            node.check_network().map_err(|error| error.to_string())?;
            composed.use_nodes(action, node.nodes, node.gpus_per_node.or(gpus));
        }
        Plan::of(composed, action, "spec.yaml", &|_| None).map_err(|error| error.to_string())
    }

    /// What is wrong, or nothing.
    fn check(&self) -> Result<(), String> {
        let before = self.files();
        let outcome = match self.request() {
            Ok(Request::Run { action, spec, overrides }) => self.plan(&spec, &overrides, action).map(Some),
            Ok(Request::DefaultSpecs { overrides }) => return self.check_default_specs(&overrides),
            Ok(Request::Show { spec, overrides, package, .. }) => {
                return self.check_shown(&spec, &overrides, package);
            }
            Ok(Request::Sweep { spec, overrides, action }) => {
                let runs =
                    mae_cli::spec::overrides::sweep::expand(&overrides).map_err(|error| error.to_string())?;
                for run in &runs {
                    self.plan(&spec, run, action)?;
                }
                let folders: std::collections::BTreeSet<_> = self.expect()["new_files"]
                    .as_array()
                    .into_iter()
                    .flatten()
                    .filter_map(|file| file.as_str()?.split('/').nth(3))
                    .filter(|folder| folder.parse::<usize>().is_ok())
                    .collect();
                let same = folders.len() == runs.len();
                return if same { Ok(()) } else { Err(format!("{} runs, expected {folders:?}", runs.len())) };
            }
            Ok(other) => return Err(format!("asks for {other:?}")),
            Err(text) if self.expect()["exit_code"] == 0 => {
                // Our own help, which begins as upstream's does.
                return if text.contains("Usage: mae") { Ok(()) } else { Err(text) };
            }
            Err(text) => Err(text),
        };
        let outcome = outcome.map_err(|text| text.replace(&format!("{}/", self.folder.path().display()), ""));
        if self.files() != before {
            return Err("a file of the user was changed".to_owned());
        }
        let accepted = if outcome.is_ok() { Here::Accepted } else { Here::Refused };
        if let Some(here) = self.different() {
            return if here == accepted { Ok(()) } else { Err(format!("{outcome:?}")) };
        }
        if let Some(message) = self.multinode_error() {
            // Upstream goes on with all devices and can pass; here it is an error with the same words.
            return match outcome {
                Err(error) if error.contains(&message) => Ok(()),
                outcome => Err(format!("expected {message:?}, found {outcome:?}")),
            };
        }
        match (outcome, self.expect()["exit_code"].as_i64()) {
            (Ok(Some(plan)), Some(0)) => self.check_plan(&plan),
            (Ok(_), Some(0)) => Ok(()),
            // The task itself failed.
            (Ok(_), _) if self.expect()["task_ran"] == true => Ok(()),
            (Err(text), Some(1 | 2)) => self.check_message(&text),
            (outcome, code) => Err(format!("{outcome:?}, expected exit code {code:?}")),
        }
    }

    fn multinode_error(&self) -> Option<String> {
        let lines = self.expect()["log"].as_array()?.iter();
        lines.filter_map(Json::as_str).find_map(|line| {
            Some(line.strip_prefix("WARNING: [Multinode] Error overriding configs: ")?.to_owned())
        })
    }

    fn check_plan(&self, plan: &Plan) -> Result<(), String> {
        let mut wrong = Vec::new();
        let written = yaml::read(plan.to_yaml().as_bytes(), "experiment.yaml").unwrap();
        for (path, expected) in self.expect()["config"].as_object().into_iter().flatten() {
            // The recording shows the configuration before the environment is put over it.
            if self.category() == "multinode" {
                break;
            }
            let found = select(&written, path).map(|node| golden::spelled(&node.value));
            if found.as_deref() != Some(golden::spelled(&golden::value(expected)).as_str()) {
                wrong.push(format!("{path} is {found:?}, expected {expected}"));
            }
        }
        if let Some(devices) = self.expect()["TAO_VISIBLE_DEVICES"].as_str()
            && plan.action() != Action::Export
        {
            let ours = plan.devices().iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
            if ours != devices {
                wrong.push(format!("devices {ours}, expected {devices}"));
            }
        }
        let folder = plan.results_dir().join("experiment.yaml").display().to_string();
        let files = self.expect()["new_files"].as_array().into_iter().flatten();
        let files: Vec<&str> =
            files.filter_map(Json::as_str).filter(|file| file.ends_with("experiment.yaml")).collect();
        if !files.is_empty() && !files.iter().any(|file| folder.trim_start_matches("./") == *file) {
            wrong.push(format!("writes {folder}, expected {files:?}"));
        }
        if let Some(environment) = self.json["env"]["WORLD_SIZE"].as_str() {
            let nodes = select(&written, "train.num_nodes").map(|node| node.value.to_text());
            if nodes.as_deref() != Some(environment) {
                wrong.push(format!("train.num_nodes is {nodes:?}, WORLD_SIZE {environment}"));
            }
        }
        if wrong.is_empty() { Ok(()) } else { Err(wrong.join("; ")) }
    }

    /// Messages that a user of upstream knows are still there.
    fn check_message(&self, text: &str) -> Result<(), String> {
        let lines = self.expect()["stdout"].as_array().into_iter().flatten().filter_map(Json::as_str);
        for line in lines {
            let known = line.strip_prefix("ERROR: ").or_else(|| line.strip_prefix("ValueError: You need"));
            let Some(known) = known else { continue };
            let known = known.replace("{mode}", "train");
            if !text.contains(&known) {
                return Err(format!("says {text:?}, expected {known:?}"));
            }
        }
        Ok(())
    }

    fn check_shown(&self, spec: &Path, overrides: &[String], package: Option<String>) -> Result<(), String> {
        let composed =
            compose(Some(&self.folder.path().join(spec)), overrides).map_err(|error| error.to_string())?;
        let shown = composed.show(None, package.as_deref()).map_err(|error| error.to_string())?;
        let expected = self.expect()["stdout"].as_array().unwrap().iter().filter_map(Json::as_str);
        // The first line is upstream's own warning.
        let missing: Vec<_> =
            expected.skip(1).filter(|line| !shown.lines().any(|ours| ours == *line)).collect();
        if missing.is_empty() { Ok(()) } else { Err(format!("{shown} lacks {missing:?}")) }
    }

    fn check_default_specs(&self, overrides: &[String]) -> Result<(), String> {
        let at = |text: &String| text.replace("./", &format!("{}/", self.folder.path().display()));
        let outcome = write_default_specs(&overrides.iter().map(at).collect::<Vec<_>>());
        match (outcome, self.expect()["exit_code"] == 0) {
            (Ok(path), true) => {
                let written = fs::read_to_string(path).unwrap();
                if written == mae_cli::spec::default_specs() { Ok(()) } else { Err(written) }
            }
            (Err(_), false) => Ok(()),
            (outcome, _) => Err(format!("{outcome:?}")),
        }
    }

    fn files(&self) -> BTreeMap<String, String> {
        let names = self.json["files"].as_object().into_iter().flatten().map(|(name, _)| name.clone());
        names
            .filter_map(|name| Some((name.clone(), fs::read_to_string(self.folder.path().join(name)).ok()?)))
            .collect()
    }
}

#[test]
fn every_recorded_command_line() {
    let cases = golden::read("cli_cases.json");
    let cases = cases["cases"].as_array().unwrap();
    let mut failures = Vec::new();
    for json in cases {
        let case = Case::new(json);
        let port = case.json["port_already_bound"]
            .as_u64()
            .map(|port| std::net::TcpListener::bind(("127.0.0.1", u16::try_from(port).unwrap())));
        // A port that somebody else holds is as good as one that the test holds.
        if let Err(problem) = case.check() {
            failures.push(format!("{}: {problem}", case.id));
        }
        drop(port);
    }
    assert!(cases.len() >= 20, "only {} cases found", cases.len());
    assert!(failures.is_empty(), "{} of {} cases:\n{}", failures.len(), cases.len(), failures.join("\n"));
}

/// Names on the list of differences are of cases.
#[test]
fn the_list_of_differences_names_cases() {
    let cases = golden::read("cli_cases.json");
    let ids: Vec<&str> =
        cases["cases"].as_array().unwrap().iter().filter_map(|case| case["id"].as_str()).collect();
    if ids.len() > 100 {
        for (name, ..) in DIFFERENT {
            assert!(ids.iter().any(|id| id.ends_with(name)), "{name}");
        }
    }
}

/// What a schema file's folder holds is what is listed.
#[test]
fn schema_files_are_written() {
    let folder = tempfile::tempdir().unwrap();
    let count =
        actions::write_schema_files(folder.path(), mae_cli::spec::generate::Strictness::AsTao).unwrap();
    assert_eq!(count, 11);
    let manifest: Json =
        serde_json::from_str(&fs::read_to_string(folder.path().join("manifest.json")).unwrap()).unwrap();
    for entry in manifest["actions"].as_object().unwrap().values() {
        for name in ["path", "spec_template"] {
            assert!(folder.path().join(entry[name].as_str().unwrap()).is_file());
        }
    }
}

//! `status.json` line for line as upstream wrote it, with clock values and losses masked.

use crate::golden;
use mae_cli::report::status::{EpochStatus, Failure, StatusFile, duration_text};
use mae_cli::spec::Action;
use std::path::Path;
use std::time::Duration;

/// Whether a line of ours has the fields, order and values of a recorded one. Recorded texts in angle brackets and
/// numbers given as `<FLOAT>` stand for anything of their type.
fn same(ours: &serde_json::Value, theirs: &serde_json::Value) -> bool {
    use serde_json::Value::{Number, Object, String};
    match (ours, theirs) {
        (Object(ours), Object(theirs)) => {
            ours.keys().eq(theirs.keys())
                && ours.iter().zip(theirs).all(|((_, ours), (_, theirs))| same(ours, theirs))
        }
        (Number(_), String(text)) => text == "<FLOAT>",
        (String(_), String(text)) if text.starts_with('<') && text.ends_with('>') => true,
        (ours, theirs) => ours == theirs,
    }
}

fn parse(line: &str) -> serde_json::Value {
    let line = line.replace(": <FLOAT>", ": \"<FLOAT>\"");
    serde_json::from_str(&line).unwrap_or_else(|error| panic!("{line}: {error}"))
}

fn lines_of(folder: &Path) -> Vec<serde_json::Value> {
    std::fs::read_to_string(folder.join("status.json")).unwrap().lines().map(parse).collect()
}

fn recorded(name: &str) -> Option<Vec<serde_json::Value>> {
    let cases = golden::read("cli_cases.json");
    let run = cases["training_runs"].as_array()?.iter().find(|run| run["name"] == name)?;
    Some(run["status_lines"].as_array()?.iter().map(|line| parse(line.as_str().unwrap())).collect())
}

fn epoch(epoch: usize, num_epochs: usize, batches: usize, steps: usize) -> EpochStatus {
    EpochStatus {
        epoch,
        num_epochs,
        step: (epoch + 1) * steps,
        batches_per_epoch: batches,
        time_per_epoch: Duration::from_micros(1_234_567),
        time_per_step: Duration::from_micros(123_456),
        images_per_second: None,
        loader_stall: None,
    }
}

/// Replays a run and compares; a good end has one more line than upstream, with status SUCCESS.
fn replay(name: &str, action: Action, ends_well: bool, run: impl FnOnce(StatusFile)) {
    let Some(theirs) = recorded(name) else { return };
    let folder = tempfile::tempdir().unwrap();
    run(StatusFile::open(folder.path(), action).unwrap());
    let mut ours = lines_of(folder.path());
    if ends_well {
        let last = ours.pop().unwrap();
        assert_eq!(last["status"], "SUCCESS");
        assert_eq!(last["message"], ours.last().unwrap()["message"]);
    }
    assert_eq!(ours.len(), theirs.len(), "{name}: {ours:#?}");
    for (ours, theirs) in ours.iter().zip(&theirs) {
        assert!(same(ours, theirs), "{name}: wrote {ours}, expected {theirs}");
    }
}

#[test]
fn pretraining() {
    replay("base", Action::Train, true, |mut status| {
        status.starting().unwrap();
        status.loop_started().unwrap();
        for index in 0..3 {
            status.epoch(&epoch(index, 3, 4, 4), 0.5).unwrap();
        }
        status.loop_complete().unwrap();
        status.succeed().unwrap();
    });
}

#[test]
fn pretraining_with_accumulation() {
    replay("accum", Action::Train, true, |mut status| {
        status.starting().unwrap();
        status.loop_started().unwrap();
        for index in 0..2 {
            status.epoch(&epoch(index, 2, 4, 2), 0.5).unwrap();
        }
        status.loop_complete().unwrap();
        status.succeed().unwrap();
    });
}

#[test]
fn finetuning() {
    replay("finetune", Action::Train, true, |mut status| {
        status.starting().unwrap();
        status.loop_started().unwrap();
        for index in 0..2 {
            status.validated(0.7, Some(0.25)).unwrap();
            status.epoch(&epoch(index, 2, 4, 4), 0.5).unwrap();
        }
        status.loop_complete().unwrap();
        status.succeed().unwrap();
    });
}

#[test]
fn evaluation() {
    replay("eval", Action::Evaluate, true, |mut status| {
        status.starting().unwrap();
        status.loading_checkpoint("x.pth").unwrap();
        status.tested(0.7, Some(0.25)).unwrap();
        status.succeed().unwrap();
    });
}

#[test]
fn a_failure_keeps_the_last_kpi() {
    replay("exc", Action::Train, false, |mut status| {
        status.starting().unwrap();
        status.loop_started().unwrap();
        status.epoch(&epoch(0, 3, 4, 4), 0.5).unwrap();
        status.fail(Failure::Parameter, "boom").unwrap();
    });
}

/// Writes a recorded run, line for line, from what its lines say.
fn rewrite(theirs: &[serde_json::Value], action: Action, folder: &Path) {
    let cloud =
        theirs.iter().any(|line| line["message"].as_str().is_some_and(|text| text.contains("uploaded")));
    let mut status = StatusFile::open(folder, action).unwrap().uploaded_by_the_starter(cloud);
    let mut progress = None;
    for line in theirs {
        let number = |key: &str| line[key].as_u64().unwrap() as usize;
        let kpi = |key: &str| line["kpi"].get(key).map(|_| 0.5);
        let message = line["message"].as_str().unwrap();
        let (head, rest) = message.split_once(": ").unwrap_or((message, ""));
        match head {
            _ if message.starts_with("Starting MAE") => status.starting().unwrap(),
            _ if message.starts_with("Setting resume checkpoint to ") => {}
            "Resuming training from checkpoint" => status.resuming(Path::new(rest)).unwrap(),
            "Loading checkpoint" => status.loading_checkpoint(rest).unwrap(),
            "Starting Training Loop." => status.loop_started().unwrap(),
            "Eval metrics skipped." => status.validated(0.5, kpi("ACC_all")).unwrap(),
            "Training loop in progress" => {
                let num_epochs = number("max_epoch") + 1;
                let step = number("step");
                let at = epoch(number("epoch"), num_epochs, number("max_step") / num_epochs, 0);
                progress = Some(EpochStatus { step, ..at });
            }
            "Train metrics generated." => match progress.take() {
                Some(progress) => status.epoch(&progress, 0.5).unwrap(),
                None => status.trained(0.5).unwrap(),
            },
            "Training loop complete." => status.loop_complete().unwrap(),
            "Test metrics generated." => status.tested(0.5, kpi("ACC_all")).unwrap(),
            "User/System interruption" => return status.interrupted().unwrap(),
            "Configuration error" => return status.fail(Failure::Configuration, rest).unwrap(),
            "Feature not implemented" => return status.fail(Failure::NotImplemented, rest).unwrap(),
            "Parameter validation error" => return status.fail(Failure::Parameter, rest).unwrap(),
            "File system error" => return status.fail(Failure::FileSystem, rest).unwrap(),
            _ if message.ends_with("finished successfully.") => return status.succeed().unwrap(),
            _ => panic!("an unknown line: {line}"),
        }
    }
    // Upstream ended without a line: every end has one here.
    status.fail(Failure::Runtime, "upstream says nothing").unwrap();
}

#[test]
fn every_recorded_run_can_be_written() {
    let recorded = golden::read("cli_cases.json");
    let runs = recorded["training_runs"]
        .as_array()
        .into_iter()
        .flatten()
        .map(|run| (&run["name"], &run["status_lines"]));
    let cases = recorded["cases"].as_array().unwrap().iter();
    let cases = cases.map(|case| (&case["id"], &case["expect"]["status_lines"]));
    let mut count = 0;
    for (name, lines) in runs.chain(cases) {
        let Some(lines) = lines.as_array() else { continue };
        let theirs: Vec<_> = lines.iter().map(|line| parse(line.as_str().unwrap())).collect();
        let begins =
            theirs.iter().position(|line| line["message"].as_str().unwrap().starts_with("Starting MAE"));
        let Some(begins) = begins else { panic!("{name}: no first line") };
        // A second run into the same folder appends.
        let ends = theirs[begins + 1..]
            .iter()
            .position(|line| line["message"].as_str().unwrap().starts_with("Starting MAE"));
        let theirs = &theirs[begins..ends.map_or(theirs.len(), |at| begins + 1 + at)];
        let first = theirs[0]["message"].as_str().unwrap();
        let action =
            Action::ALL.into_iter().find(|action| first == format!("Starting MAE {}.", action.name()));
        let folder = tempfile::tempdir().unwrap();
        rewrite(theirs, action.unwrap(), folder.path());
        let mut ours = lines_of(folder.path());
        let last = ours.last().unwrap()["status"].as_str().unwrap().to_owned();
        let their_end = theirs.last().unwrap()["status"].as_str().unwrap();
        assert!(["SUCCESS", "FAILURE"].contains(&last.as_str()), "{name}: {ours:?}");
        if their_end != "FAILURE" {
            ours.pop();
        }
        assert_eq!(ours.len(), theirs.len(), "{name}: {ours:#?}");
        for (ours, theirs) in ours.iter().zip(theirs) {
            assert!(same(ours, theirs), "{name}: wrote {ours}, expected {theirs}");
        }
        count += 1;
    }
    assert!(count > 5, "{count} runs");
}

#[test]
fn a_second_run_appends() {
    let folder = tempfile::tempdir().unwrap();
    for _ in 0..2 {
        let mut status = StatusFile::open(folder.path(), Action::Export).unwrap();
        status.starting().unwrap();
        status.succeed().unwrap();
    }
    assert_eq!(lines_of(folder.path()).len(), 6);
}

#[test]
fn durations_are_pythons() {
    let vectors = golden::read("cli_cases.json");
    let vectors = vectors["vectors"]["duration_text"].as_array().into_iter().flatten();
    for vector in vectors {
        assert_eq!(duration_text(vector["seconds"].as_f64().unwrap()), vector["text"].as_str().unwrap());
    }
    assert_eq!(duration_text(0.058283), "0:00:00.058283");
    assert_eq!(duration_text(90061.25), "1 day, 1:01:01.250000");
}

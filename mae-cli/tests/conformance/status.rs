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

fn lines(folder: &Path) -> Vec<serde_json::Value> {
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
    let mut ours = lines(folder.path());
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

#[test]
fn a_second_run_appends() {
    let folder = tempfile::tempdir().unwrap();
    for _ in 0..2 {
        let mut status = StatusFile::open(folder.path(), Action::Export).unwrap();
        status.starting().unwrap();
        status.succeed().unwrap();
    }
    assert_eq!(lines(folder.path()).len(), 6);
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

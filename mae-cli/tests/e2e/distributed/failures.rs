//! A rank that is lost, stopped or different becomes an error on every other; a restart gives the same weights.

use rustix::process::Signal;

use super::{assert_same, latest};
use crate::common::{Run, Sandbox, contents, files_below, status_lines};

/// 80 images, ten batches of 8 on all ranks together, a checkpoint every three steps.
const TRAIN: &str = "train -e finetune.yaml train.checkpoint_interval_unit=step train.checkpoint_interval=3";

/// Runs `mae` with a fault: `KIND@RANK:OPERATION`. Operations 0 to 4 come before the first step, each step has two, and each
/// checkpoint two more.
pub fn with_fault(sandbox: &Sandbox, fault: &str, command: &str) -> Run {
    let mut run = sandbox.command(&command.split_whitespace().collect::<Vec<_>>());
    run.env("MAE_FAULT", fault);
    let output = assert_cmd::Command::from_std(run).timeout(crate::common::PATIENCE).output().unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    Run { code: output.status.code(), stdout: text(output.stdout), stderr: text(output.stderr) }
}

pub fn last_status(sandbox: &Sandbox, results: &str) -> (String, String) {
    let line = status_lines(&sandbox.path(results).join("train/status.json")).pop().unwrap();
    let text = |key: &str| line[key].as_str().unwrap_or_default().to_owned();
    (text("status"), text("message"))
}

#[test]
fn a_killed_rank_is_named_by_the_others() {
    let sandbox = Sandbox::new().with_specs().with_images(8, 1);
    let run = with_fault(&sandbox, "kill@1:22", &format!("{TRAIN} train.num_gpus=4 dataset.batch_size=2"));
    assert_eq!(run.code, Some(2), "{}", run.stderr);
    let host = rustix::system::uname().nodename().to_string_lossy().into_owned();
    for rank in [0, 2, 3] {
        let said = run.stderr.lines().find(|line| line.starts_with(&format!("[rank {rank}] error: ")));
        let said = said.unwrap_or_else(|| panic!("rank {rank} said nothing: {}", run.stderr));
        assert!(said.contains("all_reduce failed"), "{said}");
        assert!(said.contains(&format!("from rank 1 on {host}: look there first")), "{said}");
        assert!(run.stderr.contains(&format!("[rank {rank}]   at epoch 0, batch ")), "{}", run.stderr);
    }
    assert!(run.stderr.contains("error: rank 1 on "), "{}", run.stderr);
    assert!(run.stderr.contains("was killed by signal 9 (SIGKILL"), "{}", run.stderr);
    let (status, message) = last_status(&sandbox, "results/finetune");
    assert_eq!(status, "FAILURE");
    assert!(message.contains("from rank 1 on "), "{message}");
}

#[test]
fn a_lost_rank_0_is_written_down_by_the_launcher() {
    let sandbox = Sandbox::new().with_specs().with_images(8, 1);
    let run = with_fault(&sandbox, "kill@0:22", &format!("{TRAIN} train.num_gpus=2 dataset.batch_size=4"));
    assert_eq!(run.code, Some(2), "{}", run.stderr);
    let (status, message) = last_status(&sandbox, "results/finetune");
    assert_eq!(status, "FAILURE");
    assert!(message.contains("rank 0 on "), "{message}");
}

#[test]
fn a_stopped_rank_is_noticed_after_the_timeout() {
    let sandbox = Sandbox::new().with_specs().with_images(8, 1);
    let command = format!("{TRAIN} train.num_gpus=2 dataset.batch_size=4 train.comm_timeout=15");
    let run = with_fault(&sandbox, "stop@1:22", &command);
    assert_eq!(run.code, Some(2), "{}", run.stderr);
    assert!(run.stderr.contains("from rank 1 on "), "{}", run.stderr);
    let (status, message) = last_status(&sandbox, "results/finetune");
    assert_eq!((&*status, message.contains("from rank 1 on ")), ("FAILURE", true), "{message}");
}

/// The same weights as those of a run without a fault, bit for bit.
#[test]
fn a_restart_finishes_as_if_nothing_had_happened() {
    let sandbox = Sandbox::new().with_specs().with_images(8, 1);
    let two = format!("{TRAIN} train.num_gpus=2 dataset.batch_size=4 train.max_restarts=1");
    sandbox.mae(&format!("{two} results_dir=whole")).passed();
    for (name, fault) in [("killed", "kill@1:21"), ("thrown", "exception@0:22"), ("exited", "exit@1:24")] {
        let run = with_fault(&sandbox, fault, &format!("{two} results_dir={name}")).passed();
        assert!(
            run.stderr.contains("Starting all processes again from the last checkpoint"),
            "{name}: {}",
            run.stderr
        );
        assert!(run.stderr.contains("[rank 0] Resuming from "), "{name}: {}", run.stderr);
        assert_same(&latest(&sandbox, "whole"), &latest(&sandbox, name));
        assert_eq!(last_status(&sandbox, name).0, "SUCCESS");
    }
}

#[test]
fn an_interrupt_ends_all_ranks_after_the_same_step() {
    let sandbox = Sandbox::new().with_specs().with_images(4, 1);
    let two = "train -e finetune.yaml train.num_gpus=2 dataset.batch_size=2 train.num_epochs=4";
    let words = |results: &str| format!("{two} results_dir={results}");
    let words_of = |results: &str| words(results).split_whitespace().map(str::to_owned).collect::<Vec<_>>();
    sandbox.mae(&words("whole")).passed();

    let arguments = words_of("parts");
    let mut run = sandbox.start("parts", &arguments.iter().map(String::as_str).collect::<Vec<_>>());
    let status = sandbox.path("parts/train/status.json");
    run.wait_until("the end of the first epoch", || {
        std::fs::read_to_string(&status).is_ok_and(|text| text.contains("Train metrics generated."))
    });
    run.signal(Signal::INT);
    assert_eq!(run.wait().code(), Some(4), "{}", run.log());
    assert!(run.log().contains("the same command goes on from there"), "{}", run.log());
    assert!(!run.log().contains("error:"), "{}", run.log());
    assert!(contents(&latest(&sandbox, "parts")).global_step < 40);
    sandbox.mae(&words("parts")).passed();
    assert_same(&latest(&sandbox, "whole"), &latest(&sandbox, "parts"));
}

/// Two nodes on this machine, of which the second is started with other words or another working folder.
fn two_nodes(sandbox: &Sandbox, first: &str, second: &str) -> [(Option<i32>, String); 2] {
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let runs = [first, second].into_iter().enumerate().map(|(node, words)| {
        let mut command = sandbox.command(&words.split_whitespace().collect::<Vec<_>>());
        super::launchers::node(&mut command, node, 2, "127.0.0.1", port);
        sandbox.start_command(&format!("node{node}"), command)
    });
    let mut runs: Vec<_> = runs.collect();
    [0, 1].map(|node| (runs[node].wait().code(), runs[node].log()))
}

#[test]
fn ranks_that_differ_are_refused_before_the_first_step() {
    let sandbox = Sandbox::new().with_specs().with_images(4, 1);
    let train = "train -e finetune.yaml dataset.batch_size=4";
    for (code, log) in two_nodes(&sandbox, train, &format!("{train} train.optim.lr=0.5")) {
        assert_eq!(code, Some(1), "{log}");
        assert!(
            log.contains(
                "all ranks need the same spec: rank 0 has train.optim.lr = 0.001, and rank 1 has train.optim.lr = 0.5"
            ),
            "{log}"
        );
    }
    let folder = sandbox.path("other");
    crate::common::write_folder(&folder, &crate::common::demo_images("train", 4)[1..]);
    for (code, log) in two_nodes(&sandbox, train, &format!("{train} dataset.train_data_sources=other")) {
        assert_eq!(code, Some(3), "{log}");
        assert!(log.contains("rank 0 sees 40 and rank 1 sees 39; image 0 is "), "{log}");
    }
    let left: Vec<_> =
        files_below(&sandbox.path("results")).into_iter().filter(|file| file.ends_with(".pth")).collect();
    assert_eq!(left, Vec::<String>::new());
}

//! A run that was ended early goes on as if nothing had happened: the same weights bit for bit.

use std::path::Path;

use rustix::process::Signal;

use crate::common::{Sandbox, Started, contents, files_below, leftovers, status_lines};

const LATEST: &str = "train/convnextv2_atto_latest.pth";

/// All that random numbers and gradients touch: accumulation over two batches, mixup and cutmix, RandAugment, erasing.
const EVERYTHING: &[&str] = &[
    "train",
    "-e",
    "finetune.yaml",
    "train.num_epochs=2",
    "train.accum_grad_batches=2",
    "train.optim.lr_scheduler=cosine",
    "train.optim.warmup_epochs=1",
    "dataset.batch_size=4",
    "dataset.augmentation.mixup=0.8",
    "dataset.augmentation.cutmix=1.0",
    "dataset.augmentation.auto_aug=rand-m9-mstd0.5-inc1",
    "dataset.augmentation.re_prob=0.25",
    "model.drop_path_rate=0.1",
];

/// 160 images, 40 batches, 20 steps an epoch.
fn sandbox() -> Sandbox {
    Sandbox::new().with_specs().with_images(16, 2)
}

/// Weights, optimizer, schedule, counters: everything in the two checkpoints is the same.
#[track_caller]
fn assert_same(a: &Path, b: &Path) {
    let (a, b) = (contents(a), contents(b));
    assert!(a.state_dict.len() > 100);
    for ((name, a), (other, b)) in a.state_dict.iter().zip(&b.state_dict) {
        assert_eq!(name, other);
        assert!(a == b, "{name} differs");
    }
    assert!(a.optimizer == b.optimizer, "the optimizer's state differs");
    assert_eq!((a.epoch, a.global_step, &a.loops), (b.epoch, b.global_step, &b.loops));
    assert_eq!(a.lr_schedulers, b.lr_schedulers);
    assert_eq!(a.extra, b.extra);
}

/// The file that `*_latest.pth` points to is of a run in the middle of an epoch of 40 batches.
#[track_caller]
fn assert_in_mid_epoch(latest: &Path) {
    let loops = contents(latest).loops;
    assert!(!loops.epoch_done && (1..=40).contains(&loops.batches_in_epoch), "{loops:?}");
}

fn training(sandbox: &Sandbox, results: &str, more: &[&str]) -> Vec<String> {
    let results = format!("results_dir={results}");
    let words = EVERYTHING.iter().chain(more).copied().chain([results.as_str()]);
    let words: Vec<String> = words.map(str::to_owned).collect();
    assert!(sandbox.path("finetune.yaml").exists());
    words
}

fn words(training: &[String]) -> Vec<&str> {
    training.iter().map(String::as_str).collect()
}

fn epoch_is_done(sandbox: &Sandbox, results: &str) -> bool {
    let path = sandbox.path(results).join("train/status.json");
    std::fs::read_to_string(path).is_ok_and(|text| text.contains("Train metrics generated."))
}

#[test]
fn an_epoch_more_equals_two_at_once() {
    let sandbox = Sandbox::new().with_specs().with_images(4, 1);
    // The rate of MultiStep does not depend on the length of the training.
    let train = |results: &str, epochs: u32| {
        let milestones = "train.optim.milestones=[1] train.optim.gamma=0.5";
        sandbox
            .mae(&format!(
                "train -e finetune.yaml {milestones} train.num_epochs={epochs} results_dir={results}"
            ))
            .passed()
    };
    train("whole", 2);
    train("parts", 1);
    let run = train("parts", 2);
    assert!(
        run.stderr.contains("Resuming from parts/train/model_epoch_000_step_00005.pth"),
        "{}",
        run.stderr
    );
    assert_same(&sandbox.path("whole").join(LATEST), &sandbox.path("parts").join(LATEST));
    assert_eq!(contents(&sandbox.path("parts").join(LATEST)).global_step, 10);
}

#[test]
fn interrupted_in_mid_epoch() {
    let sandbox = sandbox();
    let (whole, parts) = (training(&sandbox, "whole", &[]), training(&sandbox, "parts", &[]));
    sandbox.run(&words(&whole)).passed();

    let mut run = sandbox.start("parts", &words(&parts));
    run.wait_until("the end of the first epoch", || epoch_is_done(&sandbox, "parts"));
    run.signal(Signal::INT);
    assert_eq!(run.wait().code(), Some(4), "{}", run.log());
    let log = run.log();
    assert!(log.contains("the same command goes on from there"), "{log}");
    let lines = status_lines(&sandbox.path("parts/train/status.json"));
    let last = lines.last().unwrap();
    assert_eq!(
        (last["status"].as_str(), last["message"].as_str()),
        (Some("FAILURE"), Some("User/System interruption: Train was interrupted"),)
    );
    assert_in_mid_epoch(&sandbox.path("parts").join(LATEST));

    let run = sandbox.run(&words(&parts)).passed();
    assert!(run.stderr.contains("Resuming from parts/train/model_epoch_001_step_"), "{}", run.stderr);
    assert_same(&sandbox.path("whole").join(LATEST), &sandbox.path("parts").join(LATEST));
    let lines = status_lines(&sandbox.path("parts/train/status.json"));
    assert_eq!(lines.last().unwrap()["status"], "SUCCESS");
    finished_runs_say_so(&sandbox, &parts);
}

/// Started again, a finished run does nothing and says what to do.
fn finished_runs_say_so(sandbox: &Sandbox, training: &[String]) {
    let before = files_below(&sandbox.path("parts"));
    let run = sandbox.run(&words(training)).passed();
    assert!(run.stderr.contains("Nothing to do: all 2 epochs are done."), "{}", run.stderr);
    assert_eq!(files_below(&sandbox.path("parts")), before);
}

/// What keeps no state says that it was interrupted, and leaves no result that looks whole.
#[test]
fn interrupted_evaluations() {
    let sandbox = Sandbox::new().with_specs().with_images(16, 1);
    sandbox.mae("train -e finetune.yaml dataset.batch_size=80").passed();
    for action in ["evaluate", "inference"] {
        // 160 images of 224 pixels, one at a time: there is time to interrupt them.
        let slow = "dataset.augmentation.input_size=224 dataset.batch_size=1";
        let data = "dataset.val_data_sources=train dataset.test_data_sources=train";
        let command = format!("{action} -e finetune.yaml {slow} {data}");
        let mut run = sandbox.start(action, &command.split(' ').collect::<Vec<_>>());
        let folder = sandbox.path("results/finetune").join(action);
        run.wait_until("the checkpoint is loaded", || {
            std::fs::read_to_string(folder.join("status.json")).is_ok_and(|text| text.contains("Loading"))
        });
        run.signal(Signal::TERM);
        assert_eq!(run.wait().code(), Some(4), "{}", run.log());
        let lines = status_lines(&folder.join("status.json"));
        assert_eq!(lines.last().unwrap()["status"], "FAILURE");
        assert!(lines.last().unwrap()["message"].as_str().unwrap().contains("was interrupted"));
        assert_eq!(files_below(&folder), ["experiment.yaml", "status.json"]);
    }
}

/// The first signal waits for the step; the second waits for nothing.
#[test]
fn a_second_signal_ends_at_once() {
    let sandbox = Sandbox::new().with_specs().with_images(16, 1);
    // One step an epoch, of seconds.
    let train = "train -e finetune.yaml dataset.batch_size=160 dataset.augmentation.input_size=224";
    let mut run = sandbox.start("twice", &train.split(' ').collect::<Vec<_>>());
    run.wait_until("the training begins", || run_has_begun(&sandbox));
    run.signal(Signal::INT);
    run.signal(Signal::TERM);
    assert_eq!(run.wait().code(), Some(4), "{}", run.log());
    assert_eq!(files_below(&sandbox.path("results/finetune/train")).iter().filter(is_checkpoint).count(), 0);
    assert!(!run.log().contains("Execution status"), "{}", run.log());
}

fn run_has_begun(sandbox: &Sandbox) -> bool {
    std::fs::read_to_string(sandbox.path("twice.log")).is_ok_and(|log| log.contains("Fine-tuning of "))
}

fn is_checkpoint(name: &&String) -> bool {
    name.ends_with(".pth")
}

#[test]
fn killed_in_mid_epoch() {
    killed(&["train.checkpoint_interval_unit=step", "train.checkpoint_interval=6"]);
}

#[test]
fn killed_in_mid_epoch_in_16_bits() {
    let steps = ["train.checkpoint_interval_unit=step", "train.checkpoint_interval=6"];
    killed(&[steps[0], steps[1], "train.precision=bf16"]);
}

fn killed(steps: &[&str]) {
    let sandbox = sandbox();
    let (whole, parts) = (training(&sandbox, "whole", steps), training(&sandbox, "parts", steps));
    sandbox.run(&words(&whole)).passed();

    let mut run: Started = sandbox.start("parts", &words(&parts));
    // Killed as soon as a checkpoint is there, whatever else is going on. No interval ends with an epoch.
    let latest = sandbox.path("parts").join(LATEST);
    let second = sandbox.path("parts/train/model_epoch_000_step_00012.pth");
    run.wait_until("the checkpoint of step 12", || second.exists());
    run.signal(Signal::KILL);
    assert_eq!(run.wait().code(), None);
    assert_in_mid_epoch(&latest);
    // As if it had been killed a little later, while it wrote the next one.
    sandbox.write("parts/train/.model_epoch_000_step_00018.pth.Xy12Zz.tmp", "half of a checkpoint");

    sandbox.run(&words(&parts)).passed();
    assert_same(&sandbox.path("whole").join(LATEST), &latest);
    assert_eq!(leftovers(&sandbox.path("parts")), leftovers(&sandbox.path("whole")));
}

#[test]
fn loader_threads_do_not_matter() {
    let sandbox = Sandbox::new().with_specs().with_images(4, 1);
    for threads in ["1", "2"] {
        let threads_setting = format!("dataset.num_workers_per_gpu={threads}");
        let training = training(&sandbox, threads, &["train.num_epochs=1", &threads_setting]);
        sandbox.run(&words(&training)).passed();
    }
    assert_same(&sandbox.path("1").join(LATEST), &sandbox.path("2").join(LATEST));
}

//! Which checkpoints are kept, what happens to damaged ones, and `train.max_time`.

use rustix::process::Signal;

use crate::common::{Sandbox, contents, events, status_lines};

const TRAIN: &str = "results/finetune/train";
const LATEST: &str = "results/finetune/train/convnextv2_atto_latest.pth";

/// 5 steps an epoch, a checkpoint after every one.
const STEPS: &str = "train.checkpoint_interval_unit=step train.checkpoint_interval=1 train.num_epochs=2";

fn sandbox() -> Sandbox {
    Sandbox::new().with_specs().with_images(4, 1)
}

fn checkpoints(sandbox: &Sandbox) -> Vec<String> {
    let names = std::fs::read_dir(sandbox.path(TRAIN)).unwrap();
    let names = names.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let mut names: Vec<String> = names.filter(|name| name.starts_with("model_epoch")).collect();
    names.sort();
    names
}

#[test]
fn the_last_and_the_best_are_kept() {
    let sandbox = sandbox();
    // A high rate after the first epoch, so that it is unlikely to stay the best by itself.
    let keep =
        "train.checkpoint_keep_last=2 train.checkpoint_keep_best=true train.checkpoint_safetensors=true";
    sandbox.mae(&format!("train -e finetune.yaml {STEPS} {keep}")).passed();
    let best = std::fs::read_link(sandbox.path(TRAIN).join("convnextv2_atto_best.pth")).unwrap();
    let best = best.to_str().unwrap();
    let accuracies: Vec<f64> = status_lines(&sandbox.path(TRAIN).join("status.json"))
        .iter()
        .filter(|line| line["message"] == "Eval metrics skipped.")
        .map(|line| line["kpi"]["ACC_all"].as_f64().unwrap())
        .collect();
    let expected = if accuracies[1] > accuracies[0] {
        "model_epoch_001_step_00010.pth"
    } else {
        "model_epoch_000_step_00005.pth"
    };
    assert_eq!(best, expected, "{accuracies:?}");
    let kept: Vec<String> = checkpoints(&sandbox).into_iter().filter(|name| name.ends_with(".pth")).collect();
    let mut expected = vec!["model_epoch_001_step_00009.pth", "model_epoch_001_step_00010.pth"];
    if best.contains("00005") {
        expected.insert(0, best);
    }
    assert_eq!(kept, expected);
    let weights = checkpoints(&sandbox).into_iter().filter(|name| name.ends_with(".safetensors"));
    assert_eq!(weights.count(), expected.len());
    let plain = sandbox.path(TRAIN).join("model_epoch_001_step_00010.safetensors");
    sandbox.mae(&format!("evaluate -e finetune.yaml evaluate.checkpoint={}", plain.display())).passed();
}

#[test]
fn a_damaged_checkpoint_is_not_the_end() {
    let sandbox = sandbox();
    sandbox.mae(&format!("train -e finetune.yaml {STEPS} results_dir=whole")).passed();
    sandbox.mae(&format!("train -e finetune.yaml {STEPS}")).passed();
    let path = |step: &str| sandbox.path(TRAIN).join(step);
    // The last one has lost a sector, the one before its end, and a newer one is half there.
    let last = path("model_epoch_001_step_00010.pth");
    let mut bytes = std::fs::read(&last).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle..middle + 512].fill(0);
    std::fs::write(&last, &bytes).unwrap();
    let before = path("model_epoch_001_step_00009.pth");
    let bytes = std::fs::read(&before).unwrap();
    std::fs::write(&before, &bytes[..bytes.len() - 1000]).unwrap();

    let run = sandbox.mae(&format!("train -e finetune.yaml {STEPS}")).passed();
    assert!(
        run.stderr.contains("Resuming from results/finetune/train/model_epoch_001_step_00008.pth"),
        "{}",
        run.stderr
    );
    assert!(run.stderr.contains("note: not used: results_dir"), "{}", run.stderr);
    let whole = contents(&sandbox.path("whole/train/convnextv2_atto_latest.pth"));
    let parts = contents(&sandbox.path(LATEST));
    assert!(whole.state_dict == parts.state_dict && whole.optimizer == parts.optimizer);
    // A file that the user names is never replaced by another one.
    std::fs::write(&last, &bytes[..1000]).unwrap();
    let named = format!("train.resume_training_checkpoint_path={}", last.display());
    let run = sandbox.mae(&format!("train -e finetune.yaml {STEPS} train.num_epochs=3 {named}"));
    assert!(run.code != Some(0) && run.stderr.contains("step_00010.pth"), "{}", run.stderr);
}

/// Killed after the file was renamed and before the link was moved.
#[test]
fn a_checkpoint_without_its_link_is_found() {
    let sandbox = sandbox();
    sandbox.mae("train -e finetune.yaml").passed();
    std::fs::remove_file(sandbox.path(LATEST)).unwrap();
    let run = sandbox.mae("train -e finetune.yaml train.num_epochs=2").passed();
    assert!(
        run.stderr.contains("Resuming from results/finetune/train/model_epoch_000_step_00005.pth"),
        "{}",
        run.stderr
    );
}

#[test]
fn a_run_ends_when_its_time_is_over() {
    let sandbox = sandbox();
    let run = sandbox.mae("train -e finetune.yaml train.max_time=00:00:00:00 train.num_epochs=2");
    assert_eq!(run.code, Some(4), "{}", run.stderr);
    // Time for a step or not: the same command goes on until the end.
    let run = sandbox.mae("train -e finetune.yaml train.max_time=01:00:00:00 train.num_epochs=2").passed();
    assert!(!run.stderr.contains("max_time"), "{}", run.stderr);
    let run = sandbox.mae("train -e finetune.yaml train.max_time=5m");
    assert!(run.code == Some(1) && run.stderr.contains("DD:HH:MM:SS"), "{}", run.stderr);
}

#[test]
fn a_second_signal_ends_the_run_at_once() {
    let sandbox = Sandbox::new().with_specs().with_images(16, 2);
    // One step is the whole epoch, so that the first signal alone would take long.
    let slow = "train -e finetune.yaml train.accum_grad_batches=1000 dataset.batch_size=1 dataset.augmentation.input_size=224";
    let mut run = sandbox.start("slow", &slow.split(' ').collect::<Vec<_>>());
    let status = sandbox.path(TRAIN).join("status.json");
    run.wait_until("the loop", || {
        std::fs::read_to_string(&status).is_ok_and(|text| text.contains("Training Loop"))
    });
    run.signal(Signal::INT);
    std::thread::sleep(std::time::Duration::from_millis(50));
    run.signal(Signal::TERM);
    assert_eq!(run.wait().code(), Some(4), "{}", run.log());
    assert!(checkpoints(&sandbox).is_empty());
}

/// What a run that was killed had logged beyond its last checkpoint is logged once.
#[test]
fn logs_have_no_duplicates() {
    let sandbox = sandbox();
    // A checkpoint after three epochs only: two are done again.
    let command = "train -e finetune.yaml train.num_epochs=3 train.checkpoint_interval=3";
    let mut run = sandbox.start("killed", &command.split(' ').collect::<Vec<_>>());
    let status = sandbox.path(TRAIN).join("status.json");
    run.wait_until("two epochs", || {
        std::fs::read_to_string(&status)
            .is_ok_and(|text| text.matches("Train metrics generated.").count() >= 2)
    });
    run.signal(Signal::KILL);
    run.wait();
    // As if a full disk had cut a line short.
    let mut text = std::fs::read_to_string(&status).unwrap();
    text.push_str("{\"date\": \"1/");
    std::fs::write(&status, text).unwrap();

    sandbox.mae(command).passed();
    let text = std::fs::read_to_string(&status).unwrap();
    assert!(!text.contains("1/{") && !text.contains("1/\n"), "{text}");
    let lines = status_lines(&status);
    let epochs: Vec<u64> = lines.iter().filter_map(|line| line["epoch"].as_u64()).collect();
    assert_eq!(epochs, [0, 1, 2]);
    // Nothing was left of the first run's curves, so that only one file is there.
    let curves = events(&sandbox.path(TRAIN).join("lightning_logs/version_1"));
    assert_eq!(curves.iter().filter(|event| event.tag == "train_loss_epoch").count(), 3);
}

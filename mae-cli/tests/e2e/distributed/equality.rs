//! N processes with batch B give what one process with batch N·B gives.

use super::{assert_same, difference, latest};
use crate::common::{Sandbox, results_csv, status_lines};

/// The last value of a metric in a run's `status.json`, and all training losses.
pub fn metrics(sandbox: &Sandbox, results: &str, action: &str) -> (Vec<f64>, Vec<f64>) {
    let lines = status_lines(&sandbox.path(results).join(action).join("status.json"));
    assert_eq!(lines.last().unwrap()["status"], "SUCCESS");
    let all = |name: &str| lines.iter().filter_map(|line| line["kpi"][name].as_f64()).collect();
    (all("train_loss"), [all("val_loss"), all("ACC_all")].concat())
}

#[track_caller]
pub fn assert_close(a: &[f64], b: &[f64], tolerance: f64) {
    assert_eq!(a.len(), b.len());
    assert!(a.iter().zip(b).all(|(a, b)| (a - b).abs() <= tolerance * (1.0 + b.abs())), "{a:?} {b:?}");
}

/// Trains on `ranks` processes with `batch / ranks` images each; the last checkpoint and the losses must be those of
/// one process.
#[track_caller]
fn equal(sandbox: &Sandbox, command: &str, batch: usize, ranks: &[usize], tolerance: f64) {
    let train = |results: &str, ranks: usize| {
        let each = batch / ranks;
        sandbox
            .mae(&format!(
                "train -e {command} results_dir={results} train.num_gpus={ranks} dataset.batch_size={each}"
            ))
            .passed()
    };
    train("one", 1);
    let one = metrics(sandbox, "one", "train");
    for &ranks in ranks {
        let results = format!("many{ranks}");
        let run = train(&results, ranks);
        assert!(
            run.stderr.contains(&format!("Starting {ranks} processes, each with one thread")),
            "{}",
            run.stderr
        );
        assert_eq!(run.stderr.matches("Execution status").count(), 1, "{}", run.stderr);
        let many = metrics(sandbox, &results, "train");
        assert_close(&many.0, &one.0, 1e-5);
        assert_close(&many.1, &one.1, 1e-5);
        let off = difference(&latest(sandbox, "one"), &latest(sandbox, &results));
        assert!(off <= tolerance, "{ranks} ranks: weights differ by {off:e}");
    }
}

/// 140 images, batches of 8: 17 steps an epoch, 51 in all. Ranks that hold different bits would end with an error when
/// the checkpoint is written.
#[test]
fn finetuning_on_two_and_four_ranks() {
    let sandbox = Sandbox::new().with_specs().with_images(14, 1);
    equal(&sandbox, "finetune.yaml train.num_epochs=3 train.optim.lr=0.0002", 8, &[2, 4], 1e-5);
}

/// AdamW's first step divides each gradient by its own size, and by no history: where that is near AdamW's ε of 1e-8, the
/// order of a sum shows in the third digit of the step. That is all of the difference here.
#[test]
fn pretraining_on_two_and_four_ranks() {
    let sandbox = Sandbox::new().with_specs().with_images(14, 1);
    equal(&sandbox, "pretrain.yaml train.num_epochs=3 train.optim.lr=0.0002", 8, &[2, 4], 1e-5);
}

/// The rate rises from zero to that of MAE's paper, as it does there: the first step is none.
#[test]
fn pretraining_with_warm_up() {
    let sandbox = Sandbox::new().with_specs().with_images(14, 1);
    let command = "pretrain.yaml train.num_epochs=3 train.optim.lr=0.0015 train.optim.lr_scheduler=cosine \
                   train.optim.warmup_epochs=1";
    equal(&sandbox, command, 8, &[2], 1e-5);
}

/// Accumulation, clipping by the norm over all parameters, frozen ones, and a validation set that does not divide.
#[test]
fn accumulation_clipping_and_frozen_parameters() {
    let sandbox = Sandbox::new().with_specs().with_images(6, 3);
    let command = "finetune.yaml train.accum_grad_batches=2 train.clip_grad_norm=0.5 train.optim.lr=0.0002 \
                   train.freeze=[stages.0,downsample_layers.0] train.optim.lr_scheduler=cosine";
    equal(&sandbox, command, 8, &[2], 1e-5);
}

/// Products in bf16 round more, and differently for other batch sizes; the ranks must still hold the same bits.
#[test]
fn mixed_precision() {
    let sandbox = Sandbox::new().with_specs().with_images(4, 1);
    equal(&sandbox, "finetune.yaml train.precision=bf16 train.optim.lr=0.00001", 8, &[2], 1e-3);
}

/// The same numbers and the same file, although 3 does not divide 20 images.
#[test]
fn evaluation_and_inference_are_those_of_one_process() {
    let sandbox = Sandbox::new().with_specs().with_images(4, 2);
    sandbox.mae("train -e finetune.yaml").passed();
    let act = |action: &str, results: &str, ranks: usize| {
        let folder = sandbox.path(results);
        sandbox
            .mae(&format!(
                "{action} -e finetune.yaml {action}.num_gpus={ranks} dataset.batch_size=3 {action}.results_dir={results}"
            ))
            .passed();
        folder
    };
    let kpi = |results: &str| {
        let lines =
            status_lines(&act("evaluate", results, if results == "e1" { 1 } else { 3 }).join("status.json"));
        let kpi = &lines.last().unwrap()["kpi"];
        (kpi["val_loss"].as_f64().unwrap(), kpi["ACC_all"].as_f64().unwrap())
    };
    let ((loss, accuracy), (loss_of_three, accuracy_of_three)) = (kpi("e1"), kpi("e3"));
    assert_eq!(accuracy, accuracy_of_three);
    assert!((loss - loss_of_three).abs() < 1e-6, "{loss} {loss_of_three}");

    let csv = |results: &str, ranks: usize| act("inference", results, ranks).join("results.csv");
    let (one, three) = (csv("i1", 1), csv("i3", 3));
    assert_eq!(results_csv(&one).len(), 20);
    assert_eq!(std::fs::read(one).unwrap(), std::fs::read(three).unwrap());
}

/// A run of four processes goes on with two and then with one, on the same images in the same order.
#[test]
fn the_number_of_ranks_may_change() {
    let sandbox = Sandbox::new().with_specs().with_images(8, 1);
    let train = |results: &str, ranks: usize, batch: usize, epochs: usize| {
        sandbox
            .mae(&format!(
                "train -e finetune.yaml results_dir={results} train.num_gpus={ranks} dataset.batch_size={batch} \
                 train.num_epochs={epochs} train.optim.lr=0.0002"
            ))
            .passed()
    };
    train("whole", 1, 8, 3);
    train("parts", 4, 2, 1);
    train("parts", 2, 4, 2);
    let run = train("parts", 1, 8, 3);
    assert!(
        run.stderr.contains("Resuming from parts/train/model_epoch_001_step_00020.pth"),
        "{}",
        run.stderr
    );
    let off = difference(&latest(&sandbox, "whole"), &latest(&sandbox, "parts"));
    assert!(off < 1e-5, "weights differ by {off:e}");

    // In the middle of an epoch, with batches of another size on all ranks together: the position is kept.
    let steps = "train.checkpoint_interval_unit=step train.checkpoint_interval=3";
    let begin =
        format!("train -e finetune.yaml {steps} results_dir=middle train.num_gpus=2 dataset.batch_size=4");
    let mut fault = sandbox.command(&begin.split_whitespace().collect::<Vec<_>>());
    fault.env("MAE_FAULT", "kill@0:30");
    let mut run = sandbox.start_command("middle", fault);
    assert_ne!(run.wait().code(), Some(0), "{}", run.log());
    let again = format!("train -e finetune.yaml {steps} results_dir=middle dataset.batch_size=4");
    let run = sandbox.mae(&again).passed();
    assert!(
        run.stderr.contains("note: a batch had 8 images on all processes together, and has 4 now"),
        "{}",
        run.stderr
    );
    let loops = crate::common::contents(&latest(&sandbox, "middle")).loops;
    // Twenty batches of 4: those before the change count double.
    assert_eq!(loops.batches_in_epoch, 20);
}

/// Another launch of the same training has the same bits.
#[test]
fn four_ranks_repeat_themselves() {
    let sandbox = Sandbox::new().with_specs().with_images(4, 1);
    for results in ["a", "b"] {
        let command = "train -e finetune.yaml train.num_gpus=4 dataset.batch_size=2";
        sandbox.mae(&format!("{command} results_dir={results}")).passed();
    }
    assert_same(&latest(&sandbox, "a"), &latest(&sandbox, "b"));
}

//! `train.distributed_strategy: fsdp` trains what `ddp` trains, and their checkpoints are of one kind.

use super::equality::{assert_close, metrics};
use super::failures::{last_status, with_fault};
use super::{assert_same, difference, latest};
use crate::common::{Sandbox, contents};

const FSDP: &str = "train.distributed_strategy=fsdp";

/// Trains twice on as many ranks: with a whole model on each, and in shares.
#[track_caller]
fn equal(sandbox: &Sandbox, command: &str, ranks: usize, losses: f64, weights: f64) {
    let train = |results: &str, options: &str| {
        let command = format!("train -e {command} train.num_gpus={ranks} results_dir={results} {options}");
        sandbox.mae(&command).passed();
        metrics(sandbox, results, "train")
    };
    let (whole, shares) = (format!("ddp{ranks}"), format!("fsdp{ranks}"));
    let (expected, found) = (train(&whole, ""), train(&shares, FSDP));
    assert_close(&found.0, &expected.0, losses);
    assert_close(&found.1, &expected.1, losses);
    let off = difference(&latest(sandbox, &whole), &latest(sandbox, &shares));
    assert!(off <= weights, "{ranks} ranks: weights differ by {off:e}");
    let shapes = |results: &str| -> Vec<_> {
        let state = contents(&latest(sandbox, results)).state_dict;
        state.into_iter().map(|(name, view)| (name, view.shape().to_vec())).collect()
    };
    assert_eq!(shapes(&whole), shapes(&shares));
}

#[test]
fn finetuning_in_shares() {
    let sandbox = Sandbox::new().with_specs().with_images(6, 1);
    let command = "finetune.yaml train.num_epochs=2 train.optim.lr=0.0002";
    equal(&sandbox, &format!("{command} dataset.batch_size=4"), 2, 1e-6, 1e-6);
    equal(&sandbox, &format!("{command} dataset.batch_size=2"), 4, 1e-6, 1e-5);
}

#[test]
fn pretraining_in_shares() {
    let sandbox = Sandbox::new().with_specs().with_images(6, 1);
    let command = "pretrain.yaml train.num_epochs=2 train.optim.lr=0.0002";
    equal(&sandbox, &format!("{command} dataset.batch_size=4"), 2, 1e-6, 1e-6);
    equal(&sandbox, &format!("{command} dataset.batch_size=2"), 4, 1e-6, 1e-5);
}

/// A validation set that does not divide: in the last batch some ranks have no image, and gather all the same.
#[test]
fn in_shares_with_accumulation_clipping_and_frozen_parameters() {
    let sandbox = Sandbox::new().with_specs().with_images(6, 3);
    let command = "finetune.yaml train.accum_grad_batches=2 train.clip_grad_norm=0.5 train.optim.lr=0.0002 \
                   train.freeze=[stages.0,stages.2.1] train.optim.lr_scheduler=cosine dataset.batch_size=7 \
                   train.num_epochs=3";
    equal(&sandbox, command, 4, 1e-6, 1e-5);
}

#[test]
fn in_shares_with_rounded_weights() {
    let sandbox = Sandbox::new().with_specs().with_images(4, 1);
    equal(
        &sandbox,
        "finetune.yaml train.precision=bf16 train.optim.lr=0.00001 dataset.batch_size=4",
        2,
        1e-5,
        1e-5,
    );
}

/// Four processes in shares, then two with whole models, then three in shares, then one.
#[test]
fn strategy_and_number_of_ranks_may_change() {
    let sandbox = Sandbox::new().with_specs().with_images(6, 1);
    let train = |results: &str, ranks: usize, epochs: usize, options: &str| {
        let batch = 12 / ranks;
        sandbox
            .mae(&format!(
                "train -e finetune.yaml results_dir={results} train.num_gpus={ranks} dataset.batch_size={batch} \
                 train.num_epochs={epochs} train.optim.lr=0.0002 {options}"
            ))
            .passed()
    };
    train("whole", 1, 4, "");
    train("parts", 4, 1, FSDP);
    train("parts", 2, 2, "");
    train("parts", 3, 3, FSDP);
    let run = train("parts", 1, 4, FSDP);
    assert!(
        run.stderr.contains("Resuming from parts/train/model_epoch_002_step_00015.pth"),
        "{}",
        run.stderr
    );
    let off = difference(&latest(&sandbox, "whole"), &latest(&sandbox, "parts"));
    assert!(off < 1e-5, "weights differ by {off:e}");
}

/// A lost rank is named, and a restart ends with the same bits.
#[test]
fn a_lost_share() {
    let sandbox = Sandbox::new().with_specs().with_images(8, 1);
    let train = format!(
        "train -e finetune.yaml train.checkpoint_interval_unit=step train.checkpoint_interval=3 train.num_gpus=2 \
         dataset.batch_size=4 {FSDP}"
    );
    let run = with_fault(&sandbox, "kill@1:150", &format!("{train} results_dir=lost"));
    assert_eq!(run.code, Some(2), "{}", run.stderr);
    let (status, message) = last_status(&sandbox, "lost");
    assert_eq!((&*status, message.contains("from rank 1 on ")), ("FAILURE", true), "{message}");

    sandbox.mae(&format!("{train} results_dir=whole")).passed();
    for (name, fault) in [("killed", "kill@1:620"), ("thrown", "exception@0:630")] {
        let run = with_fault(&sandbox, fault, &format!("{train} results_dir={name} train.max_restarts=1"));
        let run = run.passed();
        assert!(run.stderr.contains("[rank 0] Resuming from "), "{name}: {}", run.stderr);
        assert_same(&latest(&sandbox, "whole"), &latest(&sandbox, name));
    }
}

//! Several processes that train, evaluate and label together.
//!
//! | file | what it holds |
//! | --- | --- |
//! | `equality` | N processes with batch B give what one process with batch N·B gives |
//! | `failures` | lost, stopped and different ranks; restarts |
//! | `launchers` | TAO's variables, torchrun, network namespaces |

mod equality;
mod failures;
mod launchers;
mod sharding;

use std::path::{Path, PathBuf};

use tch::Tensor;

use crate::common::{Sandbox, contents};

/// The last checkpoint of a run.
fn latest(sandbox: &Sandbox, results: &str) -> PathBuf {
    sandbox.path(results).join("train/convnextv2_atto_latest.pth")
}

/// The weights of a checkpoint in one row, `[parameters]`.
fn weights(path: &Path) -> Tensor {
    let model = contents(path).state_dict;
    let rows: Vec<Tensor> = model
        .iter()
        .map(|(_, value)| value.to_tensor().unwrap().to_kind(tch::Kind::Double).reshape([-1]))
        .collect();
    Tensor::cat(&rows, 0)
}

/// The largest difference of any weight of two checkpoints.
fn difference(a: &Path, b: &Path) -> f64 {
    (weights(a) - weights(b)).abs().max().double_value(&[])
}

/// Weights, optimizer and counters are the same bits.
#[track_caller]
fn assert_same(a: &Path, b: &Path) {
    let (a, b) = (contents(a), contents(b));
    assert!(a.state_dict == b.state_dict, "the weights differ");
    assert!(a.optimizer == b.optimizer, "the optimizer's state differs");
    assert_eq!((a.epoch, a.global_step, &a.loops), (b.epoch, b.global_step, &b.loops));
}

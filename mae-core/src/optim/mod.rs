//! Optimizers with named state, parameter groups, learning-rate schedules.
//!
//! An optimizer sees names, shapes and tensors of the parameter table, never a model.

mod adamw;
mod groups;
mod schedule;
mod sgd;

use crate::checkpoint::lightning::{OptimizerKind, OptimizerState, ParamGroup as StoredGroup};
use crate::error::{Error, Result};
use crate::params::{ParamId, Params};

pub use adamw::{AdamW, AdamWConfig};
pub use groups::{GroupRule, ParamGroup, param_groups};
pub use schedule::{LrSchedule, estimated_steps};
pub use sgd::Sgd;

/// An optimizer, chosen by `train.optim.type`.
#[derive(Debug)]
pub enum Optimizer {
    /// AdamW (arXiv 1711.05101).
    AdamW(AdamW),
    /// Stochastic gradient descent with momentum.
    Sgd(Sgd),
}

impl Optimizer {
    /// One step with the gradients that the parameters hold; parameters without one are left alone.
    ///
    /// # Errors
    /// When libtorch fails.
    pub fn step(&mut self, params: &Params, lr: f64) -> Result<()> {
        match self {
            Optimizer::AdamW(optimizer) => optimizer.step(params, lr),
            Optimizer::Sgd(optimizer) => optimizer.step(params, lr),
        }
    }

    /// The groups, in order.
    pub fn groups(&self) -> &[ParamGroup] {
        match self {
            Optimizer::AdamW(optimizer) => optimizer.groups(),
            Optimizer::Sgd(optimizer) => optimizer.groups(),
        }
    }

    /// The state in PyTorch's structure: parameters are numbered through the groups. `lr` is the rate of the next
    /// step, `initial_lr` that before the schedule. Tensors are not copied: write them before the next step. Sharded ones
    /// are put together as in [`Model::state_dict`](crate::model::Model::state_dict).
    ///
    /// # Errors
    /// When a tensor cannot be viewed; a lost or late peer.
    pub fn state(&self, params: &Params, lr: f64, initial_lr: f64) -> Result<OptimizerState> {
        let (kind, state) = match self {
            Optimizer::AdamW(optimizer) => (optimizer.stored_kind(), optimizer.stored_state(params)?),
            Optimizer::Sgd(optimizer) => (optimizer.stored_kind(), optimizer.stored_state(params)?),
        };
        Ok(OptimizerState { state, param_groups: stored_groups(self.groups(), kind, lr, initial_lr) })
    }

    /// Restores a state that [`state`](Self::state) gave, or PyTorch.
    ///
    /// # Errors
    /// [`Error::Setting`] when groups or algorithm differ from this optimizer's.
    pub fn load_state(&mut self, params: &Params, state: &OptimizerState) -> Result<()> {
        let ours: Vec<usize> = self.groups().iter().map(|group| group.params.len()).collect();
        let theirs: Vec<usize> = state.param_groups.iter().map(|group| group.params.len()).collect();
        if ours != theirs {
            let problem = format!("expected parameter groups of {ours:?} tensors, found {theirs:?}");
            return Err(mismatch(problem));
        }
        match self {
            Optimizer::AdamW(optimizer) => optimizer.load_state(params, &state.state),
            Optimizer::Sgd(optimizer) => optimizer.load_state(params, &state.state),
        }
    }
}

/// Parameters in the order in which PyTorch numbers them.
fn numbered(groups: &[ParamGroup]) -> impl Iterator<Item = ParamId> {
    groups.iter().flat_map(|group| group.params.iter().copied())
}

/// The parameter that PyTorch's number stands for.
fn by_number(ids: &[ParamId], number: i64) -> Result<ParamId> {
    usize::try_from(number)
        .ok()
        .and_then(|number| ids.get(number).copied())
        .ok_or_else(|| mismatch(format!("found state for parameter {number} of {}", ids.len())))
}

fn stored_groups(groups: &[ParamGroup], kind: OptimizerKind, lr: f64, initial_lr: f64) -> Vec<StoredGroup> {
    let mut next = 0;
    groups
        .iter()
        .map(|group| {
            let first = next;
            next += group.params.len() as i64;
            StoredGroup {
                weight_decay: group.weight_decay,
                lr_scale: group.lr_scale,
                lr: lr * group.applied_scale,
                initial_lr: Some(initial_lr * group.applied_scale),
                kind,
                params: (first..next).collect(),
            }
        })
        .collect()
}

fn mismatch(problem: String) -> Error {
    Error::Setting {
        key: "optimizer state of the checkpoint".into(),
        problem,
        remedy: "resume with the spec of that run (model.arch, train.stage, train.freeze, train.optim.type), or start \
                 anew from its weights with train.pretrained_model_path"
            .into(),
    }
}

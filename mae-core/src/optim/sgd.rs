//! Stochastic gradient descent with momentum, step for step as `torch.optim.SGD`.

use tch::Tensor;

use super::{ParamGroup, by_number, mismatch, numbered};
use crate::checkpoint::lightning::{OptimizerKind, ParamState};
use crate::error::Result;
use crate::params::Params;

/// SGD with its momentum buffers, by the place of the parameter in the table.
#[derive(Debug)]
pub struct Sgd {
    groups: Vec<ParamGroup>,
    momentum: f64,
    buffers: Vec<Option<Tensor>>,
}

impl Sgd {
    /// An optimizer that has not stepped.
    pub fn new(params: &Params, groups: Vec<ParamGroup>, momentum: f64) -> Self {
        Sgd { groups, momentum, buffers: params.iter().map(|_| None).collect() }
    }

    /// The groups, in order.
    pub fn groups(&self) -> &[ParamGroup] {
        &self.groups
    }

    pub(super) fn step(&mut self, params: &Params, lr: f64) -> Result<()> {
        let _guard = tch::no_grad_guard();
        for group in &self.groups {
            let lr = lr * group.applied_scale;
            for &id in &group.params {
                let mut param = params.local(id).shallow_clone();
                let grad = param.grad();
                if !grad.defined() {
                    continue;
                }
                // Decay is part of the gradient here, unlike in AdamW.
                let mut update = grad.f_add(&param.f_mul_scalar(group.weight_decay)?)?;
                if self.momentum != 0.0 {
                    update = match &mut self.buffers[id.index()] {
                        Some(buffer) => buffer.f_mul_scalar_(self.momentum)?.f_add_(&update)?,
                        none => none.insert(update).shallow_clone(),
                    };
                }
                let _ = param.f_sub_(&update.f_mul_scalar(lr)?)?;
            }
        }
        Ok(())
    }

    pub(super) fn stored_kind(&self) -> OptimizerKind {
        OptimizerKind::Sgd { momentum: self.momentum }
    }

    pub(super) fn stored_state(&self, params: &Params) -> Result<Vec<(i64, ParamState)>> {
        let mut state = Vec::new();
        for (number, id) in numbered(&self.groups).enumerate() {
            if let Some(buffer) = &self.buffers[id.index()] {
                let momentum_buffer = Some(params.view(id, buffer)?);
                state.push((number as i64, ParamState::Sgd { momentum_buffer }));
            }
        }
        Ok(state)
    }

    pub(super) fn load_state(&mut self, params: &Params, state: &[(i64, ParamState)]) -> Result<()> {
        let ids: Vec<_> = numbered(&self.groups).collect();
        for (number, entry) in state {
            let ParamState::Sgd { momentum_buffer } = entry else {
                return Err(mismatch("expected the state of SGD, found that of AdamW".into()));
            };
            let id = by_number(&ids, *number)?;
            self.buffers[id.index()] = match momentum_buffer {
                Some(view) => {
                    Some(params.share_of(id, view.to_tensor()?)?.f_to_device(params.local(id).device())?)
                }
                None => None,
            };
        }
        Ok(())
    }
}

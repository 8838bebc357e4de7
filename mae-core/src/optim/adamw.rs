//! AdamW (Loshchilov and Hutter, arXiv 1711.05101, algorithm 2), step for step as
//! `torch.optim.AdamW`, by libtorch's fused kernel: one pass over parameters, gradients and moments.

use std::collections::BTreeMap;

use tch::Tensor;

use super::{ParamGroup, by_number, mismatch, numbered};
use crate::checkpoint::lightning::{OptimizerKind, ParamState};
use crate::error::Result;
use crate::params::Params;
use crate::sys::{AdamWUpdate, fused_adamw};

/// Settings of AdamW. TAO's are the default.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct AdamWConfig {
    /// Decay of the first and second moment.
    pub betas: (f64, f64),
    /// Added to the denominator.
    pub eps: f64,
}

impl Default for AdamWConfig {
    fn default() -> Self {
        AdamWConfig { betas: (0.9, 0.95), eps: 1e-8 }
    }
}

/// AdamW with its moments, by the place of the parameter in the table.
#[derive(Debug)]
pub struct AdamW {
    groups: Vec<ParamGroup>,
    config: AdamWConfig,
    moments: Vec<Option<Moments>>,
}

#[derive(Debug)]
struct Moments {
    step: i64,
    exp_avg: Tensor,
    exp_avg_sq: Tensor,
}

impl AdamW {
    /// An optimizer that has not stepped.
    pub fn new(params: &Params, groups: Vec<ParamGroup>, config: AdamWConfig) -> Self {
        AdamW { groups, config, moments: params.iter().map(|_| None).collect() }
    }

    /// The groups, in order.
    pub fn groups(&self) -> &[ParamGroup] {
        &self.groups
    }

    pub(super) fn step(&mut self, params: &Params, lr: f64) -> Result<()> {
        let _guard = tch::no_grad_guard();
        for group in &self.groups {
            // Parameters whose moments have seen equally many steps go in one call; nearly always that is all of them.
            let mut updates: BTreeMap<i64, Vec<AdamWUpdate>> = BTreeMap::new();
            for &id in &group.params {
                let param = params.local(id);
                let grad = param.grad();
                if !grad.defined() {
                    continue;
                }
                let moments = match &mut self.moments[id.index()] {
                    Some(moments) => moments,
                    none => none.insert(Moments {
                        step: 0,
                        exp_avg: param.f_zeros_like()?,
                        exp_avg_sq: param.f_zeros_like()?,
                    }),
                };
                moments.step += 1;
                updates.entry(moments.step).or_default().push(AdamWUpdate {
                    param: param.shallow_clone(),
                    grad,
                    exp_avg: moments.exp_avg.shallow_clone(),
                    exp_avg_sq: moments.exp_avg_sq.shallow_clone(),
                });
            }
            let lr = lr * group.applied_scale;
            for (step, updates) in &updates {
                fused_adamw(updates, *step, lr, self.config.betas, group.weight_decay, self.config.eps)?;
            }
        }
        Ok(())
    }

    pub(super) fn stored_kind(&self) -> OptimizerKind {
        OptimizerKind::AdamW { betas: self.config.betas, eps: self.config.eps }
    }

    pub(super) fn stored_state(&self, params: &Params) -> Result<Vec<(i64, ParamState)>> {
        let mut state = Vec::new();
        for (number, id) in numbered(&self.groups).enumerate() {
            let Some(moments) = &self.moments[id.index()] else { continue };
            let entry = ParamState::Adam {
                step: moments.step,
                exp_avg: params.view(id, &moments.exp_avg)?,
                exp_avg_sq: params.view(id, &moments.exp_avg_sq)?,
            };
            state.push((number as i64, entry));
        }
        Ok(state)
    }

    pub(super) fn load_state(&mut self, params: &Params, state: &[(i64, ParamState)]) -> Result<()> {
        let ids: Vec<_> = numbered(&self.groups).collect();
        for (number, entry) in state {
            let ParamState::Adam { step, exp_avg, exp_avg_sq } = entry else {
                return Err(mismatch("expected the state of AdamW, found that of SGD".into()));
            };
            let id = by_number(&ids, *number)?;
            let (spec, device) = (params.spec(id), params.local(id).device());
            for view in [exp_avg, exp_avg_sq] {
                if view.shape() != spec.shape {
                    let (expected, found) = (&spec.shape, view.shape());
                    let name = &spec.name;
                    return Err(mismatch(format!(
                        "expected moments of shape {expected:?} for '{name}', found {found:?}"
                    )));
                }
            }
            self.moments[id.index()] = Some(Moments {
                step: *step,
                exp_avg: params.share_of(id, exp_avg.to_tensor()?)?.f_to_device(device)?,
                exp_avg_sq: params.share_of(id, exp_avg_sq.to_tensor()?)?.f_to_device(device)?,
            });
        }
        Ok(())
    }
}

//! AdamW (Loshchilov and Hutter, arXiv 1711.05101, algorithm 2), step for step as `torch.optim.AdamW`.

use tch::Tensor;

use super::{ParamGroup, by_number, mismatch, numbered};
use crate::checkpoint::TensorView;
use crate::checkpoint::lightning::{OptimizerKind, ParamState};
use crate::error::Result;
use crate::params::Params;

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
        let AdamWConfig { betas: (beta1, beta2), eps } = self.config;
        for group in &self.groups {
            let lr = lr * group.applied_scale;
            for &id in &group.params {
                let mut param = params.get(id).shallow_clone();
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
                let _ = param.f_mul_scalar_(1.0 - lr * group.weight_decay)?;
                let _ = moments.exp_avg.f_lerp_(&grad, 1.0 - beta1)?;
                let squared = grad.f_square()?.f_mul_scalar_(1.0 - beta2)?;
                let _ = moments.exp_avg_sq.f_mul_scalar_(beta2)?.f_add_(&squared)?;
                let bias1 = 1.0 - beta1.powi(moments.step as i32);
                let bias2 = 1.0 - beta2.powi(moments.step as i32);
                let denominator =
                    moments.exp_avg_sq.f_sqrt()?.f_div_scalar_(bias2.sqrt())?.f_add_scalar_(eps)?;
                let update = moments.exp_avg.f_div(&denominator)?.f_mul_scalar_(-lr / bias1)?;
                let _ = param.f_add_(&update)?;
            }
        }
        Ok(())
    }

    pub(super) fn stored_kind(&self) -> OptimizerKind {
        OptimizerKind::AdamW { betas: self.config.betas, eps: self.config.eps }
    }

    pub(super) fn stored_state(&self) -> Result<Vec<(i64, ParamState)>> {
        let mut state = Vec::new();
        for (number, id) in numbered(&self.groups).enumerate() {
            let Some(moments) = &self.moments[id.index()] else { continue };
            let entry = ParamState::Adam {
                step: moments.step,
                exp_avg: TensorView::deferred(&moments.exp_avg)?,
                exp_avg_sq: TensorView::deferred(&moments.exp_avg_sq)?,
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
            let (spec, device) = (params.spec(id), params.get(id).device());
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
                exp_avg: exp_avg.to_tensor()?.f_to_device(device)?,
                exp_avg_sq: exp_avg_sq.to_tensor()?.f_to_device(device)?,
            });
        }
        Ok(())
    }
}

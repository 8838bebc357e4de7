//! State of a PyTorch learning rate scheduler.

use super::super::{Result, Value};
use super::Keys;

/// One entry of `lr_schedulers`.
#[derive(Debug, Clone, PartialEq)]
pub struct LrScheduler {
    /// Which scheduler.
    pub kind: LrSchedulerKind,
    /// Initial learning rate of every group.
    pub base_lrs: Vec<f64>,
    /// Steps of the scheduler so far (PyTorch calls them epochs).
    pub last_epoch: i64,
    /// Learning rate of every group.
    pub last_lr: Vec<f64>,
}

/// Which scheduler, with what it keeps.
#[derive(Debug, Clone, PartialEq)]
pub enum LrSchedulerKind {
    /// `torch.optim.lr_scheduler.MultiStepLR`.
    MultiStep {
        /// Milestones with how often each is listed.
        milestones: Vec<(i64, i64)>,
        /// Factor at each milestone.
        gamma: f64,
    },
    /// `torch.optim.lr_scheduler.LambdaLR`, TAO's warm-up and cosine. It keeps nothing of its function.
    Lambda,
}

impl LrScheduler {
    pub(super) fn to_value(&self) -> Value {
        let mut state = Vec::new();
        if let LrSchedulerKind::MultiStep { milestones, gamma } = &self.kind {
            let pairs = milestones.iter().map(|(at, times)| (Value::Int(*at), Value::Int(*times)));
            state.push(("milestones", Value::Counter(pairs.collect())));
            state.push(("gamma", Value::Float(*gamma)));
        }
        state.extend([
            ("base_lrs", Value::list(self.base_lrs.iter().copied())),
            ("last_epoch", Value::Int(self.last_epoch)),
            ("_step_count", Value::Int(self.last_epoch + 1)),
            ("_is_initial", Value::Bool(false)),
            ("_get_lr_called_within_step", Value::Bool(false)),
            ("_last_lr", Value::list(self.last_lr.iter().copied())),
        ]);
        if self.kind == LrSchedulerKind::Lambda {
            let lambdas = self.base_lrs.iter().map(|_| Value::Dict(Vec::new()));
            state.push(("lr_lambdas", Value::List(lambdas.collect())));
        }
        Value::dict(state)
    }

    pub(super) fn from_value(state: &Keys<'_>) -> Result<Self> {
        let kind = match state.optional("milestones") {
            Some(milestones) => {
                let items = milestones.value.as_dict().ok_or_else(|| milestones.wrong("a Counter"))?;
                let pair = |(key, value): &(Value, Value)| Some((key.as_i64()?, value.as_i64()?));
                let milestones: Option<Vec<_>> = items.iter().map(pair).collect();
                let milestones = milestones
                    .ok_or_else(|| state.at("milestones", state.value).wrong("a Counter of ints"))?;
                LrSchedulerKind::MultiStep { milestones, gamma: state.get("gamma")?.float()? }
            }
            None => LrSchedulerKind::Lambda,
        };
        Ok(Self {
            kind,
            base_lrs: state.get("base_lrs")?.floats()?,
            last_epoch: state.get("last_epoch")?.int()?,
            last_lr: state.get("_last_lr")?.floats()?,
        })
    }
}

//! State of a PyTorch optimizer, as `torch.optim.Optimizer.state_dict` gives it.

use super::super::{Result, TensorView, Value};
use super::Keys;

/// `optimizer_states[0]`.
#[derive(Debug, Clone, PartialEq)]
pub struct OptimizerState {
    /// State of every parameter that was stepped, by its index in the concatenated groups.
    pub state: Vec<(i64, ParamState)>,
    /// The groups in order.
    pub param_groups: Vec<ParamGroup>,
}

/// State of one parameter.
#[derive(Debug, Clone, PartialEq)]
pub enum ParamState {
    /// Adam and AdamW.
    Adam {
        /// Steps so far; stored as a 0-dimensional float32 tensor.
        step: i64,
        /// First moment, shape of the parameter.
        exp_avg: TensorView,
        /// Second moment, shape of the parameter.
        exp_avg_sq: TensorView,
    },
    /// SGD with momentum.
    Sgd {
        /// Momentum, shape of the parameter; `None` without momentum.
        momentum_buffer: Option<TensorView>,
    },
}

/// One parameter group.
#[derive(Debug, Clone, PartialEq)]
pub struct ParamGroup {
    /// Weight decay.
    pub weight_decay: f64,
    /// Layer-wise scale of the learning rate; absent in pretraining.
    pub lr_scale: Option<f64>,
    /// Learning rate of the next step.
    pub lr: f64,
    /// Learning rate before the scheduler; absent without a scheduler.
    pub initial_lr: Option<f64>,
    /// Settings of the algorithm.
    pub kind: OptimizerKind,
    /// Indices of the parameters.
    pub params: Vec<i64>,
}

/// Settings of the algorithm that are equal in all groups.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum OptimizerKind {
    /// AdamW.
    AdamW {
        /// Decay of the two moments.
        betas: (f64, f64),
        /// Added to the denominator.
        eps: f64,
    },
    /// SGD.
    Sgd {
        /// Momentum.
        momentum: f64,
    },
}

impl OptimizerState {
    pub(super) fn to_value(&self) -> Value {
        let state = self.state.iter().map(|(index, state)| (Value::Int(*index), state.to_value()));
        Value::dict([
            ("state", Value::Dict(state.collect())),
            ("param_groups", Value::List(self.param_groups.iter().map(ParamGroup::to_value).collect())),
        ])
    }

    pub(super) fn from_value(optimizer: &Keys<'_>) -> Result<Self> {
        let state = optimizer.get("state")?;
        let items = state.value.as_dict().ok_or_else(|| state.wrong("a dict"))?;
        let item = |(key, value)| {
            let key: &Value = key;
            let index = key.as_i64().ok_or_else(|| state.wrong("a dict with int keys"))?;
            Ok((index, ParamState::from_value(&state.at(&index.to_string(), value))?))
        };
        Ok(Self {
            state: items.iter().map(|(key, value)| (key, value)).map(item).collect::<Result<_>>()?,
            param_groups: optimizer
                .get("param_groups")?
                .elements()?
                .iter()
                .map(ParamGroup::from_value)
                .collect::<Result<_>>()?,
        })
    }
}

impl ParamState {
    fn to_value(&self) -> Value {
        match self {
            ParamState::Adam { step, exp_avg, exp_avg_sq } => Value::dict([
                ("step", Value::Tensor(TensorView::scalar_f32(*step as f32))),
                ("exp_avg", Value::Tensor(exp_avg.clone())),
                ("exp_avg_sq", Value::Tensor(exp_avg_sq.clone())),
            ]),
            ParamState::Sgd { momentum_buffer } => {
                Value::dict([("momentum_buffer", momentum_buffer.clone().map_or(Value::None, Value::Tensor))])
            }
        }
    }

    fn from_value(state: &Keys<'_>) -> Result<Self> {
        if state.value.get("momentum_buffer").is_some() || state.value.as_dict().is_some_and(<[_]>::is_empty)
        {
            let momentum_buffer = state.value.get("momentum_buffer").and_then(Value::as_tensor).cloned();
            return Ok(ParamState::Sgd { momentum_buffer });
        }
        let tensor = |key: &str| {
            let moment = state.get(key)?;
            moment.value.as_tensor().cloned().ok_or_else(|| moment.wrong("a tensor"))
        };
        Ok(ParamState::Adam {
            step: state.get("step")?.float()? as i64,
            exp_avg: tensor("exp_avg")?,
            exp_avg_sq: tensor("exp_avg_sq")?,
        })
    }
}

impl ParamGroup {
    fn to_value(&self) -> Value {
        let mut group = vec![("weight_decay", Value::Float(self.weight_decay))];
        group.extend(self.lr_scale.map(|scale| ("lr_scale", Value::Float(scale))));
        group.push(("lr", Value::Float(self.lr)));
        match self.kind {
            OptimizerKind::AdamW { betas, eps } => group.extend([
                ("betas", Value::Tuple(vec![Value::Float(betas.0), Value::Float(betas.1)])),
                ("eps", Value::Float(eps)),
                ("amsgrad", Value::Bool(false)),
                ("maximize", Value::Bool(false)),
                ("foreach", Value::None),
                ("capturable", Value::Bool(false)),
                ("differentiable", Value::Bool(false)),
                ("fused", Value::None),
                ("decoupled_weight_decay", Value::Bool(true)),
            ]),
            OptimizerKind::Sgd { momentum } => group.extend([
                ("momentum", Value::Float(momentum)),
                ("dampening", Value::Int(0)),
                ("nesterov", Value::Bool(false)),
                ("maximize", Value::Bool(false)),
                ("foreach", Value::None),
                ("differentiable", Value::Bool(false)),
                ("fused", Value::None),
            ]),
        }
        group.extend(self.initial_lr.map(|lr| ("initial_lr", Value::Float(lr))));
        group.push(("params", Value::list(self.params.iter().copied())));
        Value::dict(group)
    }

    fn from_value(group: &Keys<'_>) -> Result<Self> {
        let kind = match group.optional("betas") {
            Some(betas) => match betas.floats()?.as_slice() {
                [first, second] => {
                    OptimizerKind::AdamW { betas: (*first, *second), eps: group.get("eps")?.float()? }
                }
                _ => return Err(betas.wrong("a pair of floats")),
            },
            None => OptimizerKind::Sgd { momentum: group.get("momentum")?.float()? },
        };
        let optional = |key| group.optional(key).map(|value| value.float()).transpose();
        Ok(Self {
            weight_decay: group.get("weight_decay")?.float()?,
            lr_scale: optional("lr_scale")?,
            lr: group.get("lr")?.float()?,
            initial_lr: optional("initial_lr")?,
            kind,
            params: group.get("params")?.elements()?.iter().map(Keys::int).collect::<Result<_>>()?,
        })
    }
}

//! State of the gradient scaler of a 16-bit training.

use super::super::{Result, Value};
use super::Keys;

/// Where Lightning's `MixedPrecision` plugin keeps the state of `torch.amp.GradScaler`.
pub(super) const KEY: &str = "MixedPrecision";
/// Where Lightning kept it before version 1.6.
pub(super) const OLD_KEY: &str = "native_amp_scaling_state";

/// The state of `torch.amp.GradScaler`. Its constants are PyTorch's defaults, which TAO does not change.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct GradScaler {
    /// The factor by which the loss is multiplied.
    pub scale: f64,
    /// Steps with finite gradients since it last changed.
    pub growth_tracker: i64,
}

impl GradScaler {
    pub(super) fn to_value(self) -> Value {
        Value::dict([
            ("scale", Value::Float(self.scale)),
            ("growth_factor", Value::Float(2.0)),
            ("backoff_factor", Value::Float(0.5)),
            ("growth_interval", Value::Int(2000)),
            ("_growth_tracker", Value::Int(self.growth_tracker)),
        ])
    }

    pub(super) fn from_value(state: &Keys<'_>) -> Result<Self> {
        let growth_tracker = state.get("_growth_tracker")?.int()?;
        Ok(Self { scale: state.get("scale")?.float()?, growth_tracker })
    }
}

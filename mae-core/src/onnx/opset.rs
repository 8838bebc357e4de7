//! What the versions of ONNX's operator set change for us.

use super::graph::DataType;
use crate::error::{Error, Result};

/// The oldest operator set that we write: since 13, `Softmax` works on one axis and `Squeeze` and `Unsqueeze` are
/// settled.
pub const OLDEST_OPSET: i64 = 13;
/// The newest operator set that we write: the newest that onnxruntime 1.32 accepts.
pub const NEWEST_OPSET: i64 = 28;

/// A version of the operator set, checked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Opset(i64);

impl Opset {
    /// # Errors
    /// [`Error::Onnx`] outside of [`OLDEST_OPSET`] to [`NEWEST_OPSET`].
    pub fn new(version: i64) -> Result<Self> {
        if (OLDEST_OPSET..=NEWEST_OPSET).contains(&version) {
            return Ok(Opset(version));
        }
        Err(Error::Onnx {
            problem: format!(
                "opset_version {version} is not supported; expected {OLDEST_OPSET} to {NEWEST_OPSET}, the newest that \
                 onnxruntime runs"
            ),
            remedy: "choose 17 unless the runtime that will load the model asks for another".into(),
        })
    }

    pub fn version(self) -> i64 {
        self.0
    }

    /// The version of the file format that was released with the operator set (ONNX, `docs/Versioning.md`).
    pub fn ir_version(self) -> i64 {
        match self.0 {
            ..=14 => 7,
            15..=18 => 8,
            19..=20 => 9,
            21..=22 => 10,
            23 => 11,
            24 => 12,
            25..=27 => 13,
            _ => 14,
        }
    }

    /// The float type of an export in fp16.
    ///
    /// # Errors
    /// Where layer norm is a composition, whose squares leave fp16.
    pub fn half(self) -> Result<DataType> {
        if self.has_layer_normalization() {
            return Ok(DataType::Float16);
        }
        Err(Error::Onnx {
            problem: format!(
                "opset_version {} has no LayerNormalization, without which fp16 overflows",
                self.0
            ),
            remedy: "set export.opset_version to 17 or more, or export in fp32".into(),
        })
    }

    /// `LayerNormalization` is one node.
    pub fn has_layer_normalization(self) -> bool {
        self.0 >= 17
    }

    /// `Gelu` is one node.
    pub fn has_gelu(self) -> bool {
        self.0 >= 20
    }

    /// `ReduceMean`, `ReduceMax` and `ReduceL2` take their axes as an input, no longer as an attribute.
    pub fn reduces_by_input(self) -> bool {
        self.0 >= 18
    }

    /// `Shape` can be asked for some of the dimensions.
    pub fn has_partial_shape(self) -> bool {
        self.0 >= 15
    }
}

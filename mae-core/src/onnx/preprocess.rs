//! Images of bytes as the input: what the data loader does behind the crop, as the first nodes of the graph.

use super::graph::{Attribute, DataType};
use super::recorder::{Recorder, Value};
use crate::error::{Error, Result};

/// `(x / 255 - mean) / std` for each channel.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Preprocessing {
    /// Mean of each channel, for images scaled to 0..1.
    pub mean: [f32; 3],
    /// Standard deviation of each channel.
    pub std: [f32; 3],
}

impl Recorder<'_> {
    /// The model's input as normalised images `[N, C, H, W]` of the float type that the model computes in.
    pub(super) fn images(
        &self,
        name: &str,
        shape: &[i64; 4],
        preprocessing: Option<&Preprocessing>,
    ) -> Result<Value> {
        let place = "preprocessing";
        let Some(Preprocessing { mean, std }) = preprocessing else {
            let images = self.tensor(&self.input(name, shape, DataType::Float))?;
            return Ok(self.value(self.cast(place, images, self.float_type())));
        };
        let &[batch, channels, height, width] = shape;
        if channels != 3 {
            return Err(Error::Onnx {
                problem: format!("preprocessing is for images of 3 channels, not {channels}"),
                remedy: "set export.input_channel=3, or export.include_preprocessing=false".into(),
            });
        }
        let shape = [batch, height, width, channels];
        let bytes = self.tensor(&self.input(name, &shape, DataType::Uint8))?;
        let node =
            |op, inputs: &[_]| self.node(place, op, inputs, Vec::<(_, Attribute)>::new(), shape.to_vec());
        let pixels = self.cast(place, bytes, DataType::Float);
        // In the loader's order, which gives the same bits.
        let scaled = node("Div", &[pixels, self.float(255.0, pixels)]);
        let centred = node("Sub", &[scaled, self.named("preprocessing.mean", mean)?]);
        let normalised = node("Div", &[centred, self.named("preprocessing.std", std)?]);
        Ok(self.value_in_order(self.cast(place, normalised, self.float_type()), vec![0, 3, 1, 2]))
    }
}

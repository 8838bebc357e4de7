//! Running an ONNX file in onnxruntime, whose library is loaded at run time, and only when a model is run.

use std::path::Path;

use tch::{Device, Kind, Tensor};

use super::inspect::{Description, describe};
use super::preprocess::Preprocessing;
use crate::error::{Error, Result};

mod library;
#[cfg(feature = "onnxruntime")]
mod runtime;
#[cfg(not(feature = "onnxruntime"))]
#[path = "session/without.rs"]
mod runtime;

pub use library::find_library;

/// An image model in onnxruntime, on the CPU.
pub struct Session {
    runtime: runtime::Runtime,
    description: Description,
    normalisation: Preprocessing,
    version: String,
}

impl Session {
    /// Opens the model at `path` with the onnxruntime of `library`, which [`find_library`] finds. The first library of a
    /// process is the one that it keeps. `normalisation` says how the images were normalised that the model will be given;
    /// one that takes bytes is given the pixels from before that.
    ///
    /// # Errors
    /// [`Error::OnnxFile`] when it is no model of one image batch to one row of numbers an image; [`Error::OnnxRuntime`]
    /// when onnxruntime is missing, or refuses the model.
    pub fn open(path: &Path, library: &Path, normalisation: Preprocessing) -> Result<Self> {
        let description = describe(path)?;
        refuse_other_inputs(path, &description)?;
        refuse_other_outputs(path, &description)?;
        Self::open_described(path, description, library, normalisation)
    }

    /// The same for a model with any outputs.
    pub(super) fn open_described(
        path: &Path,
        description: Description,
        library: &Path,
        normalisation: Preprocessing,
    ) -> Result<Self> {
        refuse_other_inputs(path, &description)?;
        let runtime = runtime::Runtime::open(path, library)?;
        Ok(Session { runtime, description, normalisation, version: version(library) })
    }

    /// What the file says of itself.
    pub fn description(&self) -> &Description {
        &self.description
    }

    /// The version of onnxruntime, such as `1.32.0`, when its file's name says it.
    pub fn version(&self) -> &str {
        &self.version
    }

    /// Normalised images `[N, 3, H, W]` fp32 → the model's output `[N, K]` fp32. A model with a fixed batch is run as
    /// often as needed, the last time with the last image repeated.
    ///
    /// # Errors
    /// [`Error::OnnxRuntime`] when onnxruntime fails, [`Error::Shape`] for images of another size.
    pub fn run(&mut self, images: &Tensor) -> Result<Tensor> {
        let mut results = Vec::new();
        self.batches(images, images.size()[0], |outputs| {
            results.extend(outputs.into_iter().next());
            Ok(())
        })?;
        Ok(Tensor::f_cat(&results, 0)?)
    }

    /// Runs normalised images in batches of `size`, or of the model's own fixed size, and hands over all outputs of each,
    /// without the rows that only filled up.
    pub(super) fn batches(
        &mut self,
        images: &Tensor,
        size: i64,
        mut take: impl FnMut(Vec<Tensor>) -> Result<()>,
    ) -> Result<()> {
        let input = &self.description.inputs[0];
        let (bytes, fixed) = (input.dtype == "uint8", input.shape[0]);
        let images = images.f_to_device(Device::Cpu)?.f_to_kind(Kind::Float)?;
        let images = if bytes { self.pixels(&images)? } else { images };
        let agrees = |(&wanted, &found): (&i64, &i64)| wanted < 0 || wanted == found;
        if !input.shape[1..].iter().zip(&images.size()[1..]).all(agrees) {
            return Err(Error::Shape {
                what: format!("input '{}' of the ONNX model", input.name),
                expected: format!("{:?}", input.shape),
                found: format!("{:?}", images.size()),
            });
        }
        let all = images.size()[0];
        for start in (0..all).step_by(if fixed > 0 { fixed } else { size.max(1) } as usize) {
            let counted = (all - start).min(if fixed > 0 { fixed } else { size });
            let filled = if fixed > 0 { fixed } else { counted };
            let rows: Vec<i64> = (start..start + filled).map(|row| row.min(all - 1)).collect();
            let batch = images.f_index_select(0, &Tensor::f_from_slice(&rows)?)?;
            let outputs = self.runtime.run(&batch, bytes)?;
            let outputs = outputs.iter().map(|output| output.f_narrow(0, 0, counted));
            take(outputs.collect::<std::result::Result<_, _>>()?)?;
        }
        Ok(())
    }

    /// Normalised images as the bytes they were, `[N, H, W, 3]`.
    fn pixels(&self, images: &Tensor) -> Result<Tensor> {
        let channel = |values: &[f32; 3]| Tensor::f_from_slice(values)?.f_reshape([3, 1, 1]);
        let (mean, std) = (channel(&self.normalisation.mean)?, channel(&self.normalisation.std)?);
        let scaled = images.f_mul(&std)?.f_add(&mean)?.f_mul_scalar(255.0)?;
        Ok(scaled.f_round()?.f_clamp(0.0, 255.0)?.f_to_kind(Kind::Uint8)?.f_permute([0, 2, 3, 1])?)
    }
}

fn version(library: &Path) -> String {
    let file = library.canonicalize().unwrap_or_else(|_| library.to_owned());
    let name = file.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    name.split_once(".so.").map_or_else(|| "of unknown version".to_owned(), |(_, version)| version.to_owned())
}

fn refuse(path: &Path, problem: String) -> Result<()> {
    Err(Error::OnnxFile {
        path: path.to_owned(),
        problem,
        remedy: "give a classifier that mae export wrote, or one with such an input and output".into(),
    })
}

fn refuse_other_inputs(path: &Path, description: &Description) -> Result<()> {
    let refuse = |problem: String| refuse(path, problem);
    let [input] = &description.inputs[..] else {
        return refuse(format!("expected one input, found {}", description.inputs.len()));
    };
    let channels = match input.dtype {
        "float32" => input.shape.get(1),
        "uint8" => input.shape.get(3),
        other => return refuse(format!("expected float32 or uint8 images, found {other}")),
    };
    if input.shape.len() != 4 || !matches!(channels, Some(3 | -1)) {
        let expected = if input.dtype == "uint8" { "[N, H, W, 3]" } else { "[N, 3, H, W]" };
        return refuse(format!("expected an input {expected} of {}, found {:?}", input.dtype, input.shape));
    }
    Ok(())
}

fn refuse_other_outputs(path: &Path, description: &Description) -> Result<()> {
    let refuse = |problem: String| refuse(path, problem);
    match &description.outputs[..] {
        [output] if output.dtype == "float32" && output.shape.len() == 2 => Ok(()),
        [output] => refuse(format!(
            "expected an output [N, K] of float32, found {:?} of {}",
            output.shape, output.dtype
        )),
        outputs => refuse(format!("expected one output, found {}", outputs.len())),
    }
}

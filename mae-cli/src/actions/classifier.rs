//! The classifier that evaluate and inference run: a checkpoint on libtorch, or an ONNX file in onnxruntime.

use std::path::Path;

use mae_core::model::Model;
use mae_core::onnx::{self, Preprocessing, Session};
use tch::Tensor;

use super::{Run, model};
use crate::error::{Error, Result};
use crate::spec::Plan;
use crate::spec::schema::Stage;

/// A classifier with all its weights.
pub(super) enum Classifier {
    /// On libtorch, on the run's device.
    Checkpoint(Box<Model>),
    /// In onnxruntime, on the CPU.
    Onnx(Box<Session>),
}

impl Classifier {
    /// What the plan's checkpoint holds, and the names of its classes where it says them.
    pub(super) fn restore(plan: &Plan, run: &mut Run) -> Result<(Self, Vec<String>)> {
        if is_onnx(plan.checkpoint()) {
            let session = open(plan, run)?;
            let classes = session.description().classes();
            return Ok((Self::Onnx(Box::new(session)), classes));
        }
        let (model, checkpoint) = model::restore(plan, run)?;
        Ok((Self::Checkpoint(Box::new(model)), model::stored_classes(&checkpoint)))
    }

    /// Normalised images `[N, 3, H, W]` → logits `[N, num_classes]`.
    pub(super) fn logits(&mut self, images: &Tensor) -> Result<Tensor> {
        match self {
            Self::Checkpoint(model) => Ok(model.logits(images)?),
            Self::Onnx(session) => {
                Ok(session.run(images)?.f_to_device(images.device()).map_err(mae_core::Error::from)?)
            }
        }
    }
}

/// Whether a checkpoint's name says that it is an ONNX file.
pub(super) fn is_onnx(path: &str) -> bool {
    Path::new(path).extension().is_some_and(|extension| extension.eq_ignore_ascii_case("onnx"))
}

/// How the plan normalises images.
pub(super) fn normalisation(plan: &Plan) -> Preprocessing {
    let augmentation = super::data::augmentation(plan);
    Preprocessing { mean: augmentation.mean, std: augmentation.std }
}

/// onnxruntime's library, as the plan, the environment or the system has it.
pub(super) fn library(plan: &Plan) -> Result<std::path::PathBuf> {
    Ok(onnx::find_library(plan.onnxruntime.as_deref().map(Path::new), &|name| std::env::var(name).ok())?)
}

fn open(plan: &Plan, run: &mut Run) -> Result<Session> {
    let (key, path) = (format!("{}.checkpoint", plan.action().name()), plan.checkpoint());
    if plan.train.stage == Stage::Pretrain {
        return Err(Error::File {
            key,
            problem: format!(
                "{path} is an ONNX file, and those have no decoder, which evaluation of stage pretrain needs"
            ),
            help: "give the .pth of the pre-training, or set train.stage=finetune".into(),
        });
    }
    if !Path::new(path).exists() {
        return Err(Error::File {
            key,
            problem: format!("the ONNX file {path} does not exist"),
            help: "give the file that mae export wrote, or a .pth".into(),
        });
    }
    run.status.loading_checkpoint(path)?;
    let description = onnx::describe(Path::new(path)).map_err(|error| Error::Core(error).at(&key))?;
    agree(plan, &key, &description)?;
    let session = Session::open(Path::new(path), &library(plan)?, normalisation(plan))
        .map_err(|error| Error::Core(error).at(key))?;
    run.progress.say(&format!("Running {path} in onnxruntime {} on the CPU.", session.version()));
    Ok(session)
}

/// Refuses a file that is not of the plan's model. One that another program wrote has no metadata, and only its shapes
/// are compared.
fn agree(plan: &Plan, key: &str, description: &onnx::Description) -> Result<()> {
    let path = plan.checkpoint();
    let refuse = |setting: &str, found: String, wanted: String| {
        Err(Error::File {
            key: key.to_owned(),
            problem: format!("{path} has {setting} = {found}, but the spec says {setting} = {wanted}"),
            help: format!("set {setting}={found}, or export the model again"),
        })
    };
    if let Some(output) = description.metadata("output").filter(|output| *output != "logits") {
        return Err(Error::File {
            key: key.to_owned(),
            problem: format!("{path} gives {output}, not the logits of a trained classifier"),
            help: "export a model of stage finetune".into(),
        });
    }
    if let Some(arch) = description.metadata("arch").filter(|arch| *arch != plan.model.arch) {
        return refuse("model.arch", arch.to_owned(), plan.model.arch.clone());
    }
    let augmentation = &plan.dataset.augmentation;
    for (name, wanted) in [("mean", &augmentation.mean), ("std", &augmentation.std)] {
        let found = description.metadata(name).and_then(|text| serde_json::from_str::<Vec<f64>>(text).ok());
        if let Some(found) = found.filter(|found| found != wanted) {
            return refuse(
                &format!("dataset.augmentation.{name}"),
                format!("{found:?}"),
                format!("{wanted:?}"),
            );
        }
    }
    let (Some(input), Some(output)) = (description.inputs.first(), description.outputs.first()) else {
        return Ok(());
    };
    let side = augmentation.input_size as i64;
    let sides = if input.dtype == "uint8" { input.shape.get(1..3) } else { input.shape.get(2..4) };
    if let Some(&[height, width]) = sides
        && [height, width].iter().any(|&found| found >= 0 && found != side)
    {
        let key_of_size = "dataset.augmentation.input_size";
        if height == width {
            return refuse(key_of_size, height.to_string(), side.to_string());
        }
        return Err(Error::File {
            key: key.to_owned(),
            problem: format!(
                "{path} takes images of {height}x{width} pixels, and {key_of_size} gives squares"
            ),
            help: "export the model with a square input".into(),
        });
    }
    match output.shape.get(1) {
        Some(&found) if found >= 0 && found != plan.model.num_classes as i64 => {
            refuse("model.num_classes", found.to_string(), plan.model.num_classes.to_string())
        }
        _ => Ok(()),
    }
}

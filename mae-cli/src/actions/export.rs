//! `mae export`: the model as an ONNX file, or its state dict as safetensors.

use std::fs;
use std::path::{Path, PathBuf};

use mae_core::arch::Arch;
use mae_core::checkpoint::dialect::Role;
use mae_core::checkpoint::{self, Checkpoint, DType, TensorView};
use mae_core::model::Model;
use mae_core::onnx;
use tch::Kind;

use super::{Run, classifier, model};
use crate::error::{Error, Result};
use crate::spec::Plan;
use crate::spec::schema::{Compat, ExportFormat, ExportHead, ExportPrecision, Stage};

mod metadata;
mod verify;

/// What an exported model ends with.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Output {
    Logits,
    Features,
    UntrainedLogits,
}

impl Output {
    fn of(plan: &Plan) -> Self {
        let random_head = plan.compat == Compat::Tao || plan.export.head == ExportHead::Random;
        match plan.train.stage {
            Stage::Finetune => Self::Logits,
            Stage::Pretrain if random_head => Self::UntrainedLogits,
            Stage::Pretrain => Self::Features,
        }
    }

    const fn text(self) -> &'static str {
        match self {
            Self::Logits => "logits",
            Self::Features => "features",
            Self::UntrainedLogits => "logits of a head that was never trained",
        }
    }
}

pub(super) fn export(plan: &Plan, run: &mut Run) -> Result<()> {
    let path = plan.onnx_file();
    refuse_existing(&path)?;
    // What may be missing is looked for before the work.
    let library = if plan.export.verify { Some(classifier::library(plan)?) } else { None };
    let (height, width) = plan.export_size();
    let size = (height as i64, width as i64);
    let checkpoint = model::open_trained(plan, run)?;
    let model = restore(plan, run, size, &checkpoint)?;
    make_folder(&path)?;
    if plan.export.format == ExportFormat::Safetensors {
        return write_safetensors(plan, run, &model, &path);
    }
    let output = Output::of(plan);
    let options = options(plan, size, metadata::entries(plan, size, output.text(), &checkpoint));
    let staging = library.as_ref().map(|_| Staging::beside(&path)).transpose()?;
    let written = staging.as_ref().map_or(path.clone(), Staging::file);
    let summary = write_onnx(&model, &written, &options, output)?;
    if let (Some(library), Some(staging)) = (library, staging) {
        verify::verify(plan, run, &model, output, &written, &library)?;
        staging.put_in_place(&summary.files)?;
    }
    run.progress.say(&format!(
        "Wrote {}: {} {:?}, {} nodes, {:.1} MB",
        path.display(),
        output.text(),
        summary.output_shape,
        summary.nodes,
        summary.bytes as f64 / 1e6
    ));
    if plan.export.verbose {
        let counts: Vec<String> =
            summary.operators.iter().map(|(operator, count)| format!("{count} {operator}")).collect();
        run.progress.say(&format!(
            "opset {}, {} constants; {}",
            options.opset,
            summary.initializers,
            counts.join(", ")
        ));
    }
    Ok(())
}

/// The model of the checkpoint, for images of `size`.
fn restore(plan: &Plan, run: &Run, size: (i64, i64), checkpoint: &Checkpoint) -> Result<Model> {
    let arch = Arch::by_name(&plan.model.arch)?;
    let seed = plan.train.seed as u64;
    let (mut model, role) = match plan.train.stage {
        Stage::Finetune => {
            (Model::classifier(arch, size, &plan.classifier_config(), seed, run.device)?, Role::Full)
        }
        Stage::Pretrain => {
            let num_classes = plan.model.num_classes as i64;
            (Model::backbone(arch, size, num_classes, seed, run.device)?, Role::Backbone)
        }
    };
    let report = model::load(&mut model, "export.checkpoint", plan.checkpoint(), checkpoint, role)?;
    run.progress.say(&format!("Weights from {}: {report}", plan.checkpoint()));
    Ok(model)
}

fn options(plan: &Plan, size: (i64, i64), metadata: Vec<(String, String)>) -> onnx::ExportOptions {
    onnx::ExportOptions {
        opset: plan.export.opset_version,
        batch_size: (plan.export.batch_size > 0).then_some(plan.export.batch_size),
        channels: plan.export.input_channel as i64,
        height: size.0,
        width: size.1,
        fp16: plan.export.precision == ExportPrecision::Fp16,
        preprocessing: plan.export.include_preprocessing.then(|| classifier::normalisation(plan)),
        metadata,
        ..onnx::ExportOptions::default()
    }
}

fn write_onnx(
    model: &Model,
    path: &Path,
    options: &onnx::ExportOptions,
    output: Output,
) -> Result<onnx::ExportSummary> {
    let classifier = model.classify()?;
    Ok(onnx::export(path, &model.params, options, |ops, images| {
        if output == Output::Features {
            classifier.features(ops, images)
        } else {
            classifier.logits(ops, images)
        }
    })?)
}

/// The state dict under its PyTorch names. A head that was never trained is left out.
fn write_safetensors(plan: &Plan, run: &Run, model: &Model, path: &Path) -> Result<()> {
    let features = Output::of(plan) == Output::Features;
    let half = plan.export.precision == ExportPrecision::Fp16;
    let tensors = model.params.iter().filter(|(_, spec, _)| !(features && spec.name.starts_with("head.")));
    let tensors = tensors
        .map(|(_, spec, tensor)| {
            let tensor =
                tensor.f_detach().and_then(|t| t.f_to_kind(if half { Kind::Half } else { Kind::Float }));
            let view = TensorView::from_tensor(&tensor.map_err(mae_core::Error::from)?);
            Ok((spec.name.clone(), view.map_err(mae_core::Error::from)?))
        })
        .collect::<Result<Vec<_>>>()?;
    checkpoint::write_safetensors(path, &tensors)?;
    let dtype = tensors.first().map_or(DType::Float32, |(_, tensor)| tensor.dtype());
    let bytes: usize = tensors.iter().map(|(_, tensor)| tensor.nbytes()).sum();
    run.progress.say(&format!(
        "Wrote {}: {} tensors of {dtype}, {:.1} MB",
        path.display(),
        tensors.len(),
        bytes as f64 / 1e6
    ));
    Ok(())
}

fn refuse_existing(path: &Path) -> Result<()> {
    if !path.exists() {
        return Ok(());
    }
    Err(Error::File {
        key: "export.onnx_file".into(),
        problem: format!("{} exists already, and export never overwrites a model", path.display()),
        help: "remove the file, or choose another name".into(),
    })
}

fn folder_of(path: &Path) -> &Path {
    path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

fn make_folder(path: &Path) -> Result<()> {
    let folder = folder_of(path);
    fs::create_dir_all(folder).map_err(|source| Error::File {
        key: "export.onnx_file".into(),
        problem: format!("the folder {} cannot be made: {source}", folder.display()),
        help: "choose a place that you can write to".into(),
    })
}

/// A hidden folder beside the target, for a model that has to prove itself before it gets its name.
struct Staging {
    folder: tempfile::TempDir,
    target: PathBuf,
}

impl Staging {
    fn beside(target: &Path) -> Result<Self> {
        let folder = tempfile::Builder::new().prefix(".onnx-").tempdir_in(folder_of(target));
        let folder = folder.map_err(crate::report::Error::write(target))?;
        Ok(Self { folder, target: target.to_owned() })
    }

    /// The model's place while it is unproven. Its name, by which its tensors find it, is already the final one.
    fn file(&self) -> PathBuf {
        self.folder.path().join(self.target.file_name().unwrap_or_default())
    }

    /// Moves the files, the model last, as they came.
    fn put_in_place(self, files: &[PathBuf]) -> Result<()> {
        for file in files {
            let target = folder_of(&self.target).join(file.file_name().unwrap_or_default());
            refuse_existing(&target)?;
            fs::rename(file, &target).map_err(crate::report::Error::write(&target))?;
        }
        Ok(())
    }
}

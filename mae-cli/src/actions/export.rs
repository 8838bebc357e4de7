//! `mae export`: the model as an ONNX file.

use mae_core::arch::Arch;
use mae_core::checkpoint::dialect::Role;
use mae_core::model::Model;
use mae_core::onnx;

use super::{Run, model};
use crate::error::{Error, Result};
use crate::spec::Plan;
use crate::spec::schema::{Compat, ExportHead, Stage};

pub(super) fn export(plan: &Plan, run: &mut Run) -> Result<()> {
    let path = plan.onnx_file();
    if path.exists() {
        return Err(Error::File {
            key: "export.onnx_file".into(),
            problem: format!("{} exists already, and export never overwrites a model", path.display()),
            help: "remove the file, or choose another name".into(),
        });
    }
    let arch = Arch::by_name(&plan.model.arch)?;
    let (height, width) = plan.export_size();
    let size = (height as i64, width as i64);
    let checkpoint = model::open_trained(plan, run)?;
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
    let report = model::load(&mut model, "export.checkpoint", plan.checkpoint(), &checkpoint, role)?;
    run.progress.say(&format!("Weights from {}: {report}", plan.checkpoint()));

    let random_head = plan.compat == Compat::Tao || plan.export.head == ExportHead::Random;
    let features = plan.train.stage == Stage::Pretrain && !random_head;
    let what = match (plan.train.stage, features) {
        (Stage::Finetune, _) => "logits",
        (Stage::Pretrain, true) => "features",
        (Stage::Pretrain, false) => "logits of a head that was never trained",
    };
    let options = options(plan, size, what, &model::stored_classes(&checkpoint));
    let classifier = model.classify()?;
    let summary = onnx::export(&path, &model.params, &options, |ops, images| {
        if features { classifier.features(ops, images) } else { classifier.logits(ops, images) }
    })?;
    run.progress.say(&format!(
        "Wrote {}: {what} {:?}, {} nodes, {:.1} MB",
        path.display(),
        summary.output_shape,
        summary.nodes,
        summary.bytes as f64 / 1e6
    ));
    Ok(())
}

fn options(plan: &Plan, size: (i64, i64), output: &str, classes: &[String]) -> onnx::ExportOptions {
    let augmentation = &plan.dataset.augmentation;
    let text = |key: &str, value: String| (key.to_owned(), value);
    let mut metadata = vec![
        text("arch", plan.model.arch.clone()),
        text("stage", plan.train.stage.as_str().to_owned()),
        text("output", output.to_owned()),
        text("mean", format!("{:?}", augmentation.mean)),
        text("std", format!("{:?}", augmentation.std)),
        text("producer_version", env!("CARGO_PKG_VERSION").to_owned()),
    ];
    if !classes.is_empty() {
        metadata.push(text("classes", serde_json::json!(classes).to_string()));
    }
    onnx::ExportOptions {
        opset: plan.export.opset_version,
        batch_size: (plan.export.batch_size > 0).then_some(plan.export.batch_size),
        channels: plan.export.input_channel as i64,
        height: size.0,
        width: size.1,
        metadata,
        ..onnx::ExportOptions::default()
    }
}

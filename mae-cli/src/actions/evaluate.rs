//! `mae evaluate`: exact metrics of a checkpoint on the validation images.

use mae_core::engine::Evaluation;
use mae_core::ops::Precision;
use mae_data::Layout;

use super::bad_samples::BadSamples;
use super::classifier::Classifier;
use super::data::Placement;
use super::{End, Run, agreement, classes, data};
use crate::error::Result;
use crate::report::tensorboard::EventWriter;
use crate::spec::Plan;
use crate::spec::schema::Stage;

pub(super) fn evaluate(plan: &Plan, run: &mut Run) -> Result<End> {
    let finetune = plan.train.stage == Stage::Finetune;
    let layout = if finetune { Layout::ImageFolder } else { Layout::Flat };
    // First what is checked in no time: an archive may have to be unpacked.
    let (mut classifier, trained) = Classifier::restore(plan, run)?;
    let key = "dataset.val_data_sources";
    let dataset = data::open(plan, key, &plan.dataset.val_data_sources, layout, &run.progress)?;
    if finetune {
        classes::fit_the_model(plan, key, &dataset, &run.progress)?;
        classes::agree(&trained, key, &dataset)?;
    }
    agreement::on_the_data(key, &dataset, run.collective())?;
    let total = dataset.len();
    let loader = data::in_order(plan, dataset, run.device, run.collective())?;
    let placement = Placement::new(plan, run.device);
    let bad = BadSamples::open(plan, run.collective().rank(), false)?;
    // A checkpoint computes by itself; what onnxruntime computes is handed over.
    let (mut evaluation, mut session) = match &mut classifier {
        Classifier::Checkpoint(model) => {
            (Evaluation::new(model, Precision::Fp32, plan.train.seed as u64), None)
        }
        Classifier::Onnx(session) => (Evaluation::of_logits(), Some(session)),
    };
    let mut task = run.progress.items("Evaluating", total as u64);
    let mut done = 0;
    let mut batches = loader.epoch(0, 0).take_while(|_| !run.is_interrupted());
    let result = batches.try_for_each(|batch| -> Result<()> {
        let batch = placement.place_counted(batch?, &loader)?;
        match &mut session {
            Some(session) if batch.valid > 0 => {
                let logits = session.run(&batch.images)?;
                evaluation
                    .add_logits(&batch, &logits.f_to_device(run.device).map_err(mae_core::Error::from)?)?;
            }
            Some(_) => {}
            None => evaluation.add(&batch)?,
        }
        done += batch.valid as u64 * run.collective().world_size() as u64;
        task.at(done.min(total as u64));
        Ok(())
    });
    bad.close(&loader, result, run)?;
    if run.is_interrupted() {
        return Ok(End::Interrupted);
    }
    let metrics = evaluation.finish(run.collective())?;
    let mut summary = format!("{} images: val_loss {:.4}", metrics.samples, metrics.loss);
    if let (Some(top1), Some(top5)) = (metrics.accuracy, metrics.accuracy_top5) {
        summary.push_str(&format!(", accuracy {top1:.4}, among the first five {top5:.4}"));
    }
    task.finish(&summary);
    if run.is_first() {
        // As upstream: a version of its own, at step 0.
        let mut events = EventWriter::create(plan.results_dir(), 0)?;
        events.scalar("val_loss", 0, metrics.loss)?;
        if let Some(accuracy) = metrics.accuracy {
            events.scalar("acc", 0, accuracy)?;
        }
        events.scalar("epoch", 0, 0.0)?;
    }
    run.status.tested(metrics.loss, metrics.accuracy)?;
    Ok(End::Done)
}

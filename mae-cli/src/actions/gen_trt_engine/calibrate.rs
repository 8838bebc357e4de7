//! int8: the ranges of the model's numbers, measured on real images.

use std::path::{Path, PathBuf};

use mae_core::onnx::{Calibrator, Description};
use mae_data::{Augmentation, Layout, Loader, LoaderOptions, Pipeline};

use super::wants_int8;
use crate::actions::data::Placement;
use crate::actions::{Run, classifier, data};
use crate::error::{Error, Result};
use crate::spec::Plan;

const KEY: &str = "gen_trt_engine.tensorrt.int8_calibration.cal_image_dir";

/// Writes the quantised model beside the engine, where the plan asks for int8 and names images.
pub(super) fn quantized(
    plan: &Plan,
    run: &Run,
    onnx: &Path,
    engine: &Path,
    description: &Description,
) -> Result<Option<PathBuf>> {
    let calibration = &plan.gen_trt_engine.tensorrt.int8_calibration;
    if !wants_int8(plan) || calibration.cal_image_dir.is_empty() || description.is_quantized {
        return Ok(None);
    }
    let library = classifier::library(plan)?;
    let mut calibrator = Calibrator::open(onnx, &library, classifier::normalisation(plan))?;
    let wanted = calibration.cal_batch_size * calibration.cal_batches;
    let share = wanted.div_ceil(calibration.cal_image_dir.len());
    let placement = Placement::new(plan, tch::Device::Cpu);
    let mut seen = 0;
    let mut task = run.progress.items("Calibrating", wanted as u64);
    for source in &calibration.cal_image_dir {
        let dataset = data::open(plan, KEY, source, Layout::Flat, &run.progress)?;
        let (height, width) = image_size(description);
        let augmentation = Augmentation { input_size: (height, width), ..data::augmentation(plan) };
        let options = LoaderOptions {
            batch_size: calibration.cal_batch_size.min(dataset.len()),
            shuffle: true,
            seed: plan.train.seed as u64,
            max_bad_fraction: plan.dataset.max_bad_fraction,
            ..LoaderOptions::default()
        };
        let pipeline = Pipeline::evaluate(&augmentation)?.with_crop_rule(data::crop_rule(plan));
        let loader = Loader::new(dataset, pipeline, options)?;
        let mut left = share;
        for batch in loader.epoch(0, 0) {
            let batch = placement.place_counted(batch?, &loader)?;
            if left == 0 || run.is_interrupted() {
                break;
            }
            let count = batch.valid.min(left as i64);
            if count == 0 {
                continue;
            }
            calibrator.add(&batch.images.f_narrow(0, 0, count).map_err(mae_core::Error::from)?)?;
            left -= count as usize;
            seen += count as u64;
            task.at(seen);
        }
    }
    let path = engine.with_extension("int8.onnx");
    if seen == 0 {
        return Err(Error::File {
            key: KEY.into(),
            problem: "no image could be read".into(),
            help: "name a folder or an archive with images".into(),
        });
    }
    let count = calibrator.write(&path)?;
    task.finish(&format!("Calibrated on {seen} images: {count} operations in int8, {}", path.display()));
    Ok(Some(path))
}

/// Height and width of the model's images.
fn image_size(description: &Description) -> (usize, usize) {
    let input = &description.inputs[0];
    let sides = if input.dtype == "uint8" { &input.shape[1..3] } else { &input.shape[2..4] };
    (sides[0] as usize, sides[1] as usize)
}

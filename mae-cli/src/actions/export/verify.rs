//! The proof of an export: onnxruntime and libtorch on the same real images.

use std::path::Path;

use mae_core::model::Model;
use mae_core::onnx::Session;
use mae_data::{Augmentation, Layout, Loader, LoaderOptions, Pipeline};
use tch::{Device, Kind, Tensor};

use super::Output;
use crate::actions::data::Placement;
use crate::actions::{Run, classifier, data};
use crate::error::{Error, Result};
use crate::spec::Plan;
use crate::spec::schema::ExportPrecision;

/// Images that are compared, or as many as there are.
const IMAGES: usize = 64;
/// The largest difference that fp32 is allowed; the sums of large models come within a tenth of it.
const FP32_LIMIT: f64 = 1e-4;
/// The largest difference in fp16, as a share of the largest output: 16-bit floats have eleven binary digits, and the
/// errors of the layers add up.
const FP16_SHARE: f64 = 2e-2;
/// Batches that a model with an open batch has to take; the first is for all images, the others for the first ones.
const BATCHES: [i64; 3] = [8, 3, 1];

/// Compares, and says how near the two came.
///
/// # Errors
/// When they differ by more than the limit, or disagree on a class that is not a near tie.
pub(super) fn verify(
    plan: &Plan,
    run: &Run,
    model: &Model,
    output: Output,
    file: &Path,
    library: &Path,
) -> Result<()> {
    let (source, images) = images(plan, run)?;
    let expected = in_batches(&images, BATCHES[0], |batch| {
        let batch = batch.f_to_device(run.device)?;
        let found = if output == Output::Features { model.features(&batch) } else { model.logits(&batch) };
        Ok(found?.f_to_device(Device::Cpu)?)
    })?;
    let mut session = Session::open(file, library, classifier::normalisation(plan))?;
    let found = in_batches(&images, BATCHES[0], |batch| session.run(batch))?;
    let comparison = Comparison::of(&expected, &found)?;
    let fp32 = plan.export.precision == ExportPrecision::Fp32;
    let limit = if fp32 { FP32_LIMIT } else { FP16_SHARE * comparison.scale };
    let count = images.size()[0];
    let mut difference = comparison.difference;
    for batch in BATCHES[1..].iter().map(|&batch| batch.min(count)) {
        let first = session.run(&images.f_narrow(0, 0, batch).map_err(mae_core::Error::from)?)?;
        let other = Comparison::of(&expected.f_narrow(0, 0, batch).map_err(mae_core::Error::from)?, &first)?;
        difference = difference.max(other.difference);
    }
    let classes = output != Output::Features;
    let agreement = if classes {
        format!(", the same first class on {} of {count}", comparison.same_class)
    } else {
        String::new()
    };
    let summary = format!(
        "onnxruntime {} against libtorch on {count} images of {source}: largest difference {difference:.1e} (limit \
         {limit:.1e}){agreement}",
        session.version()
    );
    // Written this way, a difference that is not a number fails too.
    let near = difference <= limit;
    // Within the limit, another winner is only possible between near equals.
    if near && (!classes || comparison.lost_by <= 2.0 * limit) {
        run.progress.say(&format!("Verified: {summary}"));
        return Ok(());
    }
    Err(Error::Verification {
        problem: format!("the exported model gives other numbers than the checkpoint: {summary}"),
        help: if fp32 {
            "no file was written; export with another opset_version, and please report this with the spec"
                .into()
        } else {
            "no file was written; export in fp32 (export.precision=fp32), this model needs more than fp16"
                .into()
        },
    })
}

struct Comparison {
    /// Largest absolute difference.
    difference: f64,
    /// Largest absolute value that was expected.
    scale: f64,
    /// Rows whose largest value is in the same place.
    same_class: i64,
    /// The most by which a winner of one is behind the winner of the other.
    lost_by: f64,
}

impl Comparison {
    fn of(expected: &Tensor, found: &Tensor) -> Result<Self> {
        let compare = || -> std::result::Result<Self, tch::TchError> {
            let (expected, found) = (expected.f_to_kind(Kind::Double)?, found.f_to_kind(Kind::Double)?);
            let (winners, others) = (expected.f_argmax(-1, true)?, found.f_argmax(-1, true)?);
            let behind =
                expected.f_gather(-1, &winners, false)?.f_sub(&expected.f_gather(-1, &others, false)?)?;
            Ok(Self {
                difference: f64::try_from(expected.f_sub(&found)?.f_abs()?.f_max()?)?,
                scale: f64::try_from(expected.f_abs()?.f_max()?)?,
                same_class: i64::try_from(winners.f_eq_tensor(&others)?.f_sum(Kind::Int64)?)?,
                lost_by: f64::try_from(behind.f_max()?)?,
            })
        };
        compare().map_err(|error| Error::Core(error.into()))
    }
}

/// Images of the spec as the model takes them, from all over the source, and where they are from.
fn images(plan: &Plan, run: &Run) -> Result<(String, Tensor)> {
    let (key, source) = plan.verification_source().unwrap_or(("dataset.val_data_sources", ""));
    let dataset = data::open(plan, key, source, Layout::Flat, &run.progress)?;
    let (height, width) = plan.export_size();
    let augmentation = Augmentation { input_size: (height, width), ..data::augmentation(plan) };
    let options = LoaderOptions {
        batch_size: IMAGES.min(dataset.len()),
        // Names are sorted by class; in their order, all would be of the first.
        shuffle: true,
        max_bad_fraction: plan.dataset.max_bad_fraction,
        ..LoaderOptions::default()
    };
    let pipeline = Pipeline::evaluate(&augmentation)?.with_crop_rule(data::crop_rule(plan));
    let loader = Loader::new(dataset, pipeline, options)?;
    let placement = Placement::new(plan, Device::Cpu);
    let mut batches = loader.epoch(0, 0).map(|batch| placement.place_counted(batch?, &loader));
    match batches.next().transpose()?.filter(|batch| batch.valid > 0) {
        Some(batch) => Ok((source.to_owned(), batch.images)),
        None => Err(Error::File {
            key: key.to_owned(),
            problem: format!(
                "{source} has no image that could be read, and export.verify compares on images"
            ),
            help: "name another source".into(),
        }),
    }
}

fn in_batches(
    images: &Tensor,
    size: i64,
    mut body: impl FnMut(&Tensor) -> mae_core::Result<Tensor>,
) -> Result<Tensor> {
    let mut compute = || -> mae_core::Result<Tensor> {
        let batches = images.f_split(size, 0)?;
        let outputs = batches.iter().map(&mut body).collect::<mae_core::Result<Vec<_>>>()?;
        Ok(Tensor::f_cat(&outputs, 0)?)
    };
    Ok(compute()?)
}

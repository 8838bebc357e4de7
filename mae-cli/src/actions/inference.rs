//! `mae inference`: the classes of each test image, as `results.csv`, JSON lines or Parquet.

use mae_data::Layout;
use tch::{Kind, Tensor};

use super::bad_samples::BadSamples;
use super::classifier::Classifier;
use super::data::Placement;
use super::{End, Run, agreement, data};
use crate::error::{Error, Result};
use crate::report::results::{self, Format, Prediction};
use crate::spec::Plan;

pub(super) fn inference(plan: &Plan, run: &mut Run) -> Result<End> {
    // First what is checked in no time: an archive may have to be unpacked.
    let format = Format::of(plan.inference.output, plan.is_set("inference.top_k"));
    if !format.is_built() {
        return Err(Error::File {
            key: "inference.output".into(),
            problem: "this mae was built without Parquet".into(),
            help:
                "build it with cargo build --release --features parquet, or set inference.output=csv or jsonl"
                    .into(),
        });
    }
    let (mut classifier, names) = Classifier::restore(plan, run)?;
    let source = plan.dataset.test_data_sources.as_deref().unwrap_or_default();
    let key = "dataset.test_data_sources";
    let dataset = data::open(plan, key, source, Layout::Flat, &run.progress)?;
    agreement::on_the_data(key, &dataset, run.collective())?;
    let total = dataset.len();
    let loader = data::in_order(plan, dataset, run.device, run.collective())?;
    let placement = Placement::new(plan, run.device);
    let bad = BadSamples::open(plan, run.collective().rank(), false)?;
    let mut predictions = Vec::new();
    let mut task = run.progress.items("Classifying", total as u64);
    let mut done = 0;
    let mut batches = loader.epoch(0, 0).take_while(|_| !run.is_interrupted());
    let result = batches.try_for_each(|batch| -> Result<()> {
        // An image that could not be read has no class; bad_samples.csv names it.
        let batch = placement.place_counted(batch?, &loader)?;
        if batch.valid == 0 {
            return Ok(());
        }
        let classes = likeliest(&classifier.logits(&batch.images)?, plan.inference.top_k)?;
        for (&sample, classes) in batch.samples.iter().zip(classes) {
            let path = loader.dataset().display_path(sample as usize);
            predictions.push(Prediction { sample, path, classes });
        }
        done += batch.valid as u64 * run.collective().world_size() as u64;
        task.at(done.min(total as u64));
        Ok(())
    });
    bad.close(&loader, result, run)?;
    if run.is_interrupted() {
        return Ok(End::Interrupted);
    }
    let predictions = gather(run, predictions)?;
    let path = plan.results_dir().join(format.file_name());
    task.finish(&format!("{} images classified: {}", predictions.len(), path.display()));
    if run.is_first() {
        results::write(plan.results_dir(), format, &names, predictions)?;
    }
    Ok(End::Done)
}

/// The `count` likeliest classes of each row of logits with their probabilities. Of equals, the first comes first, as
/// with libtorch's `argmax`.
fn likeliest(logits: &Tensor, count: usize) -> Result<Vec<Vec<(u32, f32)>>> {
    let rows =
        |tensor: Tensor| -> std::result::Result<Vec<Vec<f32>>, tch::TchError> { Vec::try_from(tensor) };
    let torch = |error| Error::Core(mae_core::Error::from(error));
    let logits = logits.f_to_kind(Kind::Float).map_err(torch)?;
    let shares = logits.f_softmax(-1, Kind::Float).and_then(rows).map_err(torch)?;
    let logits = rows(logits).map_err(torch)?;
    let ranked = |(logits, shares): (Vec<f32>, Vec<f32>)| {
        let mut order: Vec<usize> = (0..logits.len()).collect();
        // Stable: equals stay in their order.
        order.sort_by(|&a, &b| logits[b].total_cmp(&logits[a]));
        order.into_iter().take(count).map(|class| (class as u32, shares[class])).collect()
    };
    Ok(logits.into_iter().zip(shares).map(ranked).collect())
}

/// The predictions of all ranks.
fn gather(run: &Run, own: Vec<Prediction>) -> Result<Vec<Prediction>> {
    if run.collective().world_size() == 1 {
        return Ok(own);
    }
    let bytes = serde_json::to_vec(&own).map_err(|error| gather_error(&error))?;
    let mut all = Vec::new();
    for part in run.collective().gather_bytes(&bytes)? {
        let part: Vec<Prediction> = serde_json::from_slice(&part).map_err(|error| gather_error(&error))?;
        all.extend(part);
    }
    Ok(all)
}

fn gather_error(error: &serde_json::Error) -> Error {
    mae_core::engine::CollectiveError {
        operation: "gather of the results",
        rank: 0,
        reason: error.to_string(),
    }
    .into()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn the_likeliest_come_first_and_equals_in_their_order() {
        let logits = Tensor::from_slice2(&[[0.0_f32, 2.0, 2.0, -1.0], [5.0, 5.0, 5.0, 5.0]]);
        let found = likeliest(&logits, 3).unwrap();
        let classes = |row: usize| found[row].iter().map(|(class, _)| *class).collect::<Vec<_>>();
        assert_eq!((classes(0), classes(1)), (vec![1, 2, 0], vec![0, 1, 2]));
        assert!(found[1].iter().all(|(_, share)| (share - 0.25).abs() < 1e-6));
        let sum: f32 = likeliest(&logits, 9).unwrap()[0].iter().map(|(_, share)| share).sum();
        assert!((sum - 1.0).abs() < 1e-6, "more than there are gives all: {sum}");
    }
}

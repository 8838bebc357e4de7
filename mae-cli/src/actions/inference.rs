//! `mae inference`: the class of each test image, as `results.csv`.

use mae_data::Layout;
use tch::Kind;

use super::bad_samples::BadSamples;
use super::data::Placement;
use super::{End, Run, data, model};
use crate::error::{Error, Result};
use crate::report::results_csv;
use crate::spec::Plan;

pub(super) fn inference(plan: &Plan, run: &mut Run) -> Result<End> {
    // First what is checked in no time: an archive may have to be unpacked.
    let (model, _) = model::restore(plan, run)?;
    let source = plan.dataset.test_data_sources.as_deref().unwrap_or_default();
    let dataset = data::open(plan, "dataset.test_data_sources", source, Layout::Flat, &run.progress)?;
    let total = dataset.len();
    let loader = data::in_order(plan, dataset, run.device, run.collective())?;
    let placement = Placement::new(plan, run.device);
    let mut bad = BadSamples::open(plan, run.collective().rank(), false)?;
    let mut rows: Vec<(String, usize)> = Vec::new();
    let mut task = run.progress.items("Classifying", total as u64);
    let mut done = 0;
    let mut batches = loader.epoch(0, 0).take_while(|_| !run.is_interrupted());
    let result = batches.try_for_each(|batch| -> Result<()> {
        // An image that could not be read has no class; bad_samples.csv names it.
        let batch = placement.place_counted(batch?, &loader)?;
        if batch.valid == 0 {
            return Ok(());
        }
        let logits = model.logits(&batch.images)?;
        let best: Vec<i64> = logits
            .f_argmax(-1, false)
            .and_then(|best| best.f_to_kind(Kind::Int64))
            .and_then(Vec::try_from)
            .map_err(|error| Error::Core(error.into()))?;
        for (&sample, &class) in batch.samples.iter().zip(&best) {
            rows.push((loader.dataset().display_path(sample as usize), class as usize));
        }
        done += batch.valid as u64 * run.collective().world_size() as u64;
        task.at(done.min(total as u64));
        Ok(())
    });
    if result.is_err() || run.is_interrupted() {
        bad.keep(&[&loader])?;
    } else {
        bad.gather(&[&loader], run.collective())?;
    }
    bad.announce(&run.progress);
    result?;
    if run.is_interrupted() {
        return Ok(End::Interrupted);
    }
    let rows = gather(run, rows)?;
    let path = plan.results_dir().join("results.csv");
    task.finish(&format!("{} images classified: {}", rows.len(), path.display()));
    if run.is_first() {
        results_csv::write(plan.results_dir(), rows)?;
    }
    Ok(End::Done)
}

/// The rows of all ranks.
fn gather(run: &Run, rows: Vec<(String, usize)>) -> Result<Vec<(String, usize)>> {
    if run.collective().world_size() == 1 {
        return Ok(rows);
    }
    let bytes = serde_json::to_vec(&rows).map_err(|error| gather_error(&error))?;
    let mut all = Vec::new();
    for part in run.collective().gather_bytes(&bytes)? {
        let part: Vec<(String, usize)> =
            serde_json::from_slice(&part).map_err(|error| gather_error(&error))?;
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

//! From the spec's data sources to batches on the device.

use std::cell::Cell;
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use mae_core::engine::{self, Data};
use mae_data::{
    Augmentation, BadSample, CropRule, Dataset, Interpolation, Layout, Loader, LoaderOptions, Mixup,
    MixupMode, OpenOptions, Pipeline,
};
use tch::{Device, Tensor};

use super::Run;
use crate::error::{Error, Result};
use crate::report::progress::{Progress, Task};
use crate::spec::Plan;
use crate::spec::schema::{self, Compat, Stage};

type Batches<'a> = Box<dyn Iterator<Item = Result<engine::Batch>> + 'a>;

/// Opens the data source that `key` of the spec names, with progress while an archive is unpacked for the first time.
pub(super) fn open(
    plan: &Plan,
    key: &str,
    source: &str,
    layout: Layout,
    progress: &Progress,
) -> Result<Arc<Dataset>> {
    let mut options = OpenOptions::default();
    if let Some(folder) = &plan.dataset.cache_dir {
        options.cache_dir = PathBuf::from(folder);
    }
    let task: Arc<Mutex<Option<Task>>> = Arc::default();
    let (shown, reporter) = (Arc::clone(&task), progress.clone());
    options.progress = Some(Arc::new(move |at: mae_data::OpenProgress| {
        let Ok(mut task) = shown.lock() else { return };
        let title = || format!("Unpacking {} once", at.archive);
        task.get_or_insert_with(|| reporter.bytes(&title(), at.bytes_total)).at(at.bytes_done);
    }));
    let dataset = Dataset::open(source, layout, &options).map_err(|error| Error::from(error).at(key))?;
    if let Ok(mut task) = task.lock()
        && let Some(task) = task.take()
    {
        task.finish(&format!("Unpacked {source}: {} images", dataset.len()));
    }
    for note in dataset.notes() {
        progress.say(&format!("note: {source}: {note}"));
    }
    Ok(Arc::new(dataset))
}

/// The spec's augmentation.
pub(super) fn augmentation(plan: &Plan) -> Augmentation {
    let spec = &plan.dataset.augmentation;
    let triple = |values: &[f64]| [0, 1, 2].map(|i| values[i] as f32);
    Augmentation {
        input_size: (spec.input_size, spec.input_size),
        mean: triple(&spec.mean),
        std: triple(&spec.std),
        min_scale: spec.min_scale,
        max_scale: spec.max_scale,
        min_ratio: spec.min_ratio,
        max_ratio: spec.max_ratio,
        hflip: spec.hflip,
        re_prob: spec.re_prob,
        interpolation: match spec.interpolation {
            schema::Interpolation::Bilinear => Interpolation::Bilinear,
            schema::Interpolation::Bicubic => Interpolation::Bicubic,
            schema::Interpolation::Random => Interpolation::Random,
        },
        color_jitter: spec.color_jitter,
        auto_aug: spec.auto_aug.clone(),
    }
}

/// Batches in the order of the names, each sample once: validation, evaluation, inference.
pub(super) fn in_order(plan: &Plan, dataset: Arc<Dataset>, run: &Run) -> Result<Loader> {
    let mut pipeline = Pipeline::evaluate(&augmentation(plan))?;
    if let Some(share) = plan.dataset.augmentation.crop_pct {
        pipeline = pipeline.with_crop_rule(CropRule::Share(share));
    } else if plan.compat == Compat::Tao {
        let finetune = plan.train.stage == Stage::Finetune && plan.action() != crate::spec::Action::Inference;
        pipeline = pipeline.with_crop_rule(CropRule::Tao { finetune });
    }
    let options = LoaderOptions { shuffle: false, drop_last: false, mixup: None, ..options(plan, run) };
    Ok(Loader::new(dataset, pipeline, options)?)
}

/// Shuffled, augmented batches for training.
pub(super) fn shuffled(plan: &Plan, dataset: Arc<Dataset>, run: &Run) -> Result<Loader> {
    let augmentation = augmentation(plan);
    let (pipeline, mixup) = match plan.train.stage {
        Stage::Pretrain => (Pipeline::pretrain(&augmentation)?, None),
        Stage::Finetune => (Pipeline::finetune(&augmentation)?, mixup(plan)),
    };
    let options = LoaderOptions { shuffle: true, drop_last: true, mixup, ..options(plan, run) };
    Ok(Loader::new(dataset, pipeline, options)?)
}

/// Mixup is on when any of its strengths is, whatever its probability: TAO's rule.
pub(super) fn mixup(plan: &Plan) -> Option<Mixup> {
    let spec = &plan.dataset.augmentation;
    (spec.mixup > 0.0 || spec.cutmix > 0.0 || spec.cutmix_minmax.is_some()).then(|| Mixup {
        mixup_alpha: spec.mixup,
        cutmix_alpha: spec.cutmix,
        cutmix_minmax: spec.cutmix_minmax,
        prob: spec.mixup_prob,
        switch_prob: spec.mixup_switch_prob,
        mode: match spec.mixup_mode {
            schema::MixupMode::Batch => MixupMode::Batch,
            schema::MixupMode::Pair => MixupMode::Pair,
            schema::MixupMode::Elem => MixupMode::Elem,
        },
        label_smoothing: spec.smoothing,
        num_classes: plan.model.num_classes,
    })
}

fn options(plan: &Plan, run: &Run) -> LoaderOptions {
    LoaderOptions {
        batch_size: plan.batch_size(),
        seed: plan.train.seed as u64,
        threads: if plan.is_set("dataset.num_workers_per_gpu") {
            plan.dataset.num_workers_per_gpu.max(1)
        } else {
            threads(run.local_processes())
        },
        rank: run.collective().rank(),
        world_size: run.collective().world_size(),
        max_bad_fraction: plan.dataset.max_bad_fraction,
        ..LoaderOptions::default()
    }
}

/// Threads of a loader when the spec does not say: the loader's own choice (0) for one process, else this one's part of
/// the machine.
fn threads(processes: usize) -> usize {
    if processes == 1 {
        return 0;
    }
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    (cores / processes).clamp(1, 16)
}

/// A loader's batch as tensors on `device`.
pub(super) fn to_device(batch: mae_data::Batch, device: Device) -> Result<engine::Batch> {
    let tensor = |tensor: std::result::Result<Tensor, tch::TchError>| -> Result<Tensor> {
        tensor.and_then(|t| t.f_to_device(device)).map_err(|error| Error::Core(error.into()))
    };
    let shape = batch.shape.map(|side| side as i64);
    let rows = shape[0];
    let labels =
        (!batch.labels.contains(&-1)).then(|| tensor(Tensor::f_from_slice(&batch.labels))).transpose()?;
    let targets = batch
        .targets
        .map(|targets| tensor(Tensor::f_from_slice(&targets).and_then(|t| t.f_reshape([rows, -1]))))
        .transpose()?;
    Ok(engine::Batch {
        images: tensor(Tensor::f_from_slice(&batch.images).and_then(|t| t.f_reshape(shape)))?,
        labels,
        targets,
        noise: None,
        samples: batch.samples,
        valid: batch.valid as i64,
    })
}

/// A loader's batch as tensors on `device`, with the images that count alone: no padding, no stand-ins for images that
/// could not be read.
pub(super) fn counted_to_device(mut batch: mae_data::Batch, device: Device) -> Result<engine::Batch> {
    let counts = |place: &usize| *place < batch.valid && !batch.replaced.contains(place);
    let kept: Vec<usize> = (0..batch.samples.len()).filter(counts).collect();
    if kept.len() < batch.samples.len() {
        let pixels = batch.images.len() / batch.samples.len();
        batch.images =
            kept.iter().flat_map(|&i| &batch.images[i * pixels..(i + 1) * pixels]).copied().collect();
        batch.labels = kept.iter().map(|&i| batch.labels[i]).collect();
        batch.samples = kept.iter().map(|&i| batch.samples[i]).collect();
        batch.shape[0] = kept.len();
        batch.valid = kept.len();
    }
    to_device(batch, device)
}

/// The data of a training.
pub(super) struct TrainingData {
    pub(super) train: Loader,
    pub(super) validation: Option<Loader>,
    pub(super) device: Device,
    /// Time that the training waited for the loader since this was last read.
    pub(super) waited: Rc<Cell<Duration>>,
}

impl Data<Error> for TrainingData {
    fn batches_per_epoch(&self) -> u64 {
        self.train.batches_per_epoch() as u64
    }

    fn train(&mut self, epoch: u64, start: u64) -> Result<Batches<'_>> {
        let mut batches = self.train.epoch(epoch, start as usize);
        let device = self.device;
        Ok(Box::new(std::iter::from_fn(move || {
            let asked = Instant::now();
            let batch = batches.next();
            self.waited.set(self.waited.get() + asked.elapsed());
            Some(batch?.map_err(Error::from).and_then(|batch| to_device(batch, device)))
        })))
    }

    fn validation(&mut self) -> Result<Option<Batches<'_>>> {
        let Some(loader) = &self.validation else { return Ok(None) };
        let device = self.device;
        let batches = loader.epoch(0, 0);
        Ok(Some(Box::new(batches.map(move |batch| counted_to_device(batch?, device)))))
    }
}

/// Says which images of these loaders could not be read, and leaves their list in `bad_samples.csv`.
///
/// With several processes, `together` says that all of them are here; the list is then that of all, and too many bad
/// images are an error as they would be for one process. Otherwise each writes what it knows.
pub(super) fn report_bad_samples(plan: &Plan, loaders: &[&Loader], run: &Run, together: bool) -> Result<()> {
    let progress = &run.progress;
    let mut bad: Vec<BadSample> = loaders.iter().flat_map(|loader| loader.bad_samples()).collect();
    let several = run.collective().world_size() > 1;
    let mut name = "bad_samples.csv".to_owned();
    if several && together {
        bad = gather_bad_samples(&bad, run)?;
    } else if !run.is_first() {
        name = format!("bad_samples_rank_{}.csv", run.collective().rank());
    }
    if bad.is_empty() {
        return Ok(());
    }
    let within_limits = match several && together {
        true => loaders.iter().try_for_each(|loader| within_the_limit(loader, &bad)),
        false => Ok(()),
    };
    if several && together && !run.is_first() {
        return within_limits;
    }
    let path = plan.results_dir().join(name);
    let mut writer = csv::Writer::from_writer(Vec::new());
    let rows = std::iter::once(["path".to_owned(), "replaced".to_owned(), "reason".to_owned()]).chain(
        bad.iter().map(|sample| [sample.name.clone(), sample.replaced.to_string(), sample.reason.clone()]),
    );
    for row in rows {
        writer.write_record(row).map_err(|error| write_error(&path, error.to_string()))?;
    }
    let bytes = writer.into_inner().map_err(|error| write_error(&path, error.to_string()))?;
    super::run::write_atomically(&path, &bytes)?;
    let count = match bad.len() {
        1 => "1 image".to_owned(),
        count => format!("{count} images"),
    };
    progress.say(&format!(
        "{count} could not be read, or not in full, first {}: see {}",
        bad[0].name,
        path.display()
    ));
    within_limits
}

/// Each process has counted its own bad images against the limit; here they are counted together.
fn within_the_limit(loader: &Loader, bad: &[BadSample]) -> Result<()> {
    let (total, max_bad_fraction) = (loader.dataset().len(), loader.options().max_bad_fraction);
    let mine: Vec<&BadSample> = bad
        .iter()
        .filter(|bad| bad.replaced && (bad.index as usize) < total)
        .filter(|bad| loader.dataset().display_path(bad.index as usize) == bad.name)
        .collect();
    match mine.last() {
        Some(last) if mine.len() as f64 > (max_bad_fraction * total as f64).floor() => {
            Err(mae_data::Error::TooManyBadSamples {
                path: loader.dataset().source().to_owned(),
                bad: mine.len(),
                total,
                max_bad_fraction,
                name: last.name.clone(),
                reason: last.reason.clone(),
            }
            .into())
        }
        _ => Ok(()),
    }
}

/// The bad samples of all processes, each once, by index.
fn gather_bad_samples(own: &[BadSample], run: &Run) -> Result<Vec<BadSample>> {
    type Row = (u64, String, String, bool);
    let failed = |error: serde_json::Error| engine::CollectiveError {
        operation: "gather of the unreadable images",
        rank: run.collective().rank(),
        reason: error.to_string(),
    };
    let rows: Vec<Row> =
        own.iter().map(|bad| (bad.index, bad.name.clone(), bad.reason.clone(), bad.replaced)).collect();
    let bytes = serde_json::to_vec(&rows).map_err(failed)?;
    let mut all = Vec::new();
    for part in run.collective().gather_bytes(&bytes)? {
        all.extend(serde_json::from_slice::<Vec<Row>>(&part).map_err(failed)?);
    }
    all.sort();
    all.dedup();
    Ok(all
        .into_iter()
        .map(|(index, name, reason, replaced)| BadSample { index, name, reason, replaced })
        .collect())
}

fn write_error(path: &std::path::Path, reason: String) -> Error {
    crate::report::Error::Write { path: path.to_owned(), source: std::io::Error::other(reason) }.into()
}

//! From the spec's data sources to batches on the device.

use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use mae_core::engine::{self, Collective};
use mae_core::sys::upload;
use mae_data::{
    Augmentation, CropRule, Dataset, Images, Interpolation, Layout, Loader, LoaderOptions, Mixup, MixupMode,
    OpenOptions, Pipeline,
};
use tch::{Device, Kind, TchError, Tensor};

use crate::error::{Error, Result};
use crate::report::progress::{Progress, Task};
use crate::spec::schema::{self, Compat, Stage};
use crate::spec::{Action, Plan};

/// Opens the data source that `key` of the spec names, with progress while an archive is unpacked for the first time.
pub(super) fn open(
    plan: &Plan,
    key: &str,
    source: &str,
    layout: Layout,
    progress: &Progress,
) -> Result<Arc<Dataset>> {
    open_with(plan, key, source, progress, |source, options| Dataset::open(source, layout, options))
}

/// The same, opened by `open`.
pub(super) fn open_with(
    plan: &Plan,
    key: &str,
    source: &str,
    progress: &Progress,
    open: impl FnOnce(&str, &OpenOptions) -> std::result::Result<Dataset, mae_data::Error>,
) -> Result<Arc<Dataset>> {
    let mut options = open_options(plan);
    let task: Arc<Mutex<Option<Task>>> = Arc::default();
    let (shown, reporter) = (Arc::clone(&task), progress.clone());
    options.progress = Some(Arc::new(move |at: mae_data::OpenProgress| {
        let Ok(mut task) = shown.lock() else { return };
        let title = || format!("Unpacking {} once", at.archive);
        task.get_or_insert_with(|| reporter.bytes(&title(), at.bytes_total)).at(at.bytes_done);
    }));
    let dataset = open(source, &options).map_err(|error| Error::from(error).at(key))?;
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

/// Where the spec wants copies of archives to be kept.
pub(super) fn open_options(plan: &Plan) -> OpenOptions {
    let mut options = OpenOptions::default();
    if let Some(folder) = &plan.dataset.cache_dir {
        options.cache_dir = PathBuf::from(folder);
    }
    options.cache_limit = plan.dataset.cache_limit_gb.map(|limit| (limit * 1e9) as u64);
    options.cache_eviction = plan.dataset.cache_eviction;
    options
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

/// The centre crop of what is not training.
pub(super) fn crop_rule(plan: &Plan) -> CropRule {
    let measures = matches!(plan.action(), Action::Train | Action::Evaluate);
    match plan.dataset.augmentation.crop_pct {
        Some(share) => CropRule::Share(share),
        None if plan.compat == Compat::Tao => {
            CropRule::Tao { finetune: plan.train.stage == Stage::Finetune && measures }
        }
        None => CropRule::Uniform,
    }
}

/// Batches in the order of the names, each sample once: validation, evaluation, inference.
pub(super) fn in_order(
    plan: &Plan,
    dataset: Arc<Dataset>,
    device: Device,
    ranks: &dyn Collective,
) -> Result<Loader> {
    let pipeline = Pipeline::evaluate(&augmentation(plan))?.with_crop_rule(crop_rule(plan));
    let options =
        LoaderOptions { shuffle: false, drop_last: false, mixup: None, ..options(plan, device, ranks) };
    Ok(Loader::new(dataset, pipeline, options)?)
}

/// Shuffled, augmented batches for training; drawn from all images, or through a buffer of so many.
pub(super) fn shuffled(
    plan: &Plan,
    dataset: Arc<Dataset>,
    shuffle_buffer: Option<usize>,
    device: Device,
    ranks: &dyn Collective,
) -> Result<Loader> {
    let augmentation = augmentation(plan);
    let (pipeline, mixup) = match plan.train.stage {
        Stage::Pretrain => (Pipeline::pretrain(&augmentation)?, None),
        Stage::Finetune => (Pipeline::finetune(&augmentation)?, mixup(plan)),
    };
    let options = LoaderOptions {
        shuffle: true,
        shuffle_buffer,
        drop_last: true,
        mixup,
        ..options(plan, device, ranks)
    };
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

/// Loader threads: as many as asked for, or this process's share of the cores, up to a limit of the loader's own.
fn threads(plan: &Plan) -> usize {
    if plan.is_set("dataset.num_workers_per_gpu") {
        return plan.dataset.num_workers_per_gpu.max(1);
    }
    // As torchrun and our own launcher tell it.
    let local = std::env::var("LOCAL_WORLD_SIZE").ok().and_then(|count| count.parse::<usize>().ok());
    match local {
        Some(processes) if processes > 1 => {
            let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
            (cores / processes).clamp(1, 16)
        }
        _ => 0,
    }
}

fn options(plan: &Plan, device: Device, ranks: &dyn Collective) -> LoaderOptions {
    LoaderOptions {
        batch_size: plan.batch_size(),
        seed: plan.train.seed as u64,
        threads: threads(plan),
        rank: ranks.rank(),
        world_size: ranks.world_size(),
        // A CPU that normalises is better busy in the loader's threads; to a GPU bytes are a quarter of the way.
        bytes: device != Device::Cpu,
        max_bad_fraction: plan.dataset.max_bad_fraction,
        ..LoaderOptions::default()
    }
}

/// Puts a loader's batches on a device.
#[derive(Clone, Copy)]
pub(super) struct Placement {
    device: Device,
    mean: [f32; 3],
    std: [f32; 3],
}

impl Placement {
    pub(super) fn new(plan: &Plan, device: Device) -> Self {
        let Augmentation { mean, std, .. } = augmentation(plan);
        Self { device, mean, std }
    }

    /// A batch of a loader as tensors; its buffer goes back.
    pub(super) fn place(&self, mut batch: mae_data::Batch, loader: &Loader) -> Result<engine::Batch> {
        let images = std::mem::replace(&mut batch.images, Images::Bytes(Vec::new()));
        let placed = self.tensors(batch, &images).map_err(Error::Core);
        loader.recycle(images);
        placed
    }

    /// A batch as tensors, with the images that count alone: no padding, no stand-ins for images that could not be
    /// read.
    pub(super) fn place_counted(&self, mut batch: mae_data::Batch, loader: &Loader) -> Result<engine::Batch> {
        let counts = |place: &usize| *place < batch.valid && !batch.replaced.contains(place);
        let kept: Vec<usize> = (0..batch.samples.len()).filter(counts).collect();
        if kept.len() < batch.samples.len() {
            batch.images = batch.images.select(&kept, batch.samples.len());
            batch.labels = kept.iter().map(|&i| batch.labels[i]).collect();
            batch.samples = kept.iter().map(|&i| batch.samples[i]).collect();
            batch.shape[0] = kept.len();
            batch.valid = kept.len();
        }
        self.place(batch, loader)
    }

    fn tensors(&self, batch: mae_data::Batch, images: &Images) -> mae_core::Result<engine::Batch> {
        let shape = batch.shape.map(|side| side as i64);
        let rows = shape[0];
        let labels = (!batch.labels.contains(&-1)).then(|| Tensor::f_from_slice(&batch.labels));
        let targets =
            batch.targets.map(|targets| Tensor::f_from_slice(&targets).and_then(|t| t.f_reshape([rows, -1])));
        let on_device = |tensor: Option<std::result::Result<Tensor, TchError>>| {
            tensor.map(|tensor| upload(&tensor?, self.device)).transpose()
        };
        Ok(engine::Batch {
            images: self.images(images, shape)?,
            labels: on_device(labels)?,
            targets: on_device(targets)?,
            noise: None,
            samples: batch.samples,
            valid: batch.valid as i64,
        })
    }

    /// `[N, 3, H, W]`, with the same bits whether the loader or the device normalises.
    fn images(
        &self,
        images: &Images,
        shape @ [n, channels, height, width]: [i64; 4],
    ) -> mae_core::Result<Tensor> {
        let bytes = match images {
            Images::Normalized(values) => {
                return upload(&Tensor::f_from_slice(values)?.f_reshape(shape)?, self.device);
            }
            Images::Bytes(bytes) => Tensor::f_from_slice(bytes)?,
        };
        let values = upload(&bytes.f_reshape([n, height, width, channels])?, self.device)?
            .f_permute([0, 3, 1, 2])?
            .f_contiguous()?
            .f_to_kind(Kind::Float)?;
        // Tensors on the device, not numbers: CUDA multiplies by the reciprocal of a number, which rounds otherwise.
        let each = |values: [f32; 3]| -> std::result::Result<Tensor, TchError> {
            Tensor::f_from_slice(&values)?.f_reshape([1, 3, 1, 1])?.f_to_device(self.device)
        };
        Ok(values.f_div(&each([255.0; 3])?)?.f_sub(&each(self.mean)?)?.f_div(&each(self.std)?)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What the device normalises has the bits of what the loader normalises.
    #[test]
    fn bytes_are_normalised_to_the_same_bits() {
        let augmentation = Augmentation::default();
        let placement = Placement { device: Device::Cpu, mean: augmentation.mean, std: augmentation.std };
        let pixels: Vec<u8> = (0..2 * 16 * 24 * 3).map(|i| (i * 7 % 256) as u8).collect();
        let normalizer = mae_data::transform::Normalizer::new(augmentation.mean, augmentation.std);
        let mut expected = vec![0.0; pixels.len()];
        for (pixels, out) in pixels.chunks_exact(1152).zip(expected.chunks_exact_mut(1152)) {
            let image = mae_data::decode::RgbImage { width: 24, height: 16, data: pixels.to_vec() };
            normalizer.apply(&image, out);
        }
        let images = placement.images(&Images::Bytes(pixels), [2, 3, 16, 24]).unwrap();
        assert_eq!(images.size(), [2, 3, 16, 24]);
        assert_eq!(Vec::<f32>::try_from(images.reshape([-1])).unwrap(), expected);
    }
}

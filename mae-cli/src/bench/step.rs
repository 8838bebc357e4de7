//! `mae bench step`: the training step alone, with no data to wait for.

use std::io::{BufRead, Write};
use std::time::{Duration, Instant};

use mae_core::arch::Arch;
use mae_core::backbone::Purpose;
use mae_core::classify::ClassifierConfig;
use mae_core::engine::{Batch, SingleProcess, Trainer, TrainerConfig};
use mae_core::model::{Model, Network};
use mae_core::ops::{Eager, Precision};
use mae_core::optim::{AdamW, AdamWConfig, GroupRule, LrSchedule, Optimizer, param_groups};
use mae_core::pretrain::{PretrainConfig, mask_noise};
use rustix::time::{ClockId, clock_gettime};
use tch::{Device, Kind, Tensor};

use super::memory;
use super::report::{Spread, StepReport};
use crate::error::{Error, Result};
use crate::spec::schema;

/// What to measure.
#[derive(Debug, Clone, PartialEq, clap::Args)]
pub struct StepOptions {
    /// Architecture, as model.arch
    #[arg(long, default_value = "convnextv2_atto")]
    pub arch: String,
    /// Stage, as train.stage
    #[arg(long, default_value = "pretrain", value_parser = ["pretrain", "finetune"])]
    pub stage: String,
    /// Images a step
    #[arg(long, default_value_t = 16, value_parser = clap::value_parser!(u32).range(1..))]
    pub batch_size: u32,
    /// Side of the images in pixels
    #[arg(long, default_value_t = 224, value_parser = clap::value_parser!(u32).range(1..))]
    pub input_size: u32,
    /// Precision, as train.precision
    #[arg(long, default_value = "fp32", value_parser = ["fp32", "bf16", "fp16"])]
    pub precision: String,
    /// Steps to measure
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..))]
    pub steps: u32,
    /// Steps before them that do not count
    #[arg(long, default_value_t = 2)]
    pub warmup: u32,
    /// Share of hidden patches, as train.mask_ratio
    #[arg(long, default_value_t = 0.75)]
    pub mask_ratio: f64,
    /// ConvNeXt V2's sparse encoder, as model.sparse_encoder
    #[arg(long)]
    pub sparse_encoder: bool,
    /// Classes, as model.num_classes
    #[arg(long, default_value_t = 1000, value_parser = clap::value_parser!(u32).range(1..))]
    pub num_classes: u32,
    /// Threads of libtorch; all cores when not given
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..))]
    pub threads: Option<u32>,
    /// Where to run: auto, cpu or cuda
    #[arg(long, default_value = "auto", value_parser = ["auto", "cpu", "cuda"])]
    pub device: String,
    /// One JSON object instead of text
    #[arg(long)]
    pub json: bool,
    /// One measured step for each line of standard input, its milliseconds printed at once: for a script that alternates
    /// with another program
    #[arg(long, hide = true, conflicts_with = "steps")]
    pub on_demand: bool,
}

/// Measures training steps.
///
/// # Errors
/// Settings that the architecture cannot have, a missing device, or what libtorch refuses.
pub fn step(options: &StepOptions) -> Result<StepReport> {
    let device = device(options)?;
    if let Some(threads) = options.threads {
        tch::set_num_threads(threads as i32);
    }
    let base_memory = memory::resident();
    let precision = match options.precision.as_str() {
        "bf16" => Precision::Bf16,
        "fp16" => Precision::Fp16,
        _ => Precision::Fp32,
    };
    let mut trainer = trainer(options, precision, device)?;
    let batch = batch(options, device)?;
    let flops = 3 * u64::from(options.batch_size) * forward_flops(&trainer.model, &batch)?;
    memory::forget_peak();
    let mut last_loss = 0.0;
    let mut one_step = || -> Result<[f64; 2]> {
        let (begun, cpu) = (Instant::now(), cpu_time());
        // Never the last of an epoch: every batch steps, as one of a long training. The loss makes CUDA wait.
        last_loss = trainer.train_batch(&batch, false)?.loss;
        let times = [begun.elapsed(), cpu_time().saturating_sub(cpu)];
        Ok(times.map(|time| time.as_secs_f64() * 1e3))
    };
    for _ in 0..options.warmup {
        one_step()?;
    }
    let times = if options.on_demand {
        on_demand(&mut one_step)?
    } else {
        (0..options.steps).map(|_| one_step()).collect::<Result<Vec<_>>>()?
    };
    let spread = |which: usize| Spread::of(&times.iter().map(|time| time[which]).collect::<Vec<_>>());
    let step_ms = spread(0);
    Ok(StepReport {
        arch: options.arch.clone(),
        stage: options.stage.clone(),
        sparse_encoder: options.sparse_encoder,
        batch_size: options.batch_size.into(),
        input_size: options.input_size.into(),
        precision: options.precision.clone(),
        native_precision: precision.product_kind(device) == precision.kind(),
        device: match device {
            Device::Cuda(index) => format!("cuda:{index}"),
            _ => "cpu".to_owned(),
        },
        threads: tch::get_num_threads().max(1) as u64,
        parameters: trainer.model.params.numel() as u64,
        steps: times.len() as u64,
        images_per_second: f64::from(options.batch_size) * 1e3 / step_ms.median,
        step_ms,
        step_cpu_ms: spread(1),
        peak_memory_bytes: memory::peak(),
        base_memory_bytes: base_memory,
        flops_per_step: flops,
        flops_per_second: flops as f64 * 1e3 / step_ms.median,
        loss: last_loss,
    })
}

/// A step for each line that is read, until there are no more.
fn on_demand(one_step: &mut impl FnMut() -> Result<[f64; 2]>) -> Result<Vec<[f64; 2]>> {
    let pipe = |source: std::io::Error| {
        Error::Report(crate::report::Error::Write { path: "standard input and output".into(), source })
    };
    let mut out = std::io::stdout().lock();
    let mut times = Vec::new();
    let mut say = |text: String| writeln!(out, "{text}").and_then(|()| out.flush()).map_err(pipe);
    say("ready".to_owned())?;
    for line in std::io::stdin().lock().lines() {
        line.map_err(pipe)?;
        let time = one_step()?;
        say(format!("{} {}", time[0], time[1]))?;
        times.push(time);
    }
    Ok(times)
}

fn device(options: &StepOptions) -> Result<Device> {
    let wanted = match options.device.as_str() {
        "cpu" => schema::Device::Cpu,
        "cuda" => schema::Device::Cuda,
        _ => schema::Device::Auto,
    };
    crate::actions::find_device(wanted, 0).map(|(device, _)| device)
}

fn trainer(options: &StepOptions, precision: Precision, device: Device) -> Result<Trainer<'static>> {
    let arch = Arch::by_name(&options.arch)?;
    let side = i64::from(options.input_size);
    let (size, seed) = ((side, side), 1234);
    let (model, rule) = if options.stage == "pretrain" {
        let config = PretrainConfig {
            mask_ratio: options.mask_ratio,
            sparse_encoder: options.sparse_encoder,
            ..PretrainConfig::default()
        };
        let rule = GroupRule::Pretrain { decay_tokens_and_grn: false };
        (Model::pretrain(arch, size, config, seed, device)?, rule)
    } else {
        let config = ClassifierConfig {
            num_classes: options.num_classes.into(),
            drop_path_rate: 0.0,
            purpose: Purpose::Finetune,
        };
        let rule = GroupRule::Finetune {
            family: arch.family,
            layer_decay: 1.0,
            applied: false,
            backbone_multiplier: 1.0,
        };
        (Model::classifier(arch, size, &config, seed, device)?, rule)
    };
    let groups = param_groups(&model.params, 0.05, rule);
    let optimizer = Optimizer::AdamW(AdamW::new(&model.params, groups, AdamWConfig::default()));
    let schedule = LrSchedule::MultiStep { lr: 1e-4, milestones: Vec::new(), gamma: 1.0 };
    let config = TrainerConfig {
        seed,
        precision,
        accumulate: 1,
        clip_grad_norm: None,
        label_smoothing: 0.1,
        max_bad_steps: u64::MAX,
    };
    Ok(Trainer::new(model, optimizer, schedule, config, &SingleProcess))
}

/// Images and labels that are the same in every run.
fn batch(options: &StepOptions, device: Device) -> Result<Batch> {
    let make = || -> std::result::Result<(Tensor, Tensor), tch::TchError> {
        let (count, side) = (i64::from(options.batch_size), i64::from(options.input_size));
        // Waves that differ from pixel to pixel and from image to image.
        let pixels = Tensor::f_arange(count * 3 * side * side, (Kind::Float, Device::Cpu))?;
        let images =
            pixels.f_mul_scalar(0.37)?.f_sin()?.f_mul_scalar(1.5)?.f_reshape([count, 3, side, side])?;
        let labels = Tensor::f_arange(count, (Kind::Int64, Device::Cpu))?
            .f_remainder(i64::from(options.num_classes))?;
        Ok((images.f_to_device(device)?, labels.f_to_device(device)?))
    };
    let (images, labels) = make().map_err(|error| Error::Core(error.into()))?;
    Ok(Batch {
        images,
        labels: Some(labels),
        targets: None,
        noise: None,
        samples: (0..u64::from(options.batch_size)).collect(),
        valid: options.batch_size.into(),
    })
}

/// Floating-point operations of one image's forward pass.
fn forward_flops(model: &Model, batch: &Batch) -> Result<u64> {
    let _guard = tch::no_grad_guard();
    let ops = Eager::new(&model.params);
    let image = batch.images.f_narrow(0, 0, 1).map_err(|error| Error::Core(error.into()))?;
    match &model.network {
        Network::Pretrain(autoencoder) => {
            let noise = mask_noise(&[0], autoencoder.patches(), image.device())?;
            autoencoder.forward(&ops, &image, &noise)?;
        }
        Network::Classify(classifier) => _ = classifier.logits(&ops, &image)?,
    }
    Ok(ops.flops())
}

/// Time that all threads of this process have spent computing.
fn cpu_time() -> Duration {
    let time = clock_gettime(ClockId::ProcessCPUTime);
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}

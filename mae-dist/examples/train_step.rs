//! What a training step costs with a whole model on each rank and with one in shares: milliseconds, and the most memory
//! of a rank once the first step is done.
//!
//! `torchrun --no-python --standalone --nproc-per-node 2 target/release/examples/train_step ddp vit_base_patch16 4`:
//! the strategy (`none`, `ddp` or `fsdp`, with `-bf16` behind it for that precision), the architecture and the images of a rank. `none` sends
//! nothing: each rank trains for itself. Each rank prints one line of JSON.
#![allow(clippy::print_stdout, reason = "its result")]

use std::fs;
use std::rc::Rc;
use std::time::{Duration, Instant};

use mae_core::arch::Arch;
use mae_core::engine::{Batch, Collective, SingleProcess, Trainer, TrainerConfig};
use mae_core::model::Model;
use mae_core::ops::Precision;
use mae_core::optim::{AdamW, AdamWConfig, GroupRule, LrSchedule, Optimizer, param_groups};
use mae_core::pretrain::PretrainConfig;
use mae_dist::{Environment, Fsdp, GlooCollective, GlooCollectiveOptions, Role};
use tch::{Device, Kind, Tensor};

const STEPS: usize = 5;

type Failure = Box<dyn std::error::Error>;

fn main() -> Result<(), Failure> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [strategy, arch, images] = &arguments[..] else {
        return Err("expected a strategy, an architecture and the images of a rank".into());
    };
    let Role::Worker(worker) = Environment::resolve(&Environment::variables(), None)?.role else {
        return Err("start it with torchrun --no-python".into());
    };
    tch::set_num_threads(1);
    let precision = if strategy.ends_with("-bf16") { Precision::Bf16 } else { Precision::Fp32 };
    let group = Rc::new(GlooCollective::connect(&worker, &GlooCollectiveOptions::default())?);
    let arch = Arch::by_name(arch)?;
    let mut model = Model::pretrain(arch, (224, 224), PretrainConfig::default(), 1, Device::Cpu)?;
    if strategy.starts_with("fsdp") {
        model.params.shard(Rc::new(Fsdp::new(Rc::clone(&group))?), precision)?;
    }
    let rule = GroupRule::Pretrain { decay_tokens_and_grn: false };
    let groups = param_groups(&model.params, 0.05, rule);
    let optimizer = Optimizer::AdamW(AdamW::new(&model.params, groups, AdamWConfig::default()));
    let schedule = LrSchedule::MultiStep { lr: 1e-4, milestones: Vec::new(), gamma: 0.1 };
    let config = TrainerConfig {
        seed: 1,
        precision,
        accumulate: 1,
        clip_grad_norm: None,
        label_smoothing: 0.0,
        max_bad_steps: 1,
    };
    let parameters = model.params.numel();
    let alone: &dyn Collective = &SingleProcess;
    let collective = if strategy.starts_with("none") { alone } else { &*group };
    let mut trainer = Trainer::new(model, optimizer, schedule, config, collective);
    tch::manual_seed(group.rank() as i64);
    let images: i64 = images.parse()?;
    let batch = Batch {
        images: Tensor::randn([images, 3, 224, 224], (Kind::Float, Device::Cpu)),
        labels: None,
        targets: None,
        noise: None,
        samples: (0..images as u64).map(|image| 1000 * group.rank() as u64 + image).collect(),
        valid: images,
    };
    let mut times = Vec::with_capacity(STEPS);
    for step in 0..=STEPS {
        group.barrier()?;
        let start = Instant::now();
        trainer.train_batch(&batch, false)?;
        if step > 0 {
            times.push(start.elapsed());
        } else {
            forget_the_peak()?;
        }
    }
    times.sort();
    println!(
        "{{\"strategy\": \"{strategy}\", \"rank\": {}, \"parameters\": {parameters}, \"step_ms\": {:.0}, \"peak_mb\": {}}}",
        group.rank(),
        milliseconds(times[STEPS / 2]),
        status("VmHWM")? / 1000
    );
    group.barrier()?;
    Ok(())
}

fn milliseconds(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}

/// The most memory so far counts from now on. What is made once, before the first step, is not of interest.
fn forget_the_peak() -> Result<(), Failure> {
    Ok(fs::write("/proc/self/clear_refs", "5")?)
}

/// Kilobytes of a line in `/proc/self/status`.
fn status(name: &str) -> Result<u64, Failure> {
    let text = fs::read_to_string("/proc/self/status")?;
    let line = text.lines().find_map(|line| line.strip_prefix(name)).ok_or("no such line")?;
    Ok(line.trim_matches(|c: char| !c.is_ascii_digit()).parse()?)
}

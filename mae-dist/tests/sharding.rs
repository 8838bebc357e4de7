//! Trainings of real processes with a model in shares: the same losses and weights as with a whole model on each.
#![allow(clippy::unwrap_used, clippy::panic, clippy::print_stdout, reason = "a test ends by panicking")]

mod common;

use std::path::Path;
use std::rc::Rc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use common::Ranks;
use mae_core::arch::Arch;
use mae_core::backbone::Purpose;
use mae_core::checkpoint::lightning::CheckpointContents;
use mae_core::classify::ClassifierConfig;
use mae_core::engine::{Batch, Collective, Evaluation, Trainer, TrainerConfig};
use mae_core::model::Model;
use mae_core::ops::Precision;
use mae_core::optim::{AdamW, AdamWConfig, GroupRule, LrSchedule, Optimizer, Sgd, param_groups};
use mae_core::pretrain::PretrainConfig;
use mae_dist::{Environment, Fsdp, GlooCollective, GlooCollectiveOptions, Role};
use tch::{Device, Kind, Tensor};

const STEPS: u64 = 6;

/// A group for each model: the gradients of one are watched for all of its life.
fn connect() -> Rc<GlooCollective> {
    static GROUPS: AtomicUsize = AtomicUsize::new(0);
    tch::set_num_threads(1);
    let Role::Worker(mut worker) = Environment::resolve(&Environment::variables(), None).unwrap().role else {
        panic!("a rank must be a worker");
    };
    // As after a restart: under other keys of the same store.
    worker.restart_count = GROUPS.fetch_add(1, Ordering::Relaxed);
    let options = GlooCollectiveOptions {
        rendezvous_timeout: Duration::from_secs(100),
        timeout: Duration::from_secs(100),
        ..GlooCollectiveOptions::default()
    };
    Rc::new(GlooCollective::connect(&worker, &options).unwrap())
}

#[test]
#[ignore = "the body of one rank, which the other tests start"]
fn rank_main() {
    let base = Case::default();
    match std::env::var("MAE_TEST_CASE").unwrap_or_default().as_str() {
        "equal" => {
            compare(&base, 1e-6);
            compare(&Case { pretrain: true, ..base }, 1e-6);
        }
        "options" => {
            compare(&Case { accumulate: 2, clip: Some(0.5), ..base }, 1e-6);
            compare(&Case { frozen: &["stages.0", "stages.2.1", "norm"], ..base }, 1e-6);
            compare(&Case { frozen: &["stages.2.0.pwconv1"], sgd: true, ..base }, 1e-6);
        }
        "bf16" => {
            compare(&Case { precision: Precision::Bf16, ..base }, 1e-6);
            compare(&Case { precision: Precision::Bf16, pretrain: true, ..base }, 1e-6);
        }
        "bits" => {
            let runs = [0, 1].map(|_| run(&base, true, None));
            assert_eq!(runs[0].0, runs[1].0);
        }
        "resume" => resume(),
        case => panic!("no such case: {case:?}"),
    }
    println!("done");
}

fn rank() -> usize {
    std::env::var("RANK").unwrap().parse().unwrap()
}

#[derive(Clone, Copy)]
struct Case {
    pretrain: bool,
    precision: Precision,
    accumulate: u64,
    clip: Option<f64>,
    frozen: &'static [&'static str],
    sgd: bool,
}

impl Default for Case {
    fn default() -> Self {
        let precision = Precision::Fp32;
        Case { pretrain: false, precision, accumulate: 1, clip: None, frozen: &[], sgd: false }
    }
}

fn trainer<'c>(group: &'c Rc<GlooCollective>, case: &Case, sharded: bool) -> Trainer<'c> {
    let arch = Arch::by_name("convnextv2_atto").unwrap();
    let config = ClassifierConfig { num_classes: 10, drop_path_rate: 0.0, purpose: Purpose::Finetune };
    let pretrain = PretrainConfig { mask_ratio: 0.5, ..PretrainConfig::default() };
    let mut model = match case.pretrain {
        true => Model::pretrain(arch, (64, 64), pretrain, 7, Device::Cpu).unwrap(),
        false => Model::classifier(arch, (32, 32), &config, 7, Device::Cpu).unwrap(),
    };
    let frozen: Vec<String> = case.frozen.iter().map(|name| (*name).to_owned()).collect();
    assert!(model.params.freeze(&frozen).unwrap().iter().all(|count| *count > 0));
    if sharded {
        model.params.shard(Rc::new(Fsdp::new(Rc::clone(group)).unwrap()), case.precision).unwrap();
    }
    let rule = match case.pretrain {
        true => GroupRule::Pretrain { decay_tokens_and_grn: false },
        false => GroupRule::Finetune {
            family: arch.family,
            layer_decay: 0.8,
            applied: true,
            backbone_multiplier: 1.0,
        },
    };
    let groups = param_groups(&model.params, 0.05, rule);
    let optimizer = match case.sgd {
        true => Optimizer::Sgd(Sgd::new(&model.params, groups, 0.9)),
        false => Optimizer::AdamW(AdamW::new(&model.params, groups, AdamWConfig::default())),
    };
    let lr = if case.sgd { 1e-2 } else { 2e-4 };
    let schedule = LrSchedule::MultiStep { lr, milestones: vec![], gamma: 0.1 };
    let config = TrainerConfig {
        seed: 3,
        precision: case.precision,
        accumulate: case.accumulate,
        clip_grad_norm: case.clip,
        label_smoothing: 0.1,
        max_bad_steps: 1,
    };
    Trainer::new(model, optimizer, schedule, config, &**group)
}

fn batch(rank: usize, step: u64, size: i64) -> Batch {
    tch::manual_seed((1000 * rank as u64 + step) as i64);
    Batch {
        images: Tensor::randn([4, 3, size, size], (Kind::Float, Device::Cpu)),
        labels: Some(Tensor::randint(10, [4], (Kind::Int64, Device::Cpu))),
        targets: None,
        noise: None,
        samples: (0..4).map(|place| 1000 * rank as u64 + 10 * step + place).collect(),
        valid: 4,
    }
}

fn train(trainer: &mut Trainer<'_>, steps: std::ops::Range<u64>) -> Vec<f64> {
    let (rank, size) = (trainer.collective.rank(), trainer.model.size.0);
    steps.map(|step| trainer.train_batch(&batch(rank, step, size), false).unwrap().loss).collect()
}

/// The losses, then the loss of an evaluation in which only rank 0 has an image, and the checkpoint.
fn run(case: &Case, sharded: bool, from: Option<&CheckpointContents>) -> (Vec<f64>, CheckpointContents) {
    let group = connect();
    let mut trainer = trainer(&group, case, sharded);
    if let Some(contents) = from {
        trainer.resume(contents).unwrap();
    }
    let start = trainer.cursor().batches;
    let mut losses = train(&mut trainer, start..start + STEPS);
    let mut evaluation = Evaluation::new(&trainer.model, case.precision, 5);
    let valid = i64::from(group.rank() == 0);
    evaluation.add(&Batch { valid, ..batch(0, 50, trainer.model.size.0) }).unwrap();
    losses.push(evaluation.finish(&*group).unwrap().loss);
    (losses, trainer.checkpoint(false, Vec::new()).unwrap())
}

fn furthest(ours: &CheckpointContents, theirs: &CheckpointContents) -> f64 {
    let both = ours.state_dict.iter().zip(&theirs.state_dict);
    both.map(|((name, ours), (other, theirs))| {
        assert_eq!(name, other);
        let distance = (ours.to_tensor().unwrap() - theirs.to_tensor().unwrap()).abs().max();
        distance.double_value(&[])
    })
    .fold(0.0, f64::max)
}

#[track_caller]
fn compare(case: &Case, tolerance: f64) {
    let ((whole, whole_state), (shares, shares_state)) = (run(case, false, None), run(case, true, None));
    println!("{whole:?}\n{shares:?}");
    for (whole, shares) in whole.iter().zip(&shares) {
        assert!((whole - shares).abs() <= tolerance * (1.0 + whole.abs()), "{whole} {shares}");
    }
    if rank() > 0 {
        assert!(shares_state.state_dict.iter().all(|(_, view)| view.numel() == 0));
        return;
    }
    let distance = furthest(&whole_state, &shares_state);
    println!("weights differ by {distance:e}");
    assert!(distance <= tolerance, "weights differ by {distance:e}");
    // Nothing but the numbers' last bits says who wrote it.
    let state = |contents: &CheckpointContents| {
        let optimizer = contents.optimizer.as_ref().unwrap();
        let shapes = contents.state_dict.iter().map(|(_, view)| view.shape().to_vec());
        (optimizer.state.len(), shapes.collect::<Vec<_>>(), format!("{:?}", optimizer.param_groups))
    };
    assert_eq!(state(&whole_state), state(&shares_state));
}

/// Shares go on from a whole model's checkpoint, and a whole model from that of shares.
fn resume() {
    let case = Case::default();
    let group = connect();
    let mut straight = trainer(&group, &case, false);
    let expected = train(&mut straight, 0..2 * STEPS);
    for (first, second) in [(false, true), (true, false), (true, true)] {
        let (losses, contents) = run(&case, first, None);
        // Each process reads the file of rank 0.
        let port = std::env::var("MASTER_PORT").unwrap();
        let name = format!("{port}-{}-{first}-{second}.pth", group.world_size());
        let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
        if group.rank() == 0 {
            mae_core::checkpoint::write(&path, &contents.to_value()).unwrap();
        }
        group.barrier().unwrap();
        let file = mae_core::checkpoint::Checkpoint::open(&path).unwrap();
        let contents = CheckpointContents::from_value(file.root()).unwrap();
        let (more, _) = run(&case, second, Some(&contents));
        group.barrier().unwrap();
        if group.rank() == 0 {
            std::fs::remove_file(&path).unwrap();
        }
        let losses = [&losses[..STEPS as usize], &more[..STEPS as usize]].concat();
        for (expected, loss) in expected.iter().zip(&losses) {
            assert!((expected - loss).abs() <= 1e-6 * (1.0 + expected.abs()), "{expected:?} {losses:?}");
        }
    }
}

#[track_caller]
fn passes(case: &str, world_size: usize) {
    for rank in Ranks::start(case, world_size).finish() {
        assert!(rank.succeeded && rank.said("done").is_some(), "rank {}: {}", rank.rank, rank.output);
        if rank.rank == 0 {
            println!("{}", rank.output);
        }
    }
}

#[test]
fn losses_and_weights_on_two_and_four_ranks() {
    passes("equal", 2);
    passes("equal", 4);
}

#[test]
fn accumulation_clipping_and_frozen_parameters() {
    passes("options", 2);
    passes("options", 3);
}

#[test]
fn rounded_weights() {
    passes("bf16", 2);
}

#[test]
fn a_run_repeats_itself() {
    passes("bits", 4);
}

#[test]
fn checkpoints_know_no_shares() {
    passes("resume", 2);
    passes("resume", 3);
}

//! Parameter groups, schedules and whole training trajectories against the goldens (recorded from Lightning).

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "a failed expectation is a failed test"
)]

mod common;

use common::{golden_params, image, l2, noise, number, read_json, relative};
use mae_core::arch::{Arch, Family};
use mae_core::backbone::Purpose;
use mae_core::classify::{Classifier, ClassifierConfig};
use mae_core::engine::{Batch, SingleProcess, SkipReason, Skipped, Trainer, TrainerConfig};
use mae_core::model::{Model, Network};
use mae_core::ops::Precision;
use mae_core::optim::{AdamW, AdamWConfig, GroupRule, LrSchedule, Optimizer, estimated_steps, param_groups};
use mae_core::params::{Declare, Params};
use mae_core::pretrain::{MaskedAutoencoder, PretrainConfig};
use serde_json::Value;
use tch::{Device, Tensor};

/// Fp32 against fp32 of another library: what the goldens' README observes, with room for the order of sums.
const TRAJECTORY_LOSS: f64 = 2e-5;
const TRAJECTORY_NORM: f64 = 1e-5;

fn table(arch: &Arch, stage: &str, num_classes: i64, salt: &str) -> (Network, Params) {
    sized_table(arch, stage, num_classes, salt, 224, PretrainConfig::default())
}

fn sized_table(
    arch: &Arch,
    stage: &str,
    num_classes: i64,
    salt: &str,
    size: i64,
    pretrain: PretrainConfig,
) -> (Network, Params) {
    let root = Declare::root();
    let network = if stage == "pretrain" {
        Network::Pretrain(MaskedAutoencoder::declare(&root, arch, (size, size), pretrain).unwrap().into())
    } else {
        let config = ClassifierConfig { num_classes, drop_path_rate: 0.0, purpose: Purpose::Finetune };
        Network::Classify(Classifier::declare(&root, arch, (size, size), &config).unwrap())
    };
    (network, golden_params(root.into_specs(), salt))
}

/// Upstream's rule: what it stores in the groups.
fn tao_rule(stage: &str, family: Family, layer_decay: f64) -> GroupRule {
    if stage == "pretrain" {
        GroupRule::Pretrain { decay_tokens_and_grn: true }
    } else {
        GroupRule::Finetune { family, layer_decay, applied: false, backbone_multiplier: 1.0 }
    }
}

#[test]
fn parameter_groups_equal_upstreams() {
    let golden = read_json("optim/param_groups.json");
    let mut checked = 0;
    for (name, cases) in golden.as_object().unwrap() {
        let Ok(arch) = Arch::by_name(name) else { continue };
        for (case, expected) in cases.as_object().unwrap() {
            let stage = if case.starts_with("pretrain") { "pretrain" } else { "finetune" };
            let layer_decay =
                case.split_once("layer_decay_").map_or(0.75, |(_, decay)| decay.parse().unwrap());
            let (_, mut params) = table(arch, stage, 10, "");
            if let Some((_, freeze)) = case.split_once("freeze_") {
                let modules: Vec<String> = freeze.split('+').map(str::to_owned).collect();
                params.freeze(&modules).unwrap();
            }
            check_groups(
                &params,
                expected,
                tao_rule(stage, arch.family, layer_decay),
                &format!("{name} {case}"),
            );
            checked += 1;
        }
    }
    assert!(checked > 0);
}

fn check_groups(params: &Params, expected: &Value, rule: GroupRule, what: &str) {
    let weight_decay = 0.05;
    let groups = param_groups(params, weight_decay, rule);
    let golden = expected["groups"].as_array().unwrap();
    assert_eq!(groups.len(), golden.len(), "{what}");
    for (group, row) in groups.iter().zip(golden) {
        assert_eq!(group.params.len() as u64, row["num_tensors"].as_u64().unwrap(), "{what} {row}");
        assert_eq!(group.weight_decay, number(&row["weight_decay"]), "{what} {row}");
        match (group.lr_scale, row["lr_scale"].as_f64()) {
            (Some(ours), Some(theirs)) => assert!(relative(ours, theirs, 0.0) < 1e-12, "{what} {row}"),
            (ours, theirs) => assert_eq!(ours, theirs, "{what} {row}"),
        }
        assert_eq!(group.applied_scale, 1.0, "{what}: upstream never applies its scale");
    }
    let members = expected["params"].as_object().unwrap();
    let mut count = 0;
    for (index, group) in groups.iter().enumerate() {
        for (place, &id) in group.params.iter().enumerate() {
            let row = &members[&params.spec(id).name];
            assert_eq!(
                (row["group"].as_u64(), row["index_in_group"].as_u64()),
                (Some(index as u64), Some(place as u64))
            );
            count += 1;
        }
    }
    assert_eq!(count, members.len(), "{what}");
}

#[test]
fn layer_decay_scales_the_step_when_it_is_applied() {
    let arch = Arch::by_name("convnextv2_atto").unwrap();
    let (_, params) = table(arch, "finetune", 10, "");
    let rule = GroupRule::Finetune {
        family: arch.family,
        layer_decay: 0.5,
        applied: true,
        backbone_multiplier: 0.1,
    };
    let groups = param_groups(&params, 0.0, rule);
    let scale = |name: &str| {
        let id = params.id(name).unwrap();
        groups.iter().find(|group| group.params.contains(&id)).unwrap().applied_scale
    };
    assert_eq!(scale("head.weight"), 1.0);
    assert_eq!(scale("norm.weight"), 0.1);
    assert_eq!(scale("stages.0.0.dwconv.weight"), 0.1 * 0.5f64.powi(12));
}

#[test]
fn schedules_equal_upstreams() {
    let golden = read_json("optim/lr_schedules.json");
    for case in golden["multistep"].as_array().unwrap() {
        let milestones = case["milestones"].as_array().unwrap().iter().map(|m| m.as_u64().unwrap()).collect();
        let schedule =
            LrSchedule::MultiStep { lr: number(&case["lr"]), milestones, gamma: number(&case["gamma"]) };
        for (epoch, lr) in case["lr_per_epoch"].as_array().unwrap().iter().enumerate() {
            let ours = schedule.lr(epoch as u64, 0);
            assert!(relative(ours, number(lr), 0.0) < 1e-12, "{case} epoch {epoch}: {ours}");
        }
    }
    for case in golden["cosine"].as_array().unwrap() {
        let schedule = LrSchedule::Cosine {
            lr: number(&case["lr"]),
            warmup_steps: number(&case["num_warmup_steps"]),
            total_steps: case["num_training_steps"].as_u64().unwrap(),
        };
        for (step, lr) in case["lr_per_step"].as_array().unwrap().iter().enumerate() {
            let ours = schedule.lr(0, step as u64);
            assert!(
                (ours - number(lr)).abs() < 1e-15 + 1e-12 * number(lr),
                "{case} step {step}: {ours} {lr}"
            );
        }
    }
    for case in golden["estimated_stepping_batches"].as_array().unwrap() {
        let field = |key: &str| case[key].as_u64().unwrap();
        let ours = estimated_steps(
            field("batches_per_epoch"),
            field("accumulate_grad_batches"),
            field("max_epochs"),
        );
        assert_eq!(ours, field("estimated_stepping_batches"), "{case}");
    }
}

#[test]
fn trajectories_equal_lightnings() {
    let golden = read_json("optim/trajectories.json");
    let mut checked = 0;
    for (name, case) in golden.as_object().unwrap() {
        if case["losses"].is_array() {
            check_trajectory(name, case);
            checked += 1;
        }
    }
    assert!(checked > 0);
}

fn check_trajectory(name: &str, case: &Value) {
    let config = &case["config"];
    let field = |key: &str| config[key].as_i64().unwrap_or_else(|| panic!("{name}: config.{key}"));
    let stage = config["stage"].as_str().unwrap();
    let arch = Arch::by_name(config["arch"].as_str().unwrap()).unwrap();
    let (batches, epochs, classes) = (field("batches_per_epoch"), field("epochs"), field("num_classes"));
    let accumulate = field("accumulate_grad_batches");
    let (batch_size, size, salt) = (field("batch"), field("size"), config["salt"].as_str().unwrap());
    let pretrain = PretrainConfig {
        mask_ratio: config["mask_ratio"].as_f64().unwrap_or(0.75),
        norm_pix_loss: config["norm_pix_loss"].as_bool().unwrap_or(true)
            || matches!(arch.family, Family::Hiera(_)),
        ..PretrainConfig::default()
    };
    let (network, mut params) = sized_table(arch, stage, classes, salt, size, pretrain);
    let modules = ["freeze", "train__freeze"].map(|key| config[key].as_array().into_iter().flatten());
    let frozen: Vec<String> = modules.into_iter().flatten().map(|m| m.as_str().unwrap().to_owned()).collect();
    params.freeze(&frozen).unwrap();
    let model = Model { arch, size: (size, size), network, params };
    let weight_decay = config["weight_decay"].as_f64().unwrap_or(0.05);
    let layer_decay = config["layer_decay"].as_f64().unwrap_or(0.75);
    let groups = param_groups(&model.params, weight_decay, tao_rule(stage, arch.family, layer_decay));
    let optimizer = Optimizer::AdamW(AdamW::new(&model.params, groups, AdamWConfig::default()));
    let lr = number(&config["lr"]);
    let total = estimated_steps(batches as u64, accumulate as u64, epochs as u64);
    let warmup = config["warmup_epochs"].as_f64().unwrap_or(1.0);
    let schedule = match config["lr_scheduler"].as_str() {
        Some("cosine") => LrSchedule::Cosine {
            lr,
            warmup_steps: (total / epochs as u64) as f64 * warmup,
            total_steps: total,
        },
        _ => {
            let milestones = config["milestones"].as_array().unwrap().iter().map(|m| m.as_u64().unwrap());
            LrSchedule::MultiStep { lr, milestones: milestones.collect(), gamma: number(&config["gamma"]) }
        }
    };
    let smoothing = config["dataset__augmentation__smoothing"].as_f64().unwrap_or(0.1);
    let trainer_config = TrainerConfig {
        seed: 0,
        precision: Precision::Fp32,
        accumulate: accumulate as u64,
        clip_grad_norm: None,
        label_smoothing: smoothing,
        max_bad_steps: 1,
    };
    let mut trainer = Trainer::new(model, optimizer, schedule, trainer_config, &SingleProcess);

    let (mut losses, mut rates, mut steps) = (Vec::new(), Vec::new(), Vec::new());
    let mut first_norms = None;
    for n in 0..batches * epochs {
        let k = n % batches;
        let labels: Vec<i64> = (0..batch_size).map(|j| (3 * k + 5 * j + 1) % classes).collect();
        let patches = trainer.model.autoencoder().map_or(0, MaskedAutoencoder::patches);
        let batch = Batch {
            images: image("", &format!("input.{k}"), &[batch_size, 3, size, size]),
            labels: Some(Tensor::from_slice(&labels)),
            targets: None,
            noise: (patches > 0).then(|| noise("", &format!("noise.{n}"), &[batch_size, patches])),
            samples: (0..batch_size as u64).collect(),
            valid: batch_size,
        };
        let outcome = trainer.train_batch(&batch, k + 1 == batches).unwrap();
        losses.push(outcome.loss);
        if outcome.stepped && first_norms.is_none() {
            let first = case["param_l2_after_first_optimizer_step"].as_object();
            let params = &trainer.model.params;
            let norm = |name: &String| (name.clone(), l2(params.get(params.id(name).unwrap())));
            first_norms = first.map(|first| first.keys().map(norm).collect::<Vec<_>>());
        }
        if outcome.stepped {
            rates.push(outcome.lr);
        }
        steps.push(trainer.cursor().step);
        if k + 1 == batches {
            trainer.finish_epoch();
        }
    }
    if let (Some(first), Some(ours)) = (case["param_l2_after_first_optimizer_step"].as_object(), &first_norms)
    {
        for ((parameter, norm), (name_of, ours)) in first.iter().zip(ours) {
            assert_eq!(parameter, name_of, "{name}");
            assert!(
                relative(*ours, number(norm), 1e-6) < TRAJECTORY_NORM,
                "{name}: norm of {parameter} after the first step is {ours}, expected {norm}"
            );
        }
    }
    let golden = |key: &str| -> Vec<f64> { case[key].as_array().unwrap().iter().map(number).collect() };
    for (n, (ours, theirs)) in losses.iter().zip(golden("losses")).enumerate() {
        assert!(
            relative(*ours, theirs, 0.0) < TRAJECTORY_LOSS,
            "{name} batch {n}: loss {ours}, expected {theirs}"
        );
    }
    for (n, (ours, theirs)) in rates.iter().zip(golden("lr_used")).enumerate() {
        assert!(relative(*ours, theirs, 1e-12) < 1e-9, "{name} step {n}: lr {ours}, expected {theirs}");
    }
    assert_eq!(rates.len(), golden("lr_used").len(), "{name}");
    let expected: Vec<u64> = golden("optimizer_steps_after_batch").iter().map(|&s| s as u64).collect();
    assert_eq!(steps, expected, "{name}");
    let mut worst: f64 = 0.0;
    for (parameter, norm) in case["param_l2_final"].as_object().unwrap() {
        let tensor = trainer.model.params.get(trainer.model.params.id(parameter).unwrap());
        let error = relative(l2(tensor), number(norm), 1e-6);
        assert!(error < TRAJECTORY_NORM, "{name}: norm of {parameter} is {}, expected {norm}", l2(tensor));
        worst = worst.max(error);
    }
    println!("{name}: {} batches, final norms within {worst:.1e}", losses.len());
}

#[test]
fn a_saved_training_goes_on_as_if_it_had_never_stopped() {
    let arch = Arch::by_name("convnextv2_atto").unwrap();
    let new = || {
        let config = PretrainConfig { drop_path_rate: 0.3, ..PretrainConfig::default() };
        let model = Model::pretrain(arch, (64, 64), config, 7, Device::Cpu).unwrap();
        let groups = param_groups(&model.params, 0.05, GroupRule::Pretrain { decay_tokens_and_grn: false });
        let optimizer = Optimizer::AdamW(AdamW::new(&model.params, groups, AdamWConfig::default()));
        let schedule = LrSchedule::Cosine { lr: 1e-3, warmup_steps: 2.0, total_steps: 6 };
        let config = TrainerConfig {
            seed: 7,
            precision: Precision::Fp32,
            accumulate: 2,
            clip_grad_norm: Some(1.0),
            label_smoothing: 0.0,
            max_bad_steps: 1,
        };
        Trainer::new(model, optimizer, schedule, config, &SingleProcess)
    };
    let batch = |n: i64| Batch {
        images: image("", &format!("input.{n}"), &[3, 3, 64, 64]),
        labels: None,
        targets: None,
        noise: None,
        samples: (3 * n as u64..3 * n as u64 + 3).collect(),
        valid: 3,
    };
    let mut whole = new();
    (0..6).for_each(|n| _ = whole.train_batch(&batch(n), false).unwrap());

    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("half.pth");
    let mut half = new();
    (0..4).for_each(|n| _ = half.train_batch(&batch(n), false).unwrap());
    mae_core::checkpoint::write(&path, &half.checkpoint(false, vec![]).unwrap().to_value()).unwrap();
    drop(half);
    let file = mae_core::checkpoint::Checkpoint::open(&path).unwrap();
    let contents = mae_core::checkpoint::lightning::CheckpointContents::from_value(file.root()).unwrap();
    let mut resumed = new();
    resumed.resume(&contents).unwrap();
    assert_eq!((resumed.cursor().batch, resumed.cursor().step), (4, 2));
    (4..6).for_each(|n| _ = resumed.train_batch(&batch(n), false).unwrap());

    assert_eq!(resumed.cursor(), whole.cursor());
    for ((_, spec, a), (_, _, b)) in whole.model.params.iter().zip(resumed.model.params.iter()) {
        assert!(a.equal(b), "{} differs after the resume", spec.name);
    }
}

#[test]
fn a_step_without_finite_loss_is_left_out() {
    let arch = Arch::by_name("convnextv2_atto").unwrap();
    let (network, params) = table(arch, "finetune", 2, "");
    let before = params.get(params.id("head.weight").unwrap()).copy();
    let model = Model { arch, size: (32, 32), network, params };
    let groups = param_groups(&model.params, 0.05, tao_rule("finetune", arch.family, 0.75));
    let optimizer = Optimizer::AdamW(AdamW::new(&model.params, groups, AdamWConfig::default()));
    let schedule = LrSchedule::MultiStep { lr: 1e-3, milestones: vec![], gamma: 0.1 };
    let config = TrainerConfig {
        seed: 0,
        precision: Precision::Fp32,
        accumulate: 1,
        clip_grad_norm: None,
        label_smoothing: 0.0,
        max_bad_steps: 2,
    };
    let mut trainer = Trainer::new(model, optimizer, schedule, config, &SingleProcess);
    let bad = Batch {
        images: Tensor::full([1, 3, 32, 32], f64::NAN, (tch::Kind::Float, Device::Cpu)),
        labels: Some(Tensor::from_slice(&[1i64])),
        targets: None,
        noise: None,
        samples: vec![0],
        valid: 1,
    };
    let skipped = trainer.train_batch(&bad, false).unwrap().skipped.unwrap();
    assert_eq!(skipped, Skipped { reason: SkipReason::Loss, samples: vec![0] });
    assert!(before.equal(trainer.model.params.get(trainer.model.params.id("head.weight").unwrap())));
    let message = trainer.train_batch(&bad, false).unwrap_err().to_string();
    assert!(message.contains("not finite for 2 steps in a row"), "{message}");
}

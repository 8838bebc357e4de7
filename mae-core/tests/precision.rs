//! bf16 and fp16 as autocast: products in 16 bits, everything else in fp32.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "a failed expectation is a failed test"
)]

mod common;

use common::{golden_params, image, l2, noise, relative};
use mae_core::arch::Arch;
use mae_core::engine::{Batch, SingleProcess, SkipReason, Trainer, TrainerConfig};
use mae_core::model::{Model, Network};
use mae_core::ops::{Eager, Ops, Precision};
use mae_core::optim::{AdamW, AdamWConfig, GroupRule, LrSchedule, Optimizer, param_groups};
use mae_core::params::{Declare, Params};
use mae_core::pretrain::{MaskedAutoencoder, PretrainConfig};
use tch::{Device, Kind, Tensor};

fn model(arch: &str, size: i64) -> (MaskedAutoencoder, Params) {
    let root = Declare::root();
    let arch = Arch::by_name(arch).unwrap();
    let config = PretrainConfig { decoder_depth: Some(1), ..PretrainConfig::default() };
    let model = MaskedAutoencoder::declare(&root, arch, (size, size), config).unwrap();
    (model, golden_params(root.into_specs(), ""))
}

/// Loss and gradient norms.
fn run(arch: &str, precision: Precision) -> (f64, Vec<(String, f64)>) {
    let (model, params) = model(arch, 64);
    let images = image("", "input", &[2, 3, 64, 64]);
    let noise = noise("", "noise", &[2, model.patches()]);
    let output = model.forward(&Eager::new(&params).with_precision(precision), &images, &noise).unwrap();
    assert_eq!(output.loss.kind(), Kind::Float, "losses stay fp32");
    output.loss.backward();
    let norms = params.trainable().map(|(_, spec, tensor)| {
        assert_eq!((tensor.kind(), tensor.grad().kind()), (Kind::Float, Kind::Float), "{}", spec.name);
        (spec.name.clone(), l2(&tensor.grad()))
    });
    (f64::try_from(&output.loss).unwrap(), norms.collect())
}

fn check(arch: &str) {
    let (loss, gradients) = run(arch, Precision::Fp32);
    for (precision, loss_limit, gradient_limit) in
        [(Precision::Bf16, 4e-3, 6e-2), (Precision::Fp16, 5e-4, 1e-2)]
    {
        let (rounded_loss, rounded) = run(arch, precision);
        let error = relative(rounded_loss, loss, 0.0);
        let total = |norms: &[(String, f64)]| norms.iter().map(|(_, n)| n * n).sum::<f64>().sqrt();
        let whole = relative(total(&rounded), total(&gradients), 0.0);
        // Norms that are a thousandth of the whole gradient are rounding noise in 16 bits.
        let floor = total(&gradients) * 1e-2;
        let (name, worst) = gradients
            .iter()
            .zip(&rounded)
            .map(|((name, exact), (_, ours))| (name, relative(*ours, *exact, floor)))
            .max_by(|a, b| a.1.total_cmp(&b.1))
            .unwrap();
        println!(
            "{arch} {precision:?}: loss {error:.1e}, whole gradient {whole:.1e}, worst {worst:.1e} ({name})"
        );
        assert!(error > 0.0, "{arch}: {precision:?} rounds nothing");
        assert!(error < loss_limit, "{arch} {precision:?}: loss {rounded_loss}, in fp32 {loss}");
        assert!(worst < gradient_limit, "{arch} {precision:?}: gradient of {name} off by {worst:e}");
    }
}

#[test]
fn convnextv2_in_16_bits_is_near_fp32() {
    check("convnextv2_atto");
}

#[test]
fn hiera_in_16_bits_is_near_fp32() {
    check("hiera_tiny_224");
}

#[test]
fn vit_in_16_bits_is_near_fp32() {
    check("vit_base_patch16");
}

#[test]
fn a_parameter_is_rounded_once_for_each_of_its_values() {
    let (_, mut params) = model("convnextv2_atto", 64);
    let id = params.id("proj.weight").unwrap();
    let round = |params: &Params| params.rounded(id, Kind::BFloat16, Kind::BFloat16).unwrap();
    let first = round(&params);
    assert_eq!(first.data_ptr(), round(&params).data_ptr(), "two batches share the copy");
    assert!(first.requires_grad(), "gradients reach the parameter through the copy");
    let frozen = tch::no_grad(|| round(&params));
    assert!(!frozen.requires_grad());
    assert!(round(&params).requires_grad(), "a copy made without gradients does not serve training");
    let changed = params.get(id).detach() + 1.0;
    params.assign(id, &changed).unwrap();
    assert!(round(&params).equal(&changed.to_kind(Kind::BFloat16)), "a new value is rounded anew");
}

#[test]
fn rounded_fp32_products_are_16_bit_products() {
    // Where the CPU has no 16-bit units we multiply rounded numbers in fp32: libtorch's own fallback must agree.
    let (model, params) = model("convnextv2_atto", 64);
    drop(model);
    let layer = mae_core::nn::Linear {
        weight: params.id("encoder.stages.0.0.pwconv1.weight").unwrap(),
        bias: Some(params.id("encoder.stages.0.0.pwconv1.bias").unwrap()),
    };
    let x = image("", "x", &[8, 40]);
    for (precision, ulp) in [(Precision::Bf16, 2f64.powi(-8)), (Precision::Fp16, 2f64.powi(-11))] {
        let kind = precision.kind();
        let ours = Eager::new(&params).with_precision(precision).linear(&x, &layer).unwrap();
        assert_eq!(ours.kind(), kind);
        let at = |id| params.get(id).to_kind(kind);
        let theirs = x.to_kind(kind).linear(&at(layer.weight), layer.bias.map(at).as_ref());
        let error = (ours.to_kind(Kind::Double) - theirs.to_kind(Kind::Double)).abs().max();
        let error = f64::try_from(error).unwrap();
        let peak = f64::try_from(theirs.to_kind(Kind::Double).abs().max()).unwrap();
        assert!(error <= ulp * peak, "{precision:?}: {error:e}, largest {peak}");
    }
}

fn trainer(precision: Precision, max_bad_steps: u64) -> Trainer<'static> {
    let arch = Arch::by_name("convnextv2_atto").unwrap();
    // Without normalised targets, large pixels make a large loss.
    let config = PretrainConfig { drop_path_rate: 0.2, norm_pix_loss: false, ..PretrainConfig::default() };
    let model = Model::pretrain(arch, (64, 64), config, 7, Device::Cpu).unwrap();
    let groups = param_groups(&model.params, 0.05, GroupRule::Pretrain { decay_tokens_and_grn: false });
    let optimizer = Optimizer::AdamW(AdamW::new(&model.params, groups, AdamWConfig::default()));
    let schedule = LrSchedule::MultiStep { lr: 1e-3, milestones: vec![], gamma: 0.1 };
    let config = TrainerConfig {
        seed: 7,
        precision,
        accumulate: 2,
        clip_grad_norm: Some(5.0),
        label_smoothing: 0.0,
        max_bad_steps,
    };
    Trainer::new(model, optimizer, schedule, config, &SingleProcess)
}

fn batch(n: u64, scale: f64) -> Batch {
    Batch {
        images: image("", &format!("input.{n}"), &[2, 3, 64, 64]) * scale,
        labels: None,
        targets: None,
        noise: None,
        samples: vec![2 * n, 2 * n + 1],
        valid: 2,
    }
}

/// The copies that products are made of follow the weights: a training in 16 bits learns what one in fp32 learns.
#[test]
fn training_in_16_bits_follows_fp32() {
    let losses = |precision| -> Vec<f64> {
        let mut trainer = trainer(precision, 3);
        (0..24).map(|n| trainer.train_batch(&batch(n % 2, 1.0), false).unwrap().loss).collect()
    };
    let fp32 = losses(Precision::Fp32);
    assert!(fp32[23] < 0.8 * fp32[1], "nothing was learnt: {fp32:?}");
    // Rounded trainings drift apart, on each kind of CPU otherwise; one with copies of the start stays a quarter above.
    for (step, (a, b)) in fp32.iter().zip(&losses(Precision::Bf16)).enumerate() {
        assert!((a - b).abs() < 0.08 * a, "bf16, batch {step}: {b} instead of {a}");
    }
    // fp16 leaves the steps out in which its loss scale is still too large.
    let fp16 = losses(Precision::Fp16);
    assert!(fp16[23] < 0.9 * fp16[1], "nothing was learnt: {fp16:?}");
}

#[test]
fn rounded_copies_follow_every_step_of_the_optimizer() {
    let mut trainer = trainer(Precision::Bf16, 3);
    for n in 0..4 {
        trainer.train_batch(&batch(n, 1.0), false).unwrap();
        let params = &trainer.model.params;
        for (id, spec, tensor) in params.trainable() {
            let copy = params.rounded(id, Kind::BFloat16, Kind::BFloat16).unwrap();
            assert!(copy.equal(&tensor.to_kind(Kind::BFloat16)), "{} is stale after batch {n}", spec.name);
        }
    }
}

#[test]
fn a_resumed_fp16_training_goes_on_with_its_loss_scale_bit_for_bit() {
    let run = |trainer: &mut Trainer<'_>, batches: std::ops::Range<u64>| -> Vec<f64> {
        batches.map(|n| trainer.train_batch(&batch(n, 1.0), false).unwrap().loss).collect()
    };
    let mut whole = trainer(Precision::Fp16, 3);
    let losses = run(&mut whole, 0..8);
    let mut half = trainer(Precision::Fp16, 3);
    run(&mut half, 0..4);
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("half.pth");
    mae_core::checkpoint::write(&path, &half.checkpoint(false, vec![]).unwrap().to_value()).unwrap();
    let scaler = *half.scaler().unwrap();
    let file = mae_core::checkpoint::Checkpoint::open(&path).unwrap();
    let contents = mae_core::checkpoint::lightning::CheckpointContents::from_value(file.root()).unwrap();
    // Where Lightning looks for it.
    let state = file.root().get("MixedPrecision").unwrap();
    assert_eq!(state.get("scale").unwrap().as_f64(), Some(scaler.scale));
    assert_eq!(state.get("_growth_tracker").unwrap().as_i64(), Some(scaler.good_steps as i64));
    let mut resumed = trainer(Precision::Fp16, 3);
    resumed.resume(&contents).unwrap();
    assert_eq!(*resumed.scaler().unwrap(), scaler);
    assert_eq!(run(&mut resumed, 4..8), losses[4..]);
    assert_eq!(resumed.scaler(), whole.scaler());
    for ((_, spec, a), (_, _, b)) in whole.model.params.iter().zip(resumed.model.params.iter()) {
        assert!(a.equal(b), "{} differs after the resume", spec.name);
        assert_eq!(a.kind(), Kind::Float, "master weights are fp32");
    }
}

#[test]
fn a_step_counts_in_the_products_after_it() {
    let mut trainer = trainer(Precision::Bf16, 3);
    for n in 0..4 {
        let stepped = trainer.train_batch(&batch(n, 1.0), false).unwrap().stepped;
        assert_eq!(stepped, n % 2 == 1);
        for (id, spec, tensor) in trainer.model.params.iter() {
            let copy = trainer.model.params.rounded(id, Kind::BFloat16, Kind::BFloat16).unwrap();
            assert!(copy.equal(&tensor.to_kind(Kind::BFloat16)), "{} before batch {}", spec.name, n + 1);
        }
    }
}

#[test]
fn fp16_gradients_that_overflow_lower_the_scale_and_cost_no_bad_step() {
    let mut trainer = trainer(Precision::Fp16, 2);
    // A large finite loss: its scaled gradients leave the range of fp16 until the scale has come down.
    let mut lowered = 0;
    for n in 0..24 {
        let outcome = trainer.train_batch(&batch(n % 2, 2e4), false).unwrap();
        if let Some(skipped) = outcome.skipped {
            let SkipReason::LossScale { lowered_to } = skipped.reason else {
                panic!("{skipped:?} counts as a bad step")
            };
            assert_eq!(lowered_to, trainer.scaler().unwrap().scale);
            lowered += 1;
        }
    }
    assert!(lowered >= 3, "only {lowered} steps overflowed");
    assert_eq!(trainer.skipped_steps(), lowered);
}

#[test]
fn only_the_batches_that_were_not_finite_are_named_and_nothing_changes() {
    let mut trainer = trainer(Precision::Bf16, 2);
    let before: Vec<Tensor> =
        trainer.model.params.iter().map(|(.., tensor)| tensor.detach().copy()).collect();
    let first = trainer.train_batch(&batch(0, 1.0), false).unwrap();
    assert!(!first.stepped);
    let second = trainer.train_batch(&batch(1, f64::NAN), false).unwrap();
    let skipped = second.skipped.unwrap();
    assert_eq!((skipped.reason, skipped.samples), (SkipReason::Loss, vec![2, 3]));
    for ((_, spec, now), before) in trainer.model.params.iter().zip(&before) {
        assert!(now.equal(before), "{} changed in a step that was left out", spec.name);
    }
    assert!(trainer.epoch_loss().is_finite(), "one bad batch does not spoil the epoch's mean");
    trainer.train_batch(&batch(2, 1.0), false).unwrap();
    let error = trainer.train_batch(&batch(3, f64::INFINITY), false).unwrap_err();
    assert!(matches!(&error, mae_core::Error::NotFinite { samples, .. } if *samples == [6, 7]), "{error}");
    // Given up, the training can still be saved: as it was after its last good step.
    assert!(trainer.checkpoint(false, vec![]).is_ok());
    assert!(matches!(trainer.model.network, Network::Pretrain(_)));
}

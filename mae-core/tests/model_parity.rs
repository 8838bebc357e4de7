//! Loss, predictions, logits and gradients of every golden model, in fp32 on the CPU.
//!
//! Files are found by listing `models/`; those too large for every run are left to `--ignored`.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "a failed expectation is a failed test"
)]

mod common;

use common::{golden_params, goldens, image, l2, noise, number, read_json, relative};
use mae_core::arch::{Arch, Family};
use mae_core::backbone::Purpose;
use mae_core::classify::{Classifier, ClassifierConfig, cross_entropy};
use mae_core::ops::{Eager, Ops};
use mae_core::params::{Declare, Params};
use mae_core::pretrain::{MaskedAutoencoder, PretrainConfig};
use serde_json::Value;
use tch::{Device, Tensor};

/// What the goldens' README calls reasonable for another fp32 implementation.
const LOSS: f64 = 2e-6;
const LOGITS: f64 = 1e-4;
const GRADIENT: f64 = 5e-5;
/// Single entries and sums cancel: absolute, in units of the gradient's norm.
const GRADIENT_ENTRY: f64 = 1e-5;

/// Above this many pretraining parameters a file is left to the long suite.
const LARGE: i64 = 120_000_000;

#[derive(Default)]
struct Worst {
    loss: f64,
    gradient: f64,
    logits: f64,
    prediction: f64,
}

#[test]
fn small_models() {
    check_files(|params| params <= LARGE);
}

#[test]
#[ignore = "needs up to 24 GiB and many minutes; scripts/test-large runs it"]
fn large_models() {
    check_files(|params| params > LARGE);
}

fn check_files(choose: impl Fn(i64) -> bool) {
    let mut names: Vec<String> = std::fs::read_dir(goldens().join("models"))
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .filter(|name| name.ends_with(".json"))
        .collect();
    names.sort();
    let mut found = 0;
    for name in names {
        let golden = read_json(&format!("models/{name}"));
        let Some(arch) = golden["arch"].as_str() else { continue };
        let arch = Arch::by_name(arch).unwrap();
        found += 1;
        if !choose(parameters(arch)) {
            continue;
        }
        let worst = check_file(arch, &golden);
        println!(
            "{name}: loss {:.1e} prediction {:.1e} gradient norms {:.1e} logits {:.1e}",
            worst.loss, worst.prediction, worst.gradient, worst.logits
        );
    }
    assert!(found > 0, "no golden model was found in {}", goldens().display());
}

fn parameters(arch: &Arch) -> i64 {
    let root = Declare::root();
    MaskedAutoencoder::declare(&root, arch, (224, 224), PretrainConfig::default()).unwrap();
    root.into_specs().iter().map(|spec| spec.numel()).sum()
}

fn check_file(arch: &Arch, golden: &Value) -> Worst {
    let salt = golden["salt"].as_str().unwrap();
    let (batch, size) = (golden["batch"].as_i64().unwrap(), golden["size"].as_i64().unwrap());
    let shape = golden["input_shape"].as_array().map_or_else(
        || vec![batch, 3, size, size],
        |shape| shape.iter().map(|side| side.as_i64().unwrap()).collect(),
    );
    let images = image(salt, "input", &shape);
    for (i, value) in golden["input_first"].as_array().into_iter().flatten().enumerate() {
        let ours = images.flatten(0, -1).double_value(&[i as i64]);
        assert!((ours - number(value)).abs() <= 1e-6, "generated input [{i}]: {ours}, expected {value}");
    }
    let mut worst = Worst::default();
    for expected in golden["pretrain"].as_array().into_iter().flatten() {
        check_pretrain(arch, expected, salt, &images, &mut worst);
    }
    for (role, purpose) in [("finetune", Purpose::Finetune), ("export_backbone", Purpose::Features)] {
        if golden[role].is_object() {
            check_classifier(arch, &golden[role], salt, &images, purpose, &mut worst);
        }
    }
    worst
}

fn check_pretrain(arch: &Arch, expected: &Value, salt: &str, images: &Tensor, worst: &mut Worst) {
    let size = (images.size()[2], images.size()[3]);
    let hiera = matches!(arch.family, Family::Hiera(_));
    let config = PretrainConfig {
        mask_ratio: number(&expected["mask_ratio"]),
        // Upstream always normalises for Hiera.
        norm_pix_loss: hiera || expected["norm_pix_loss"].as_bool().unwrap(),
        ..PretrainConfig::default()
    };
    let what = format!("{} {config:?}", arch.name);
    let root = Declare::root();
    let model = MaskedAutoencoder::declare(&root, arch, size, config).unwrap();
    let params = golden_params(root.into_specs(), salt);
    let noise = noise(salt, "noise", &[images.size()[0], model.patches()]);
    let ops = Eager::new(&params).with_trace();
    let output = model.forward(&ops, images, &noise).unwrap();
    check_trace(&ops.into_trace(), &expected["trace"], &what);

    let rows: Vec<String> = Vec::<Vec<f32>>::try_from(&output.mask.hidden)
        .unwrap()
        .iter()
        .map(|row| row.iter().map(|&hidden| if (hidden == 1.0) != hiera { '1' } else { '0' }).collect())
        .collect();
    let mask: Vec<&str> =
        expected["mask"]["rows"].as_array().unwrap().iter().map(|v| v.as_str().unwrap()).collect();
    assert_eq!(rows, mask, "{what}");

    let loss = f64::try_from(&output.loss).unwrap();
    let error = relative(loss, number(&expected["loss"]), 0.0);
    assert!(error <= LOSS, "{what}: loss {loss}, expected {}", expected["loss"]);
    worst.loss = worst.loss.max(error);

    let pred = as_upstream(arch, &output.pred, size);
    check_statistics(&pred, &expected["pred"], &format!("{what}: pred"), worst);
    let step = expected["pred_samples"]["step"].as_i64().unwrap();
    let flat = pred.flatten(0, -1);
    let scale = number(&expected["pred"]["absmax"]);
    for (i, value) in expected["pred_samples"]["values"].as_array().unwrap().iter().enumerate() {
        let ours = flat.double_value(&[i as i64 * step]);
        assert!((ours - number(value)).abs() <= 1e-4 * scale, "{what}: pred[{i} * {step}] {ours} {value}");
    }

    output.loss.backward();
    check_gradients(&params, &expected["grads"], &what, worst);
}

fn check_classifier(
    arch: &Arch,
    expected: &Value,
    salt: &str,
    images: &Tensor,
    purpose: Purpose,
    worst: &mut Worst,
) {
    let what = format!("{} {purpose:?}", arch.name);
    let size = (images.size()[2], images.size()[3]);
    let num_classes = expected["num_classes"].as_i64().unwrap();
    let root = Declare::root();
    let config = ClassifierConfig { num_classes, drop_path_rate: 0.0, purpose };
    let model = Classifier::declare(&root, arch, size, &config).unwrap();
    let params = golden_params(root.into_specs(), salt);
    let logits = model.logits(&Eager::new(&params), images).unwrap();

    let golden = expected["logits"].as_array().or_else(|| expected["output"].as_array()).unwrap();
    for (ours, row) in Vec::<Vec<f32>>::try_from(&logits).unwrap().iter().zip(golden) {
        for (ours, value) in ours.iter().zip(row.as_array().unwrap()) {
            let error = (f64::from(*ours) - number(value)).abs();
            assert!(error <= LOGITS, "{what}: logit {ours}, expected {value}");
            worst.logits = worst.logits.max(error);
        }
    }
    if let Some(labels) = expected["labels"].as_array() {
        let labels: Vec<i64> = labels.iter().map(|v| v.as_i64().unwrap()).collect();
        let loss = cross_entropy(&logits, &Tensor::from_slice(&labels), 0.0).unwrap();
        let error = relative(f64::try_from(&loss).unwrap(), number(&expected["loss"]), 0.0);
        assert!(error <= LOSS, "{what}: loss {error:e}");
        worst.loss = worst.loss.max(error);
        loss.backward();
        check_gradients(&params, &expected["grads"], &what, worst);
    }
}

/// The prediction in the shape that upstream returns.
fn as_upstream(arch: &Arch, pred: &Tensor, (height, width): (i64, i64)) -> Tensor {
    match arch.family {
        Family::ConvNeXtV2(_) => pred.transpose(1, 2).reshape([-1, 32 * 32 * 3, height / 32, width / 32]),
        Family::Hiera(_) | Family::Vit(_) => pred.shallow_clone(),
    }
}

fn check_statistics(x: &Tensor, expected: &Value, what: &str, worst: &mut Worst) {
    let shape: Vec<i64> = expected["shape"].as_array().unwrap().iter().map(|v| v.as_i64().unwrap()).collect();
    assert_eq!(x.size(), shape, "{what}");
    let norm = number(&expected["l2"]);
    let error = relative(l2(x), norm, 0.0);
    assert!(error <= 2e-5, "{what}: l2 off by {error:e}");
    worst.prediction = worst.prediction.max(error);
    let x = x.detach().to_kind(tch::Kind::Double);
    let root = (x.numel() as f64).sqrt();
    let mean = f64::try_from(x.mean(tch::Kind::Double)).unwrap();
    assert!((mean - number(&expected["mean"])).abs() <= 2e-5 * norm / root, "{what}: mean {mean}");
}

/// The outputs of the submodules. Layouts differ (ours is channels-last), so only what no layout changes is compared.
fn check_trace(trace: &[(String, Tensor)], expected: &Value, what: &str) {
    for row in expected.as_array().into_iter().flatten() {
        let module = row["module"].as_str().unwrap();
        let Some((_, output)) = trace.iter().find(|(name, _)| name == module) else { continue };
        let norm = number(&row["l2"]);
        let error = relative(l2(output), norm, 0.0);
        assert!(error <= 2e-5, "{what}: output of {module}: l2 {} expected {norm}", l2(output));
        let peak = f64::try_from(output.detach().abs().max()).unwrap();
        assert!(
            relative(peak, number(&row["absmax"]), 0.0) <= 1e-4,
            "{what}: largest output of {module}: {peak}"
        );
    }
}

fn check_gradients(params: &Params, expected: &Value, what: &str, worst: &mut Worst) {
    let expected = expected.as_object().unwrap();
    // Hiera pools by maxima. Where two of them are equal but for rounding, another CPU's products decide otherwise, and the
    // gradient goes to the other token: of 1,053,696 maxima of hiera_tiny_224 in fp32, PyTorch decides one otherwise than in
    // fp64 (they differ by 9e-7). This moves an entry of blocks.0.norm1.weight by 1.1e-5 of the norm; with fp64's choice put in
    // its place, no entry moves by more than 9e-7.
    let (norm_limit, entry_limit) =
        if what.starts_with("hiera") { (1e-4, 3e-4) } else { (GRADIENT, GRADIENT_ENTRY) };
    let mut seen = 0;
    for (_, spec, tensor) in params.trainable() {
        let grad = tensor.grad();
        let Some(row) = expected.get(&spec.name).and_then(Value::as_array) else {
            // The goldens leave out what takes no part, such as the unused norm of a decoder-less forward.
            assert!(!grad.defined(), "{what}: {} has a gradient, upstream's has none", spec.name);
            continue;
        };
        seen += 1;
        let (norm, sum) = (number(&row[0]), number(&row[1]));
        // A key's bias shifts all scores of a query alike: its gradient is rounding noise.
        let floor = 1e-6;
        let error = relative(l2(&grad), norm, floor);
        assert!(
            error <= norm_limit,
            "{what}: gradient norm of {} is {}, expected {norm}",
            spec.name,
            l2(&grad)
        );
        worst.gradient = worst.gradient.max(error);
        let flat = grad.flatten(0, -1).to_kind(tch::Kind::Double).to_device(Device::Cpu);
        let total = f64::try_from(flat.sum(tch::Kind::Double)).unwrap();
        let slack = entry_limit * norm.max(floor);
        let root = (flat.numel() as f64).sqrt();
        assert!((total - sum).abs() <= slack * root, "{what}: gradient sum of {}: {total} {sum}", spec.name);
        for (i, value) in row[2..].iter().enumerate() {
            let ours = flat.double_value(&[i as i64]);
            assert!(
                (ours - number(value)).abs() <= slack,
                "{what}: gradient {} [{i}]: {ours} {value}",
                spec.name
            );
        }
    }
    assert_eq!(seen, expected.len(), "{what}: parameters with gradients");
}

#[test]
fn tracing_lists_the_scopes_in_order() {
    let arch = Arch::by_name("convnextv2_atto").unwrap();
    let root = Declare::root();
    let config = ClassifierConfig { num_classes: 2, drop_path_rate: 0.0, purpose: Purpose::Finetune };
    let model = Classifier::declare(&root, arch, (32, 32), &config).unwrap();
    let params = golden_params(root.into_specs(), "");
    let ops = Eager::new(&params).with_trace();
    let logits = model.logits(&ops, &image("", "input", &[1, 3, 32, 32])).unwrap();
    assert_eq!(ops.shape(&logits), [1, 2]);
    let names: Vec<String> = ops.into_trace().into_iter().map(|(name, _)| name).collect();
    assert_eq!(names.first().map(String::as_str), Some("downsample_layers.0"));
    assert_eq!(names.last().map(String::as_str), Some("head"));
}

//! Operations and policies against timm on Pillow.

use serde_json::Value;

use super::ops::Geometry;
use super::policy::Step;
use super::*;
use crate::decode::RgbImage;
use crate::rng::Purpose;
use crate::testing::{goldens, json, largest_difference, number, png};

fn op(name: &Value) -> Op {
    let name = name.as_str().unwrap();
    *Op::ALL.iter().find(|op| op.name() == name).unwrap_or_else(|| panic!("{name}"))
}

#[test]
fn arguments_are_timms() {
    let goldens = json(&goldens("augment").join("augment.json"));
    let mut checked = 0;
    for case in goldens["ops"].as_array().unwrap() {
        let Some(expected) = case["args_exact"].get(0).and_then(Value::as_str) else { continue };
        let argument =
            op(&case["op"]).argument(case["magnitude"].as_f64().unwrap(), case["negated"] == true, 100.0);
        assert_eq!(argument, expected.parse::<f64>().unwrap(), "{case}");
        checked += 1;
    }
    assert!(checked > 50, "only {checked} arguments");
}

#[test]
fn pixels_are_pillows() {
    let folder = goldens("augment");
    let goldens = json(&folder.join("augment.json"));
    let (mut checked, mut other) = (0, RgbImage::default());
    for case in goldens["ops"].as_array().unwrap() {
        let op = op(&case["op"]);
        let argument = op.argument(case["magnitude"].as_f64().unwrap(), case["negated"] == true, 100.0);
        for output in case["outputs"].as_array().unwrap() {
            let Some(expected) = output["file"].as_str().and_then(|file| png(&folder.join(file))) else {
                continue;
            };
            let filter = if output["resample"] == "bicubic" { Filter::Bicubic } else { Filter::Bilinear };
            let mut image = png(&folder.join(format!("inputs/img{}.png", number(&output["image"])))).unwrap();
            op.apply(argument, &mut image, &mut other, Geometry { filter, fill: [124, 116, 104] });
            assert_eq!(largest_difference(&image, &expected), 0, "{output}");
            checked += 1;
        }
    }
    assert!(checked >= 22, "only {checked} images");
}

#[test]
fn policies_are_timms() {
    let goldens = json(&goldens("augment").join("augment.json"));
    let augmentation = Augmentation::default();
    for (text, expected) in goldens["rand_augment_policies"].as_object().unwrap() {
        let (steps, layers, weights) = AutoAugment::parse(text, &augmentation).unwrap().random_steps();
        assert_eq!(layers, number(&expected["num_layers"]), "{text}");
        let sum: f64 = weights.iter().flatten().sum();
        let weights: Option<Vec<f64>> = weights.map(|w| w.iter().map(|w| w / sum).collect());
        let expected_weights = expected["choice_weights"].as_array();
        assert_eq!(weights.is_some(), expected_weights.is_some(), "{text}");
        for (weight, expected) in weights.iter().flatten().zip(expected_weights.into_iter().flatten()) {
            assert!((weight - expected.as_f64().unwrap()).abs() < 1e-8, "{text}");
        }
        same_steps(text, &steps, &expected["ops"]);
    }
    for (text, expected) in goldens["auto_augment_policies"].as_object().unwrap() {
        let lists = AutoAugment::parse(text, &augmentation).unwrap().lists();
        let expected = expected.as_array().unwrap();
        assert_eq!(lists.len(), expected.len(), "{text}");
        for (steps, expected) in lists.iter().zip(expected) {
            same_steps(text, steps, expected);
        }
    }
}

fn same_steps(text: &str, steps: &[Step], expected: &Value) {
    let expected = expected.as_array().unwrap();
    assert_eq!(steps.len(), expected.len(), "{text}");
    for (step, expected) in steps.iter().zip(expected) {
        assert_eq!(step.op, op(&expected["name"]), "{text}");
        assert_eq!(Some(step.prob), expected["prob"].as_f64(), "{text}");
        assert_eq!(Some(step.magnitude), expected["magnitude"].as_f64(), "{text}");
        let std = if expected["magnitude_std"] == "inf" {
            f64::INFINITY
        } else {
            expected["magnitude_std"].as_f64().unwrap()
        };
        assert_eq!(step.magnitude_std, std, "{text}");
        assert_eq!(step.magnitude_max, expected["magnitude_max"].as_f64(), "{text}");
    }
}

#[test]
fn wrong_policies_are_refused_with_the_legal_ones() {
    let lines: Vec<String> =
        ["random", "rand-m9-q3", "rand-mfoo", "rand-n2.5", "rand-tx", "v0-m9", "augmix-m5", ""]
            .iter()
            .map(|text| AutoAugment::parse(text, &Augmentation::default()).unwrap_err().to_string())
            .collect();
    insta::assert_snapshot!(lines.join("\n"));
}

#[test]
fn illegal_settings_are_refused() {
    let base = Augmentation::default;
    let cases = [
        Augmentation { input_size: (0, 224), ..base() },
        Augmentation { std: [0.2, 0.0, 0.2], ..base() },
        Augmentation { min_scale: 0.0, ..base() },
        Augmentation { max_scale: 0.05, ..base() },
        Augmentation { min_ratio: f64::NAN, ..base() },
        Augmentation { max_ratio: 0.5, ..base() },
        Augmentation { hflip: 1.5, ..base() },
        Augmentation { re_prob: -0.1, ..base() },
        Augmentation { color_jitter: -1.0, ..base() },
    ];
    let lines: Vec<String> =
        cases.iter().map(|augmentation| augmentation.validate().unwrap_err().to_string()).collect();
    insta::assert_snapshot!(lines.join("\n"));
}

/// How often random erasing happens, and that its box keeps inside its limits and holds noise.
#[test]
fn erasing_is_timms() {
    let (height, width) = (60, 80);
    let mut rng = KeyedRng::new(2, 0, 0, Purpose::Augment);
    let (mut erased, mut noise_sum, mut noise_square, mut noise_count) = (0, 0.0, 0.0, 0.0);
    for _ in 0..2000 {
        let mut image = vec![100.0f32; 3 * height * width];
        RandomErasing { prob: 0.25 }.apply(&mut image, (height, width), &mut rng);
        let noise: Vec<f64> = image.iter().filter(|v| **v != 100.0).map(|v| f64::from(*v)).collect();
        if noise.is_empty() {
            continue;
        }
        erased += 1;
        let share = noise.len() as f64 / image.len() as f64;
        assert!((0.015..0.36).contains(&share), "a box of {share} of the image");
        noise_sum += noise.iter().sum::<f64>();
        noise_square += noise.iter().map(|v| v * v).sum::<f64>();
        noise_count += noise.len() as f64;
    }
    // 2000 draws of 0.25: four standard deviations are 77.
    assert!((423..577).contains(&erased), "{erased} of 2000 images");
    assert!((noise_sum / noise_count).abs() < 0.01 && (noise_square / noise_count - 1.0).abs() < 0.02);
}

/// Every operation of the default policy is drawn, and about half of the images have none applied twice.
#[test]
fn the_default_policy_changes_three_of_four_images() {
    let policy = AutoAugment::parse("rand-m9-mstd0.5-inc1", &Augmentation::default()).unwrap();
    let image = png(&goldens("augment").join("inputs/img0.png")).unwrap();
    let mut other = RgbImage::default();
    let mut changed = 0;
    for index in 0..400 {
        let mut result = image.clone();
        policy.apply(&mut result, &mut other, &mut KeyedRng::new(0, 0, index, Purpose::Augment));
        changed += u32::from(result != image);
    }
    // Two operations, each with probability 1/2; a few leave this image as it is.
    assert!((250..325).contains(&changed), "{changed} of 400 images");
}

#[test]
fn jitter_of_strength_zero_keeps_the_image() {
    let image = png(&goldens("augment").join("inputs/img0.png")).unwrap();
    let mut rng = KeyedRng::new(0, 0, 0, Purpose::Augment);
    let mut same = image.clone();
    ColorJitter { strength: 0.0 }.apply(&mut same, &mut rng);
    assert!(same == image);
    ColorJitter { strength: 0.4 }.apply(&mut same, &mut rng);
    assert!(same != image);
}

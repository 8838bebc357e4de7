//! Mixup against timm: images, targets, boxes.

use serde_json::Value;

use super::*;
use crate::rng::Purpose;
use crate::testing::{generated_input, goldens, json, npy, number};

fn numbers(value: &Value) -> Vec<usize> {
    value.as_array().unwrap().iter().map(number).collect()
}

fn cut_box(value: &Value) -> CutBox {
    let [top, bottom, left, right] = numbers(value)[..] else { panic!("{value}") };
    CutBox { top, bottom, left, right }
}

fn settings(num_classes: usize) -> Mixup {
    Mixup {
        mixup_alpha: 0.8,
        cutmix_alpha: 1.0,
        cutmix_minmax: None,
        prob: 1.0,
        switch_prob: 0.5,
        mode: MixupMode::Batch,
        label_smoothing: 0.1,
        num_classes,
    }
}

/// The element `i` of a value that is one for all or a list.
fn nth(value: &Value, i: usize) -> &Value {
    value.get(i).unwrap_or(value)
}

#[test]
fn images_and_targets_are_timms() {
    let folder = goldens("mixup");
    let goldens = json(&folder.join("mixup.json"));
    let labels: Vec<i64> =
        goldens["labels"].as_array().unwrap().iter().map(|v| v.as_i64().unwrap()).collect();
    let (n, size) = (labels.len(), (16, 16));
    let input = generated_input("mixup.x", n * 3 * 16 * 16);
    let mut checked = 0;
    for case in goldens["cases"].as_array().unwrap() {
        // Boxes were drawn one after the other, for those that are cut.
        let mut boxes = case["boxes_yl_yh_xl_xh"].as_array().unwrap().iter();
        let drawn = match case["mode"].as_str().unwrap() {
            "batch" => 1,
            "pair" => n / 2,
            _ => n,
        };
        let drawn: Vec<Mix> = (0..drawn)
            .map(|i| {
                let lam = nth(&case["lam"], i).as_f64().unwrap();
                let cut = (nth(&case["use_cutmix"], i) == true && lam != 1.0)
                    .then(|| cut_box(boxes.next().unwrap()));
                Mix { lam: cut.map_or(lam, |cut| cut.lam(size)), cut }
            })
            .collect();
        let shared = |i: usize| if drawn.len() == n { i } else { i.min(n - 1 - i).min(drawn.len() - 1) };
        let mixes: Vec<Mix> = (0..n).map(|i| drawn[shared(i)]).collect();
        let mixup = Mixup {
            label_smoothing: case["smoothing"].as_f64().unwrap(),
            ..settings(number(&goldens["num_classes"]))
        };
        let targets = mixup.targets(&labels, &mixes);
        let expected = case["target"].as_array().unwrap().iter().flat_map(|row| row.as_array().unwrap());
        for (value, expected) in targets.iter().zip(expected) {
            assert!((f64::from(*value) - expected.as_f64().unwrap()).abs() < 2e-7, "{}", case["name"]);
        }
        let mut images = input.clone();
        mix(&mut images, &mixes, size);
        if let Some(expected) = npy(&folder.join(case["x_file"].as_str().unwrap())) {
            for (value, expected) in images.iter().zip(&expected) {
                assert!((value - expected).abs() < 1e-6, "{}", case["name"]);
            }
            checked += 1;
        }
    }
    assert!(checked >= 1, "only {checked} cases");
}

#[test]
fn boxes_are_timms() {
    for case in json(&goldens("mixup").join("mixup.json"))["rand_bbox"].as_array().unwrap() {
        let (size, center) = (numbers(&case["img_hw"]), numbers(&case["center_y_x"]));
        let size = (size[0], size[1]);
        let cut = CutBox::around((center[0], center[1]), case["lam"].as_f64().unwrap(), size);
        assert_eq!(cut, cut_box(&case["box_yl_yh_xl_xh"]), "{case}");
        assert!((cut.lam(size) - case["corrected_lam"].as_f64().unwrap()).abs() < 1e-8, "{case}");
    }
}

#[test]
fn the_middle_image_of_an_odd_batch_stays() {
    for mode in [MixupMode::Batch, MixupMode::Pair, MixupMode::Elem] {
        for (mixup_alpha, cutmix_alpha) in [(0.8, 0.0), (0.0, 1.0)] {
            let mixup = Mixup { mode, mixup_alpha, cutmix_alpha, ..settings(4) };
            let input = generated_input("x", 3 * 3 * 64);
            let mut images = input.clone();
            let mut rng = KeyedRng::new(1, 0, 0, Purpose::Mixup);
            let targets = mixup.apply(&mut images, &[0, 1, 2], (8, 8), &mut rng);
            assert_eq!(images[192..384], input[192..384], "{mode:?}");
            assert_ne!(images[..192], input[..192], "{mode:?}");
            assert!((targets[4 + 1] - 0.925).abs() < 1e-6, "{targets:?}");
            for row in targets.chunks(4) {
                assert!((row.iter().sum::<f32>() - 1.0).abs() < 1e-6, "{targets:?}");
            }
        }
    }
}

#[test]
fn both_kinds_are_drawn_as_often_as_asked() {
    let count = |mixup: &Mixup| {
        let mut counts = [0u32; 3];
        for key in 0..2000 {
            let mix = mixup.draw_one((32, 32), &mut KeyedRng::new(0, 0, key, Purpose::Mixup));
            counts[if mix.cut.is_some() { 2 } else { usize::from(mix.lam < 1.0) }] += 1;
        }
        counts
    };
    // Four standard deviations of 2000 draws are at most 90.
    let [none, mixed, cut] = count(&Mixup { prob: 0.5, switch_prob: 0.25, ..settings(2) });
    assert!(none.abs_diff(1000) < 90 && mixed.abs_diff(750) < 90 && cut.abs_diff(250) < 90);
    assert_eq!(count(&Mixup { cutmix_alpha: 0.0, ..settings(2) })[2], 0);
    assert_eq!(count(&Mixup { mixup_alpha: 0.0, ..settings(2) })[1], 0);
}

#[test]
fn box_limits_keep_the_box_inside() {
    let mixup = Mixup { cutmix_minmax: Some([0.2, 0.6]), mixup_alpha: 0.0, cutmix_alpha: 0.0, ..settings(2) };
    assert!(mixup.is_active());
    for key in 0..500 {
        let mix = mixup.draw_one((20, 30), &mut KeyedRng::new(0, 0, key, Purpose::Mixup));
        let cut = mix.cut.unwrap();
        assert!((4..12).contains(&(cut.bottom - cut.top)) && (6..18).contains(&(cut.right - cut.left)));
        assert!(cut.bottom <= 20 && cut.right <= 30);
    }
}

#[test]
fn illegal_settings_are_refused() {
    let cases = [
        Mixup { mixup_alpha: -1.0, ..settings(2) },
        Mixup { cutmix_minmax: Some([0.8, 0.2]), ..settings(2) },
        Mixup { switch_prob: 2.0, ..settings(2) },
        Mixup { label_smoothing: f64::NAN, ..settings(2) },
        settings(0),
    ];
    let lines: Vec<String> = cases.iter().map(|mixup| mixup.validate().unwrap_err().to_string()).collect();
    insta::assert_snapshot!(lines.join("\n"));
}

//! Every random choice against histograms of what timm and torchvision draw (`tests/distributions`), by chi-squared.
//!
//! Seeds are fixed, so a test that passes keeps passing.

use std::path::Path;

use serde_json::Value;

use super::*;
use crate::rng::Purpose;
use crate::testing::{json, number};
use crate::transform::{RandomCrop, Window};

const DRAWS: usize = 100_000;

fn timm() -> Value {
    json(&Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/distributions/timm.json"))
}

fn rng(index: u64) -> KeyedRng {
    KeyedRng::new(2024, 0, index, Purpose::Augment)
}

/// Whether two samples may come from one distribution: p above 10⁻⁴.
fn assert_alike(name: &str, ours: &[f64], theirs: &[f64]) {
    let (n, m) = (ours.iter().sum::<f64>(), theirs.iter().sum::<f64>());
    let (mut chi, mut freedom) = (0.0, -1.0);
    for (a, b) in ours.iter().zip(theirs) {
        if a + b > 0.0 {
            chi += (a * (m / n).sqrt() - b * (n / m).sqrt()).powi(2) / (a + b);
            freedom += 1.0f64;
        }
    }
    // Wilson and Hilferty's normal form of the chi-squared distribution; 3.72 is its quantile for 10⁻⁴.
    let spread = 2.0 / (9.0 * freedom.max(1.0));
    let limit = freedom.max(1.0) * (1.0 - spread + 3.72 * spread.sqrt()).powi(3);
    assert!(chi <= limit, "{name}: chi-squared {chi:.1} > {limit:.1}\n{ours:?}\n{theirs:?}");
}

struct Compared {
    timm: Value,
    checked: usize,
}

impl Compared {
    fn values(&mut self, name: &str, values: impl IntoIterator<Item = f64>) {
        let Some(expected) = self.timm.get(name) else { return };
        let numbers = |key: &str| -> Vec<f64> {
            expected[key].as_array().unwrap().iter().map(|v| v.as_f64().unwrap()).collect()
        };
        let (edges, theirs) = (numbers("edges"), numbers("counts"));
        let mut ours = vec![0.0; theirs.len()];
        for value in values {
            ours[edges.partition_point(|edge| *edge <= value)] += 1.0;
        }
        assert_alike(name, &ours, &theirs);
        self.checked += 1;
    }

    fn windows(&mut self, name: &str, windows: &[Window], (height, width): (usize, usize)) {
        let share = |offset: usize, outer: usize, inner: usize| offset as f64 / (outer - inner).max(1) as f64;
        self.values(
            &format!("{name}.area"),
            windows.iter().map(|w| (w.height * w.width) as f64 / (height * width) as f64),
        );
        self.values(&format!("{name}.aspect"), windows.iter().map(|w| w.width as f64 / w.height as f64));
        let free = windows.iter().filter(|w| w.height < height);
        self.values(&format!("{name}.top"), free.map(|w| share(w.top, height, w.height)));
        let free = windows.iter().filter(|w| w.width < width);
        self.values(&format!("{name}.left"), free.map(|w| share(w.left, width, w.width)));
    }
}

#[test]
fn crops_are_torchvisions() {
    let mut compared = Compared { timm: timm(), checked: 0 };
    for (name, scale, ratio) in
        [("crop", (0.1, 1.0), (3.0 / 4.0, 4.0 / 3.0)), ("crop_2", (0.1, 2.0), (0.75, 1.33))]
    {
        let crop = RandomCrop { scale, ratio };
        let windows: Vec<_> = (0..DRAWS as u64).map(|i| crop.draw(300, 400, &mut rng(i))).collect();
        compared.windows(name, &windows, (300, 400));
    }
    assert_eq!(compared.checked, 8);
}

#[test]
fn erased_boxes_are_timms() {
    let mut compared = Compared { timm: timm(), checked: 0 };
    let erasing = RandomErasing { prob: 0.25 };
    let drawn: Vec<_> = (0..DRAWS as u64).map(|i| erasing.draw((30, 40), &mut rng(i))).collect();
    compared.values("erasing.happens", drawn.iter().map(|w| f64::from(u8::from(w.is_some()))));
    compared.windows("erasing", &drawn.into_iter().flatten().collect::<Vec<_>>(), (30, 40));
    assert_eq!(compared.checked, 5);
}

#[test]
fn policies_draw_as_timms() {
    let mut compared = Compared { timm: timm(), checked: 0 };
    let names: Vec<String> = compared.timm.as_object().unwrap().keys().cloned().collect();
    let policies: Vec<&str> = names.iter().filter_map(|name| name.strip_suffix(".ops")).collect();
    assert_eq!(policies.len(), 6);
    for policy in policies {
        // timm's own choice, one of the two at random, is what upstream asks for with "random".
        let settings = Augmentation { interpolation: Interpolation::Random, ..Augmentation::default() };
        let parsed = AutoAugment::parse(policy, &settings).unwrap();
        let drawn: Vec<_> = (0..DRAWS as u64).flat_map(|i| parsed.draw(&mut rng(i))).collect();
        let ops = compared.timm[format!("{policy}.ops")].clone();
        let draws = number(&ops["draws"]) as f64;
        for (name, count) in ops["names"].as_array().unwrap().iter().zip(ops["counts"].as_array().unwrap()) {
            let name = name.as_str().unwrap();
            let ours: Vec<_> = drawn.iter().filter(|drawn| drawn.op.name() == name).collect();
            // An operation is applied up to n times to an image; the mean is compared with a Poisson's spread.
            let (ours_mean, their_mean) = (ours.len() as f64 / DRAWS as f64, count.as_f64().unwrap() / draws);
            let spread = (their_mean / DRAWS as f64 + their_mean / draws).sqrt();
            assert!(
                (ours_mean - their_mean).abs() < 4.5 * spread,
                "{policy} {name}: {ours_mean} {their_mean}"
            );
            compared.values(&format!("{policy}.{name}"), ours.iter().map(|drawn| drawn.argument));
        }
        assert!(
            drawn.iter().all(|drawn| ops["names"].as_array().unwrap().iter().any(|n| n == drawn.op.name()))
        );
        let bicubic = drawn.iter().map(|drawn| f64::from(u8::from(drawn.filter == Filter::Bicubic)));
        compared.values(&format!("{policy}.resample"), bicubic);
    }
    assert!(compared.checked > 40, "only {}", compared.checked);
}

#[test]
fn jitter_is_torchvisions() {
    let mut compared = Compared { timm: timm(), checked: 0 };
    let jitter = ColorJitter { strength: 0.4 };
    let drawn: Vec<_> = (0..DRAWS as u64).map(|i| jitter.draw(&mut rng(i))).collect();
    let order = |d: &[(usize, f64); 3]| d[0].0 * 2 + usize::from(d[1].0 > d[2].0);
    compared.values("jitter.order", drawn.iter().map(|d| order(d) as f64));
    for what in 0..3 {
        let factor = |d: &[(usize, f64); 3]| d.iter().find(|(w, _)| *w == what).unwrap().1;
        compared.values("jitter.factor", drawn.iter().map(factor));
    }
    assert_eq!(compared.checked, 4);
}

#[test]
fn mixing_is_timms() {
    let mut compared = Compared { timm: timm(), checked: 0 };
    for (name, cutmix_minmax) in [("mixup", None), ("minmax", Some([0.2, 0.8]))] {
        let mixup = Mixup {
            mixup_alpha: 0.8,
            cutmix_alpha: 1.0,
            cutmix_minmax,
            prob: 0.9,
            switch_prob: 0.4,
            mode: MixupMode::Batch,
            label_smoothing: 0.1,
            num_classes: 2,
        };
        let drawn: Vec<_> = (0..DRAWS as u64).map(|i| mixup.draw_one((30, 40), &mut rng(i))).collect();
        let kind = |mix: &mixup::Mix| if mix.cut.is_some() { 2 } else { u8::from(mix.lam < 1.0) };
        compared.values(&format!("{name}.kind"), drawn.iter().map(|mix| f64::from(kind(mix))));
        let mixed = drawn.iter().filter(|mix| kind(mix) == 1);
        compared.values(&format!("{name}.lam"), mixed.map(|mix| mix.lam));
        let cut: Vec<_> = drawn.iter().filter_map(|mix| mix.cut.map(|cut| (mix.lam, cut))).collect();
        compared.values(&format!("{name}.area"), cut.iter().map(|(lam, _)| *lam));
        compared.values(&format!("{name}.top"), cut.iter().map(|(_, cut)| cut.top as f64));
        compared.values(&format!("{name}.right"), cut.iter().map(|(_, cut)| cut.right as f64));
    }
    assert_eq!(compared.checked, 10);
}

/// Each sample comes to each place of the order equally often.
#[test]
fn orders_are_uniform() {
    let mut counts = [[0.0; 6]; 6];
    for epoch in 0..DRAWS as u64 {
        let mut order = [0, 1, 2, 3, 4, 5];
        KeyedRng::new(5, epoch, 0, Purpose::Shuffle).shuffle(&mut order);
        order.iter().enumerate().for_each(|(place, &sample)| counts[sample][place] += 1.0);
    }
    for (sample, counts) in counts.iter().enumerate() {
        assert_alike(&format!("places of sample {sample}"), counts, &[DRAWS as f64 * 100.0; 6]);
    }
}

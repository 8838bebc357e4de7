//! Mixup (Zhang et al. 2018) and CutMix (Yun et al. 2019) of a normalised batch, with timm's modes.
//!
//! The partner of image `i` is image `B - 1 - i`. In a batch of odd size the image in the middle is its own partner:
//! it stays as it is and keeps its label.

use crate::error::Error;
use crate::rng::KeyedRng;

/// Settings of mixup and CutMix.
#[derive(Clone, Debug, PartialEq)]
pub struct Mixup {
    /// Alpha of mixup's Beta(alpha, alpha); 0 switches mixup off.
    pub mixup_alpha: f64,
    /// Alpha of CutMix's Beta(alpha, alpha); 0 switches CutMix off.
    pub cutmix_alpha: f64,
    /// Smallest and largest side of CutMix's box as shares of the image; when set, CutMix is on and its alpha unused.
    pub cutmix_minmax: Option<[f64; 2]>,
    /// Probability that a batch, pair or element is mixed.
    pub prob: f64,
    /// Probability of CutMix when both are on.
    pub switch_prob: f64,
    /// What shares one draw.
    pub mode: MixupMode,
    /// Label smoothing of the targets.
    pub label_smoothing: f64,
    /// Columns of the targets.
    pub num_classes: usize,
}

/// What shares one draw of mixup's parameters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MixupMode {
    /// The whole batch.
    Batch,
    /// Two partners.
    Pair,
    /// Each image has its own.
    Elem,
}

impl std::str::FromStr for MixupMode {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        match text {
            "batch" => Ok(Self::Batch),
            "pair" => Ok(Self::Pair),
            "elem" => Ok(Self::Elem),
            other => Err(Error::setting("dataset.augmentation.mixup_mode", other, "batch, pair or elem")),
        }
    }
}

/// The half-open box that CutMix takes from the partner.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CutBox {
    /// First row.
    pub top: usize,
    /// Row after the last.
    pub bottom: usize,
    /// First column.
    pub left: usize,
    /// Column after the last.
    pub right: usize,
}

impl CutBox {
    /// The box of a given centre whose area is `1 - lam` of the image before it is cut at the image's border.
    pub fn around((cy, cx): (usize, usize), lam: f64, (height, width): (usize, usize)) -> Self {
        let ratio = (1.0 - lam).max(0.0).sqrt();
        let span = |center: usize, size: usize| {
            let half = (size as f64 * ratio) as usize / 2;
            (center.saturating_sub(half), (center + half).min(size))
        };
        let ((top, bottom), (left, right)) = (span(cy, height), span(cx, width));
        Self { top, bottom, left, right }
    }

    /// The share of the image that stays: the corrected lambda.
    pub fn lam(&self, (height, width): (usize, usize)) -> f64 {
        1.0 - ((self.bottom - self.top) * (self.right - self.left)) as f64 / (height * width) as f64
    }
}

/// What happens to one image: it keeps `lam` of itself and gets the rest from its partner.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Mix {
    pub(crate) lam: f64,
    /// The box taken from the partner; `None` blends the whole image.
    pub(crate) cut: Option<CutBox>,
}

impl Mixup {
    /// Whether anything is mixed at all. As upstream, `prob` is not looked at.
    pub fn is_active(&self) -> bool {
        self.mixup_alpha > 0.0 || self.cutmix_alpha > 0.0 || self.cutmix_minmax.is_some()
    }

    /// Checks every field.
    pub(crate) fn validate(&self) -> Result<(), Error> {
        let check = |ok: bool, field, found: String, expected| {
            if ok { Ok(()) } else { Err(Error::setting(field, found, expected)) }
        };
        let positive = "a number that is not negative (0 switches it off)";
        let alpha = |v: f64| v >= 0.0 && v.is_finite();
        check(alpha(self.mixup_alpha), "dataset.augmentation.mixup", self.mixup_alpha.to_string(), positive)?;
        check(
            alpha(self.cutmix_alpha),
            "dataset.augmentation.cutmix",
            self.cutmix_alpha.to_string(),
            positive,
        )?;
        if let Some([low, high]) = self.cutmix_minmax {
            check(
                0.0 <= low && low <= high && high <= 1.0,
                "dataset.augmentation.cutmix_minmax",
                format!("[{low}, {high}]"),
                "two shares of the image's side, the smaller first, as in [0.2, 0.8]",
            )?;
        }
        for (field, value) in [
            ("dataset.augmentation.mixup_prob", self.prob),
            ("dataset.augmentation.mixup_switch_prob", self.switch_prob),
            ("dataset.augmentation.smoothing", self.label_smoothing),
        ] {
            check((0.0..=1.0).contains(&value), field, value.to_string(), "a number from 0 to 1")?;
        }
        check(self.num_classes > 0, "model.num_classes", self.num_classes.to_string(), "at least one class")
    }

    /// Mixes `images` (`[N, 3, H, W]`) in place and returns the targets (`[N, num_classes]`).
    pub(crate) fn apply(
        &self,
        images: &mut [f32],
        labels: &[i64],
        size: (usize, usize),
        rng: &mut KeyedRng,
    ) -> Vec<f32> {
        let mixes = self.draw(labels.len(), size, rng);
        mix(images, &mixes, size);
        self.targets(labels, &mixes)
    }

    /// Draws what happens to each of `n` images.
    fn draw(&self, n: usize, size: (usize, usize), rng: &mut KeyedRng) -> Vec<Mix> {
        match self.mode {
            MixupMode::Batch => vec![self.draw_one(size, rng); n],
            MixupMode::Elem => (0..n).map(|_| self.draw_one(size, rng)).collect(),
            MixupMode::Pair => {
                let half: Vec<Mix> = (0..n.div_ceil(2)).map(|_| self.draw_one(size, rng)).collect();
                (0..n).map(|i| half[i.min(n - 1 - i)]).collect()
            }
        }
    }

    pub(super) fn draw_one(&self, size: (usize, usize), rng: &mut KeyedRng) -> Mix {
        if !rng.chance(self.prob) {
            return Mix { lam: 1.0, cut: None };
        }
        // With box limits the shape of the distribution plays no part, but the lambda is still drawn.
        let cutmix_alpha = if self.cutmix_minmax.is_some() { 1.0 } else { self.cutmix_alpha };
        let use_cutmix = match (self.mixup_alpha > 0.0, cutmix_alpha > 0.0) {
            (true, true) => rng.chance(self.switch_prob),
            (_, cutmix) => cutmix,
        };
        let lam = rng.beta(if use_cutmix { cutmix_alpha } else { self.mixup_alpha });
        if !use_cutmix || lam == 1.0 {
            return Mix { lam, cut: None };
        }
        let cut = match self.cutmix_minmax {
            None => CutBox::around((rng.below(size.0), rng.below(size.1)), lam, size),
            Some([low, high]) => {
                let mut span = |size: usize| {
                    let (low, high) = ((size as f64 * low) as usize, (size as f64 * high) as usize);
                    let length = low + rng.below(high - low);
                    let start = rng.below(size - length);
                    (start, start + length)
                };
                let ((top, bottom), (left, right)) = (span(size.0), span(size.1));
                CutBox { top, bottom, left, right }
            }
        };
        Mix { lam: cut.lam(size), cut: Some(cut) }
    }

    /// Smoothed one-hot rows of each image and its partner, mixed by lambda, in `f32`.
    pub(crate) fn targets(&self, labels: &[i64], mixes: &[Mix]) -> Vec<f32> {
        let classes = self.num_classes;
        let off = self.label_smoothing / classes as f64;
        let on = 1.0 - self.label_smoothing + off;
        let value = |label: i64, class: usize| (if label == class as i64 { on } else { off }) as f32;
        let mut targets = Vec::with_capacity(labels.len() * classes);
        for (i, mix) in mixes.iter().enumerate() {
            let (own, partner) = (labels[i], labels[labels.len() - 1 - i]);
            let (keep, rest) = (mix.lam as f32, (1.0 - mix.lam) as f32);
            targets.extend((0..classes).map(|c| value(own, c) * keep + value(partner, c) * rest));
        }
        targets
    }
}

/// Mixes each image with its partner as it was before.
pub(crate) fn mix(images: &mut [f32], mixes: &[Mix], (height, width): (usize, usize)) {
    let plane = height * width;
    let n = mixes.len();
    let mut chunks: Vec<&mut [f32]> = images.chunks_exact_mut(3 * plane).collect();
    let mut before = Vec::new();
    for i in 0..n / 2 {
        let (left, right) = chunks.split_at_mut(n - 1 - i);
        let (a, b) = (&mut *left[i], &mut *right[0]);
        before.clear();
        before.extend_from_slice(a);
        mix_one(a, b, mixes[i], height, width);
        mix_one(b, &before, mixes[n - 1 - i], height, width);
    }
}

fn mix_one(image: &mut [f32], partner: &[f32], mix: Mix, height: usize, width: usize) {
    match mix.cut {
        Some(cut) => {
            for channel in 0..3 {
                for y in cut.top..cut.bottom {
                    let row = (channel * height + y) * width;
                    let range = row + cut.left..row + cut.right;
                    image[range.clone()].copy_from_slice(&partner[range]);
                }
            }
        }
        None if mix.lam == 1.0 => {}
        None => {
            let (keep, rest) = (mix.lam as f32, (1.0 - mix.lam) as f32);
            for (value, other) in image.iter_mut().zip(partner) {
                *value = *value * keep + *other * rest;
            }
        }
    }
}

#[cfg(test)]
#[path = "mixup_tests.rs"]
mod tests;

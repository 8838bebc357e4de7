//! Augmentation of training images: timm's policies, colour jitter, random erasing, mixup and CutMix.

mod affine;
mod color;
mod erasing;
mod jitter;
mod mixup;
mod ops;
mod policies;
mod policy;

pub use erasing::RandomErasing;
pub use jitter::ColorJitter;
pub use mixup::{CutBox, Mixup, MixupMode};
pub use ops::Op;
pub use policy::AutoAugment;

use std::str::FromStr;

use crate::error::Error;
use crate::rng::KeyedRng;
use crate::transform::resample::Filter;

/// The settings of `dataset.augmentation` that concern single images; the defaults are upstream's.
#[derive(Clone, Debug, PartialEq)]
pub struct Augmentation {
    /// Rows and columns of the network's input; upstream's `input_size` is both.
    pub input_size: (usize, usize),
    /// Mean of each channel in units of 0..1.
    pub mean: [f32; 3],
    /// Standard deviation of each channel in units of 0..1.
    pub std: [f32; 3],
    /// Smallest area of the random crop, as a share of the image.
    pub min_scale: f64,
    /// Largest area of the random crop; draws above 1 are drawn again.
    pub max_scale: f64,
    /// Smallest width / height of the random crop (fine-tuning).
    pub min_ratio: f64,
    /// Largest width / height of the random crop (fine-tuning).
    pub max_ratio: f64,
    /// Probability of a horizontal flip (fine-tuning).
    pub hflip: f64,
    /// Probability of random erasing (fine-tuning).
    pub re_prob: f64,
    /// Interpolation of the random crop (fine-tuning).
    pub interpolation: Interpolation,
    /// Strength of the colour jitter (fine-tuning without `auto_aug`).
    pub color_jitter: f64,
    /// A timm policy such as `rand-m9-mstd0.5-inc1` (fine-tuning).
    pub auto_aug: Option<String>,
}

impl Default for Augmentation {
    fn default() -> Self {
        Self {
            input_size: (224, 224),
            mean: [0.485, 0.456, 0.406],
            std: [0.229, 0.224, 0.225],
            min_scale: 0.1,
            max_scale: 2.0,
            min_ratio: 0.75,
            max_ratio: 1.33,
            hflip: 0.5,
            re_prob: 0.0,
            interpolation: Interpolation::Bilinear,
            color_jitter: 0.0,
            auto_aug: Some("rand-m9-mstd0.5-inc1".to_owned()),
        }
    }
}

impl Augmentation {
    /// Checks every field.
    pub(crate) fn validate(&self) -> Result<(), Error> {
        let check = |ok: bool, field, found: String, expected: &str| {
            if ok { Ok(()) } else { Err(Error::setting(field, found, expected)) }
        };
        let (height, width) = self.input_size;
        check(
            (1..=8192).contains(&height) && (1..=8192).contains(&width),
            "dataset.augmentation.input_size",
            format!("{height} x {width}"),
            "1 to 8192 pixels",
        )?;
        check(
            self.mean.iter().all(|v| v.is_finite()),
            "dataset.augmentation.mean",
            format!("{:?}", self.mean),
            "three finite numbers",
        )?;
        check(
            self.std.iter().all(|v| v.is_finite() && *v > 0.0),
            "dataset.augmentation.std",
            format!("{:?}", self.std),
            "three numbers above 0",
        )?;
        check(
            self.min_scale > 0.0 && self.min_scale <= 1.0,
            "dataset.augmentation.min_scale",
            self.min_scale.to_string(),
            "a share of the image's area above 0 and at most 1",
        )?;
        check(
            self.max_scale >= self.min_scale && self.max_scale.is_finite(),
            "dataset.augmentation.max_scale",
            self.max_scale.to_string(),
            &format!("a number that is not below min_scale ({})", self.min_scale),
        )?;
        check(
            self.min_ratio > 0.0 && self.min_ratio.is_finite(),
            "dataset.augmentation.min_ratio",
            self.min_ratio.to_string(),
            "a number above 0",
        )?;
        check(
            self.max_ratio >= self.min_ratio && self.max_ratio.is_finite(),
            "dataset.augmentation.max_ratio",
            self.max_ratio.to_string(),
            &format!("a number that is not below min_ratio ({})", self.min_ratio),
        )?;
        for (field, value) in
            [("dataset.augmentation.hflip", self.hflip), ("dataset.augmentation.re_prob", self.re_prob)]
        {
            check((0.0..=1.0).contains(&value), field, value.to_string(), "a probability from 0 to 1")?;
        }
        check(
            self.color_jitter >= 0.0 && self.color_jitter.is_finite(),
            "dataset.augmentation.color_jitter",
            self.color_jitter.to_string(),
            "a number that is not negative",
        )
    }
}

/// How the random crop is interpolated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Interpolation {
    /// Always bilinear.
    Bilinear,
    /// Always bicubic.
    Bicubic,
    /// One of the two, drawn for each image and each geometric operation.
    Random,
}

impl Interpolation {
    pub(crate) fn draw(self, rng: &mut KeyedRng) -> Filter {
        match self {
            Self::Bilinear => Filter::Bilinear,
            Self::Bicubic => Filter::Bicubic,
            Self::Random if rng.chance(0.5) => Filter::Bilinear,
            Self::Random => Filter::Bicubic,
        }
    }
}

impl FromStr for Interpolation {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        match text {
            "bilinear" => Ok(Self::Bilinear),
            "bicubic" => Ok(Self::Bicubic),
            "random" => Ok(Self::Random),
            other => Err(Error::setting(
                "dataset.augmentation.interpolation",
                other,
                "bilinear, bicubic or random",
            )),
        }
    }
}

#[cfg(test)]
mod distribution_tests;
#[cfg(test)]
mod tests;

//! Pixels to the network's input: crop, resize, flip, colours, normalisation.

mod crop;
mod normalize;
pub(crate) mod resample;

pub use crop::{CropRule, RandomCrop, center, covering_size};
pub use normalize::{Normalizer, flip_horizontal};
pub use resample::{Filter, ResizeScratch, Window, resize};

use crate::augment::Augmentation;
use crate::augment::{AutoAugment, ColorJitter, Interpolation, RandomErasing};
use crate::decode::RgbImage;
use crate::error::Error;
use crate::rng::KeyedRng;

/// What is done to each image between decoding and the batch.
pub struct Pipeline {
    /// Rows and columns of the result.
    input_size: (usize, usize),
    normalizer: Normalizer,
    steps: Steps,
}

enum Steps {
    Train {
        crop: RandomCrop,
        interpolation: Interpolation,
        hflip: f64,
        color: Color,
        erasing: Option<RandomErasing>,
    },
    Evaluate {
        crop_rule: CropRule,
    },
}

/// Colours are changed by a policy or by jitter, never by both.
enum Color {
    Keep,
    Policy(AutoAugment),
    Jitter(ColorJitter),
}

/// Memory of one thread that is used again from image to image.
#[derive(Default)]
pub struct Scratch {
    resize: ResizeScratch,
    image: RgbImage,
    other: RgbImage,
}

impl Pipeline {
    /// Pretraining: random resized crop (area `min_scale` to `max_scale`, aspect 3/4 to 4/3, bicubic) and a flip with
    /// probability 0.5. As upstream, the ratio, flip, interpolation and colour fields are not used.
    ///
    /// # Errors
    /// When a field of `augmentation` is out of range.
    pub fn pretrain(augmentation: &Augmentation) -> Result<Self, Error> {
        augmentation.validate()?;
        Ok(Self::new(
            augmentation,
            Steps::Train {
                crop: RandomCrop {
                    scale: (augmentation.min_scale, augmentation.max_scale),
                    ratio: (3.0 / 4.0, 4.0 / 3.0),
                },
                interpolation: Interpolation::Bicubic,
                hflip: 0.5,
                color: Color::Keep,
                erasing: None,
            },
        ))
    }

    /// Training in fine-tuning: random resized crop, flip, the policy of `auto_aug` or else colour jitter,
    /// normalisation, random erasing.
    ///
    /// # Errors
    /// When a field of `augmentation` is out of range or `auto_aug` is no known policy.
    pub fn finetune(augmentation: &Augmentation) -> Result<Self, Error> {
        augmentation.validate()?;
        let color = match augmentation.auto_aug.as_deref() {
            Some(policy) if !policy.is_empty() => Color::Policy(AutoAugment::parse(policy, augmentation)?),
            _ if augmentation.color_jitter > 0.0 => {
                Color::Jitter(ColorJitter { strength: augmentation.color_jitter })
            }
            _ => Color::Keep,
        };
        let erasing = (augmentation.re_prob > 0.0).then_some(RandomErasing { prob: augmentation.re_prob });
        Ok(Self::new(
            augmentation,
            Steps::Train {
                crop: RandomCrop {
                    scale: (augmentation.min_scale, augmentation.max_scale),
                    ratio: (augmentation.min_ratio, augmentation.max_ratio),
                },
                interpolation: augmentation.interpolation,
                hflip: augmentation.hflip,
                color,
                erasing,
            },
        ))
    }

    /// Validation and test: bicubic resize and centre crop, see [`CropRule`].
    ///
    /// # Errors
    /// When a field of `augmentation` is out of range.
    pub fn evaluate(augmentation: &Augmentation) -> Result<Self, Error> {
        augmentation.validate()?;
        Ok(Self::new(augmentation, Steps::Evaluate { crop_rule: CropRule::Uniform }))
    }

    /// Inference: the same as [`evaluate`](Self::evaluate).
    ///
    /// # Errors
    /// When a field of `augmentation` is out of range.
    pub fn predict(augmentation: &Augmentation) -> Result<Self, Error> {
        Self::evaluate(augmentation)
    }

    /// Another rule for the centre crop; a training pipeline stays as it is.
    #[must_use]
    pub fn with_crop_rule(mut self, rule: CropRule) -> Self {
        if let Steps::Evaluate { crop_rule } = &mut self.steps {
            *crop_rule = rule;
        }
        self
    }

    /// Rows and columns of the result.
    pub fn input_size(&self) -> (usize, usize) {
        self.input_size
    }

    /// Whether the result depends on random numbers.
    pub fn is_random(&self) -> bool {
        matches!(self.steps, Steps::Train { .. })
    }

    /// Transforms one image into `out`, `[3, H, W]`, normalised.
    ///
    /// # Panics
    /// When `out` has another length than `3 * H * W`.
    pub fn apply(&self, image: &RgbImage, rng: &mut KeyedRng, scratch: &mut Scratch, out: &mut [f32]) {
        let erasing = self.pixels(image, rng, scratch);
        self.normalizer.apply(&scratch.image, out);
        if let Some(erasing) = erasing {
            erasing.apply(out, self.input_size, rng);
        }
    }

    /// Everything before normalisation; the result is `scratch.image`.
    fn pixels(&self, image: &RgbImage, rng: &mut KeyedRng, scratch: &mut Scratch) -> Option<&RandomErasing> {
        let Scratch { resize: resize_scratch, image: result, other } = scratch;
        let size = (image.height, image.width);
        match &self.steps {
            Steps::Train { crop, interpolation, hflip, color, erasing } => {
                let window = crop.draw(image.height, image.width, rng);
                let filter = interpolation.draw(rng);
                resize(image, window, self.input_size, filter, resize_scratch, result);
                if *hflip > 0.0 && rng.chance(*hflip) {
                    flip_horizontal(result);
                }
                match color {
                    Color::Keep => {}
                    Color::Policy(policy) => policy.apply(result, other, rng),
                    Color::Jitter(jitter) => jitter.apply(result, rng),
                }
                erasing.as_ref()
            }
            Steps::Evaluate { crop_rule } => {
                let whole = Window { top: 0, left: 0, height: image.height, width: image.width };
                let covering = covering_size(size, self.input_size, *crop_rule);
                resize(image, whole, covering, Filter::Bicubic, resize_scratch, other);
                // A resize to the same size copies the window.
                let window = center(covering, self.input_size);
                resize(other, window, self.input_size, Filter::Bicubic, resize_scratch, result);
                None
            }
        }
    }

    fn new(augmentation: &Augmentation, steps: Steps) -> Self {
        Self {
            input_size: augmentation.input_size,
            normalizer: Normalizer::new(augmentation.mean, augmentation.std),
            steps,
        }
    }
}

#[cfg(test)]
mod tests;

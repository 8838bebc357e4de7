//! Pixels to the network's input: crop, resize, flip, colours, normalisation.

mod coefficients;
mod crop;
mod normalize;
pub(crate) mod resample;

pub use crop::{CropRule, RandomCrop, center, covering_size};
pub use normalize::{Normalizer, flip_horizontal};
pub use resample::{Filter, Resize, ResizeScratch, Window};

use crate::augment::Augmentation;
use crate::augment::{AutoAugment, ColorJitter, Interpolation, RandomErasing};
use crate::decode::pixels::{Part, RgbImage};
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
        let frame = self.frame((image.height, image.width), rng);
        self.finish(frame, Part::whole(image), rng, scratch, out);
    }

    /// The first step, for an image of this height and width: which window of it is resized how.
    pub fn frame(&self, size: (usize, usize), rng: &mut KeyedRng) -> Resize {
        match &self.steps {
            Steps::Train { crop, interpolation, .. } => {
                let window = crop.draw(size.0, size.1, rng);
                Resize::to(window, self.input_size, interpolation.draw(rng))
            }
            Steps::Evaluate { crop_rule } => {
                let covering = covering_size(size, self.input_size, *crop_rule);
                let part = center(covering, self.input_size);
                Resize { window: Window::whole(size), size: covering, part, filter: Filter::Bicubic }
            }
        }
    }

    /// Whether normalisation is the last step.
    pub fn ends_with_normalization(&self) -> bool {
        !matches!(self.steps, Steps::Train { erasing: Some(_), .. })
    }

    /// All other steps, for a part of the image in which all that `frame` needs lies; `out` is `[3, H, W]`.
    ///
    /// # Panics
    /// When `out` has another length than `3 * H * W`, or `image` is not as `frame` needs it.
    pub fn finish(
        &self,
        frame: Resize,
        image: Part<'_>,
        rng: &mut KeyedRng,
        scratch: &mut Scratch,
        out: &mut [f32],
    ) {
        self.pixels(frame, image, rng, scratch);
        self.normalizer.apply(&scratch.image, out);
        if let Steps::Train { erasing: Some(erasing), .. } = &self.steps {
            erasing.apply(out, self.input_size, rng);
        }
    }

    /// As [`finish`](Self::finish), up to normalisation; `out` is `[H, W, 3]`.
    ///
    /// # Panics
    /// As [`finish`](Self::finish).
    pub fn finish_bytes(
        &self,
        frame: Resize,
        image: Part<'_>,
        rng: &mut KeyedRng,
        scratch: &mut Scratch,
        out: &mut [u8],
    ) {
        self.pixels(frame, image, rng, scratch);
        out.copy_from_slice(&scratch.image.data);
    }

    /// Everything before normalisation; the result is `scratch.image`.
    fn pixels(&self, frame: Resize, image: Part<'_>, rng: &mut KeyedRng, scratch: &mut Scratch) {
        let Scratch { resize, image: result, other } = scratch;
        frame.apply(image, resize, result);
        if let Steps::Train { hflip, color, .. } = &self.steps {
            if *hflip > 0.0 && rng.chance(*hflip) {
                flip_horizontal(result);
            }
            match color {
                Color::Keep => {}
                Color::Policy(policy) => policy.apply(result, other, rng),
                Color::Jitter(jitter) => jitter.apply(result, rng),
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

//! The operations that policies choose from, with timm's meaning of their magnitude.

use super::{affine, color};
use crate::decode::RgbImage;
use crate::rng::KeyedRng;
use crate::transform::resample::Filter;

/// Magnitudes are given on a scale from 0 to this.
pub(super) const MAX_LEVEL: f64 = 10.0;

macro_rules! ops {
    ($($(#[$doc:meta])* $name:ident),* $(,)?) => {
        /// An operation on the pixels of one image. `…Increasing` variants grow stronger with the magnitude.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        #[allow(missing_docs)]
        pub enum Op { $($name),* }

        impl Op {
            /// Every operation.
            pub const ALL: &[Self] = &[$(Self::$name),*];

            /// Its name, as timm spells it.
            pub fn name(self) -> &'static str {
                match self { $(Self::$name => stringify!($name)),* }
            }
        }
    };
}

ops! {
    AutoContrast, Equalize, Invert, Rotate,
    Posterize, PosterizeIncreasing, PosterizeOriginal,
    Solarize, SolarizeIncreasing, SolarizeAdd,
    Color, ColorIncreasing, Contrast, ContrastIncreasing,
    Brightness, BrightnessIncreasing, Sharpness, SharpnessIncreasing,
    ShearX, ShearY, TranslateX, TranslateY, TranslateXRel, TranslateYRel,
    Desaturate, GaussianBlur, GaussianBlurRand,
}

/// What geometric operations need besides their argument.
#[derive(Clone, Copy, Debug)]
pub(super) struct Geometry {
    pub(super) filter: Filter,
    /// Colour of pixels from outside.
    pub(super) fill: [u8; 3],
}

impl Op {
    /// Whether its direction is drawn: half of the applications go the other way.
    pub(super) fn is_signed(self) -> bool {
        matches!(
            self,
            Self::Rotate
                | Self::ColorIncreasing
                | Self::ContrastIncreasing
                | Self::BrightnessIncreasing
                | Self::SharpnessIncreasing
                | Self::ShearX
                | Self::ShearY
                | Self::TranslateX
                | Self::TranslateY
                | Self::TranslateXRel
                | Self::TranslateYRel
        )
    }

    /// The argument that a magnitude stands for: degrees, bits, a threshold, a factor, pixels, a radius.
    /// `translate_const` is the largest shift of `TranslateX` and `TranslateY` in pixels.
    pub(super) fn argument(self, magnitude: f64, negated: bool, translate_const: f64) -> f64 {
        let level = magnitude / MAX_LEVEL;
        let signed = |value: f64| if negated { -value } else { value };
        match self {
            Self::AutoContrast | Self::Equalize | Self::Invert => 0.0,
            Self::Rotate => signed(level * 30.0),
            Self::Posterize => (level * 4.0).trunc(),
            Self::PosterizeIncreasing => 4.0 - (level * 4.0).trunc(),
            Self::PosterizeOriginal => (level * 4.0).trunc() + 4.0,
            Self::Solarize => (level * 256.0).trunc().min(256.0),
            Self::SolarizeIncreasing => 256.0 - (level * 256.0).trunc().min(256.0),
            Self::SolarizeAdd => (level * 110.0).trunc().min(128.0),
            Self::Color | Self::Contrast | Self::Brightness | Self::Sharpness => level * 1.8 + 0.1,
            Self::ColorIncreasing
            | Self::ContrastIncreasing
            | Self::BrightnessIncreasing
            | Self::SharpnessIncreasing => (1.0 + signed(level * 0.9)).max(0.1),
            Self::ShearX | Self::ShearY => signed(level * 0.3),
            Self::TranslateX | Self::TranslateY => signed(level * translate_const),
            Self::TranslateXRel | Self::TranslateYRel => signed(level * 0.45),
            Self::Desaturate => 0.5 + (1.0 - 0.5) * level,
            Self::GaussianBlur => 0.1 + (2.0 - 0.1) * level,
            Self::GaussianBlurRand => level,
        }
    }

    /// As [`argument`](Self::argument), with the random parts drawn.
    pub(super) fn draw_argument(self, magnitude: f64, translate_const: f64, rng: &mut KeyedRng) -> f64 {
        let negated = self.is_signed() && rng.chance(0.5);
        let argument = self.argument(magnitude, negated, translate_const);
        match self {
            Self::GaussianBlurRand => rng.uniform(0.1, 2.0 * argument),
            _ => argument,
        }
    }

    /// Applies the operation in place; `other` is scratch.
    pub(super) fn apply(self, argument: f64, image: &mut RgbImage, other: &mut RgbImage, geometry: Geometry) {
        let matrix = match self {
            Self::AutoContrast => return color::autocontrast(image),
            Self::Equalize => return color::equalize(image),
            Self::Invert => return color::invert(image),
            Self::Posterize | Self::PosterizeIncreasing | Self::PosterizeOriginal => {
                return color::posterize(image, argument as i32);
            }
            Self::Solarize | Self::SolarizeIncreasing => return color::solarize(image, argument as i32),
            Self::SolarizeAdd => return color::solarize_add(image, argument as i32),
            Self::Color | Self::ColorIncreasing => return color::saturation(image, argument),
            Self::Contrast | Self::ContrastIncreasing => return color::contrast(image, argument),
            Self::Brightness | Self::BrightnessIncreasing => return color::brightness(image, argument),
            Self::Sharpness | Self::SharpnessIncreasing => return color::sharpness(image, other, argument),
            Self::Desaturate => return color::saturation(image, (1.0 - argument).clamp(0.0, 1.0)),
            Self::GaussianBlur | Self::GaussianBlurRand => return color::gaussian_blur(image, argument),
            Self::Rotate => affine::rotation(argument, image),
            Self::ShearX => [1.0, argument, 0.0, 0.0, 1.0, 0.0],
            Self::ShearY => [1.0, 0.0, 0.0, argument, 1.0, 0.0],
            Self::TranslateX => [1.0, 0.0, argument, 0.0, 1.0, 0.0],
            Self::TranslateY => [1.0, 0.0, 0.0, 0.0, 1.0, argument],
            Self::TranslateXRel => [1.0, 0.0, argument * image.width as f64, 0.0, 1.0, 0.0],
            Self::TranslateYRel => [1.0, 0.0, 0.0, 0.0, 1.0, argument * image.height as f64],
        };
        affine::transform(image, other, matrix, geometry.filter, geometry.fill);
    }
}

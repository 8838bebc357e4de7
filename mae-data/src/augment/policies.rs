//! The tables behind the policy strings.

use super::ops::Op::{self, *};

/// RandAugment's operations.
pub(super) const RAND: [Op; 15] = [
    AutoContrast,
    Equalize,
    Invert,
    Rotate,
    Posterize,
    Solarize,
    SolarizeAdd,
    Color,
    Contrast,
    Brightness,
    Sharpness,
    ShearX,
    ShearY,
    TranslateXRel,
    TranslateYRel,
];

/// RandAugment's operations, those with a direction of strength made to grow with the magnitude (`inc1`).
pub(super) const RAND_INCREASING: [Op; 15] = [
    AutoContrast,
    Equalize,
    Invert,
    Rotate,
    PosterizeIncreasing,
    SolarizeIncreasing,
    SolarizeAdd,
    ColorIncreasing,
    ContrastIncreasing,
    BrightnessIncreasing,
    SharpnessIncreasing,
    ShearX,
    ShearY,
    TranslateXRel,
    TranslateYRel,
];

/// The three operations of DeiT III's "3-Augment".
pub(super) const RAND_3A: [Op; 3] = [SolarizeIncreasing, Desaturate, GaussianBlur];

/// Operations with the relative frequency of `tweights`.
pub(super) const RAND_WEIGHTED: [(Op, f64); 15] = [
    (Rotate, 0.3),
    (ShearX, 0.2),
    (ShearY, 0.2),
    (TranslateXRel, 0.1),
    (TranslateYRel, 0.1),
    (ColorIncreasing, 0.025),
    (SharpnessIncreasing, 0.025),
    (AutoContrast, 0.025),
    (SolarizeIncreasing, 0.005),
    (SolarizeAdd, 0.005),
    (ContrastIncreasing, 0.005),
    (BrightnessIncreasing, 0.005),
    (Equalize, 0.005),
    (PosterizeIncreasing, 0.005),
    (Invert, 0.005),
];

/// An AutoAugment policy: lists of operation, probability and magnitude.
pub(super) fn by_name(name: &str) -> Option<Vec<Vec<(Op, f64, f64)>>> {
    let pairs = |table: &[[(Op, f64, f64); 2]]| table.iter().map(|pair| pair.to_vec()).collect::<Vec<_>>();
    // The "r" policies differ in posterize alone.
    let research = |mut policy: Vec<Vec<(Op, f64, f64)>>| {
        for (op, ..) in policy.iter_mut().flatten() {
            if matches!(op, Posterize | PosterizeOriginal) {
                *op = PosterizeIncreasing;
            }
        }
        policy
    };
    Some(match name {
        "original" => pairs(&ORIGINAL),
        "originalr" => research(pairs(&ORIGINAL)),
        "v0" => pairs(&V0),
        "v0r" => research(pairs(&V0)),
        "3a" => vec![
            vec![(Solarize, 1.0, 5.0)],
            vec![(Desaturate, 1.0, 10.0)],
            vec![(GaussianBlurRand, 1.0, 10.0)],
        ],
        _ => return None,
    })
}

/// The ImageNet policy of the AutoAugment paper.
#[rustfmt::skip]
const ORIGINAL: [[(Op, f64, f64); 2]; 25] = [
    [(PosterizeOriginal, 0.4, 8.0), (Rotate, 0.6, 9.0)],
    [(Solarize, 0.6, 5.0), (AutoContrast, 0.6, 5.0)],
    [(Equalize, 0.8, 8.0), (Equalize, 0.6, 3.0)],
    [(PosterizeOriginal, 0.6, 7.0), (PosterizeOriginal, 0.6, 6.0)],
    [(Equalize, 0.4, 7.0), (Solarize, 0.2, 4.0)],
    [(Equalize, 0.4, 4.0), (Rotate, 0.8, 8.0)],
    [(Solarize, 0.6, 3.0), (Equalize, 0.6, 7.0)],
    [(PosterizeOriginal, 0.8, 5.0), (Equalize, 1.0, 2.0)],
    [(Rotate, 0.2, 3.0), (Solarize, 0.6, 8.0)],
    [(Equalize, 0.6, 8.0), (PosterizeOriginal, 0.4, 6.0)],
    [(Rotate, 0.8, 8.0), (Color, 0.4, 0.0)],
    [(Rotate, 0.4, 9.0), (Equalize, 0.6, 2.0)],
    [(Equalize, 0.0, 7.0), (Equalize, 0.8, 8.0)],
    [(Invert, 0.6, 4.0), (Equalize, 1.0, 8.0)],
    [(Color, 0.6, 4.0), (Contrast, 1.0, 8.0)],
    [(Rotate, 0.8, 8.0), (Color, 1.0, 2.0)],
    [(Color, 0.8, 8.0), (Solarize, 0.8, 7.0)],
    [(Sharpness, 0.4, 7.0), (Invert, 0.6, 8.0)],
    [(ShearX, 0.6, 5.0), (Equalize, 1.0, 9.0)],
    [(Color, 0.4, 0.0), (Equalize, 0.6, 3.0)],
    [(Equalize, 0.4, 7.0), (Solarize, 0.2, 4.0)],
    [(Solarize, 0.6, 5.0), (AutoContrast, 0.6, 5.0)],
    [(Invert, 0.6, 4.0), (Equalize, 1.0, 8.0)],
    [(Color, 0.6, 4.0), (Contrast, 1.0, 8.0)],
    [(Equalize, 0.8, 8.0), (Equalize, 0.6, 3.0)],
];

/// The ImageNet policy of TensorFlow's TPU repository.
#[rustfmt::skip]
const V0: [[(Op, f64, f64); 2]; 25] = [
    [(Equalize, 0.8, 1.0), (ShearY, 0.8, 4.0)],
    [(Color, 0.4, 9.0), (Equalize, 0.6, 3.0)],
    [(Color, 0.4, 1.0), (Rotate, 0.6, 8.0)],
    [(Solarize, 0.8, 3.0), (Equalize, 0.4, 7.0)],
    [(Solarize, 0.4, 2.0), (Solarize, 0.6, 2.0)],
    [(Color, 0.2, 0.0), (Equalize, 0.8, 8.0)],
    [(Equalize, 0.4, 8.0), (SolarizeAdd, 0.8, 3.0)],
    [(ShearX, 0.2, 9.0), (Rotate, 0.6, 8.0)],
    [(Color, 0.6, 1.0), (Equalize, 1.0, 2.0)],
    [(Invert, 0.4, 9.0), (Rotate, 0.6, 0.0)],
    [(Equalize, 1.0, 9.0), (ShearY, 0.6, 3.0)],
    [(Color, 0.4, 7.0), (Equalize, 0.6, 0.0)],
    [(Posterize, 0.4, 6.0), (AutoContrast, 0.4, 7.0)],
    [(Solarize, 0.6, 8.0), (Color, 0.6, 9.0)],
    [(Solarize, 0.2, 4.0), (Rotate, 0.8, 9.0)],
    [(Rotate, 1.0, 7.0), (TranslateYRel, 0.8, 9.0)],
    [(ShearX, 0.0, 0.0), (Solarize, 0.8, 4.0)],
    [(ShearY, 0.8, 0.0), (Color, 0.6, 4.0)],
    [(Color, 1.0, 0.0), (Rotate, 0.6, 2.0)],
    [(Equalize, 0.8, 4.0), (Equalize, 0.0, 8.0)],
    [(Equalize, 1.0, 4.0), (AutoContrast, 0.6, 2.0)],
    [(ShearY, 0.4, 7.0), (SolarizeAdd, 0.6, 7.0)],
    [(Posterize, 0.8, 2.0), (Solarize, 0.6, 10.0)],
    [(Solarize, 0.6, 8.0), (Equalize, 0.6, 1.0)],
    [(Color, 0.8, 6.0), (Rotate, 0.4, 5.0)],
];

//! torchvision's `ColorJitter` with brightness, contrast and saturation of the same strength.

use super::color;
use crate::decode::RgbImage;
use crate::rng::KeyedRng;

/// Changes brightness, contrast and saturation in random order, each by a factor uniform in
/// `max(0, 1 - strength)..1 + strength`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ColorJitter {
    /// How far the factors go from 1.
    pub strength: f64,
}

impl ColorJitter {
    /// Changes an image in place.
    pub fn apply(&self, image: &mut RgbImage, rng: &mut KeyedRng) {
        let mut order: [fn(&mut RgbImage, f64); 3] = [color::brightness, color::contrast, color::saturation];
        rng.shuffle(&mut order);
        for change in order {
            change(image, rng.uniform((1.0 - self.strength).max(0.0), 1.0 + self.strength));
        }
    }
}

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
        for (what, factor) in self.draw(rng) {
            [color::brightness, color::contrast, color::saturation][what](image, factor);
        }
    }

    /// Draws the order of the changes (0 is brightness, 1 contrast, 2 saturation) and their factors.
    pub(super) fn draw(&self, rng: &mut KeyedRng) -> [(usize, f64); 3] {
        let mut order = [0, 1, 2];
        rng.shuffle(&mut order);
        order.map(|what| (what, rng.uniform((1.0 - self.strength).max(0.0), 1.0 + self.strength)))
    }
}

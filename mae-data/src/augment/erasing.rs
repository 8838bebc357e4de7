//! Random erasing (Zhong et al. 2020) in timm's mode `pixel`.

use crate::rng::KeyedRng;
use crate::transform::resample::Window;

const AREA: (f64, f64) = (0.02, 1.0 / 3.0);
const MIN_ASPECT: f64 = 0.3;

/// Fills one box of a normalised image with noise.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct RandomErasing {
    /// Probability that an image gets a box.
    pub prob: f64,
}

impl RandomErasing {
    /// Draws whether and where, and fills the box of `out` (`[3, H, W]`) with standard normal values.
    pub fn apply(&self, out: &mut [f32], (height, width): (usize, usize), rng: &mut KeyedRng) {
        let Some(window) = self.draw((height, width), rng) else { return };
        for plane in out.chunks_exact_mut(height * width) {
            for row in plane.chunks_exact_mut(width).skip(window.top).take(window.height) {
                let erased = &mut row[window.left..window.left + window.width];
                erased.iter_mut().for_each(|value| *value = rng.normal() as f32);
            }
        }
    }

    /// Draws whether and where: ten tries to find a box that leaves a row and a column.
    pub(super) fn draw(&self, (height, width): (usize, usize), rng: &mut KeyedRng) -> Option<Window> {
        if !rng.chance(self.prob) {
            return None;
        }
        let area = (height * width) as f64;
        for _ in 0..10 {
            let target = area * rng.uniform(AREA.0, AREA.1);
            let aspect = rng.uniform(MIN_ASPECT.ln(), (1.0 / MIN_ASPECT).ln()).exp();
            let h = (target * aspect).sqrt().round_ties_even() as usize;
            let w = (target / aspect).sqrt().round_ties_even() as usize;
            if w < width && h < height {
                let (top, left) = (rng.below(height - h + 1), rng.below(width - w + 1));
                return Some(Window { top, left, height: h, width: w });
            }
        }
        None
    }
}

//! The coefficients of Pillow's antialiased resize.

use std::ops::Range;

use crate::sys::Taps;

/// Fractional bits of a coefficient: 32, less 8 for the pixel, less 2 for the overshoot of the bicubic filter.
pub(super) const BITS: i32 = 32 - 8 - 2;

/// How pixels are interpolated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Filter {
    /// Triangle of width 2.
    Bilinear,
    /// Cubic convolution with a = -0.5, of width 4.
    Bicubic,
}

impl Filter {
    fn support(self) -> f64 {
        match self {
            Self::Bilinear => 1.0,
            Self::Bicubic => 2.0,
        }
    }

    fn at(self, x: f64) -> f64 {
        const A: f64 = -0.5;
        let x = x.abs();
        match self {
            Self::Bilinear if x < 1.0 => 1.0 - x,
            Self::Bicubic if x < 1.0 => ((A + 2.0) * x - (A + 3.0)) * x * x + 1.0,
            Self::Bicubic if x < 2.0 => (((x - 5.0) * x + 8.0) * x - 4.0) * A,
            _ => 0.0,
        }
    }
}

/// Coefficients from `input` positions to a part of `output` positions.
#[derive(Default)]
pub(super) struct Coefficients {
    positions: Vec<(usize, usize)>,
    values: Vec<i32>,
    each: usize,
    weights: Vec<f64>,
}

impl Coefficients {
    /// Computes those of the output positions in `part`.
    pub(super) fn compute(&mut self, input: usize, output: usize, part: Range<usize>, filter: Filter) {
        let geometry = Geometry::new(input, output, filter);
        let filter_scale = geometry.scale.max(1.0);
        self.each = geometry.support.ceil() as usize * 2 + 1;
        self.positions.clear();
        self.values.clear();
        self.values.resize(part.len() * self.each, 0);
        for (position, values) in part.zip(self.values.chunks_exact_mut(self.each)) {
            let center = geometry.center(position);
            let Range { start, end } = geometry.reach(position);
            self.weights.clear();
            let weight = |i: usize| filter.at((i as f64 - center + 0.5) * (1.0 / filter_scale));
            self.weights.extend((start..end).map(weight));
            let sum: f64 = self.weights.iter().sum();
            for (value, weight) in values.iter_mut().zip(&self.weights) {
                let weight = if sum == 0.0 { *weight } else { weight / sum };
                let fixed = weight * f64::from(1 << BITS);
                *value = if fixed < 0.0 { (fixed - 0.5) as i32 } else { (fixed + 0.5) as i32 };
            }
            self.positions.push((start, end - start));
        }
    }

    /// Counts positions from `first` on instead of from 0.
    pub(super) fn shift(&mut self, first: usize) {
        self.positions.iter_mut().for_each(|(low, _)| *low -= first);
    }

    /// For the passes.
    pub(super) fn taps(&self) -> Taps<'_> {
        Taps { positions: &self.positions, values: &self.values, each: self.each }
    }
}

/// The input positions that the output positions in `part` depend on.
pub(super) fn needed(input: usize, output: usize, part: Range<usize>, filter: Filter) -> Range<usize> {
    if input == output {
        return part;
    }
    let geometry = Geometry::new(input, output, filter);
    if part.is_empty() {
        return 0..0;
    }
    geometry.reach(part.start).start..geometry.reach(part.end - 1).end
}

struct Geometry {
    input: usize,
    scale: f64,
    support: f64,
}

impl Geometry {
    fn new(input: usize, output: usize, filter: Filter) -> Self {
        let scale = input as f64 / output as f64;
        Self { input, scale, support: filter.support() * scale.max(1.0) }
    }

    fn center(&self, position: usize) -> f64 {
        (position as f64 + 0.5) * self.scale
    }

    fn reach(&self, position: usize) -> Range<usize> {
        let center = self.center(position);
        // Truncation towards zero, as a cast in C does it.
        let low = ((center - self.support + 0.5) as i64).max(0) as usize;
        let high = ((center + self.support + 0.5) as i64).min(self.input as i64) as usize;
        low..high
    }
}

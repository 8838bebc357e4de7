//! timm's policy strings: `rand-m9-mstd0.5-inc1` (RandAugment) and `original`, `originalr`, `v0`, `v0r`, `3a`
//! (AutoAugment).

use super::ops::{Geometry, MAX_LEVEL, Op};
use super::{Augmentation, Interpolation, policies};
use crate::decode::RgbImage;
use crate::error::Error;
use crate::rng::KeyedRng;
use crate::transform::resample::Filter;

const FIELD: &str = "dataset.augmentation.auto_aug";

/// A policy that changes training images at random.
///
/// RandAugment (Cubuk et al. 2020) draws a fixed number of operations for each image; AutoAugment (Cubuk et al. 2019)
/// draws one of a list of sub-policies.
#[derive(Clone, Debug, PartialEq)]
pub struct AutoAugment {
    choice: Choice,
    interpolation: Interpolation,
    fill: [u8; 3],
    translate_const: f64,
}

#[derive(Clone, Debug, PartialEq)]
enum Choice {
    /// `layers` of the steps; with weights each at most once, without them each drawn anew.
    Random { steps: Vec<Step>, layers: usize, weights: Option<Vec<f64>> },
    /// All steps of one of the lists.
    OneOf(Vec<Vec<Step>>),
}

/// An operation, how often and how strongly it is applied.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Step {
    pub(super) op: Op,
    pub(super) prob: f64,
    pub(super) magnitude: f64,
    /// Standard deviation of the magnitude; infinite: uniform from 0 to `magnitude`.
    pub(super) magnitude_std: f64,
    pub(super) magnitude_max: Option<f64>,
}

impl AutoAugment {
    /// Reads a policy string.
    ///
    /// # Errors
    /// When the name or a section of it is not known.
    pub fn parse(text: &str, augmentation: &Augmentation) -> Result<Self, Error> {
        let mut sections = text.split('-');
        let name = sections.next().unwrap_or_default();
        let choice = if name == "rand" {
            parse_rand(text, sections)?
        } else if let Some(policy) = policies::by_name(name) {
            parse_auto(text, policy, sections)?
        } else {
            return Err(unknown(text, "rand-…, original, originalr, v0, v0r or 3a"));
        };
        let (height, width) = augmentation.input_size;
        Ok(Self {
            choice,
            interpolation: augmentation.interpolation,
            fill: augmentation.mean.map(|m| (255.0 * f64::from(m)).round_ties_even().clamp(0.0, 255.0) as u8),
            translate_const: (height.min(width) as f64 * 0.45).trunc(),
        })
    }

    /// Changes an image in place; `other` is scratch.
    pub fn apply(&self, image: &mut RgbImage, other: &mut RgbImage, rng: &mut KeyedRng) {
        for Drawn { op, argument, filter } in self.draw(rng) {
            op.apply(argument, image, other, Geometry { filter, fill: self.fill });
        }
    }

    /// Draws what is done to an image.
    pub(super) fn draw(&self, rng: &mut KeyedRng) -> Vec<Drawn> {
        let mut drawn = Vec::new();
        match &self.choice {
            Choice::Random { steps, layers, weights: None } => {
                for _ in 0..*layers {
                    drawn.extend(self.draw_step(&steps[rng.below(steps.len())], rng));
                }
            }
            Choice::Random { steps, layers, weights: Some(weights) } => {
                let mut weights = weights.clone();
                for _ in 0..(*layers).min(steps.len()) {
                    let next = draw_weighted(&weights, rng);
                    weights[next] = 0.0;
                    drawn.extend(self.draw_step(&steps[next], rng));
                }
            }
            Choice::OneOf(lists) => {
                for step in &lists[rng.below(lists.len())] {
                    drawn.extend(self.draw_step(step, rng));
                }
            }
        }
        drawn
    }

    fn draw_step(&self, step: &Step, rng: &mut KeyedRng) -> Option<Drawn> {
        if !rng.chance(step.prob) {
            return None;
        }
        let magnitude = step.draw_magnitude(rng);
        let argument = step.op.draw_argument(magnitude, self.translate_const, rng);
        Some(Drawn { op: step.op, argument, filter: self.interpolation.draw(rng) })
    }
}

/// An operation that was drawn for an image, with all its random parts.
#[derive(Clone, Copy, Debug)]
pub(super) struct Drawn {
    pub(super) op: Op,
    pub(super) argument: f64,
    pub(super) filter: Filter,
}

impl Step {
    fn draw_magnitude(&self, rng: &mut KeyedRng) -> f64 {
        let magnitude = if self.magnitude_std.is_infinite() {
            rng.uniform(0.0, self.magnitude)
        } else if self.magnitude_std > 0.0 {
            self.magnitude + self.magnitude_std * rng.normal()
        } else {
            self.magnitude
        };
        magnitude.clamp(0.0, self.magnitude_max.unwrap_or(MAX_LEVEL))
    }
}

fn draw_weighted(weights: &[f64], rng: &mut KeyedRng) -> usize {
    let mut left = rng.unit() * weights.iter().sum::<f64>();
    for (i, weight) in weights.iter().enumerate() {
        if left < *weight {
            return i;
        }
        left -= weight;
    }
    // Rounding went past the end: the last one that can still be drawn.
    weights.iter().rposition(|weight| *weight > 0.0).unwrap_or_default()
}

fn parse_rand<'a>(text: &str, sections: impl Iterator<Item = &'a str>) -> Result<Choice, Error> {
    let (mut magnitude, mut layers, mut prob) = (MAX_LEVEL, 2, 0.5);
    let (mut magnitude_std, mut magnitude_max) = (0.0, None);
    let (mut increasing, mut set) = (false, None);
    for section in sections {
        if let Some(name) = section.strip_prefix('t') {
            set = Some(name);
            continue;
        }
        let (key, value) = split_section(text, section)?;
        match key {
            "m" => magnitude = value,
            // A policy of more operations than this destroys any image.
            "n" if (0.0..=100.0).contains(&value) && value.fract() == 0.0 => layers = value as usize,
            "p" if (0.0..=1.0).contains(&value) => prob = value,
            // timm takes any deviation above 100 as "uniform".
            "mstd" => magnitude_std = if value > 100.0 { f64::INFINITY } else { value },
            "mmax" => magnitude_max = Some(value),
            // Any value switches it on, also 0: so does timm, which asks whether the text is empty.
            "inc" => increasing = true,
            "n" | "p" => return Err(unknown(text, &format!("a legal number in section '{section}'"))),
            _ => return Err(unknown(text, "sections m, n, p, mstd, mmax, inc or t")),
        }
    }
    let (ops, weights): (Vec<Op>, _) = match set {
        None if increasing => (policies::RAND_INCREASING.to_vec(), None),
        None => (policies::RAND.to_vec(), None),
        Some("3a") => (policies::RAND_3A.to_vec(), None),
        Some("weights") => {
            let (ops, weights) = policies::RAND_WEIGHTED.iter().copied().unzip();
            (ops, Some(weights))
        }
        Some(_) => return Err(unknown(text, "the sets tweights or t3a")),
    };
    let step = |op| Step { op, prob, magnitude, magnitude_std, magnitude_max };
    Ok(Choice::Random { steps: ops.into_iter().map(step).collect(), layers, weights })
}

fn parse_auto<'a>(
    text: &str,
    policy: Vec<Vec<(Op, f64, f64)>>,
    sections: impl Iterator<Item = &'a str>,
) -> Result<Choice, Error> {
    let mut magnitude_std = 0.0;
    for section in sections {
        match split_section(text, section)? {
            ("mstd", value) => magnitude_std = value,
            _ => return Err(unknown(text, "only the section mstd with this policy")),
        }
    }
    let step = |(op, prob, magnitude)| Step { op, prob, magnitude, magnitude_std, magnitude_max: None };
    Ok(Choice::OneOf(policy.into_iter().map(|list| list.into_iter().map(step).collect()).collect()))
}

/// `mstd0.5` to `mstd` and 0.5.
fn split_section<'a>(text: &str, section: &'a str) -> Result<(&'a str, f64), Error> {
    let digits = section.find(|c: char| c.is_ascii_digit()).unwrap_or(section.len());
    let (key, value) = section.split_at(digits);
    match value.parse::<f64>() {
        Ok(value) if value.is_finite() => Ok((key, value)),
        _ => Err(unknown(text, &format!("a name and a number in section '{section}', as in mstd0.5"))),
    }
}

fn unknown(text: &str, expected: &str) -> Error {
    Error::setting(FIELD, format!("'{text}'"), expected)
}

#[cfg(test)]
impl AutoAugment {
    /// Steps, number of layers and weights of a RandAugment policy.
    pub(super) fn random_steps(self) -> (Vec<Step>, usize, Option<Vec<f64>>) {
        match self.choice {
            Choice::Random { steps, layers, weights } => (steps, layers, weights),
            Choice::OneOf(_) => panic!("no RandAugment policy"),
        }
    }

    /// The lists of an AutoAugment policy.
    pub(super) fn lists(self) -> Vec<Vec<Step>> {
        match self.choice {
            Choice::OneOf(lists) => lists,
            Choice::Random { .. } => panic!("no AutoAugment policy"),
        }
    }
}

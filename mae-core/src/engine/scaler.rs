//! Dynamic loss scaling for fp16 (Micikevicius et al., arXiv 1710.03740, section 3.2), with PyTorch's constants.

/// The factor by which the loss is multiplied before the backward pass.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct LossScaler {
    /// The factor.
    pub scale: f64,
    /// Good steps since it last changed.
    pub good_steps: u64,
}

const GROWTH_INTERVAL: u64 = 2000;

impl Default for LossScaler {
    fn default() -> Self {
        LossScaler { scale: 65536.0, good_steps: 0 }
    }
}

impl LossScaler {
    /// Notes whether a step's gradients were finite: halves the factor after a bad one, doubles it after 2000 good
    /// ones in a row.
    pub fn update(&mut self, finite: bool) {
        if !finite {
            *self = LossScaler { scale: self.scale / 2.0, good_steps: 0 };
        } else if self.good_steps + 1 == GROWTH_INTERVAL {
            *self = LossScaler { scale: self.scale * 2.0, good_steps: 0 };
        } else {
            self.good_steps += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn halves_after_a_bad_step_and_doubles_after_2000_good_ones() {
        let mut scaler = LossScaler::default();
        scaler.update(false);
        assert_eq!(scaler.scale, 32768.0);
        (0..2000).for_each(|_| scaler.update(true));
        assert_eq!(scaler, LossScaler { scale: 65536.0, good_steps: 0 });
    }
}

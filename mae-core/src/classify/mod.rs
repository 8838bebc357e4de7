//! Classification: an encoder with a linear head, its losses and its accuracy.

mod loss;

use crate::arch::Arch;
use crate::backbone::{Encoder, Purpose};
use crate::error::{Error, Result};
use crate::nn::Linear;
use crate::nn::init::Init;
use crate::ops::Ops;
use crate::params::Declare;

pub use loss::{correct_top_k, cross_entropy, soft_target_cross_entropy};

/// The settings of a classifier.
#[derive(Debug, Clone, PartialEq)]
pub struct ClassifierConfig {
    /// Classes.
    pub num_classes: i64,
    /// Stochastic depth of the last block; none in TAO.
    pub drop_path_rate: f64,
    /// What the features are made for.
    pub purpose: Purpose,
}

/// An encoder with a linear head.
#[derive(Debug)]
pub struct Classifier {
    encoder: Encoder,
    head: Linear,
}

impl Classifier {
    /// Declares the classifier of `arch` for images of `height` × `width`.
    ///
    /// # Errors
    /// [`Error::InputSize`], or [`Error::Setting`] for less than one class.
    pub fn declare(
        place: &Declare,
        arch: &Arch,
        size: (i64, i64),
        config: &ClassifierConfig,
    ) -> Result<Self> {
        if config.num_classes < 1 {
            return Err(Error::Setting {
                key: "model.num_classes".into(),
                problem: format!("expected at least 1 class, found {}", config.num_classes),
                remedy: "set it to the number of class folders in the data".into(),
            });
        }
        let encoder = Encoder::declare(place, arch, size, config.drop_path_rate, config.purpose)?;
        let head = match encoder {
            Encoder::Hiera(_) => place.at("head").at("fc"),
            Encoder::ConvNeXtV2(_) | Encoder::Vit(_) => place.at("head"),
        };
        // Nearly zero, so that fine-tuning starts from even odds.
        let weight = Init::TruncatedNormal { std: 2e-5 };
        let head = Linear::declare(&head, encoder.width(), config.num_classes, weight, Init::Zeros);
        Ok(Classifier { encoder, head })
    }

    /// Images `[N, 3, H, W]` → pooled features `[N, C]`.
    ///
    /// # Errors
    /// When the interpreter refuses an operation.
    pub fn features<F: Ops>(&self, ops: &F, images: &F::Value) -> Result<F::Value> {
        self.encoder.features(ops, images)
    }

    /// Images `[N, 3, H, W]` → logits `[N, num_classes]`.
    ///
    /// # Errors
    /// When the interpreter refuses an operation.
    pub fn logits<F: Ops>(&self, ops: &F, images: &F::Value) -> Result<F::Value> {
        let features = self.features(ops, images)?;
        ops.scope("head", || ops.linear(&features, &self.head))
    }
}

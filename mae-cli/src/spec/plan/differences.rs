//! Where this run differs from TAO: because a field that TAO ignores was set, or because a default is mended.

use super::{Action, Plan};
use crate::spec::schema::{self, Compat, OptimType, Stage, Upstream};
use crate::spec::value::{Value, select};

impl Plan {
    /// The fields set explicitly that TAO ignores and that change this run, and the mended defaults that do, one sentence
    /// each, to be printed once at start. Empty under `compat: tao`.
    pub fn differences_from_tao(&self) -> Vec<String> {
        let mut out = self.mended_defaults();
        for (path, _, leaf) in schema::leaves() {
            let Upstream::IgnoredHonouredHere(effect) = leaf.upstream else { continue };
            let Some(node) = select(&self.root, &path).filter(|_| self.is_honoured(&path)) else { continue };
            if let Some(theirs) = self.upstream_value(&path)
                && self.number(&path) != Some(theirs)
            {
                out.push(format!(
                    "{path} = {} ({}): TAO ignores it, here {effect} (compat=tao ignores it too)",
                    node.value.shown(),
                    node.origin
                ));
            }
        }
        out
    }

    /// What differs although nothing is set.
    fn mended_defaults(&self) -> Vec<String> {
        let mut out = Vec::new();
        if self.compat == Compat::Tao {
            return out;
        }
        let (train, evaluate) = (self.action() == Action::Train, self.action() == Action::Evaluate);
        match self.train.stage {
            Stage::Pretrain if train && self.model.arch.starts_with("convnext") => {
                out.push(
                    "convolutions start with std 0.02 and GRN and the mask token are not decayed, as in the paper; TAO starts \
                     with std 1.0 and decays them (compat=tao does too)"
                        .to_owned(),
                );
            }
            Stage::Pretrain if train => {
                out.push(
                    "class and mask tokens are not decayed; TAO decays them (compat=tao does too)".to_owned(),
                );
            }
            Stage::Finetune
                if (train || evaluate)
                    && self.dataset.augmentation.input_size == 224
                    && self.dataset.augmentation.crop_pct.is_none() =>
            {
                out.push(
                    "validation images are resized to 256 pixels before the centre of 224 is taken, as in inference; TAO resizes \
                     them to 224 (compat=tao does too)"
                        .to_owned(),
                );
            }
            Stage::Pretrain | Stage::Finetune => {}
        }
        if train && self.model.sparse_encoder && self.train.stage == Stage::Pretrain {
            out.push(
                "model.sparse_encoder: hidden patches are never read; TAO's encoder is dense".to_owned(),
            );
        }
        out
    }

    /// What TAO uses instead of a field that it ignores; `None` where the field plays no part in this run.
    fn upstream_value(&self, path: &str) -> Option<f64> {
        let train = self.action() == Action::Train;
        let stage = |stage: Stage| train && self.train.stage == stage;
        let convnext = self.model.arch.starts_with("convnext");
        match path {
            // TAO's ConvNeXt takes images as they come; its ViT and Hiera are built for 224 pixels.
            "dataset.augmentation.input_size" => (!convnext).then_some(224.0),
            "model.drop_path_rate" => train.then_some(0.0),
            "model.global_pool" => (self.train.stage == Stage::Finetune).then_some(1.0),
            "model.decoder_depth" => stage(Stage::Pretrain).then_some(if convnext { 1.0 } else { 8.0 }),
            "model.decoder_embed_dim" => stage(Stage::Pretrain).then_some(512.0),
            "train.norm_pix_loss" => {
                (stage(Stage::Pretrain) && self.model.arch.starts_with("hiera")).then_some(1.0)
            }
            "train.optim.layer_decay" | "train.optim.backbone_multiplier" => {
                stage(Stage::Finetune).then_some(1.0)
            }
            "train.optim.momentum" => (train && self.train.optim.r#type == OptimType::AdamW).then_some(0.9),
            "evaluate.batch_size" if self.action() == Action::Evaluate => {
                Some(self.dataset.batch_size as f64)
            }
            "inference.batch_size" if self.action() == Action::Inference => {
                Some(self.dataset.batch_size as f64)
            }
            _ => None,
        }
    }

    /// A field as this run uses it, booleans as 0 and 1.
    fn number(&self, path: &str) -> Option<f64> {
        if path.ends_with(".batch_size") {
            return Some(self.batch_size() as f64);
        }
        match &select(&self.resolved, path)?.value {
            Value::Bool(value) => Some(f64::from(u8::from(*value))),
            Value::Int(value) => Some(*value as f64),
            Value::Float(value) => Some(*value),
            _ => None,
        }
    }
}

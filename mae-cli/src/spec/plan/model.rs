//! The model that the plan describes, and what its architecture asks of the fields: sizes, mask, decoder, pooling.

use mae_core::arch::{Arch, Family};
use mae_core::backbone::Purpose;
use mae_core::classify::ClassifierConfig;
use mae_core::params::Declare;
use mae_core::pretrain::{MaskedAutoencoder, PretrainConfig};

use super::{Action, Plan};
use crate::spec::error::{Error, Kind, Result};
use crate::spec::schema::{Compat, Stage};
use crate::spec::value::select;

impl Plan {
    /// The masked autoencoder of stage pretrain. What TAO ignores counts only where the user set it.
    pub fn pretrain_config(&self, arch: &Arch) -> PretrainConfig {
        let hiera = matches!(arch.family, Family::Hiera(_));
        let (model, train) = (&self.model, &self.train);
        PretrainConfig {
            mask_ratio: train.mask_ratio,
            // TAO always normalises Hiera's targets.
            norm_pix_loss: train.norm_pix_loss || (hiera && !self.is_honoured("train.norm_pix_loss")),
            decoder_depth: self.is_honoured("model.decoder_depth").then_some(model.decoder_depth),
            decoder_embed_dim: self
                .is_honoured("model.decoder_embed_dim")
                .then_some(model.decoder_embed_dim as i64),
            drop_path_rate: self.drop_path_rate(),
            sparse_encoder: model.sparse_encoder,
            tao_init: self.compat == Compat::Tao,
        }
    }

    /// The classifier of stage finetune.
    pub fn classifier_config(&self) -> ClassifierConfig {
        let class_token = self.is_honoured("model.global_pool") && !self.model.global_pool;
        ClassifierConfig {
            num_classes: self.model.num_classes as i64,
            drop_path_rate: self.drop_path_rate(),
            purpose: if class_token { Purpose::Features } else { Purpose::Finetune },
        }
    }

    fn drop_path_rate(&self) -> f64 {
        if self.is_honoured("model.drop_path_rate") { self.model.drop_path_rate } else { 0.0 }
    }
}

/// Refuses what the architecture cannot be, before anything is written.
pub(super) fn rules(plan: &Plan) -> Result<()> {
    let arch = Arch::by_name(&plan.model.arch).map_err(|error| refused(plan, "model.arch", error))?;
    let (key, (height, width)) = if plan.action() == Action::Export {
        let (height, width) = plan.export_size();
        // The side that is wrong, or the input size that stands for both.
        let wrong = |pixels: usize| arch.grid(pixels as i64, pixels as i64).is_err();
        let side = if wrong(height) { "export.input_height" } else { "export.input_width" };
        let key = if plan.is_set(side) { side } else { "dataset.augmentation.input_size" };
        (key, (height, width))
    } else {
        let side = plan.dataset.augmentation.input_size;
        ("dataset.augmentation.input_size", (side, side))
    };
    let size = (height as i64, width as i64);
    arch.grid(size.0, size.1).map_err(|error| refused(plan, key, error))?;
    match plan.train.stage {
        // A file of ONNX has no decoder; the action says so.
        Stage::Pretrain if plan.action() != Action::Export && !plan.checkpoint().ends_with(".onnx") => {
            // A declaration costs no memory.
            MaskedAutoencoder::declare(&Declare::root(), arch, size, plan.pretrain_config(arch))
                .map_err(|error| refused(plan, "train.mask_ratio", error))?;
        }
        Stage::Finetune
            if plan.classifier_config().purpose == Purpose::Features
                && !matches!(arch.family, Family::Vit(_)) =>
        {
            let key = "model.global_pool";
            return Err(Error::new(
                Kind::Contradiction,
                format!("false asks for the class token, and {} has none", arch.name),
            )
            .key(key)
            .at(&plan.origin(key))
            .remedy("set it to true, or leave it out"));
        }
        Stage::Pretrain | Stage::Finetune => {}
    }
    Ok(())
}

/// The core's refusal, as one of the field `key` (or of the field that it names itself).
fn refused(plan: &Plan, key: &str, error: mae_core::Error) -> Error {
    use mae_core::Error as Core;
    let (key, problem, remedy) = match error {
        Core::InputSize { arch, height, width, rule, nearest } => (
            key.to_owned(),
            format!("{arch} cannot work at {height}x{width} pixels: {rule}"),
            format!("the nearest legal sizes are {nearest}"),
        ),
        Core::MaskRatio { kept, total, .. } => (
            key.to_owned(),
            format!(
                "it keeps {kept} of {total} patches, and at least one must be kept and one masked"
            ),
            "set another train.mask_ratio, or a larger dataset.augmentation.input_size, which gives more patches"
                .to_owned(),
        ),
        Core::Setting { key, problem, remedy } => (key, problem, remedy),
        other => (key.to_owned(), other.to_string(), "see the documentation of this field".to_owned()),
    };
    let value = select(&plan.root, &key).map_or_else(String::new, |node| node.value.shown());
    Error::new(Kind::Contradiction, problem).value(value).at(&plan.origin(&key)).key(key).remedy(remedy)
}

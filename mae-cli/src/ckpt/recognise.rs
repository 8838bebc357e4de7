//! Whose weights are these? Names and shapes are compared with every architecture of the catalogue.

use mae_core::arch::{Arch, CATALOGUE, Family};
use mae_core::backbone::Purpose;
use mae_core::checkpoint::TensorView;
use mae_core::checkpoint::dialect::{self, LoadPlan, Role};
use mae_core::classify::{Classifier, ClassifierConfig};
use mae_core::params::Declare;
use mae_core::pretrain::{MaskedAutoencoder, PretrainConfig};

/// Side of the images that models are declared for; positions of other sizes are interpolated.
const SIZE: (i64, i64) = (224, 224);

/// A model that the weights fit.
pub(super) struct Recognised {
    pub(super) arch: &'static Arch,
    /// `pretrain`, `finetune`, or `backbone` where neither decoder nor head is complete.
    pub(super) stage: &'static str,
    /// Classes of the head, for `finetune`.
    pub(super) num_classes: Option<i64>,
    /// Where each tensor goes under the model's own names.
    pub(super) plan: LoadPlan,
}

impl Recognised {
    /// `convnextv2_atto, stage finetune, 10 classes`.
    pub(super) fn describe(&self) -> String {
        let mut text = format!(
            "{}, {}",
            self.arch.name,
            match self.stage {
                "backbone" => "its backbone".to_owned(),
                stage => format!("stage {stage}"),
            }
        );
        if let Some(classes) = self.num_classes {
            text.push_str(&format!(", {classes} classes"));
        }
        text
    }
}

/// The model that a state dict is of; `None` when it fits none (nearly) completely.
pub(super) fn recognise(state_dict: &[(String, TensorView)]) -> Option<Recognised> {
    let classes = head_classes(state_dict);
    // A whole model first: its backbone alone would fit, too.
    for stage in ["pretrain", "finetune"] {
        for arch in &CATALOGUE {
            let num_classes = (stage == "finetune").then_some(classes).flatten();
            if stage == "finetune" && num_classes.is_none() {
                continue;
            }
            let Some(target) = declared(arch, stage, num_classes.unwrap_or(1)) else { continue };
            if let Ok(plan) = dialect::plan(state_dict, &target, family(arch), Role::Full) {
                return Some(Recognised { arch, stage, num_classes, plan });
            }
        }
    }
    let backbones = CATALOGUE.iter().filter_map(|arch| {
        let target = declared(arch, "finetune", classes.unwrap_or(1))?;
        let plan = dialect::plan(state_dict, &target, family(arch), Role::Backbone).ok()?;
        // The head and the norm before it belong to no pretraining.
        let outside =
            |name: &String| !name.contains("norm") && !name.starts_with("head") && name != "cls_token";
        let complete = !plan.report.missing.iter().any(outside);
        complete.then_some(Recognised { arch, stage: "backbone", num_classes: None, plan })
    });
    backbones.max_by_key(|found| found.plan.report.loaded_tensors())
}

fn family(arch: &Arch) -> dialect::Family {
    match arch.family {
        Family::ConvNeXtV2(_) => dialect::Family::ConvNeXtV2,
        Family::Hiera(_) => dialect::Family::Hiera,
        Family::Vit(_) => dialect::Family::Vit,
    }
}

/// Names and shapes of a model; costs no memory.
fn declared(arch: &'static Arch, stage: &str, num_classes: i64) -> Option<Vec<(String, Vec<i64>)>> {
    let root = Declare::root();
    if stage == "pretrain" {
        MaskedAutoencoder::declare(&root, arch, SIZE, PretrainConfig::default()).ok()?;
    } else {
        let config = ClassifierConfig { num_classes, drop_path_rate: 0.0, purpose: Purpose::Finetune };
        Classifier::declare(&root, arch, SIZE, &config).ok()?;
    }
    Some(root.into_specs().into_iter().map(|spec| (spec.name, spec.shape)).collect())
}

/// Classes of the head, under any of its names.
fn head_classes(state_dict: &[(String, TensorView)]) -> Option<i64> {
    let heads = ["head.weight", "head.fc.weight", "head.projection.weight"];
    let found = state_dict.iter().find(|(name, view)| {
        view.shape().len() == 2
            && heads.iter().any(|head| name == head || name.ends_with(&format!(".{head}")))
    });
    found.and_then(|(_, view)| view.shape().first().copied()).filter(|classes| *classes > 0)
}

//! Parameter groups: which parameters decay, and by how much a layer's learning rate is scaled.

use crate::arch::Family;
use crate::params::{ParamId, ParamSpec, Params};

/// Parameters that share weight decay and learning-rate scale.
#[derive(Debug, Clone, PartialEq)]
pub struct ParamGroup {
    /// Weight decay of the group.
    pub weight_decay: f64,
    /// The scale that layer decay gives the group; absent in pretraining.
    pub lr_scale: Option<f64>,
    /// What the learning rate is multiplied by: 1 where TAO only stores its scale.
    pub applied_scale: f64,
    /// The group's parameters, in state-dict order.
    pub params: Vec<ParamId>,
}

/// How parameters are grouped.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum GroupRule {
    /// Two groups: without decay, with decay.
    Pretrain {
        /// Whether GRN's parameters, the class token and the mask token decay, as in TAO.
        decay_tokens_and_grn: bool,
    },
    /// A group for each layer and kind of decay.
    Finetune {
        /// The family, which says what a layer is.
        family: Family,
        /// Scale between a layer and the one above it (arXiv 2003.10555).
        layer_decay: f64,
        /// Whether it is applied.
        applied: bool,
        /// Factor of the learning rate below the head; 1 in TAO.
        backbone_multiplier: f64,
    },
}

/// Groups the trainable parameters of a table.
pub fn param_groups(params: &Params, weight_decay: f64, rule: GroupRule) -> Vec<ParamGroup> {
    match rule {
        GroupRule::Pretrain { decay_tokens_and_grn } => {
            let exempt = |spec: &ParamSpec| {
                is_vector(spec) || (!decay_tokens_and_grn && (is_grn(spec) || is_token(spec)))
            };
            let group = |decays: bool| ParamGroup {
                weight_decay: if decays { weight_decay } else { 0.0 },
                lr_scale: None,
                applied_scale: 1.0,
                params: params
                    .trainable()
                    .filter(|(_, spec, _)| exempt(spec) != decays)
                    .map(|(id, ..)| id)
                    .collect(),
            };
            vec![group(false), group(true)]
        }
        GroupRule::Finetune { family, layer_decay, applied, backbone_multiplier } => {
            let mut keys: Vec<(usize, bool, bool)> = Vec::new();
            let mut groups: Vec<ParamGroup> = Vec::new();
            for (id, spec, _) in params.trainable() {
                let decays = decays_in_finetuning(family, spec);
                let (layer, head) = layer_id(family, &spec.name, layer_decay, applied);
                let is_head = backbone_multiplier != 1.0 && spec.name.starts_with("head.");
                let key = (layer, decays, is_head);
                let index = keys.iter().position(|known| *known == key).unwrap_or_else(|| {
                    keys.push(key);
                    let scale = layer_decay.powi((head - layer) as i32);
                    let multiplier = if is_head { 1.0 } else { backbone_multiplier };
                    groups.push(ParamGroup {
                        weight_decay: if decays { weight_decay } else { 0.0 },
                        lr_scale: Some(scale),
                        applied_scale: multiplier * if applied { scale } else { 1.0 },
                        params: Vec::new(),
                    });
                    groups.len() - 1
                });
                groups[index].params.push(id);
            }
            groups
        }
    }
}

fn is_vector(spec: &ParamSpec) -> bool {
    spec.shape.len() == 1 || spec.name.ends_with(".bias")
}

fn is_grn(spec: &ParamSpec) -> bool {
    spec.name.ends_with(".gamma") || spec.name.ends_with(".beta")
}

fn is_token(spec: &ParamSpec) -> bool {
    matches!(spec.name.as_str(), "mask_token" | "cls_token")
}

fn decays_in_finetuning(family: Family, spec: &ParamSpec) -> bool {
    let vit_token =
        matches!(family, Family::Vit(_)) && matches!(spec.name.as_str(), "pos_embed" | "cls_token");
    !(is_vector(spec) || is_grn(spec) || vit_token)
}

/// The layer a parameter belongs to, and the number of the head's.
fn layer_id(family: Family, name: &str, layer_decay: f64, applied: bool) -> (usize, usize) {
    let mut parts = name.split('.');
    let module = parts.next().unwrap_or_default();
    let mut index = || parts.next().and_then(|part| part.parse::<usize>().ok()).unwrap_or(0);
    match family {
        // Without decay TAO tells no layers of ConvNeXt apart; of ViT it does.
        Family::ConvNeXtV2(_) if layer_decay >= 1.0 => (0, 0),
        // ConvNeXt's rule for 27 blocks in the third stage: twelve layers, three of its blocks each.
        Family::ConvNeXtV2(_) => {
            let layer = match module {
                "downsample_layers" => [0, 2, 3, 12][index().min(3)],
                "stages" => match (index(), index()) {
                    (0, _) => 1,
                    (1, _) => 2,
                    (2, block) => 3 + block / 3,
                    _ => 12,
                },
                _ => 13,
            };
            (layer, 13)
        }
        Family::Vit(numbers) => (transformer_layer(module, index(), numbers.depth), numbers.depth + 1),
        // TAO knows no layers of Hiera (one scale for all); asked for by the user, they are its blocks.
        Family::Hiera(_) if !applied => (0, 0),
        Family::Hiera(numbers) => {
            let depth = numbers.stages.iter().sum();
            (transformer_layer(module, index(), depth), depth + 1)
        }
    }
}

fn transformer_layer(module: &str, index: usize, depth: usize) -> usize {
    match module {
        "cls_token" | "pos_embed" | "patch_embed" => 0,
        "blocks" => index + 1,
        _ => depth + 1,
    }
}

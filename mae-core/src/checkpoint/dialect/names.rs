//! The naming dialects.

use super::{Family, Role};

/// A name under which the model may know a tensor.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Candidate {
    pub(super) name: String,
    /// How it came about, for the report; empty when the name is the stored one.
    pub(super) rule: String,
    /// Whether the tensor is a MinkowskiEngine kernel.
    pub(super) sparse_kernel: bool,
}

/// What frameworks put before every name, to be removed as often as they occur.
const WRAPPERS: [&str; 5] = ["module.", "_orig_mod.", "model.", "backbone.", "_forward_module."];

/// All names under which `name` may be known, the likeliest first.
pub(super) fn candidates(name: &str, family: Family, role: Role) -> Vec<Candidate> {
    let mut found = vec![candidate(name.to_owned(), String::new())];
    let bare = unwrap(name);
    let inner = bare.strip_prefix("encoder.").unwrap_or(bare);
    let removed = |rest: &str| format!("`{}` removed", &name[..name.len() - rest.len()]);
    found.push(candidate(bare.to_owned(), removed(bare)));
    found.push(candidate(inner.to_owned(), removed(inner)));
    if inner == bare {
        found.push(candidate(format!("encoder.{bare}"), "`encoder.` added".into()));
    }
    let translated = match family {
        Family::ConvNeXtV2 => convnext(inner),
        Family::Hiera if role == Role::Full => hiera(inner),
        Family::Hiera | Family::Vit => None,
    };
    if let Some(translated) = translated {
        let with_encoder = Candidate { name: format!("encoder.{}", translated.name), ..translated.clone() };
        found.extend([translated, with_encoder]);
    }
    found
}

/// The name without what frameworks and encoders put before it.
pub(super) fn bare(name: &str) -> &str {
    let bare = unwrap(name);
    bare.strip_prefix("encoder.").unwrap_or(bare)
}

/// Parts of a masked autoencoder that only its pretraining uses.
pub(super) fn is_pretraining_only(name: &str) -> bool {
    let bare = unwrap(name);
    bare.contains("decoder")
        || bare.contains("mask_token")
        || bare.starts_with("proj.")
        || bare.starts_with("pred.")
        || bare.starts_with("encoder_norm.")
        || bare.starts_with("multi_scale_fusion_heads.")
}

/// The classifier, in any of its spellings.
pub(super) fn is_head(name: &str) -> bool {
    name.starts_with("head.") || name.starts_with("fc.") || name.starts_with("classifier.")
}

fn candidate(name: String, rule: String) -> Candidate {
    Candidate { name, rule, sparse_kernel: false }
}

fn unwrap(name: &str) -> &str {
    let mut bare = name;
    while let Some(rest) = WRAPPERS.iter().find_map(|wrapper| bare.strip_prefix(wrapper)) {
        bare = rest;
    }
    bare
}

/// MinkowskiEngine's and timm's names of ConvNeXt V2.
fn convnext(name: &str) -> Option<Candidate> {
    if let Some(layer) = name.strip_suffix(".kernel") {
        let rule = "MinkowskiEngine kernel".into();
        return Some(Candidate { name: format!("{layer}.weight"), rule, sparse_kernel: true });
    }
    // `norm.ln.weight`, `pwconv1.linear.weight`
    let sparse = name.replacen(".ln.", ".", 1).replacen(".linear.", ".", 1);
    if sparse != name {
        return Some(candidate(sparse, "MinkowskiEngine name".into()));
    }
    let translated = match name.split('.').collect::<Vec<_>>().as_slice() {
        ["stem", layer, rest] => format!("downsample_layers.0.{layer}.{rest}"),
        ["stages", stage, "downsample", layer, rest] => format!("downsample_layers.{stage}.{layer}.{rest}"),
        ["stages", stage, "blocks", block, rest @ ..] => {
            format!("stages.{stage}.{block}.{}", timm_block(&rest.join("."))?)
        }
        ["head", "norm", rest] => format!("norm.{rest}"),
        ["head", "fc", rest] => format!("head.{rest}"),
        _ => return None,
    };
    Some(candidate(translated, "timm name".into()))
}

fn timm_block(rest: &str) -> Option<String> {
    Some(match rest {
        "gamma" => return None,
        "mlp.grn.weight" => "grn.gamma".into(),
        "mlp.grn.bias" => "grn.beta".into(),
        _ => {
            let (layer, kind) = rest.rsplit_once('.')?;
            let layer = match layer {
                "conv_dw" => "dwconv",
                "norm" => "norm",
                "mlp.fc1" => "pwconv1",
                "mlp.fc2" => "pwconv2",
                _ => return None,
            };
            format!("{layer}.{kind}")
        }
    })
}

/// facebookresearch/hiera's names of the classifier.
fn hiera(name: &str) -> Option<Candidate> {
    let translated = match name.split('.').collect::<Vec<_>>().as_slice() {
        ["norm", rest] => format!("head.norm.{rest}"),
        ["head", "projection", rest] => format!("head.fc.{rest}"),
        _ => return None,
    };
    Some(candidate(translated, "facebookresearch/hiera name".into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_other_projects() {
        for (family, stored, expected) in [
            (Family::ConvNeXtV2, "module.model.encoder.stages.0.1.dwconv.kernel", "stages.0.1.dwconv.weight"),
            (Family::ConvNeXtV2, "encoder.stages.0.0.norm.ln.bias", "stages.0.0.norm.bias"),
            (Family::ConvNeXtV2, "stem.0.weight", "downsample_layers.0.0.weight"),
            (Family::ConvNeXtV2, "stages.2.downsample.1.bias", "downsample_layers.2.1.bias"),
            (Family::ConvNeXtV2, "stages.2.blocks.5.mlp.fc1.weight", "stages.2.5.pwconv1.weight"),
            (Family::ConvNeXtV2, "stages.2.blocks.5.mlp.grn.weight", "stages.2.5.grn.gamma"),
            (Family::ConvNeXtV2, "downsample_layers.0.0.weight", "encoder.downsample_layers.0.0.weight"),
            (Family::Vit, "module.blocks.0.attn.qkv.weight", "blocks.0.attn.qkv.weight"),
            (Family::Hiera, "head.projection.weight", "head.fc.weight"),
        ] {
            let found = candidates(stored, family, Role::Full);
            assert!(found.iter().any(|c| c.name == expected), "{stored}: {found:?}");
        }
    }
}

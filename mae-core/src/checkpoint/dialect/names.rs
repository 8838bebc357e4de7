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

/// The name without what frameworks put before it (`module.`, `model.`, `_orig_mod.`).
pub fn bare_name(name: &str) -> &str {
    unwrap(name)
}

/// timm's name of a tensor of the model; `None` for what only pretraining has. timm's GRN parameters are 1-dimensional.
pub fn timm_name(name: &str, family: Family) -> Option<String> {
    if is_pretraining_only(name) {
        return None;
    }
    let name = name.strip_prefix("encoder.").unwrap_or(name);
    if family != Family::ConvNeXtV2 {
        return Some(name.to_owned());
    }
    Some(match name.split('.').collect::<Vec<_>>().as_slice() {
        ["downsample_layers", "0", layer, kind] => format!("stem.{layer}.{kind}"),
        ["downsample_layers", stage, layer, kind] => format!("stages.{stage}.downsample.{layer}.{kind}"),
        ["stages", stage, block, layer, kind] => {
            let layer = match (*layer, *kind) {
                ("dwconv", kind) => format!("conv_dw.{kind}"),
                ("pwconv1", kind) => format!("mlp.fc1.{kind}"),
                ("pwconv2", kind) => format!("mlp.fc2.{kind}"),
                ("grn", "gamma") => "mlp.grn.weight".into(),
                ("grn", "beta") => "mlp.grn.bias".into(),
                (layer, kind) => format!("{layer}.{kind}"),
            };
            format!("stages.{stage}.blocks.{block}.{layer}")
        }
        ["norm", kind] => format!("head.norm.{kind}"),
        ["head", kind] => format!("head.fc.{kind}"),
        _ => name.to_owned(),
    })
}

/// The name of a tensor of the model in its paper's own project (facebookresearch).
pub fn paper_name(name: &str, family: Family) -> String {
    match (family, name.split('.').collect::<Vec<_>>().as_slice()) {
        (Family::Hiera, ["head", "norm", kind]) => format!("norm.{kind}"),
        (Family::Hiera, ["head", "fc", kind]) => format!("head.projection.{kind}"),
        _ => name.to_owned(),
    }
}

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
        Family::Vit => unchunked(inner),
        Family::Hiera => None,
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

/// The layer whose output DINOv2's LayerScale of this name multiplies: `blocks.3.ls1.gamma` → `blocks.3.attn.proj`.
pub(super) fn scaled_layer(name: &str) -> Option<String> {
    let bare = unwrap(name);
    let bare = unchunked(bare).map_or_else(|| bare.to_owned(), |candidate| candidate.name);
    let (block, scale) = bare.strip_suffix(".gamma")?.rsplit_once('.')?;
    let layer = match scale {
        "ls1" => "attn.proj",
        "ls2" => "mlp.fc2",
        _ => return None,
    };
    block.starts_with("blocks.").then(|| format!("{block}.{layer}"))
}

/// DINOv2 trains large models in chunks of blocks, and names them: `blocks.1.12.norm1.weight` is of block 12.
fn unchunked(name: &str) -> Option<Candidate> {
    let parts: Vec<&str> = name.split('.').collect();
    let is_number = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    match parts.as_slice() {
        ["blocks", chunk, block, rest @ ..] if is_number(chunk) && is_number(block) => {
            Some(candidate(format!("blocks.{block}.{}", rest.join(".")), "DINOv2 chunk of blocks".into()))
        }
        _ => None,
    }
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
    fn layers_with_a_scale() {
        assert_eq!(scaled_layer("module.blocks.3.ls1.gamma").as_deref(), Some("blocks.3.attn.proj"));
        assert_eq!(scaled_layer("blocks.0.3.ls2.gamma").as_deref(), Some("blocks.3.mlp.fc2"));
        assert_eq!(scaled_layer("stages.0.1.grn.gamma"), None);
    }

    #[test]
    fn names_for_other_projects_come_back() {
        let names = [
            "downsample_layers.0.1.bias",
            "downsample_layers.3.0.weight",
            "stages.1.2.dwconv.weight",
            "stages.1.2.norm.bias",
            "stages.1.2.pwconv1.weight",
            "stages.1.2.pwconv2.bias",
            "stages.1.2.grn.gamma",
            "stages.1.2.grn.beta",
            "norm.weight",
            "head.weight",
        ];
        for name in names {
            let timm = timm_name(name, Family::ConvNeXtV2).unwrap();
            assert_ne!(timm, name);
            let back = candidates(&timm, Family::ConvNeXtV2, Role::Full);
            assert!(back.iter().any(|c| c.name == name), "{name} → {timm}: {back:?}");
        }
        for name in ["head.norm.weight", "head.fc.bias"] {
            let paper = paper_name(name, Family::Hiera);
            let back = candidates(&paper, Family::Hiera, Role::Full);
            assert!(back.iter().any(|c| c.name == name), "{name} → {paper}");
        }
        assert_eq!(timm_name("decoder.0.norm.weight", Family::ConvNeXtV2), None);
    }

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
            (Family::Vit, "blocks.1.12.mlp.fc1.bias", "blocks.12.mlp.fc1.bias"),
            (Family::Hiera, "head.projection.weight", "head.fc.weight"),
        ] {
            let found = candidates(stored, family, Role::Full);
            assert!(found.iter().any(|c| c.name == expected), "{stored}: {found:?}");
        }
    }
}

//! Every key that TAO reads and ignores: without effect when unset or under `compat: tao`, honoured and announced when set.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a failed expectation is a failed test")]

use mae_cli::spec::schema::{self, Upstream};
use mae_cli::spec::{Action, Plan};
use mae_core::arch::Arch;
use mae_core::backbone::Purpose;

fn load(overrides: &[&str], action: Action) -> Plan {
    let folder = tempfile::tempdir().unwrap();
    let spec = folder.path().join("spec.yaml");
    std::fs::write(
        &spec,
        "results_dir: /r\ndataset: {train_data_sources: /d, val_data_sources: /v, test_data_sources: /t}\n\
         evaluate: {checkpoint: c.pth}\ninference: {checkpoint: c.pth}\n",
    )
    .unwrap();
    Plan::load(&spec, overrides, action).unwrap()
}

/// Key, value, the rest of a run in which it matters, action.
const CASES: &[(&str, &str, &[&str], Action)] = &[
    ("dataset.augmentation.input_size", "192", &["model.arch=vit_base_patch16"], Action::Train),
    ("model.drop_path_rate", "0.3", &[], Action::Train),
    ("model.global_pool", "false", &["train.stage=finetune", "model.arch=vit_base_patch16"], Action::Train),
    ("model.decoder_depth", "3", &[], Action::Train),
    ("model.decoder_embed_dim", "256", &[], Action::Train),
    ("train.norm_pix_loss", "false", &["model.arch=hiera_tiny_224"], Action::Train),
    ("train.optim.layer_decay", "0.65", &["train.stage=finetune"], Action::Train),
    ("train.optim.backbone_multiplier", "0.2", &["train.stage=finetune"], Action::Train),
    ("train.optim.momentum", "0.8", &[], Action::Train),
    ("evaluate.batch_size", "7", &["train.stage=finetune"], Action::Evaluate),
    ("inference.batch_size", "7", &["train.stage=finetune"], Action::Inference),
];

#[test]
fn every_ignored_key_is_announced_once_when_it_is_set() {
    for (path, _, leaf) in schema::leaves() {
        if let Upstream::IgnoredHonouredHere(_) = leaf.upstream {
            assert!(CASES.iter().any(|(key, ..)| *key == path), "{path} has no case here");
        }
    }
    for (key, value, rest, action) in CASES {
        let set = format!("{key}={value}");
        let mut overrides = rest.to_vec();
        let about = |plan: &Plan| {
            plan.differences_from_tao()
                .iter()
                .filter(|line| line.starts_with(&format!("{key} = {value}")))
                .count()
        };
        assert_eq!(about(&load(&overrides, *action)), 0, "{key} is not set");
        overrides.push(&set);
        let plan = load(&overrides, *action);
        assert!(plan.is_honoured(key), "{key}");
        assert_eq!(about(&plan), 1, "{key}: {:?}", plan.differences_from_tao());
        overrides.push("compat=tao");
        let plan = load(&overrides, *action);
        assert!(!plan.is_honoured(key) && about(&plan) == 0, "{key} under compat=tao");
    }
}

#[test]
fn models_are_what_is_set_and_tao_s_otherwise() {
    let pretrain = |overrides: &[&str]| {
        let plan = load(overrides, Action::Train);
        plan.pretrain_config(Arch::by_name(&plan.model.arch).unwrap())
    };
    let set = ["model.drop_path_rate=0.3", "model.decoder_depth=3", "model.decoder_embed_dim=256"];
    let config = pretrain(&set);
    assert_eq!(
        (config.drop_path_rate, config.decoder_depth, config.decoder_embed_dim),
        (0.3, Some(3), Some(256))
    );
    for unset in [pretrain(&[]), pretrain(&[&set[..], &["compat=tao"]].concat())] {
        assert_eq!((unset.drop_path_rate, unset.decoder_depth, unset.decoder_embed_dim), (0.0, None, None));
        assert!(!unset.sparse_encoder);
    }
    let hiera = "model.arch=hiera_tiny_224";
    assert!(pretrain(&[hiera]).norm_pix_loss);
    assert!(!pretrain(&[hiera, "train.norm_pix_loss=false"]).norm_pix_loss);
    assert!(
        pretrain(&[hiera, "train.norm_pix_loss=false", "compat=tao"]).norm_pix_loss,
        "TAO always normalises"
    );
    assert!(
        !pretrain(&["model.arch=vit_base_patch16", "train.norm_pix_loss=false", "compat=tao"]).norm_pix_loss
    );
    assert!(pretrain(&["model.sparse_encoder=true"]).sparse_encoder);

    let classifier = |overrides: &[&str]| load(overrides, Action::Train).classifier_config().purpose;
    let vit = ["train.stage=finetune", "model.arch=vit_base_patch16", "model.global_pool=false"];
    assert_eq!(classifier(&vit), Purpose::Features);
    assert_eq!(classifier(&vit[..2]), Purpose::Finetune);
    assert_eq!(classifier(&[&vit[..], &["compat=tao"]].concat()), Purpose::Finetune);
}

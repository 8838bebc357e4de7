//! Names, shapes, order and trainability of every architecture in every role equal the catalogue of the goldens.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "a failed expectation is a failed test"
)]

mod common;

use common::read_json;
use mae_core::arch::Arch;
use mae_core::backbone::Purpose;
use mae_core::classify::{Classifier, ClassifierConfig};
use mae_core::params::{Declare, ParamSpec};
use mae_core::pretrain::{MaskedAutoencoder, PretrainConfig};

fn declare(arch: &Arch, role: &str) -> Vec<ParamSpec> {
    // As `Model::backbone` declares it: a pretrained encoder is used, not trained.
    let root = if role == "export_backbone" { Declare::frozen_root() } else { Declare::root() };
    let classifier = |purpose| {
        let config = ClassifierConfig { num_classes: 10, drop_path_rate: 0.0, purpose };
        Classifier::declare(&root, arch, (224, 224), &config).unwrap();
    };
    match role {
        "pretrain" => {
            MaskedAutoencoder::declare(&root, arch, (224, 224), PretrainConfig::default()).unwrap();
        }
        "finetune" => classifier(Purpose::Finetune),
        "export_backbone" => classifier(Purpose::Features),
        other => panic!("unknown role {other}"),
    }
    root.into_specs()
}

#[test]
fn every_architecture_in_every_role_has_the_catalogues_tensors() {
    let catalogue = read_json("catalog.json");
    let archs = catalogue["archs"].as_object().unwrap();
    assert!(!archs.is_empty());
    for (name, roles) in archs {
        let arch = Arch::by_name(name).unwrap();
        for (role, expected) in roles.as_object().unwrap() {
            let specs = declare(arch, role);
            let rows: Vec<_> = specs
                .iter()
                .map(|s| serde_json::json!([s.name, s.shape, "float32", s.trainable, false]))
                .collect();
            let tensors = expected["tensors"].as_array().unwrap();
            for (row, tensor) in rows.iter().zip(tensors) {
                assert_eq!(row, tensor, "{name} {role}");
            }
            assert_eq!(rows.len(), tensors.len(), "{name} {role}");
            let params: i64 = specs.iter().map(ParamSpec::numel).sum();
            assert_eq!(params, expected["num_params"].as_i64().unwrap(), "{name} {role}");
            let trainable: i64 = specs.iter().filter(|s| s.trainable).map(ParamSpec::numel).sum();
            assert_eq!(trainable, expected["num_trainable"].as_i64().unwrap(), "{name} {role}");
        }
    }
}

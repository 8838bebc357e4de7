//! Foreign checkpoints into our models: which tensor lands where, with which values.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

mod checkpoint_common;

use checkpoint_common::{check_tensor, close, goldens, json, shape};
use mae_core::checkpoint::dialect::{
    Facts, Family, LoadPlan, Role, SkipReason, Stage, Transform, plan, plan_on_grid, resize_positions,
};
use mae_core::checkpoint::{Checkpoint, Error, TensorView};
use serde_json::Value as Json;
use tch::{Device, Kind, Tensor};

/// Names and shapes of a model, the head for `num_classes`.
fn target(catalog: &Json, arch: &str, role: &str, num_classes: i64) -> Vec<(String, Vec<i64>)> {
    let rows = catalog["archs"][arch][role]["tensors"].as_array().unwrap();
    let row = |row: &Json| {
        let name = row[0].as_str().unwrap().to_owned();
        let mut shape = shape(&row[1]);
        if ["head.weight", "head.bias", "head.fc.weight", "head.fc.bias"].contains(&name.as_str()) {
            shape[0] = num_classes;
        }
        (name, shape)
    };
    rows.iter().map(row).collect()
}

fn family(arch: &str) -> Family {
    match arch {
        _ if arch.starts_with("convnext") => Family::ConvNeXtV2,
        _ if arch.starts_with("vit") => Family::Vit,
        _ => Family::Hiera,
    }
}

fn catalog() -> Json {
    // The small copies bring their own part of it.
    let own = goldens().join("checkpoints/catalog.json");
    json(&if own.exists() { own } else { goldens().join("catalog.json") })
}

/// The fill rule of the goldens.
fn filled(salt: &str, name: &str, shape: &[i64]) -> Vec<f64> {
    let key = if salt.is_empty() { name.to_owned() } else { format!("{salt}:{name}") };
    let hash = key.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
    });
    let numel: i64 = shape.iter().product();
    let last = name.rsplit('.').next().unwrap();
    (0..numel as u64)
        .map(|index| {
            let mut z = hash.wrapping_add(index).wrapping_add(0x9E37_79B9_7F4A_7C15);
            z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
            z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
            let w = 2.0 * (((z ^ (z >> 31)) >> 11) as f64 * 2_f64.powi(-53)) - 1.0;
            let value = match (last, shape) {
                ("gamma", _) => w * 0.5,
                ("beta" | "bias", _) => w * 0.1,
                (_, [_]) => 1.0 + w * 0.1,
                (_, [1, ..]) => w * 0.5,
                _ => w * (3.0 / (numel / shape[0]) as f64).sqrt(),
            };
            f64::from(value as f32)
        })
        .collect()
}

fn values(tensor: &Tensor) -> Vec<f64> {
    Vec::<f64>::try_from(tensor.to_kind(Kind::Double).reshape([-1])).unwrap()
}

fn load(file: &str, description: &Json, role: Role) -> Result<LoadPlan, Error> {
    let arch = description["arch"].as_str().unwrap();
    let num_classes = description["num_classes"].as_i64().unwrap();
    let checkpoint = Checkpoint::open(goldens().join("checkpoints/foreign").join(file)).unwrap();
    let kind = if role == Role::Backbone { "export_backbone" } else { "finetune" };
    let target = target(&catalog(), arch, kind, num_classes);
    plan(&checkpoint.state_dict().unwrap(), &target, family(arch), role)
}

#[test]
fn foreign_checkpoints_load_what_upstream_loads_and_more() {
    let expected = json(&goldens().join("checkpoints/foreign/expected.json"));
    let salt = expected["salt"].as_str().unwrap();
    let mut checked = 0;
    for (file, description) in expected["files"].as_object().unwrap() {
        if description.get("arch").is_none() || !goldens().join("checkpoints/foreign").join(file).exists() {
            continue;
        }
        let role = if file.contains("export_backbone") { Role::Backbone } else { Role::Finetune };
        let plan = match load(file, description, role) {
            Ok(plan) => plan,
            // Nothing but a head for another number of classes, on which upstream fails, too.
            Err(error) => {
                assert_eq!(description["upstream"]["upstream_result"], "exception", "{file}: {error}");
                continue;
            }
        };
        let upstream = description["upstream"]["loaded_keys"].as_object();
        for (name, tensor) in upstream.into_iter().flatten() {
            let assignment = plan.assignments.iter().find(|assignment| &assignment.target == name);
            let found =
                assignment.unwrap_or_else(|| panic!("{file}: {name} is not loaded")).to_tensor().unwrap();
            check_tensor(name, &TensorView::from_tensor(&found).unwrap(), tensor);
        }
        // Whatever upstream does not manage has the values of the rule, too.
        for assignment in &plan.assignments {
            if assignment.transforms.iter().any(|transform| matches!(transform, Transform::Positions { .. }))
            {
                continue;
            }
            let tensor = assignment.to_tensor().unwrap();
            let rule = filled(salt, &assignment.target, &tensor.size());
            assert_eq!(values(&tensor), rule, "{file}: {}", assignment.target);
        }
        let report = &plan.report;
        assert_eq!(report.loaded_tensors(), plan.assignments.len());
        assert_eq!(report.loaded_tensors() + report.skipped.len(), report.source_tensors, "{file}");
        assert_eq!(report.loaded_tensors() + report.missing.len(), report.target_tensors, "{file}");
        checked += 1;
    }
    assert!(checked > 0);
}

#[test]
fn what_upstream_drops_silently_or_fails_on_loads() {
    if !goldens().join("checkpoints/foreign/convnextv2_atto_fcmae_minkowski.pth").exists() {
        return;
    }
    let expected = json(&goldens().join("checkpoints/foreign/expected.json"));
    let load = |file: &str| load(file, &expected["files"][file], Role::Finetune).unwrap();
    let prefixed = load("convnextv2_atto_model_prefix_only.pth");
    assert_eq!(prefixed.report.renamed.len(), prefixed.report.source_tensors);
    let sparse = load("convnextv2_atto_fcmae_minkowski.pth");
    assert!(sparse.report.skipped.iter().all(|skipped| skipped.reason == SkipReason::PretrainingOnly));
}

#[test]
fn a_hiera_head_for_other_classes_is_dropped() {
    let source = synthetic(&[("model.pos_embed", &[1, 49, 8]), ("model.head.fc.weight", &[7, 8])]);
    let target = model(&[("pos_embed", &[1, 49, 8]), ("head.fc.weight", &[10, 8])]);
    let plan = plan(&source, &target, Family::Hiera, Role::Finetune).unwrap();
    assert_eq!(plan.assignments.len(), 1);
    assert!(matches!(plan.report.skipped[0].reason, SkipReason::HeadShape { .. }));
}

#[test]
fn lightning_checkpoints_initialise_a_finetuning_and_load_in_full() {
    let folder = goldens().join("checkpoints");
    let pretrained = folder.join("lightning_pretrain_atto/model_epoch_000_step_00002.pth");
    if !pretrained.exists() {
        return;
    }
    let catalog = catalog();
    let source = Checkpoint::open(&pretrained).unwrap().state_dict().unwrap();
    let finetune = target(&catalog, "convnextv2_atto", "finetune", 10);
    let from_pretrained = plan(&source, &finetune, Family::ConvNeXtV2, Role::Finetune).unwrap();
    assert_eq!(from_pretrained.report.missing, ["norm.weight", "norm.bias", "head.weight", "head.bias"]);
    let own = target(&catalog, "convnextv2_atto", "pretrain", 10);
    let full = plan(&source, &own, Family::ConvNeXtV2, Role::Full).unwrap();
    assert_eq!(full.assignments.len(), own.len());
    // A finetuned model is not in a pretraining checkpoint.
    let refused = plan(&source, &finetune, Family::ConvNeXtV2, Role::Full).unwrap_err();
    assert!(matches!(refused, Error::LoadRefused { .. }));
    let tuned =
        Checkpoint::open(folder.join("lightning_finetune_atto/model_epoch_000_step_00002.pth")).unwrap();
    let four = target(&catalog, "convnextv2_atto", "finetune", 4);
    let full = plan(&tuned.state_dict().unwrap(), &four, Family::ConvNeXtV2, Role::Full).unwrap();
    assert!(full.report.missing.is_empty() && full.report.skipped.is_empty());
}

fn synthetic(tensors: &[(&str, &[i64])]) -> Vec<(String, TensorView)> {
    let build = |(name, shape): &(&str, &[i64])| {
        let values = vec![1.0; shape.iter().product::<i64>() as usize];
        ((*name).to_owned(), TensorView::from_f32(shape, &values).unwrap())
    };
    tensors.iter().map(build).collect()
}

fn model(tensors: &[(&str, &[i64])]) -> Vec<(String, Vec<i64>)> {
    tensors.iter().map(|(name, shape)| ((*name).to_owned(), shape.to_vec())).collect()
}

#[test]
fn the_report_reads_well() {
    let source = synthetic(&[
        ("module.model.encoder.stages.0.0.dwconv.bias", &[1, 8]),
        ("module.model.encoder.stages.0.0.grn.gamma", &[1, 32]),
        ("module.model.encoder.stages.0.0.norm.weight", &[8]),
        ("module.model.encoder.stages.0.0.norm.bias", &[8]),
        ("module.model.decoder.0.norm.weight", &[8]),
        ("module.model.mask_token", &[1, 8, 1, 1]),
        ("head.weight", &[1000, 8]),
        ("ema.decay", &[1]),
    ]);
    let target = model(&[
        ("stages.0.0.dwconv.bias", &[8]),
        ("stages.0.0.grn.gamma", &[1, 1, 1, 32]),
        ("stages.0.0.norm.weight", &[8]),
        ("stages.0.0.norm.bias", &[8]),
        ("head.weight", &[10, 8]),
        ("head.bias", &[10]),
    ]);
    let plan = plan(&source, &target, Family::ConvNeXtV2, Role::Finetune).unwrap();
    insta::assert_snapshot!(plan.report.to_string());
}

#[test]
fn another_architecture_is_refused() {
    let resnet =
        synthetic(&[("layer1.0.conv1.weight", &[8, 8, 3, 3]), ("bn1.weight", &[8]), ("fc.weight", &[10, 8])]);
    let vit = model(&[("cls_token", &[1, 1, 8]), ("head.weight", &[10, 8])]);
    insta::assert_snapshot!(plan(&resnet, &vit, Family::Vit, Role::Finetune).unwrap_err().to_string());
    let larger = synthetic(&[("cls_token", &[1, 1, 16]), ("norm.weight", &[16])]);
    insta::assert_snapshot!(plan(&larger, &vit, Family::Vit, Role::Finetune).unwrap_err().to_string());
    assert!(plan(&[], &vit, Family::Vit, Role::Finetune).is_err());
}

#[test]
fn position_embeddings_are_resampled_as_upstream_does() {
    let folder = goldens().join("pos_embed");
    if !folder.is_dir() {
        return;
    }
    let cases = json(&folder.join("pos_embed.json"));
    let mut checked = 0;
    for case in cases["interpolation"].as_array().unwrap() {
        // The other source is the sin-cos table, whose making is not the subject here.
        if case["source"] != "filled" {
            continue;
        }
        let shape = shape(&case["source_shape"]);
        let source: Vec<f32> = filled("", "pos_embed", &shape).iter().map(|value| *value as f32).collect();
        let source = Tensor::from_slice(&source).reshape(&shape);
        let to = case["to"].as_i64().unwrap();
        let resized = resize_positions(&source, 1, (to, to)).unwrap();
        let expected = Tensor::read_npy(folder.join(case["file"].as_str().unwrap())).unwrap();
        assert_eq!(resized.size(), expected.size());
        let difference = (resized - expected).abs().max().double_value(&[]);
        assert!(difference < 1e-5, "{}: {difference}", case["file"]);
        checked += 1;
    }
    assert!(checked > 0);
}

#[test]
fn positions_of_other_image_sizes_fit() {
    // ViT with a class token, Hiera without.
    for (family, from, to) in [(Family::Vit, 50, 197), (Family::Hiera, 49, 196)] {
        let source = synthetic(&[("pos_embed", &[1, from, 8])]);
        let plan = plan(&source, &model(&[("pos_embed", &[1, to, 8])]), family, Role::Full).unwrap();
        assert_eq!(plan.report.interpolated.len(), 1);
        let resized = plan.assignments[0].to_tensor().unwrap();
        assert_eq!(resized.size(), [1, to, 8]);
        // Bicubic weights sum to one.
        assert!(values(&resized).iter().all(|value| close(*value, 1.0)));
    }
}

#[test]
fn positions_of_a_square_fit_a_rectangle() {
    let source = synthetic(&[("pos_embed", &[1, 16, 8])]);
    let target = model(&[("pos_embed", &[1, 18, 8])]);
    assert!(plan(&source, &target, Family::Hiera, Role::Full).is_err());
    let plan = plan_on_grid(&source, &target, Family::Hiera, Role::Full, Some((3, 6))).unwrap();
    assert_eq!(
        plan.assignments[0].transforms,
        [Transform::Positions { extra_tokens: 0, from: 4, to: (3, 6) }]
    );
    assert_eq!(plan.assignments[0].to_tensor().unwrap().size(), [1, 18, 8]);
    assert!(plan.report.to_string().contains("4x4 to 3x6 positions"), "{}", plan.report);

    // A ramp down the rows stays one, and the columns stay equal.
    let ramp = Tensor::arange(4, (Kind::Float, Device::Cpu)).reshape([4, 1, 1]).repeat([1, 4, 2]);
    let resized = resize_positions(&ramp.reshape([1, 16, 2]), 0, (3, 6)).unwrap().reshape([3, 6, 2]);
    let across = (resized.select(1, 0) - resized.select(1, 5)).abs().max().double_value(&[]);
    assert!(across < 1e-6, "{across}");
    let rows: Vec<f64> = (0..3).map(|row| resized.double_value(&[row, 0, 0])).collect();
    assert!(rows[0] < rows[1] && rows[1] < rows[2], "{rows:?}");
}

/// Whatever framework wrapped a model, its names and shapes tell which one it is.
#[test]
fn names_and_shapes_tell_the_model() {
    let catalog = catalog();
    for (arch, roles) in catalog["archs"].as_object().unwrap() {
        for (role, wrapper) in
            [("pretrain", ""), ("pretrain", "model."), ("finetune", ""), ("finetune", "module.")]
        {
            if roles.get(role).is_none() {
                continue;
            }
            let tensors: Vec<_> = target(&catalog, arch, role, 7)
                .into_iter()
                .map(|(name, shape)| (format!("{wrapper}{name}"), shape))
                .collect();
            let facts =
                Facts::of_tensors(tensors.iter().map(|(name, shape)| (name.as_str(), shape.as_slice())));
            let stage = if role == "pretrain" { Stage::Pretrain } else { Stage::Finetune };
            assert_eq!(facts.arch.as_deref(), Some(arch.as_str()), "{arch} {role}");
            assert_eq!(facts.stage, Some(stage), "{arch} {role}");
            assert_eq!(facts.num_classes, (stage == Stage::Finetune).then_some(7), "{arch} {role}");
            let size = (!arch.starts_with("convnext")).then_some(224);
            assert_eq!(facts.input_size, size, "{arch} {role}");
        }
    }
    assert_eq!(Facts::of_tensors(std::iter::once(("weights", [3i64, 4].as_slice()))), Facts::default());
}

/// Files that TAO wrote show what they are by their tensors alone.
#[test]
fn facts_of_files() {
    let mut told = 0;
    for (folder, stage, num_classes) in [
        ("lightning_pretrain_atto", Stage::Pretrain, None),
        ("lightning_finetune_atto", Stage::Finetune, Some(4)),
    ] {
        let Ok(entries) = std::fs::read_dir(goldens().join("checkpoints").join(folder)) else { continue };
        for path in entries.map(|entry| entry.unwrap().path()) {
            let name = path.file_name().unwrap().to_string_lossy().into_owned();
            if !name.starts_with("model_epoch_") || !name.ends_with(".pth") {
                continue;
            }
            let facts = Facts::of(&Checkpoint::open(&path).unwrap());
            assert_eq!(facts.arch.as_deref(), Some("convnextv2_atto"), "{name}");
            assert_eq!(facts.stage, Some(stage), "{name}");
            assert_eq!(facts.num_classes, num_classes, "{name}");
            told += 1;
        }
    }
    assert!(told > 0);
}

/// A ViT as DINOv2 stores it, of one block and 4 channels: chunked, with registers and LayerScale, patches of 14 pixels.
#[test]
fn dinov2() {
    let tensor = |shape: &[i64]| {
        let numel: i64 = shape.iter().product();
        let values: Vec<f32> = (0..numel).map(|i| ((i * 7 + 3) % 11) as f32 - 5.0).collect();
        TensorView::from_f32(shape, &values).unwrap()
    };
    let source: Vec<(String, TensorView)> = [
        ("cls_token", &[1, 1, 4][..]),
        ("pos_embed", &[1, 1 + 25, 4]),
        ("mask_token", &[1, 4]),
        ("register_tokens", &[1, 2, 4]),
        ("patch_embed.proj.weight", &[4, 3, 14, 14]),
        ("patch_embed.proj.bias", &[4]),
        ("blocks.0.0.attn.proj.weight", &[4, 4]),
        ("blocks.0.0.attn.proj.bias", &[4]),
        ("blocks.0.0.ls1.gamma", &[4]),
        ("blocks.0.0.mlp.fc2.weight", &[4, 8]),
        ("blocks.0.0.mlp.fc2.bias", &[4]),
        ("blocks.0.0.ls2.gamma", &[4]),
        ("norm.weight", &[4]),
    ]
    .map(|(name, shape)| (name.to_owned(), tensor(shape)))
    .to_vec();
    let target: Vec<(String, Vec<i64>)> = [
        ("cls_token", &[1, 1, 4][..]),
        ("pos_embed", &[1, 1 + 4, 4]),
        ("patch_embed.proj.weight", &[4, 3, 16, 16]),
        ("patch_embed.proj.bias", &[4]),
        ("blocks.0.attn.proj.weight", &[4, 4]),
        ("blocks.0.attn.proj.bias", &[4]),
        ("blocks.0.mlp.fc2.weight", &[4, 8]),
        ("blocks.0.mlp.fc2.bias", &[4]),
        ("norm.weight", &[4]),
    ]
    .map(|(name, shape)| (name.to_owned(), shape.to_vec()))
    .to_vec();
    let loaded = plan(&source, &target, Family::Vit, Role::Finetune).unwrap();
    insta::assert_snapshot!(loaded.report.to_string());
    let find = |name: &str| loaded.assignments.iter().find(|a| a.target == name).unwrap();
    let stored = |name: &str| source.iter().find(|(n, _)| n == name).unwrap().1.to_tensor().unwrap();

    // The layer with its scale multiplied in gives what layer and scale gave.
    let x = Tensor::arange(8, (Kind::Float, Device::Cpu)).reshape([1, 8]);
    let (w, b) = (stored("blocks.0.0.mlp.fc2.weight"), stored("blocks.0.0.mlp.fc2.bias"));
    let expected = x.linear(&w, Some(&b)) * stored("blocks.0.0.ls2.gamma");
    let (w, b) = (
        find("blocks.0.mlp.fc2.weight").to_tensor().unwrap(),
        find("blocks.0.mlp.fc2.bias").to_tensor().unwrap(),
    );
    assert_eq!(values(&x.linear(&w, Some(&b))), values(&expected));
    assert!(find("norm.weight").layer_scale.is_none());

    let patches = find("patch_embed.proj.weight").to_tensor().unwrap();
    assert_eq!(patches.size(), [4, 3, 16, 16]);
    let resized = stored("patch_embed.proj.weight").upsample_bicubic2d([16, 16], false, None, None);
    assert_eq!(values(&patches), values(&resized));
}

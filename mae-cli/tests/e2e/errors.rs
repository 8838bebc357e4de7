//! What a user reads when something is wrong: it names the thing and the remedy, ends with the documented exit code, and
//! leaves nothing half-written.

use std::fs;

use crate::common::{
    Image, Sandbox, demo_images, files_below, goldens, leftovers, results_csv, status_lines, workspace,
    write_archive, write_folder,
};

/// Exit codes, as `mae --help` lists them.
const SPEC: i32 = 1;
const RUNNING: i32 = 2;
const DATA: i32 = 3;

/// Runs a command that must fail with this code, and compares what it says with the snapshot of that name.
#[track_caller]
fn refused(sandbox: &Sandbox, name: &str, code: i32, arguments: &str) {
    let before = leftovers(&sandbox.path(""));
    let run = sandbox.mae(arguments);
    let said = run.stderr.replace(sandbox.path("").to_str().unwrap(), "[folder]/");
    assert_eq!(run.code, Some(code), "{name}: {said}");
    assert_eq!(run.stdout, "", "{name}");
    for word in ["panicked", "backtrace", ".rs:", "\u{1b}"] {
        assert!(!said.contains(word), "{name} is not for a user: {said}");
    }
    assert_eq!(leftovers(&sandbox.path("")), before, "{name} left something");
    let status = files_below(&sandbox.path("results")).into_iter().find(|file| file.ends_with("status.json"));
    if let Some(status) = status {
        let last = status_lines(&sandbox.path("results").join(status)).pop().unwrap();
        assert_eq!(last["status"], "FAILURE", "{name}");
        fs::remove_dir_all(sandbox.path("results")).unwrap();
    }
    let arguments = arguments.split_whitespace().collect::<Vec<_>>().join(" ");
    insta::with_settings!({ omit_expression => true, prepend_module_to_snapshot => false }, {
        insta::assert_snapshot!(name, format!("$ mae {arguments}\n{said}exit code {code}"));
    });
}

#[test]
fn specs() {
    let sandbox = Sandbox::new().with_specs().with_images(1, 1);
    let refused = |name: &str, arguments: &str| refused(&sandbox, name, SPEC, arguments);
    refused("no_spec", "train");
    refused("spec_missing", "train -e nowhere.yaml");
    refused("unknown_action", "tran -e finetune.yaml");
    refused("unknown_key", "train -e finetune.yaml train.num_epoch=3");
    sandbox.write("typo.yaml", "results_dir: results\ndataset:\n  augmentation:\n    input_sise: 32\n");
    refused("unknown_key_in_file", "train -e typo.yaml");
    refused("wrong_type", "train -e finetune.yaml train.num_epochs=many");
    refused("out_of_bounds", "train -e finetune.yaml dataset.augmentation.hflip=2");
    refused("unknown_arch", "train -e finetune.yaml model.arch=convnextv2_ato");
    refused("input_size", "train -e pretrain.yaml dataset.augmentation.input_size=50");
    refused("mask_ratio", "train -e pretrain.yaml dataset.augmentation.input_size=32");
    refused("augmentation_policy", "train -e finetune.yaml dataset.augmentation.auto_aug=rnd-m9");
    refused("pretrain_inference", "inference -e finetune.yaml train.stage=pretrain");
    refused("no_test_data", "inference -e finetune.yaml dataset.test_data_sources=null");
    refused("freeze_all", "train -e finetune.yaml train.freeze=[downsample_layers,stages,norm,head]");
    sandbox.write("occupied", "a file");
    refused("results_below_a_file", "train -e finetune.yaml results_dir=occupied/results");
}

#[test]
fn a_gpu_that_is_not_there() {
    if std::path::Path::new("/proc/driver/nvidia/version").exists() {
        eprintln!("skipped: this machine has an NVIDIA driver");
        return;
    }
    let sandbox = Sandbox::new().with_specs().with_images(1, 1);
    refused(&sandbox, "no_gpu", RUNNING, "train -e finetune.yaml device=cuda");
}

#[test]
fn data_sources() {
    let sandbox = Sandbox::new().with_specs().with_images(1, 1);
    let refused = |name: &str, arguments: &str| refused(&sandbox, name, DATA, arguments);
    let train = |source: &str| format!("train -e finetune.yaml dataset.train_data_sources={source}");
    refused("data_missing", &train("nowhere"));

    sandbox.write("nothing.tar.gz", "");
    refused("archive_of_no_bytes", &train("nothing.tar.gz"));
    write_archive(&sandbox.path("empty.tar.gz"), &[]);
    refused("archive_empty", &train("empty.tar.gz"));
    let texts: Vec<Image> =
        ["boots/readme.txt", "boots/list.csv"].map(|name| (name.to_owned(), b"text".to_vec())).into();
    write_archive(&sandbox.path("texts.tar.gz"), &texts);
    refused("archive_without_images", &train("texts.tar.gz"));

    let images = demo_images("train", 1);
    for name in ["whole.tar", "whole.tar.gz"] {
        write_archive(&sandbox.path(name), &images);
        let bytes = fs::read(sandbox.path(name)).unwrap();
        // Inside the picture of a member, not between two.
        sandbox.write(&name.replace("whole", "cut"), &bytes[..bytes.len() / 2 / 1024 * 1024 - 300]);
    }
    refused("archive_cut_off", &train("cut.tar.gz"));
    refused("plain_archive_cut_off", &train("cut.tar"));
    sandbox.write("archive.7z", b"7z\xbc\xaf\x27\x1c and so on");
    refused("archive_of_another_kind", &train("archive.7z"));

    refused("classes_of_the_model", "train -e finetune.yaml model.num_classes=7");
    refused("batch_larger_than_the_data", "train -e finetune.yaml dataset.batch_size=64");
    write_folder(&sandbox.path("nine"), &demo_images("val", 1)[1..]);
    refused("classes_of_validation", "train -e finetune.yaml dataset.val_data_sources=nine");
    fs::create_dir(sandbox.path("train/aprons")).unwrap();
    refused("class_without_images", "train -e finetune.yaml");
}

/// `count` of the first class's images become files that no decoder reads.
fn spoil(images: &mut [Image], count: usize) {
    for (_, bytes) in &mut images[..count] {
        *bytes = b"not an image".to_vec();
    }
}

#[test]
fn unreadable_images() {
    let sandbox = Sandbox::new().with_specs();
    let (mut train, mut val) = (demo_images("train", 8), demo_images("val", 2));
    spoil(&mut train, 2);
    spoil(&mut val, 1);
    write_folder(&sandbox.path("train"), &train);
    write_folder(&sandbox.path("val"), &val);

    // Each of both lies in the first batch, so that no step is made.
    refused(
        &sandbox,
        "unreadable_images",
        DATA,
        "train -e finetune.yaml dataset.batch_size=80 dataset.max_bad_fraction=0.02",
    );

    sandbox.mae("train -e finetune.yaml dataset.max_bad_fraction=0.05").passed();
    let folder = sandbox.path("results/finetune");
    let listed = fs::read_to_string(folder.join("train/bad_samples.csv")).unwrap();
    insta::with_settings!({ omit_expression => true, prepend_module_to_snapshot => false }, {
        insta::assert_snapshot!("bad_samples", listed);
    });

    // An image without pixels has no class and counts for no metric.
    let run = sandbox.mae("inference -e finetune.yaml dataset.max_bad_fraction=0.05").passed();
    assert!(
        run.stderr.contains("1 image could not be read, or not in full, first val/ankle_boot/"),
        "{}",
        run.stderr
    );
    let rows = results_csv(&folder.join("inference/results.csv"));
    assert_eq!(rows.len(), 19);
    let run = sandbox.mae("evaluate -e finetune.yaml dataset.max_bad_fraction=0.05").passed();
    assert!(run.stderr.contains("19 images: val_loss"), "{}", run.stderr);
    let mut classes: Vec<&str> = val.iter().map(|(name, _)| name.split_once('/').unwrap().0).collect();
    classes.dedup();
    let right = rows.iter().filter(|(path, class)| path.contains(&format!("/{}/", classes[*class]))).count();
    let lines = status_lines(&folder.join("evaluate/status.json"));
    assert_eq!(lines.last().unwrap()["kpi"]["ACC_all"].as_f64().unwrap(), right as f64 / 19.0);

    for action in ["inference", "evaluate"] {
        let strict = format!("{action} -e finetune.yaml dataset.max_bad_fraction=0");
        let run = sandbox.mae(&strict);
        assert_eq!(run.code, Some(DATA), "{}", run.stderr);
        assert!(run.stderr.contains("raise dataset.max_bad_fraction"), "{}", run.stderr);
        let listed = fs::read_to_string(folder.join(action).join("bad_samples.csv")).unwrap();
        assert!(listed.contains(&val[0].0), "{listed}");
    }
}

/// A hostile or broken checkpoint of the recorded data, or of the small copies in the repository.
fn foreign(name: &str) -> String {
    let folders = goldens().into_iter().map(|folder| folder.join("checkpoints"));
    let mut folders = folders.chain([workspace().join("tests/goldens/checkpoints")]);
    let file =
        folders.find_map(|folder| Some(folder.join("foreign").join(name)).filter(|file| file.exists()));
    file.unwrap_or_else(|| panic!("there is no {name}")).to_str().unwrap().to_owned()
}

#[test]
fn checkpoints() {
    let sandbox = Sandbox::new().with_specs().with_images(1, 1);
    sandbox.mae("train -e finetune.yaml").passed();
    // Kept apart, because each refusal clears the results away.
    fs::rename(sandbox.path("results/finetune/train"), sandbox.path("trained")).unwrap();
    fs::remove_dir_all(sandbox.path("results")).unwrap();
    let evaluate = |checkpoint: &str, more: &str| {
        format!("evaluate -e finetune.yaml evaluate.checkpoint={checkpoint} {more}")
    };
    let refused = |name: &str, arguments: &str| refused(&sandbox, name, SPEC, arguments);
    let ours = "trained/convnextv2_atto_latest.pth";

    refused("checkpoint_missing", &evaluate("nowhere.pth", ""));
    refused("checkpoint_of_another_arch", &evaluate(ours, "model.arch=convnextv2_femto"));
    refused(
        "checkpoint_of_another_stage",
        &evaluate(ours, "train.stage=pretrain dataset.augmentation.input_size=64"),
    );
    sandbox.write("notes.pth", "these are my notes\n");
    refused("checkpoint_of_text", &evaluate("notes.pth", ""));
    for (name, file) in [("truncated", "corrupt_truncated_zip.pth"), ("malicious", "malicious_os_system.pth")]
    {
        fs::copy(foreign(file), sandbox.path(file)).unwrap();
        refused(&format!("checkpoint_{name}"), &evaluate(file, ""));
    }
    assert!(!sandbox.path("pwned").exists());

    for class in ["bag", "coat", "shirt"] {
        assert!(sandbox.path("val").join(class).exists());
    }
    write_folder(&sandbox.path("seven"), &demo_images("val", 1)[3..]);
    refused(
        "checkpoint_of_more_classes",
        &evaluate(ours, "model.num_classes=7 dataset.val_data_sources=seven"),
    );

    let pretrained =
        format!("train -e finetune.yaml train.pretrained_model_path={ours} model.arch=hiera_tiny_224");
    refused("pretrained_of_another_arch", &format!("{pretrained} dataset.augmentation.input_size=224"));
    refused("pretrained_missing", "train -e finetune.yaml train.pretrained_model_path=nowhere.pth");
    let resume = format!("train -e pretrain.yaml train.resume_training_checkpoint_path={ours}");
    refused("resume_of_another_stage", &resume);
    fs::create_dir_all(sandbox.path("results/pretrain")).unwrap();
    fs::rename(sandbox.path("trained"), sandbox.path("results/pretrain/train")).unwrap();
    let run = sandbox.mae("train -e pretrain.yaml");
    assert_eq!(run.code, Some(SPEC), "{}", run.stderr);
    assert!(run.stderr.contains("choose another results_dir"), "{}", run.stderr);
}

#[test]
fn export_never_overwrites() {
    let sandbox = Sandbox::new().with_specs().with_images(1, 1);
    sandbox.mae("train -e finetune.yaml").passed();
    fs::rename(sandbox.path("results/finetune/train"), sandbox.path("trained")).unwrap();
    fs::remove_dir_all(sandbox.path("results")).unwrap();
    sandbox.write("model.onnx", "somebody's model");
    let export = "export -e finetune.yaml export.checkpoint=trained/convnextv2_atto_latest.pth";
    refused(&sandbox, "export_onto_a_file", SPEC, &format!("{export} export.onnx_file=model.onnx"));
    assert_eq!(fs::read(sandbox.path("model.onnx")).unwrap(), b"somebody's model");
    refused(&sandbox, "export_of_an_old_operator_set", SPEC, &format!("{export} export.opset_version=7"));
    refused(&sandbox, "export_at_an_illegal_size", SPEC, &format!("{export} export.input_width=0"));
}

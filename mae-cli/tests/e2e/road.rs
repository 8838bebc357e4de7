//! The whole road on real images: pretrain, finetune from that, evaluate, inference, export.

use std::fs;
use std::path::Path;

use serde_json::Value;

use crate::common::{
    Run, Sandbox, contents, demo_images, events, files_below, leftovers, results_csv, status_lines,
    write_archive,
};

/// `status` and `message` of each line, in order.
fn story(lines: &[Value]) -> Vec<(&str, &str)> {
    lines.iter().map(|line| (line["status"].as_str().unwrap(), line["message"].as_str().unwrap())).collect()
}

/// The last value that `kpi.key` had.
fn kpi(lines: &[Value], key: &str) -> f64 {
    lines
        .iter()
        .rev()
        .find_map(|line| line["kpi"][key].as_f64())
        .unwrap_or_else(|| panic!("no {key} in {lines:?}"))
}

/// Names of the event files differ from run to run; everything else is fixed.
fn artefacts(folder: &Path) -> Vec<String> {
    let name = |file: String| match file.split_once(".tfevents.") {
        Some((start, _)) => format!("{start}.tfevents.*"),
        None => file,
    };
    files_below(folder).into_iter().map(name).collect()
}

fn said(run: &Run, text: &str) {
    assert!(run.stderr.contains(text), "expected {text:?} in: {}", run.stderr);
}

#[test]
fn from_images_to_an_onnx_file() {
    let sandbox = Sandbox::new().with_specs();
    // Archives, as in the demo; the other tests read folders.
    write_archive(&sandbox.path("train.tar.gz"), &demo_images("train", 8));
    let val = demo_images("val", 3);
    write_archive(&sandbox.path("val.tar"), &val);
    let sources = ["dataset.train_data_sources=train.tar.gz", "dataset.val_data_sources=val.tar"];

    let run = sandbox
        .run(
            &[
                &["train", "-e", "pretrain.yaml", "train.num_epochs=4", "train.checkpoint_interval=2"],
                &sources[..],
            ]
            .concat(),
        )
        .passed();
    said(&run, "Pretraining of convnextv2_atto");
    let folder = sandbox.path("results/pretrain/train");
    pretraining_left(&folder);

    let pretrained = "train.pretrained_model_path=results/pretrain/train/convnextv2_atto_latest.pth";
    let run = sandbox
        .run(&[&["train", "-e", "finetune.yaml", "train.num_epochs=2", pretrained], &sources[..]].concat());
    let run = run.passed();
    said(&run, "Weights from results/pretrain/train/convnextv2_atto_latest.pth");
    finetuning_left(&sandbox.path("results/finetune/train"));

    let accuracy = evaluation(&sandbox, &sources, val.len());
    inference(&sandbox, &val, accuracy);
    export(&sandbox);
}

fn pretraining_left(folder: &Path) {
    assert_eq!(
        artefacts(folder),
        [
            "convnextv2_atto_latest.pth",
            "experiment.yaml",
            "lightning_logs/version_1/events.out.tfevents.*",
            "lightning_logs/version_1/hparams.yaml",
            "model_epoch_001_step_00020.pth",
            "model_epoch_003_step_00040.pth",
            "status.json",
        ]
    );
    // A relative link: the folder can be moved.
    let link = fs::read_link(folder.join("convnextv2_atto_latest.pth")).unwrap();
    assert_eq!(link, Path::new("model_epoch_003_step_00040.pth"));

    let lines = status_lines(&folder.join("status.json"));
    let story = story(&lines);
    assert_eq!(story[..2], [("STARTED", "Starting MAE train."), ("STARTED", "Starting Training Loop.")]);
    let epoch = [
        ("RUNNING", "Eval metrics skipped."),
        ("RUNNING", "Training loop in progress"),
        ("RUNNING", "Train metrics generated."),
    ];
    assert_eq!(story[2..14], epoch.repeat(4));
    assert_eq!(
        story[14..],
        [
            ("RUNNING", "Training loop complete."),
            ("RUNNING", "Train finished successfully."),
            ("SUCCESS", "Train finished successfully."),
        ]
    );

    let losses: Vec<f64> = lines.iter().filter_map(|line| line["kpi"]["train_loss"].as_f64()).collect();
    assert!(losses.last() < losses.first(), "the loss does not fall: {losses:?}");
    let written = events(&folder.join("lightning_logs/version_1"));
    let scalar = |tag: &str| -> Vec<(i64, f64)> {
        let values = written.iter().filter(|event| event.tag == tag);
        values.map(|event| (event.step, f64::from(event.value.unwrap()))).collect()
    };
    let steps: Vec<i64> = scalar("train_loss_epoch").iter().map(|(step, _)| *step).collect();
    assert_eq!(steps, [9, 19, 29, 39], "the step is the number of optimizer steps before the last one");
    let drawn: Vec<f64> = scalar("train_loss_epoch").iter().map(|(_, loss)| *loss).collect();
    let last = lines.iter().rfind(|line| line["message"] == "Train metrics generated.").unwrap();
    assert!((drawn[3] - last["kpi"]["train_loss"].as_f64().unwrap()).abs() < 1e-5);
    assert!(drawn[3] < drawn[0], "the loss does not fall: {drawn:?}");
    let val: Vec<f64> = scalar("val_loss").iter().map(|(_, loss)| *loss).collect();
    assert!(val.len() == 4 && val[3] < val[0], "the validation loss does not fall: {val:?}");
    assert_eq!(written.iter().filter(|event| event.tag == "reconstruction").count(), 4);

    let checkpoint = contents(&folder.join("convnextv2_atto_latest.pth"));
    assert_eq!((checkpoint.epoch, checkpoint.global_step), (3, 40));
    assert!(checkpoint.state_dict.iter().any(|(name, _)| name == "mask_token"));
}

fn finetuning_left(folder: &Path) {
    assert_eq!(
        artefacts(folder),
        [
            "convnextv2_atto_latest.pth",
            "experiment.yaml",
            "lightning_logs/version_1/events.out.tfevents.*",
            "lightning_logs/version_1/hparams.yaml",
            "model_epoch_000_step_00010.pth",
            "model_epoch_001_step_00020.pth",
            "status.json",
        ]
    );
    let lines = status_lines(&folder.join("status.json"));
    assert_eq!(story(&lines).last().unwrap().0, "SUCCESS");
    assert!((0.0..=1.0).contains(&kpi(&lines, "ACC_all")));
    assert!(kpi(&lines, "val_loss") > 0.0 && kpi(&lines, "train_loss") > 0.0);
    let progress: Vec<&Value> = lines.iter().filter(|line| line.get("epoch").is_some()).collect();
    let of = |line: &Value| ["epoch", "step", "max_epoch", "max_step"].map(|key| line[key].as_u64().unwrap());
    assert_eq!(progress.iter().map(|line| of(line)).collect::<Vec<_>>(), [[0, 10, 1, 20], [1, 20, 1, 20]]);

    let yaml = fs::read_to_string(folder.join("experiment.yaml")).unwrap();
    for line in [
        "results_dir: results/finetune/train",
        "  train_data_sources: train.tar.gz",
        "  pretrained_model_path: results/pretrain/train/convnextv2_atto_latest.pth",
        // Not in the spec: every default is written down.
        "  accum_grad_batches: 1",
    ] {
        assert!(yaml.lines().any(|found| found == line), "{line:?} is not in:\n{yaml}");
    }
    let classes = contents(&folder.join("convnextv2_atto_latest.pth")).extra.unwrap();
    let classes = classes.get("classes").and_then(|classes| classes.as_slice()).unwrap();
    assert_eq!((classes.len(), classes[0].as_str()), (10, Some("ankle_boot")));
}

fn evaluation(sandbox: &Sandbox, sources: &[&str], images: usize) -> f64 {
    let run = sandbox.run(&[&["evaluate", "-e", "finetune.yaml"], sources].concat()).passed();
    said(&run, &format!("{images} images: val_loss "));
    let folder = sandbox.path("results/finetune/evaluate");
    assert_eq!(
        artefacts(&folder),
        [
            "experiment.yaml",
            "lightning_logs/version_0/events.out.tfevents.*",
            "lightning_logs/version_0/hparams.yaml",
            "status.json",
        ]
    );
    let lines = status_lines(&folder.join("status.json"));
    assert_eq!(
        story(&lines),
        [
            ("STARTED", "Starting MAE evaluate."),
            ("RUNNING", "Loading checkpoint: results/finetune/train/convnextv2_atto_latest.pth"),
            ("RUNNING", "Test metrics generated."),
            ("RUNNING", "Evaluate finished successfully."),
            ("SUCCESS", "Evaluate finished successfully."),
        ]
    );
    // Training measured the same weights on the same images.
    let training = status_lines(&sandbox.path("results/finetune/train/status.json"));
    assert_eq!(kpi(&lines, "ACC_all"), kpi(&training, "ACC_all"));
    assert!((kpi(&lines, "val_loss") - kpi(&training, "val_loss")).abs() < 1e-5);
    kpi(&lines, "ACC_all")
}

/// Inference knows nothing of labels; counted against the folders' names, its classes give evaluation's accuracy.
fn inference(sandbox: &Sandbox, images: &[(String, Vec<u8>)], accuracy: f64) {
    sandbox.run(&["inference", "-e", "finetune.yaml", "dataset.test_data_sources=val.tar"]).passed();
    let folder = sandbox.path("results/finetune/inference");
    assert_eq!(files_below(&folder), ["experiment.yaml", "results.csv", "status.json"]);
    let rows = results_csv(&folder.join("results.csv"));
    let mut expected: Vec<String> = images.iter().map(|(name, _)| format!("val.tar/{name}")).collect();
    expected.sort();
    assert_eq!(rows.iter().map(|(path, _)| path.clone()).collect::<Vec<_>>(), expected);

    let class_of = |path: &str| path.split('/').nth(1).unwrap().to_owned();
    let mut classes: Vec<String> = expected.iter().map(|path| class_of(path)).collect();
    classes.dedup();
    assert!(rows.iter().all(|(_, class)| *class < classes.len()));
    let right = rows.iter().filter(|(path, class)| classes[*class] == class_of(path)).count();
    assert_eq!(right as f64 / rows.len() as f64, accuracy);
}

fn export(sandbox: &Sandbox) {
    let run = sandbox.run(&["export", "-e", "finetune.yaml"]).passed();
    said(&run, "Wrote results/finetune/export/convnextv2_atto.onnx: logits");
    let folder = sandbox.path("results/finetune/export");
    assert_eq!(files_below(&folder), ["convnextv2_atto.onnx", "experiment.yaml", "status.json"]);
    let lines = status_lines(&folder.join("status.json"));
    assert_eq!(story(&lines).last().unwrap(), &("SUCCESS", "Export finished successfully."));
    // All weights are in it: 3.4 million of four bytes.
    assert!(fs::metadata(folder.join("convnextv2_atto.onnx")).unwrap().len() > 13_000_000);
    assert_eq!(leftovers(&folder), ["convnextv2_atto.onnx"]);
}

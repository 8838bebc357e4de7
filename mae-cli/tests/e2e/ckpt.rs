//! `mae ckpt`: what it says of real files, and what it writes.

use std::path::Path;

use serde_json::Value as Json;

use crate::common::{Sandbox, goldens};

const LATEST: &str = "results/finetune/train/convnextv2_atto_latest.pth";

fn inspect(sandbox: &Sandbox, file: impl AsRef<Path>) -> Json {
    let file = file.as_ref().to_str().unwrap();
    let run = sandbox.run(&["ckpt", "inspect", "--json", file]);
    assert_eq!(run.code, Some(0), "{}", run.stderr);
    serde_json::from_str(&run.stdout).unwrap()
}

fn number(json: &Json) -> f64 {
    json.as_f64().unwrap_or_else(|| json.as_str().unwrap().parse().unwrap())
}

/// Every file that other packages ship: each tensor's place, shape, element type, sum and norm.
#[test]
fn files_of_other_packages() {
    let Some(folder) = goldens().map(|goldens| goldens.join("third_party_pth")).filter(|f| f.is_dir()) else {
        return;
    };
    let sandbox = Sandbox::new();
    let expected: Json =
        serde_json::from_str(&std::fs::read_to_string(folder.join("expected.json")).unwrap()).unwrap();
    let mut compared = 0;
    for (name, expected) in expected["files"].as_object().unwrap() {
        let found = inspect(&sandbox, folder.join(name));
        assert_eq!(found["zip_root"], expected["zip_root"], "{name}");
        for key in ["n_tensors", "n_storages", "n_elements"] {
            assert_eq!(found[key], expected[key], "{name}: {key}");
        }
        let tensors = found["tensors"].as_array().unwrap();
        for tensor in expected["tensors"].as_array().unwrap() {
            let path = &tensor["path"];
            let found = tensors.iter().find(|found| &found["path"] == path);
            let found = found.unwrap_or_else(|| panic!("{name}: {path} is missing"));
            for key in ["name", "shape", "dtype", "stride", "storage_offset", "storage_bytes"] {
                assert_eq!(found[key], tensor[key], "{name} {path}: {key}");
            }
            for key in ["sum", "l2"] {
                let (found, expected) = (number(&found[key]), number(&tensor[key]));
                let close = (found - expected).abs() <= 1e-9 * number(&tensor["l2"]).max(expected.abs());
                assert!(close, "{name} {path}: {key} {found} instead of {expected}");
            }
            compared += 1;
        }
    }
    assert!(compared > 50, "{compared}");
}

#[test]
fn what_inspect_says() {
    let sandbox = Sandbox::new().with_specs().with_images(4, 1);
    sandbox.mae("train -e finetune.yaml").passed();
    let json = inspect(&sandbox, sandbox.path(LATEST));
    assert_eq!(json["kind"], "lightning");
    assert_eq!(json["architecture"]["arch"], "convnextv2_atto");
    assert_eq!(json["architecture"]["stage"], "finetune");
    assert_eq!(json["architecture"]["num_classes"], 10);
    assert_eq!(json["integrity"]["checked"], "blake3");
    assert_eq!(json["structure"]["global_step"], 5);
    assert_eq!(json["structure"]["mae"]["arch"], "convnextv2_atto");
    assert!(json["security"]["globals"].as_array().unwrap().iter().all(|global| global["known"] == true));

    let run = sandbox.run(&["ckpt", "inspect", LATEST]);
    assert!(run.stdout.contains("convnextv2_atto, stage finetune, 10 classes"), "{}", run.stdout);
    assert!(run.stdout.contains("the BLAKE3 digests match"), "{}", run.stdout);

    // A file that is cut short, and one that could run code.
    let bytes = std::fs::read(sandbox.path(LATEST)).unwrap();
    sandbox.write("cut.pth", &bytes[..bytes.len() / 2]);
    let run = sandbox.run(&["ckpt", "inspect", "cut.pth"]);
    assert_eq!(run.code, Some(3), "{}", run.stderr);
    assert!(run.stderr.contains("cut.pth") && run.stderr.contains("cut off"), "{}", run.stderr);
    sandbox.write("evil.pth", b"\x80\x02cposix\nsystem\nX\x04\x00\x00\x00true\x85R.");
    let run = sandbox.run(&["ckpt", "inspect", "evil.pth"]);
    assert_eq!(run.code, Some(3), "{}", run.stderr);
    assert!(run.stderr.contains("posix.system") && run.stderr.contains("byte 2"), "{}", run.stderr);
}

#[test]
fn there_and_back() {
    let sandbox = Sandbox::new().with_specs().with_images(4, 1);
    sandbox.mae("train -e finetune.yaml").passed();
    let ckpt = |arguments: &str| {
        let words: Vec<&str> = std::iter::once("ckpt").chain(arguments.split(' ')).collect();
        let run = sandbox.run(&words);
        assert_eq!(run.code, Some(0), "{arguments}: {}{}", run.stdout, run.stderr);
        run.stdout
    };
    // The same file in the same format is the same.
    ckpt(&format!("convert {LATEST} same.pth"));
    assert!(ckpt(&format!("diff {LATEST} same.pth")).contains("all equal"));
    // Other containers and other projects' names, and each is taken as a model to evaluate.
    for (to, file) in [
        ("", "plain.safetensors"),
        ("--to timm ", "timm.safetensors"),
        ("--to paper ", "paper.pth"),
        ("--to tao ", "tao.pth"),
    ] {
        ckpt(&format!("convert {to}{LATEST} {file}"));
        sandbox
            .mae(&format!("evaluate -e finetune.yaml evaluate.checkpoint={file} results_dir={file}.d"))
            .passed();
    }
    assert!(ckpt(&format!("diff --weights-only {LATEST} tao.pth")).contains("all equal"));
    let back = ckpt("convert --to tao timm.safetensors back.pth");
    assert!(back.contains("recognised convnextv2_atto, stage finetune, 10 classes"), "{back}");
    assert!(ckpt(&format!("diff --weights-only {LATEST} back.pth")).contains("all equal"));
    // Half precision is another element type, and rounds.
    ckpt(&format!("convert --dtype bfloat16 {LATEST} half.safetensors"));
    let run = sandbox.run(&["ckpt", "diff", "--weights-only", LATEST, "half.safetensors"]);
    assert_eq!(run.code, Some(1), "{}", run.stderr);
    assert!(run.stdout.contains("float32 [10, 320] → bfloat16 [10, 320]"), "{}", run.stdout);
    // Nothing is overwritten unasked.
    let run = sandbox.run(&["ckpt", "convert", LATEST, "half.safetensors"]);
    assert!(run.code == Some(1) && run.stderr.contains("--force"), "{}", run.stderr);
}

#[test]
fn an_average_of_two_is_in_the_middle() {
    let sandbox = Sandbox::new().with_specs().with_images(4, 1);
    let steps = "train.checkpoint_interval_unit=step train.checkpoint_interval=2";
    sandbox.mae(&format!("train -e finetune.yaml {steps}")).passed();
    let folder = "results/finetune/train";
    let (a, b) = (
        format!("{folder}/model_epoch_000_step_00002.pth"),
        format!("{folder}/model_epoch_000_step_00005.pth"),
    );
    let run = sandbox.run(&["ckpt", "average", &a, &b, "-o", "mean.pth"]);
    assert_eq!(run.code, Some(0), "{}", run.stderr);
    let sum = |file: &str| {
        let json = inspect(&sandbox, sandbox.path(file));
        let tensors = json["tensors"].as_array().unwrap().clone();
        let head = tensors.iter().find(|t| t["name"] == "state_dict.model.norm.weight").unwrap().clone();
        assert!(json["structure"]["optimizer_states"].is_null() == (file == "mean.pth"));
        number(&head["sum"])
    };
    let (a_sum, b_sum, mean) = (sum(&a), sum(&b), sum("mean.pth"));
    assert_ne!(a_sum, b_sum);
    assert!((mean - (a_sum + b_sum) / 2.0).abs() < 1e-4, "{mean} of {a_sum} and {b_sum}");
    sandbox.mae("evaluate -e finetune.yaml evaluate.checkpoint=mean.pth").passed();
    // All of the first is the first.
    let run = sandbox.run(&["ckpt", "average", &a, &b, "-o", "first.pth", "--weights", "2,0"]);
    assert_eq!(run.code, Some(0), "{}", run.stderr);
    let run = sandbox.run(&["ckpt", "diff", "--weights-only", &a, "first.pth"]);
    assert_eq!(run.code, Some(0), "{}", run.stdout);
}

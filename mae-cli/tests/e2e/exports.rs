//! What export can write, onnxruntime in the place of libtorch, and the tables of inference.

use std::fs;
use std::path::Path;

use mae_core::arch::{Arch, CATALOGUE};
use mae_core::backbone::Purpose;
use mae_core::checkpoint::{self, Checkpoint, DType};
use mae_core::classify::ClassifierConfig;
use mae_core::model::Model;
use mae_core::onnx;
use tch::Device;

use crate::common::{Run, Sandbox, files_below, leftovers, python, status_lines, workspace};

/// A classifier of ten classes as drawn, in a file that every action takes as a checkpoint.
pub fn untrained(sandbox: &Sandbox) -> String {
    let config = ClassifierConfig { num_classes: 10, drop_path_rate: 0.0, purpose: Purpose::Finetune };
    let arch = Arch::by_name("convnextv2_atto").unwrap();
    let model = Model::classifier(arch, (32, 32), &config, 3, Device::Cpu).unwrap();
    let tensors = model.state_dict().unwrap();
    checkpoint::write_safetensors(&sandbox.path("untrained.safetensors"), &tensors).unwrap();
    "untrained.safetensors".to_owned()
}

/// A classifier whose every part counts: what starts as zero or one (biases, GRN, norms) is moved from there, and the head
/// is large enough for classes to differ.
fn with_life(arch: &'static Arch, size: (i64, i64)) -> Model {
    let config = ClassifierConfig { num_classes: 10, drop_path_rate: 0.0, purpose: Purpose::Finetune };
    let mut model = Model::classifier(arch, size, &config, 5, Device::Cpu).unwrap();
    let ids: Vec<_> = model.params.iter().map(|(id, spec, _)| (id, spec.name.clone())).collect();
    tch::manual_seed(5);
    for (id, name) in ids {
        let tensor = model.params.get(id).detach();
        let std = match name.rsplit('.').next().unwrap() {
            "gamma" | "beta" | "bias" => 0.2,
            _ if name.starts_with("head.") => 0.1,
            _ if tensor.dim() == 1 => 0.1,
            _ => 0.0,
        };
        model.params.assign(id, &(&tensor + tensor.randn_like() * std)).unwrap();
    }
    model
}

/// Exports an architecture at the size that its model has, has `mae` compare it with onnxruntime on 64 real images, and the checker look at the graph.
fn proof(python: &Path, arch: &str, size: (i64, i64), options: &str) {
    proof_of_another_size(python, arch, size, size, options);
}

/// As [`proof`], of a model that was trained at another size.
fn proof_of_another_size(
    python: &Path,
    arch: &str,
    trained: (i64, i64),
    (height, width): (i64, i64),
    options: &str,
) {
    let sandbox = Sandbox::new().with_specs().with_images(1, 7);
    let model = with_life(Arch::by_name(arch).unwrap(), trained);
    let tensors = model.state_dict().unwrap();
    checkpoint::write_safetensors(&sandbox.path("model.safetensors"), &tensors).unwrap();
    drop((model, tensors));
    let run = sandbox
        .mae_in(
            python,
            &format!(
                "export -e finetune.yaml model.arch={arch} export.input_height={height} export.input_width={width} \
                 export.checkpoint=model.safetensors export.onnx_file=model.onnx export.verify=true {options}"
            ),
        )
        .passed();
    let verified = run.stderr.lines().find(|line| line.contains("Verified: ")).unwrap();
    println!("{arch} {height}x{width} {options}: {}", verified.split(": ").last().unwrap());
    assert!(verified.contains("on 64 images of val") && verified.contains("on 64 of 64"), "{verified}");
    let script = workspace().join("tests/interop/check_onnx.py");
    let mut command = std::process::Command::new(python);
    let output = command.arg(script).arg(sandbox.path("model.onnx")).arg("--strict-shapes").output().unwrap();
    assert!(output.status.success(), "{arch}: {}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn small_architectures_prove_themselves() {
    let Some(python) = python() else { return };
    proof(&python, "convnextv2_atto", (64, 96), "");
    proof(&python, "hiera_tiny_224", (64, 96), "export.opset_version=20");
    // Positions are resampled: when the file is read, and in the graph.
    proof_of_another_size(&python, "hiera_tiny_224", (64, 64), (96, 128), "");
    proof_of_another_size(&python, "convnextv2_atto", (64, 64), (96, 32), "export.precision=fp16");
}

/// The whole catalogue at 224 pixels, on real images: `scripts/export-proof`. `MAE_ARCH` narrows it to the names that
/// contain its value.
#[test]
#[ignore = "takes an hour and up to 12 GB of memory"]
fn every_architecture_proves_itself() {
    let python = python().unwrap_or_else(|| panic!("MAE_PYTHON=$(scripts/python-env)"));
    let only = std::env::var("MAE_ARCH").unwrap_or_default();
    for arch in CATALOGUE.iter().filter(|arch| arch.name.contains(&only)) {
        proof(&python, arch.name, (224, 224), "");
    }
}

fn said(run: &Run, text: &str) {
    assert!(run.stderr.contains(text), "expected {text:?} in: {}", run.stderr);
}

fn metadata(path: &Path, key: &str) -> String {
    onnx::describe(path).unwrap().metadata(key).unwrap_or_else(|| panic!("no {key}")).to_owned()
}

#[test]
fn onnxruntime_in_the_place_of_libtorch() {
    let Some(python) = python() else { return };
    let sandbox = Sandbox::new().with_specs().with_images(3, 2);
    sandbox.mae("train -e finetune.yaml").passed();
    let inference = |name: &str, extra: &str| {
        let folder = format!("inference.results_dir=results/{name}");
        sandbox.mae_in(&python, &format!("inference -e finetune.yaml {folder} {extra}")).passed();
        fs::read_to_string(sandbox.path(format!("results/{name}/results.csv"))).unwrap()
    };
    let evaluate = |extra: &str| {
        sandbox.mae_in(&python, &format!("evaluate -e finetune.yaml {extra}")).passed();
        let lines = status_lines(&sandbox.path("results/finetune/evaluate/status.json"));
        let kpi = lines.last().unwrap()["kpi"].clone();
        (kpi["ACC_all"].as_f64().unwrap(), kpi["val_loss"].as_f64().unwrap())
    };
    let (expected, (accuracy, loss)) = (inference("checkpoint", ""), evaluate(""));
    assert_eq!(expected.lines().count(), 20);

    // An open batch, a fixed one that does not divide 20, and a model that takes bytes.
    for (name, options) in [
        ("open", "export.verbose=true"),
        ("fixed", "export.batch_size=3"),
        ("bytes", "export.include_preprocessing=true export.opset_version=20"),
    ] {
        let file = format!("{name}.onnx");
        let arguments =
            format!("export -e finetune.yaml export.onnx_file={file} export.verify=true {options}");
        let run = sandbox.mae_in(&python, &arguments).passed();
        said(&run, "Verified: onnxruntime ");
        said(&run, "against libtorch on 20 images of val: largest difference ");
        said(&run, "the same first class on 20 of 20");
        said(&run, &format!("Wrote {file}: logits "));
        assert_eq!(run.stderr.contains("opset 17, "), name == "open", "{}", run.stderr);
        assert_eq!(inference(name, &format!("inference.checkpoint={file}")), expected, "{name}");
        let found = evaluate(&format!("evaluate.checkpoint={file}"));
        assert_eq!(found.0, accuracy, "{name}");
        assert!((found.1 - loss).abs() < 1e-5, "{name}: {} instead of {loss}", found.1);
    }
    let open = sandbox.path("open.onnx");
    assert_eq!(metadata(&open, "arch"), "convnextv2_atto");
    assert_eq!(metadata(&open, "input_size"), "[32,32]");
    assert_eq!(metadata(&open, "mean"), "[0.485,0.456,0.406]");
    assert!(metadata(&open, "classes").starts_with("[\"ankle_boot\",\"bag\""));
    assert_eq!((metadata(&open, "epoch"), metadata(&open, "global_step")), ("0".into(), "3".into()));
    assert_eq!(metadata(&open, "checkpoint"), "model_epoch_000_step_00003.pth");

    // The names of the classes travel with the file.
    let top = "inference.checkpoint=open.onnx inference.top_k=2 inference.output=jsonl";
    sandbox.mae_in(&python, &format!("inference -e finetune.yaml {top}")).passed();
    let text = fs::read_to_string(sandbox.path("results/finetune/inference/results.jsonl")).unwrap();
    let first: serde_json::Value = serde_json::from_str(text.lines().next().unwrap()).unwrap();
    assert_eq!(first["predictions"].as_array().unwrap().len(), 2);
    assert!(first["predictions"][0]["class"].is_string(), "{first}");

    // 16 bits: verified with the limit of 16 bits.
    let run = sandbox.mae_in(
        &python,
        "export -e finetune.yaml export.onnx_file=half.onnx export.precision=fp16 export.verify=true",
    );
    said(&run.passed(), "Verified: onnxruntime ");
    assert!(onnx::describe(&sandbox.path("half.onnx")).unwrap().is_fp16);
    let size = |name: &str| fs::metadata(sandbox.path(name)).unwrap().len() as f64;
    assert!(size("half.onnx") < 0.51 * size("open.onnx"));
}

#[test]
fn what_does_not_fit_is_refused() {
    let sandbox = Sandbox::new().with_specs().with_images(1, 1);
    let checkpoint = untrained(&sandbox);
    let export =
        format!("export -e finetune.yaml export.checkpoint={checkpoint} export.onnx_file=model.onnx");
    sandbox.mae(&export).passed();
    sandbox.write("garbage.onnx", "not a model");
    let refused = |arguments: &str, code: i32, text: &str| {
        let run = sandbox.mae(arguments);
        assert_eq!(run.code, Some(code), "{arguments}: {}", run.stderr);
        said(&run, text);
    };
    let evaluate = "evaluate -e finetune.yaml evaluate.checkpoint=model.onnx";
    refused(&format!("{evaluate} model.arch=convnextv2_nano"), 1, "has model.arch = convnextv2_atto");
    refused(&format!("{evaluate} model.num_classes=7"), 1, "has model.num_classes = 10");
    refused(
        &format!("{evaluate} dataset.augmentation.input_size=64"),
        1,
        "input_size = 32, but the spec says",
    );
    refused(
        &format!("{evaluate} dataset.augmentation.mean=[0.5,0.5,0.5]"),
        1,
        "dataset.augmentation.mean = ",
    );
    refused(&format!("{evaluate} train.stage=pretrain"), 1, "those have no decoder");
    refused(&format!("{evaluate} onnxruntime=/nowhere.so"), 2, "the setting onnxruntime names /nowhere.so");
    refused("evaluate -e finetune.yaml evaluate.checkpoint=garbage.onnx", 1, "this is no ONNX file");
    refused(
        "inference -e finetune.yaml inference.checkpoint=missing.onnx",
        1,
        "the ONNX file missing.onnx does not exist",
    );

    refused(&export, 1, "model.onnx exists already");
    let other = format!("export -e finetune.yaml export.checkpoint={checkpoint} export.onnx_file=other.onnx");
    refused(&format!("{other} export.format=safetensors"), 1, "the name says ONNX");
    refused(
        &format!("{other} export.precision=fp16 export.opset_version=16"),
        1,
        "has no LayerNormalization",
    );
    refused(
        &format!("{other} export.verify=true onnxruntime=/nowhere.so"),
        2,
        "there is no libonnxruntime.so",
    );
    refused(
        &format!(
            "{other} export.verify=true dataset.val_data_sources='' dataset.test_data_sources='' \
                  dataset.train_data_sources=''"
        ),
        1,
        "export.verify compares the two programs on its images",
    );
    assert_eq!(leftovers(&sandbox.path("")), ["garbage.onnx", "model.onnx"]);
}

#[test]
fn safetensors_have_the_state_dict() {
    let sandbox = Sandbox::new().with_specs();
    let checkpoint = untrained(&sandbox);
    let export = format!("export -e finetune.yaml export.checkpoint={checkpoint} export.format=safetensors");
    let run = sandbox.mae(&export).passed();
    said(&run, "Wrote results/finetune/export/convnextv2_atto.safetensors: ");
    let tensors = |path: &str| Checkpoint::open(sandbox.path(path)).unwrap().state_dict().unwrap();
    let (source, found) =
        (tensors(&checkpoint), tensors("results/finetune/export/convnextv2_atto.safetensors"));
    assert_eq!(found.len(), source.len());
    for ((name, tensor), (expected, original)) in found.iter().zip(&source) {
        assert_eq!(name, expected);
        assert_eq!(tensor.to_contiguous_bytes().unwrap(), original.to_contiguous_bytes().unwrap(), "{name}");
    }
    sandbox.mae(&format!("{export} export.precision=fp16 export.onnx_file=new/half.safetensors")).passed();
    assert!(tensors("new/half.safetensors").iter().all(|(_, tensor)| tensor.dtype() == DType::Float16));
}

#[test]
fn inference_writes_the_table_that_is_asked_for() {
    let sandbox = Sandbox::new().with_specs().with_images(1, 2);
    let checkpoint = untrained(&sandbox);
    let inference = format!("inference -e finetune.yaml inference.checkpoint={checkpoint}");
    let folder = sandbox.path("results/finetune/inference");
    let read = |name: &str| fs::read_to_string(folder.join(name)).unwrap();
    sandbox.mae(&inference).passed();
    let tao = read("results.csv");

    sandbox.mae(&format!("{inference} inference.top_k=3")).passed();
    let table = read("results.csv");
    let rows: Vec<Vec<&str>> = table.lines().map(|line| line.split(',').collect()).collect();
    assert_eq!(rows[0], ["path", "rank", "class_index", "class", "probability"]);
    assert_eq!(rows.len(), 1 + 20 * 3);
    let firsts: Vec<String> =
        rows.iter().filter(|row| row[1] == "1").map(|row| format!("{},{}", row[0], row[2])).collect();
    assert_eq!(firsts, tao.lines().collect::<Vec<_>>(), "the first of each image is TAO's result");
    for image in rows[1..].chunks(3) {
        let shares: Vec<f32> = image.iter().map(|row| row[4].parse().unwrap()).collect();
        assert!(shares.is_sorted_by(|a, b| a >= b) && shares.iter().sum::<f32>() < 1.0, "{image:?}");
    }

    let run = sandbox.mae(&format!("{inference} inference.output=parquet"));
    if cfg!(feature = "parquet") {
        said(&run.passed(), "20 images classified: results/finetune/inference/results.parquet");
        assert_eq!(&fs::read(folder.join("results.parquet")).unwrap()[..4], b"PAR1");
    } else {
        said(&run, "built without Parquet");
        assert_eq!((run.code, files_below(&folder).len()), (Some(1), 3));
    }
    let run = sandbox.mae(&format!("{inference} inference.output=xml"));
    assert_eq!(run.code, Some(1));
    said(&run, "expected one of csv, jsonl, parquet");
}

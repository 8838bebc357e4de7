//! `mae gen_trt_engine`, with a stand-in for NVIDIA's builder that notes how it was called. What TensorRT itself makes of
//! these options is not tested here.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use crate::common::{Run, Sandbox, files_below, python, status_lines};
use crate::exports::untrained;

/// A `trtexec` of this version in the sandbox, which writes its arguments to `arguments` and a small engine.
fn stand_in(sandbox: &Sandbox, version: &str, body: &str) {
    let script = format!(
        "#!/bin/sh\n\
         echo '&&&& RUNNING TensorRT.trtexec [TensorRT v{version}] # trtexec'\n\
         [ \"$1\" = --help ] && exit 0\n\
         for word in \"$@\"; do echo \"$word\"; case $word in --saveEngine=*) engine=${{word#*=}};; esac; done > arguments\n\
         {body}\n"
    );
    let path = sandbox.write("trtexec", script);
    fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
}

const WRITES: &str = "echo engine > \"$engine\"";

fn exported(options: &str) -> Sandbox {
    let sandbox = Sandbox::new().with_specs();
    let checkpoint = untrained(&sandbox);
    let arguments = format!(
        "export -e finetune.yaml export.checkpoint={checkpoint} export.onnx_file=model.onnx {options}"
    );
    sandbox.mae(&arguments).passed();
    sandbox
}

const RUN: &str = "gen_trt_engine -e finetune.yaml gen_trt_engine.onnx_file=model.onnx";
const HERE: &str = "gen_trt_engine.trtexec=trtexec";

fn said(run: &Run, text: &str) {
    assert!(run.stderr.contains(text), "expected {text:?} in: {}", run.stderr);
}

/// What the stand-in was told, but where the engine goes: that is a temporary name.
fn arguments(sandbox: &Sandbox) -> Vec<String> {
    let text = fs::read_to_string(sandbox.path("arguments")).unwrap();
    text.lines().filter(|word| !word.starts_with("--saveEngine=")).map(str::to_owned).collect()
}

#[test]
fn the_builder_is_told_what_the_spec_says() {
    let sandbox = exported("");
    stand_in(&sandbox, "100300", WRITES);
    let run = sandbox
        .run(
            &[
                &RUN.split(' ').collect::<Vec<_>>()[..],
                &[
                    "gen_trt_engine.trtexec=./trtexec",
                    "gen_trt_engine.trt_engine=engines/atto.engine",
                    "gen_trt_engine.gpu_id=1",
                    "gen_trt_engine.timing_cache=timing.cache",
                    "gen_trt_engine.verbose=true",
                    "gen_trt_engine.tensorrt.data_type=FP16",
                    "gen_trt_engine.tensorrt.workspace_size=2048",
                    "gen_trt_engine.tensorrt.opt_batch_size=4",
                    "gen_trt_engine.tensorrt.max_batch_size=8",
                    "gen_trt_engine.tensorrt.layers_precision=['head*:fp32', 'norm/LayerNormalization:fp32']",
                ],
            ]
            .concat(),
        )
        .passed();
    assert_eq!(
        arguments(&sandbox),
        [
            "--onnx=model.onnx",
            "--minShapes=input:1x3x32x32",
            "--optShapes=input:4x3x32x32",
            "--maxShapes=input:8x3x32x32",
            "--fp16",
            "--precisionConstraints=obey",
            "--layerPrecisions=head*:fp32,norm/LayerNormalization:fp32",
            "--memPoolSize=workspace:2048",
            "--timingCacheFile=timing.cache",
            "--device=1",
            "--skipInference",
            "--verbose",
        ]
    );
    said(&run, "with TensorRT 10.3.0");
    said(&run, "Wrote engines/atto.engine: batches of 1 to 8, tuned for 4");
    assert_eq!(files_below(&sandbox.path("engines")), ["atto.engine"]);
    let results = sandbox.path("results/finetune/gen_trt_engine");
    assert_eq!(files_below(&results), ["experiment.yaml", "status.json", "trtexec.log"]);
    assert_eq!(status_lines(&results.join("status.json")).last().unwrap()["status"], "SUCCESS");
}

#[test]
fn versions_of_the_builder_differ() {
    let sandbox = exported("");
    stand_in(&sandbox, "8501", WRITES);
    sandbox.mae(&format!("{RUN} {HERE} gen_trt_engine.batch_size=2")).passed();
    let old = arguments(&sandbox);
    assert_eq!(old[1..4], ["min", "opt", "max"].map(|name| format!("--{name}Shapes=input:2x3x32x32")));
    assert_eq!(old.last().unwrap(), "--buildOnly");
    // The engine of the last run is replaced by a whole one.
    assert!(sandbox.path("results/finetune/gen_trt_engine/model.engine").exists());

    stand_in(&sandbox, "110400", WRITES);
    sandbox.mae(&format!("{RUN} {HERE}")).passed();
    assert!(arguments(&sandbox).iter().all(|word| !word.contains("fp") && !word.contains("recision")));
    let refused = |extra: &str, text: &str| {
        let run = sandbox.mae(&format!("{RUN} {HERE} {extra}"));
        assert_eq!(run.code, Some(1), "{}", run.stderr);
        said(&run, text);
    };
    refused("gen_trt_engine.tensorrt.data_type=fp16", "export the model with export.precision=fp16");
    refused("gen_trt_engine.tensorrt.layers_precision=[head:fp32]", "knows no such setting");

    let half = exported("export.precision=fp16");
    stand_in(&half, "110400", WRITES);
    half.mae(&format!("{RUN} {HERE} gen_trt_engine.tensorrt.data_type=fp16")).passed();
    let run = half.mae(&format!("{RUN} {HERE}"));
    said(&run, "has 16-bit weights, and fp32 is asked for");
}

#[test]
fn what_contradicts_the_file_is_refused_before_anything_starts() {
    let sandbox = exported("export.batch_size=2");
    stand_in(&sandbox, "100300", WRITES);
    let refused = |extra: &str, text: &str| {
        let run = sandbox.mae(&format!("gen_trt_engine -e finetune.yaml {HERE} {extra}"));
        assert_eq!(run.code, Some(1), "{extra}: {}", run.stderr);
        said(&run, text);
        assert!(!sandbox.path("arguments").exists(), "{extra} started the builder");
    };
    refused("", "gen_trt_engine builds an engine from an ONNX file");
    refused("gen_trt_engine.onnx_file=missing.onnx", "the ONNX file missing.onnx does not exist");
    refused("gen_trt_engine.onnx_file=finetune.yaml", "this is no ONNX file");
    let file = "gen_trt_engine.onnx_file=model.onnx";
    refused(
        &format!("{file} gen_trt_engine.batch_size=4"),
        "has the fixed batch size 2, but the spec says 4",
    );
    refused(
        &format!("{file} gen_trt_engine.tensorrt.opt_batch_size=2 gen_trt_engine.tensorrt.max_batch_size=2"),
        "the profile asks for [1, 2, 2]",
    );
    refused(
        &format!("{file} gen_trt_engine.tensorrt.min_batch_size=2"),
        "expected min_batch_size ≤ opt_batch_size",
    );
    refused(&format!("{file} dataset.augmentation.input_size=64"), "takes images of 32x32 pixels");
    refused(&format!("{file} model.num_classes=3"), "has 10 classes");
    refused(&format!("{file} model.arch=vit_base_patch16"), "is a convnextv2_atto");
    refused(&format!("{file} gen_trt_engine.tensorrt.data_type=int4"), "expected fp32, fp16 or int8");
    refused(&format!("{file} gen_trt_engine.tensorrt.data_type=int8"), "int8 needs to know the ranges");
    refused(&format!("{file} gen_trt_engine.tensorrt.layers_precision=[head]"), "expected LAYER:PRECISION");
    // The file's own batch needs no profile.
    sandbox.mae(&format!("gen_trt_engine -e finetune.yaml {HERE} {file}")).passed();
    assert!(arguments(&sandbox).iter().all(|word| !word.contains("Shapes")));
}

#[test]
fn a_builder_that_fails_or_is_missing_is_explained() {
    let sandbox = exported("");
    stand_in(&sandbox, "100300", "echo '[E] Error Code 4: no CUDA device' >&2; echo '[I] the end'; exit 1");
    let run = sandbox.mae(&format!("{RUN} {HERE}"));
    assert_eq!(run.code, Some(2));
    said(&run, "[E] Error Code 4: no CUDA device");
    assert!(!run.stderr.contains("the end"), "{}", run.stderr);
    assert!(!sandbox.path("results/finetune/gen_trt_engine/model.engine").exists());
    stand_in(&sandbox, "100300", "true");
    said(&sandbox.mae(&format!("{RUN} {HERE}")), "wrote no engine");

    let run = sandbox.mae(&format!("{RUN} gen_trt_engine.trtexec=/nowhere/trtexec"));
    assert_eq!(run.code, Some(2));
    said(&run, "gen_trt_engine.trtexec names /nowhere/trtexec, and no such file exists");
    said(
        &run,
        "\ntrtexec --onnx=model.onnx --saveEngine=results/finetune/gen_trt_engine/model.engine \
         --minShapes=input:1x3x32x32 --optShapes=input:1x3x32x32 --maxShapes=input:1x3x32x32 \
         --memPoolSize=workspace:1024 --device=0 --skipInference\n",
    );
    // One on PATH is found.
    let mut command = sandbox.command(&RUN.split(' ').collect::<Vec<_>>());
    stand_in(&sandbox, "100300", WRITES);
    command.env("PATH", sandbox.path(""));
    Sandbox::finished(command).passed();
}

#[test]
fn calibration_on_images_quantises_the_model() {
    let Some(python) = python() else { return };
    let sandbox = exported("").with_images(1, 2);
    stand_in(&sandbox, "110400", WRITES);
    let int8 = "gen_trt_engine.tensorrt.data_type=int8 gen_trt_engine.tensorrt.int8_calibration.cal_image_dir=[val] \
                gen_trt_engine.tensorrt.int8_calibration.cal_batches=2 gen_trt_engine.trt_engine=atto.engine";
    let run = sandbox.mae_in(&python, &format!("{RUN} {HERE} {int8}")).passed();
    said(&run, "Calibrated on 16 images: ");
    assert_eq!(arguments(&sandbox)[0], "--onnx=atto.int8.onnx");
    assert!(mae_core::onnx::describe(&sandbox.path("atto.int8.onnx")).unwrap().is_quantized);
    // The quantised model is one that onnxruntime runs.
    sandbox.mae_in(&python, "inference -e finetune.yaml inference.checkpoint=atto.int8.onnx").passed();

    stand_in(&sandbox, "100300", WRITES);
    sandbox.mae_in(&python, &format!("{RUN} {HERE} {int8}")).passed();
    assert_eq!(
        arguments(&sandbox).iter().filter(|word| ["--int8", "--fp16"].contains(&word.as_str())).count(),
        2
    );
}

//! What has to agree before a builder is started: the ONNX file, the spec, and the builder's version.

use mae_core::onnx::Description;

use super::profile::Profile;
use super::trtexec::Trtexec;
use super::wants_int8;
use crate::error::{Error, Result};
use crate::spec::{EnginePrecision, Plan};

fn wrong(key: &str, problem: String, help: String) -> Error {
    Error::File { key: key.to_owned(), problem, help }
}

/// The profile that the plan asks for, where the file can have it.
pub(super) fn profile(plan: &Plan, description: &Description) -> Result<Profile> {
    let file = &plan.gen_trt_engine.onnx_file;
    let [input] = &description.inputs[..] else {
        return Err(wrong(
            "gen_trt_engine.onnx_file",
            format!("{file} has {} inputs, expected one: the images", description.inputs.len()),
            "give a file that mae export wrote".into(),
        ));
    };
    let image = input.shape.get(1..).unwrap_or_default().to_vec();
    if image.len() != 3 || image.iter().any(|&size| size < 1) {
        return Err(wrong(
            "gen_trt_engine.onnx_file",
            format!("{file} takes {:?}, expected a batch of images of a fixed size", input.shape),
            "give a file that mae export wrote".into(),
        ));
    }
    let settings = &plan.gen_trt_engine;
    let builder = &settings.tensorrt;
    let asked = [builder.min_batch_size, builder.opt_batch_size, builder.max_batch_size];
    let (fixed, batches) = match (input.shape[0], settings.batch_size) {
        (batch, -1 | 0) if batch > 0 => {
            let set = ["min", "opt", "max"]
                .iter()
                .any(|name| plan.is_set(&format!("gen_trt_engine.tensorrt.{name}_batch_size")));
            if set && asked != [batch; 3] {
                return Err(wrong(
                    "gen_trt_engine.tensorrt",
                    format!(
                        "{file} has the fixed batch size {batch}, but the profile asks for {asked:?} (min, opt, max)"
                    ),
                    format!(
                        "set gen_trt_engine.batch_size={batch}, or export again with export.batch_size=-1"
                    ),
                ));
            }
            (Some(batch), [batch; 3])
        }
        (batch, wanted) if batch > 0 && batch != wanted => {
            return Err(wrong(
                "gen_trt_engine.batch_size",
                format!("{file} has the fixed batch size {batch}, but the spec says {wanted}"),
                format!(
                    "set gen_trt_engine.batch_size={batch}, or export again with export.batch_size={wanted} or -1"
                ),
            ));
        }
        (batch, _) if batch > 0 => (Some(batch), [batch; 3]),
        (_, -1 | 0) => (None, asked),
        (_, wanted) => (None, [wanted; 3]),
    };
    Ok(Profile { input: input.name.clone(), image, fixed, batches })
}

/// The image size, the classes and the architecture: what of them the spec says must be what the file has.
pub(super) fn model(plan: &Plan, description: &Description) -> Result<()> {
    let file = &plan.gen_trt_engine.onnx_file;
    let input = &description.inputs[0];
    let sides = if input.dtype == "uint8" { &input.shape[1..3] } else { &input.shape[2..4] };
    let keys = ["dataset.augmentation.input_size", "export.input_height", "export.input_width"];
    let (height, width) = plan.export_size();
    if keys.iter().any(|key| plan.is_set(key)) && sides != [height as i64, width as i64] {
        return Err(wrong(
            "gen_trt_engine.onnx_file",
            format!(
                "{file} takes images of {}x{} pixels, but the spec says {height}x{width}",
                sides[0], sides[1]
            ),
            format!("export again, or set export.input_height={} export.input_width={}", sides[0], sides[1]),
        ));
    }
    if let Some(arch) =
        description.metadata("arch").filter(|arch| plan.is_set("model.arch") && *arch != plan.model.arch)
    {
        return Err(wrong(
            "gen_trt_engine.onnx_file",
            format!("{file} is a {arch}, but the spec says model.arch = {}", plan.model.arch),
            format!("set model.arch={arch}, or give the file of the model that is meant"),
        ));
    }
    let classes = description.outputs.first().and_then(|output| output.shape.get(1)).copied().unwrap_or(-1);
    let classifies = description.metadata("output").is_none_or(|output| output != "features");
    if classifies
        && plan.is_set("model.num_classes")
        && classes > 0
        && classes != plan.model.num_classes as i64
    {
        return Err(wrong(
            "gen_trt_engine.onnx_file",
            format!(
                "{file} has {classes} classes, but the spec says model.num_classes = {}",
                plan.model.num_classes
            ),
            format!("set model.num_classes={classes}, or give the file of the model that is meant"),
        ));
    }
    Ok(())
}

/// The data type against the file.
pub(super) fn precision(plan: &Plan, description: &Description) -> Result<()> {
    let (file, calibration) =
        (&plan.gen_trt_engine.onnx_file, &plan.gen_trt_engine.tensorrt.int8_calibration);
    let key = "gen_trt_engine.tensorrt.data_type";
    if plan.engine_precision() == Some(EnginePrecision::Fp32) && description.is_fp16 {
        return Err(wrong(
            key,
            format!("{file} has 16-bit weights, and fp32 is asked for"),
            format!("set {key}=fp16, or export again with export.precision=fp32"),
        ));
    }
    let calibrated = description.is_quantized
        || !calibration.cal_image_dir.is_empty()
        || calibration.cal_cache_file.is_some();
    if wants_int8(plan) && !calibrated {
        return Err(wrong(
            key,
            "int8 needs to know the ranges of the model's numbers; trtexec alone would make them up".into(),
            "name images with gen_trt_engine.tensorrt.int8_calibration.cal_image_dir=[FOLDER], or a calibration cache of \
             TensorRT with cal_cache_file"
                .into(),
        ));
    }
    if let Some(cache) =
        calibration.cal_cache_file.as_ref().filter(|cache| !std::path::Path::new(cache).exists())
    {
        return Err(wrong(
            "gen_trt_engine.tensorrt.int8_calibration.cal_cache_file",
            format!("the file {cache} does not exist"),
            "name calibration images with cal_image_dir instead".into(),
        ));
    }
    Ok(())
}

/// What the builder's version asks of the file: since TensorRT 11, a file says its own precisions.
pub(super) fn builder(plan: &Plan, builder: &Trtexec, description: &Description) -> Result<()> {
    if !builder.is_strongly_typed() {
        return Ok(());
    }
    let settings = &plan.gen_trt_engine.tensorrt;
    let version = builder.version_text();
    if plan.engine_precision() == Some(EnginePrecision::Fp16) && !description.is_fp16 {
        return Err(wrong(
            "gen_trt_engine.tensorrt.data_type",
            format!(
                "TensorRT {version} takes precisions from the ONNX file alone, and {} is in fp32",
                plan.gen_trt_engine.onnx_file
            ),
            "export the model with export.precision=fp16".into(),
        ));
    }
    for (key, set) in [
        ("layers_precision", !settings.layers_precision.is_empty()),
        ("int8_calibration.cal_cache_file", settings.int8_calibration.cal_cache_file.is_some()),
    ] {
        if set {
            return Err(wrong(
                &format!("gen_trt_engine.tensorrt.{key}"),
                format!(
                    "TensorRT {version} takes precisions from the ONNX file alone, and knows no such setting"
                ),
                "leave it out, or use TensorRT 10; for int8, name images with cal_image_dir".into(),
            ));
        }
    }
    Ok(())
}

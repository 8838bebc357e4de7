//! The rules of gen_trt_engine.

use crate::spec::error::{Error, Result};
use crate::spec::plan::{EnginePrecision, Plan};

/// What trtexec takes as the precision of a layer.
const LAYER_PRECISIONS: [&str; 5] = ["fp32", "fp16", "bf16", "int32", "int8"];

pub(super) fn rules(plan: &Plan, contradiction: impl Fn(&str, String, String) -> Error) -> Result<()> {
    let builder = &plan.gen_trt_engine.tensorrt;
    let (min, opt, max) = (builder.min_batch_size, builder.opt_batch_size, builder.max_batch_size);
    if plan.gen_trt_engine.batch_size < 1 && !(min <= opt && opt <= max) {
        return Err(contradiction(
            "gen_trt_engine.tensorrt.opt_batch_size",
            format!("expected min_batch_size ≤ opt_batch_size ≤ max_batch_size, found {min}, {opt}, {max}"),
            format!("for example gen_trt_engine.tensorrt.max_batch_size={}", min.max(opt)),
        ));
    }
    let Some(precision) = plan.engine_precision() else {
        return Err(contradiction(
            "gen_trt_engine.tensorrt.data_type",
            "expected fp32, fp16 or int8".to_owned(),
            "for example gen_trt_engine.tensorrt.data_type=fp16".to_owned(),
        ));
    };
    for rule in &builder.layers_precision {
        let known = rule.rsplit_once(':').filter(|(layer, precision)| {
            !layer.is_empty() && !layer.contains(',') && LAYER_PRECISIONS.contains(precision)
        });
        if known.is_none() {
            return Err(contradiction(
                "gen_trt_engine.tensorrt.layers_precision",
                format!(
                    "expected LAYER:PRECISION with one of {}, found '{rule}'",
                    LAYER_PRECISIONS.join(", ")
                ),
                "for example gen_trt_engine.tensorrt.layers_precision=['*head*:fp32']".to_owned(),
            ));
        }
    }
    let calibration = &builder.int8_calibration;
    let twice = !calibration.cal_image_dir.is_empty() && calibration.cal_cache_file.is_some();
    if precision == EnginePrecision::Int8 && twice {
        return Err(contradiction(
            "gen_trt_engine.tensorrt.int8_calibration.cal_cache_file",
            "it and cal_image_dir are both set, and one decides".to_owned(),
            "leave one of the two out".to_owned(),
        ));
    }
    Ok(())
}

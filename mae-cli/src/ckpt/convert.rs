//! `mae ckpt convert`.

use std::path::Path;

use mae_core::checkpoint::dialect;
use mae_core::checkpoint::lightning::{LIGHTNING_VERSION, MODEL_PREFIX};
use mae_core::checkpoint::{Checkpoint, DType, Format, Kind, TensorView, Value};

use super::recognise::{Recognised, recognise};
use super::{in_file, is_safetensors, open, refused, state_dict, text, write};
use crate::error::Result;

/// Keys of a Lightning checkpoint that only a training needs.
const TRAINING_STATE: [&str; 6] =
    ["optimizer_states", "lr_schedulers", "loops", "callbacks", "native_amp_scaling_state", "MixedPrecision"];

/// Whose names and layout a checkpoint has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Dialect {
    /// TAO and Lightning: `state_dict` with `model.` before each name
    Tao,
    /// The projects of the papers: `model` (MAE, ConvNeXt V2) or `model_state` (Hiera)
    Paper,
    /// timm's names
    Timm,
    /// The model's own names, without anything around them
    Plain,
}

/// What to change.
pub(super) struct Options<'a> {
    pub(super) to: Option<Dialect>,
    pub(super) dtype: Option<&'a str>,
    pub(super) weights_only: bool,
}

type Weights = Vec<(String, TensorView)>;

/// Writes `input` anew as `output`; gives what to tell the user.
pub(super) fn convert(input: &Path, output: &Path, options: &Options<'_>) -> Result<String> {
    let file = open(input)?;
    file.verify().map_err(|error| in_file(input, error))?;
    let mut said = Vec::new();
    let mut weights = state_dict(input, &file)?;
    if let Some(dtype) = options.dtype.and_then(DType::from_name) {
        weights = cast(&weights, dtype).map_err(|error| in_file(input, error))?;
    }
    let unchanged = options.to.is_none() && options.dtype.is_none();
    let root = match options.to {
        None if unchanged && !options.weights_only => file.root().clone(),
        None => rewrap(&file, &weights),
        Some(dialect) => {
            let found = recognise(&weights).ok_or_else(|| {
                refused(
                    input,
                    "its weights are of no architecture that mae knows, so their names cannot be translated",
                    "leave out --to, which keeps the names",
                )
            })?;
            said.push(format!("recognised {}", found.describe()));
            weights = canonical(&found).map_err(|error| in_file(input, error))?;
            let translated = translate(&found, weights, dialect);
            let (root, renamed) = translated.map_err(|error| in_file(input, error))?;
            weights = renamed;
            root
        }
    };
    if is_safetensors(output) || options.weights_only || options.to.is_some() || options.dtype.is_some() {
        let dropped = TRAINING_STATE.iter().filter(|key| file.root().get(key).is_some());
        let dropped: Vec<&str> = dropped.copied().collect();
        if !dropped.is_empty() {
            said.push(format!("left out: {}", dropped.join(", ")));
        }
    }
    write(output, &root, &weights)?;
    let size = std::fs::metadata(output).map_or(0, |metadata| metadata.len());
    said.push(format!(
        "wrote {} ({} tensors of weights, {})",
        output.display(),
        weights.len(),
        text::bytes(size)
    ));
    Ok(said.join("\n"))
}

/// The weights in the wrapping that they came in, without what only a training needs.
pub(super) fn rewrap(file: &Checkpoint, weights: &Weights) -> Value {
    let tensors =
        || Value::ordered_dict(weights.iter().map(|(name, view)| (name.clone(), view.clone().into())));
    let key = match file.kind() {
        _ if *file.format() == Format::Safetensors => return tensors(),
        Kind::Lightning => "state_dict",
        Kind::Nested(key) => key,
        Kind::StateDict | Kind::Other => return tensors(),
    };
    let keep = |name: &str| key == "state_dict" && !TRAINING_STATE.contains(&name);
    let items = file.root().as_dict().into_iter().flatten().filter_map(|(name, value)| match name.as_str() {
        Some(name) if name == key => Some((name.to_owned(), tensors())),
        Some(name) if keep(name) => Some((name.to_owned(), value.clone())),
        _ => None,
    });
    Value::dict(items)
}

/// Floating-point weights in another element type.
fn cast(weights: &Weights, dtype: DType) -> mae_core::checkpoint::Result<Weights> {
    let is_float = |view: &TensorView| {
        matches!(view.dtype(), DType::Float16 | DType::BFloat16 | DType::Float32 | DType::Float64)
    };
    weights
        .iter()
        .map(|(name, view)| {
            let view = if is_float(view) && view.dtype() != dtype {
                TensorView::from_tensor(&view.to_tensor()?.f_to_kind(dtype.kind())?)?
            } else {
                view.clone()
            };
            Ok((name.clone(), view))
        })
        .collect()
}

/// The weights under the model's own names and in its shapes.
fn canonical(found: &Recognised) -> mae_core::checkpoint::Result<Weights> {
    let assignments = found.plan.assignments.iter();
    assignments
        .map(|assignment| {
            // What is only interpolated for another image size stays as it was.
            let resized =
                |transform: &dialect::Transform| matches!(transform, dialect::Transform::Positions { .. });
            let unchanged = assignment.transforms.iter().all(resized);
            let view = if unchanged {
                assignment.view.clone()
            } else {
                TensorView::from_tensor(&assignment.to_tensor()?)?
            };
            Ok((assignment.target.clone(), view))
        })
        .collect()
}

/// The root of a file in `dialect`, and the weights under its names.
fn translate(
    found: &Recognised,
    weights: Weights,
    to: Dialect,
) -> mae_core::checkpoint::Result<(Value, Weights)> {
    let family = match found.arch.family {
        mae_core::arch::Family::ConvNeXtV2(_) => dialect::Family::ConvNeXtV2,
        mae_core::arch::Family::Hiera(_) => dialect::Family::Hiera,
        mae_core::arch::Family::Vit(_) => dialect::Family::Vit,
    };
    let rename = |name: &str| match to {
        Dialect::Tao => Some(format!("{MODEL_PREFIX}{name}")),
        Dialect::Timm => dialect::timm_name(name, family),
        Dialect::Paper => Some(dialect::paper_name(name, family)),
        Dialect::Plain => Some(name.to_owned()),
    };
    let reshape = |name: &str, view: TensorView| match to {
        Dialect::Timm if name.contains(".mlp.grn.") => view.reshape(&[view.numel() as i64]),
        _ => Ok(view),
    };
    let weights: mae_core::checkpoint::Result<Weights> = weights
        .into_iter()
        .filter_map(|(name, view)| Some((rename(&name)?, view)))
        .map(|(name, view)| Ok((name.clone(), reshape(&name, view)?)))
        .collect();
    let weights = weights?;
    let tensors = Value::ordered_dict(weights.iter().map(|(name, view)| (name.clone(), view.clone().into())));
    let root = match to {
        Dialect::Tao => Value::dict([
            ("epoch", Value::Int(0)),
            ("global_step", Value::Int(0)),
            ("pytorch-lightning_version", Value::str(LIGHTNING_VERSION)),
            ("state_dict", tensors),
            ("tao_model", Value::str("mae")),
        ]),
        Dialect::Paper if family == dialect::Family::Hiera => Value::dict([("model_state", tensors)]),
        Dialect::Paper => Value::dict([("model", tensors)]),
        Dialect::Timm | Dialect::Plain => tensors,
    };
    Ok((root, weights))
}

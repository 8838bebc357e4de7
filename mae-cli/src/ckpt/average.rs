//! `mae ckpt average`: one model from several, element by element, in float64.

use std::path::{Path, PathBuf};

use mae_core::checkpoint::{DType, TensorView};
use tch::Kind;

use super::convert::rewrap;
use super::{in_file, open, refused, state_dict, text, write};
use crate::error::Result;

/// Averages the weights of `inputs` into `output`; what is no weight is the last input's.
pub(super) fn average(inputs: &[PathBuf], output: &Path, shares: Option<&[f64]>) -> Result<String> {
    let shares = shares_of(inputs, shares)?;
    let files = inputs.iter().map(|path| open(path)).collect::<Result<Vec<_>>>()?;
    let all =
        inputs.iter().zip(&files).map(|(path, file)| state_dict(path, file)).collect::<Result<Vec<_>>>()?;
    let (Some(last), Some(file)) = (all.last(), files.last()) else {
        return Err(refused(output, "nothing is to be averaged", "name at least two checkpoints"));
    };
    let mut weights = Vec::with_capacity(last.len());
    for (name, model) in last {
        let mut views = Vec::with_capacity(all.len());
        for (path, state_dict) in inputs.iter().zip(&all) {
            let found = state_dict.iter().find(|(other, _)| other == name).map(|(_, view)| view);
            match found {
                Some(view) if view.shape() == model.shape() => views.push(view),
                Some(view) => {
                    let problem =
                        format!("{name} has shape {:?}, elsewhere {:?}", view.shape(), model.shape());
                    return Err(refused(path, &problem, "average checkpoints of one model"));
                }
                None => {
                    let problem = format!("it has no tensor {name}");
                    return Err(refused(path, &problem, "average checkpoints of one model"));
                }
            }
        }
        let mean = mean(model, &views, &shares).map_err(|error| in_file(output, error))?;
        weights.push((name.clone(), mean));
    }
    if let Some((path, state_dict)) = inputs.iter().zip(&all).find(|(_, other)| other.len() != last.len()) {
        let problem = format!("it has {} tensors, the last one {}", state_dict.len(), last.len());
        return Err(refused(path, &problem, "average checkpoints of one model"));
    }
    write(output, &rewrap(file, &weights), &weights)?;
    Ok(format!(
        "averaged {} checkpoints\nwrote {} ({} tensors of weights)",
        inputs.len(),
        output.display(),
        text::count(weights.len())
    ))
}

/// The share of each input; equal ones if none are given.
fn shares_of(inputs: &[PathBuf], given: Option<&[f64]>) -> Result<Vec<f64>> {
    let Some(given) = given else { return Ok(vec![1.0 / inputs.len() as f64; inputs.len()]) };
    let total: f64 = given.iter().sum();
    let usable =
        total.is_finite() && total > 0.0 && given.iter().all(|share| share.is_finite() && *share >= 0.0);
    if given.len() != inputs.len() || !usable {
        let problem = format!("{} numbers for {} checkpoints: {given:?}", given.len(), inputs.len());
        return Err(refused(
            Path::new("--weights"),
            &problem,
            "give one number of at least 0 for each checkpoint, not all of them 0",
        ));
    }
    Ok(given.iter().map(|share| share / total).collect())
}

/// The mean in the element type of `model`; integers, which count things, are taken from there.
fn mean(
    model: &TensorView,
    views: &[&TensorView],
    shares: &[f64],
) -> mae_core::checkpoint::Result<TensorView> {
    if !matches!(model.dtype(), DType::Float16 | DType::BFloat16 | DType::Float32 | DType::Float64) {
        return Ok(model.clone());
    }
    let mut sum = model.to_tensor()?.f_to_kind(Kind::Double)?.f_zeros_like()?;
    for (view, share) in views.iter().zip(shares) {
        sum = sum.f_add(&view.to_tensor()?.f_to_kind(Kind::Double)?.f_mul_scalar(*share)?)?;
    }
    TensorView::from_tensor(&sum.f_to_kind(model.dtype().kind())?)
}

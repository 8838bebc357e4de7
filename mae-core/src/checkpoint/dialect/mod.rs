//! Other projects' tensor names and shapes → the model's, with a report of every tensor.
//!
//! | Room | What lives here |
//! |---|---|
//! | [`plan`] | which source tensor goes where, and how it must be changed |
//! | [`LoadPlan`], [`Assignment`] | the answer |
//! | [`bare_name`], [`timm_name`], [`paper_name`] | our names → theirs |
//! | [`LoadReport`] | the answer for a person: matched, renamed, reshaped, interpolated, skipped, missing |
//! | [`Facts`] | which model a checkpoint belongs to |
//! | `names` | the naming dialects |
//! | `transform` | reshaping, MinkowskiEngine kernels, position embeddings |
//!
//! Understood are TAO and Lightning (`model.`), DistributedDataParallel (`module.`), torch.compile (`_orig_mod.`),
//! facebookresearch/mae, ConvNeXt-V2's FCMAE (`encoder.`, 2-D and 6-D GRN, MinkowskiEngine kernels), Hiera, and
//! timm's names for ViT, ConvNeXtV2 and Hiera, and DINOv2's ViT, whose LayerScale is multiplied into the layers. Unlike upstream TAO, a TAO finetune checkpoint of ConvNeXtV2 loads,
//! Hiera's positions are interpolated, and a Hiera head with another number of classes is dropped.

mod facts;
mod names;
mod report;
mod transform;

use std::collections::{HashMap, HashSet};

use tch::Tensor;

use super::{Error, Result, TensorView};
pub use facts::{Facts, Stage};
use names::Candidate;
pub use names::{bare_name, paper_name, timm_name};
pub use report::{LoadReport, Reshaped, SkipReason, Skipped};
pub use transform::{Transform, resize_positions};

/// Architecture family of the target.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Family {
    /// ConvNeXt V2 and its FCMAE.
    ConvNeXtV2,
    /// Vision transformer.
    Vit,
    /// Hiera.
    Hiera,
}

/// What the weights are loaded for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// Start of a finetuning (`train.pretrained_model_path`): the backbone is taken, the pretraining decoder is
    /// not, a head of another shape is not; what is missing keeps its initial values.
    Finetune,
    /// Export of a pretrained backbone: as [`Role::Finetune`].
    Backbone,
    /// The same model (resume, evaluate, inference, export): every tensor of the model must be there.
    Full,
}

/// One tensor to load.
#[derive(Debug, Clone, PartialEq)]
pub struct Assignment {
    /// Name in the model.
    pub target: String,
    /// Name in the checkpoint.
    pub source: String,
    /// The stored tensor.
    pub view: TensorView,
    /// What makes it fit, in order.
    pub transforms: Vec<Transform>,
    /// DINOv2's LayerScale `[C]`, which multiplies what this layer gives. The models have none, so that it is multiplied
    /// into the layer's weight and bias, which gives the same function.
    pub layer_scale: Option<TensorView>,
}

impl Assignment {
    /// The tensor in the target's shape and the checkpoint's dtype, on the CPU.
    ///
    /// # Errors
    /// [`Error::Damaged`] and others when the stored bytes cannot be read, [`Error::Torch`].
    pub fn to_tensor(&self) -> Result<Tensor> {
        let mut tensor = self.view.to_tensor()?;
        for transform in &self.transforms {
            tensor = transform.apply(&tensor)?;
        }
        if let Some(scale) = &self.layer_scale {
            let mut shape = vec![1; tensor.dim()];
            shape[0] = -1;
            tensor = tensor.f_mul(&scale.to_tensor()?.f_reshape(&shape)?)?;
        }
        Ok(tensor)
    }
}

/// Which tensors to load, and the report for a person.
#[derive(Debug, Clone, PartialEq)]
pub struct LoadPlan {
    /// In the order of the target.
    pub assignments: Vec<Assignment>,
    /// What happens to every tensor of the checkpoint and of the model.
    pub report: LoadReport,
}

/// Finds for every tensor of a model (`target`: names and shapes in state dict order) its source. Its position table is
/// a square; [`plan_on_grid`] takes others.
///
/// Nothing is read from the checkpoint yet.
///
/// # Errors
/// [`Error::LoadRefused`] with the whole report: when (nearly) nothing of the checkpoint fits the model, when
/// tensors other than the head have another shape (it is another architecture), and for [`Role::Full`] when any
/// tensor of the model is missing.
pub fn plan(
    source: &[(String, TensorView)],
    target: &[(String, Vec<i64>)],
    family: Family,
    role: Role,
) -> Result<LoadPlan> {
    plan_on_grid(source, target, family, role, None)
}

/// As [`plan`], for a model whose position table has `grid` rows and columns.
///
/// # Errors
/// As [`plan`].
pub fn plan_on_grid(
    source: &[(String, TensorView)],
    target: &[(String, Vec<i64>)],
    family: Family,
    role: Role,
    grid: Option<(i64, i64)>,
) -> Result<LoadPlan> {
    let shapes: HashMap<&str, &[i64]> = target.iter().map(|(name, shape)| (&**name, &**shape)).collect();
    let mut report =
        LoadReport { source_tensors: source.len(), target_tensors: target.len(), ..Default::default() };
    let mut found: HashMap<String, Assignment> = HashMap::new();
    let scales = layer_scales(source, &shapes, family);
    for (name, view) in source {
        if family == Family::Vit
            && let Some(layer) = names::scaled_layer(name).filter(|layer| scales.contains_key(layer))
        {
            report.skip(name, SkipReason::Folded { layer });
            continue;
        }
        match place(name, view, &shapes, (family, role, grid)) {
            Ok((candidate, transforms)) => {
                if found.contains_key(&candidate.name) {
                    report.skip(name, SkipReason::Duplicate { target: candidate.name });
                    continue;
                }
                report.loaded(name, &candidate, view.shape(), &transforms);
                let target = candidate.name.clone();
                let layer = target.rsplit_once('.').map_or("", |(layer, _)| layer);
                let layer_scale = scales.get(layer).map(|scale| (*scale).clone());
                let (source, view) = (name.clone(), view.clone());
                found.insert(target.clone(), Assignment { target, source, view, transforms, layer_scale });
            }
            Err(reason) => report.skip(name, reason),
        }
    }
    let mut seen = HashSet::new();
    let mut assignments = Vec::with_capacity(found.len());
    for (name, _) in target {
        match found.remove(name) {
            Some(assignment) => assignments.push(assignment),
            None if seen.insert(name) => report.missing.push(name.clone()),
            None => {}
        }
    }
    match report.refusal(role) {
        Some((reason, remedy)) => Err(Error::LoadRefused { reason, report: report.to_string(), remedy }),
        None => Ok(LoadPlan { assignments, report }),
    }
}

/// LayerScale of the layers that have it, by the model's name of the layer.
fn layer_scales<'a>(
    source: &'a [(String, TensorView)],
    shapes: &HashMap<&str, &[i64]>,
    family: Family,
) -> HashMap<String, &'a TensorView> {
    if family != Family::Vit {
        return HashMap::new();
    }
    let fits = |layer: &String, view: &TensorView| {
        let weight = shapes.get(&*format!("{layer}.weight"));
        weight.is_some_and(|shape| shape.first() == view.shape().first() && view.shape().len() == 1)
    };
    let scales = source.iter().filter_map(|(name, view)| Some((names::scaled_layer(name)?, view)));
    scales.filter(|(layer, view)| fits(layer, view)).collect()
}

/// The first name under which the model knows the tensor, and what makes its shape fit.
fn place(
    name: &str,
    view: &TensorView,
    shapes: &HashMap<&str, &[i64]>,
    (family, role, grid): (Family, Role, Option<(i64, i64)>),
) -> Result<(Candidate, Vec<Transform>), SkipReason> {
    let candidate = names::candidates(name, family, role).into_iter().find(|c| shapes.contains_key(&*c.name));
    let Some(candidate) = candidate else {
        let pretraining = names::is_pretraining_only(name) && role != Role::Full;
        return Err(if pretraining { SkipReason::PretrainingOnly } else { SkipReason::NotInModel });
    };
    let expected = shapes.get(&*candidate.name).copied().unwrap_or(&[]);
    match transform::between(&candidate, view.shape(), expected, grid) {
        Some(transforms) => Ok((candidate, transforms)),
        None => {
            let (found, expected) = (view.shape().to_vec(), expected.to_vec());
            Err(if names::is_head(&candidate.name) {
                SkipReason::HeadShape { found, expected }
            } else {
                SkipReason::Shape { found, expected }
            })
        }
    }
}

//! What the checkpoint decides before there is a plan: which file a key means, and what the spec leaves unset.
//!
//! `train.stage`, `model.arch`, `model.num_classes` and `dataset.augmentation.input_size` are those of the checkpoint
//! that an action starts from, unless the spec or the command line says otherwise; saying something else than the
//! checkpoint is an error here, before any work.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use mae_core::checkpoint::Passphrase;
use mae_core::checkpoint::dialect::{Facts, Stage};

use super::classifier::is_onnx;
use super::{artefact, model};
use crate::error::{Error, Result};
use crate::spec::interpolation::Context;
use crate::spec::{self, Action, Composed, Origin, Plan, Value};

const STAGE: &str = "train.stage";
const ARCH: &str = "model.arch";
const CLASSES: &str = "model.num_classes";
const SIZE: &str = "dataset.augmentation.input_size";
const RESUME: &str = "train.resume_training_checkpoint_path";
const PRETRAINED: &str = "train.pretrained_model_path";

/// The plan of an action: the composed spec, completed from the checkpoint that the action starts from.
///
/// # Errors
/// The spec is wrong, names no usable checkpoint, or contradicts it.
pub(super) fn plan(mut composed: Composed, action: Action, context: &Context<'_>) -> Result<Plan> {
    let draft = of(&composed, action, context);
    match action {
        Action::Train => training(&mut composed, &draft?, context)?,
        Action::GenTrtEngine => return Ok(draft?),
        Action::Evaluate | Action::Inference | Action::Export => {
            if let Err(error) = draft
                && !is_left_open(&error)
            {
                return Err(error.into());
            }
            trained(&mut composed, action, context)?;
        }
    }
    Ok(of(&composed, action, context)?)
}

fn of(composed: &Composed, action: Action, context: &Context<'_>) -> spec::Result<Plan> {
    Plan::of(composed.clone(), action, context.spec_name, context.env)
}

/// Whether the checkpoint may still mend what is wrong with a spec.
fn is_left_open(error: &spec::Error) -> bool {
    !error.origin().is_explicit() && matches!(error.path(), Some("results_dir" | STAGE))
}

/// Evaluate, inference and export: everything is as in the checkpoint.
fn trained(composed: &mut Composed, action: Action, context: &Context<'_>) -> Result<()> {
    let key = format!("{}.checkpoint", action.name());
    let Some(path) = choose(composed, &key, context)? else { return Ok(()) };
    // An ONNX file is described by itself when it is run.
    let facts = if is_onnx(&path) { Facts::default() } else { facts(composed, &key, &path, context)? };
    let start = Start { key: &key, path: &path, other: "give another checkpoint" };
    start.settle(composed, context, &facts, &[STAGE, ARCH, CLASSES, SIZE], &[STAGE, ARCH, CLASSES])?;
    start.note_other_size(composed, context, &facts)?;

    let own = format!("{}.results_dir", action.name());
    if composed.text("results_dir", context)?.is_none() && composed.text(&own, context)?.is_none() {
        let folder = results_beside(Path::new(&path));
        composed.notes.push(format!(
            "results_dir is unset: results go into {}, beside the checkpoint's",
            folder.join(action.name()).display()
        ));
        let text = Value::Str(folder.to_string_lossy().into_owned());
        composed.set("results_dir", text, start.origin());
    }
    Ok(())
}

/// Training: a run in the results folder is resumed, else fine-tuning starts from pre-trained weights.
fn training(composed: &mut Composed, draft: &Plan, context: &Context<'_>) -> Result<()> {
    let resume = match choose(composed, RESUME, context)? {
        Some(path) => Some((RESUME, path, "give another checkpoint")),
        None => {
            let asked = draft.origin(ARCH).is_explicit().then_some(draft.model.arch.as_str());
            let path = artefact::resume_point(draft.results_dir(), asked)?;
            path.map(|path| ("results_dir", text_of(&path), "choose another results_dir"))
        }
    };
    if let Some((key, path, other)) = resume {
        let facts = match facts(composed, key, &path, context) {
            Ok(facts) => facts,
            // A damaged one may have a whole one before it, which the training finds.
            Err(error) if key == "results_dir" && !error.is_about_the_passphrase() => return Ok(()),
            Err(error) => return Err(error),
        };
        let all = [STAGE, ARCH, CLASSES, SIZE];
        return Start { key, path: &path, other }.settle(composed, context, &facts, &all, &all);
    }
    if draft.train.stage != spec::schema::Stage::Finetune {
        return Ok(());
    }
    let Some(path) = choose(composed, PRETRAINED, context)? else { return Ok(()) };
    let facts = facts(composed, PRETRAINED, &path, context)?;
    Start { key: PRETRAINED, path: &path, other: "give other weights" }.settle(
        composed,
        context,
        &facts,
        &[ARCH, SIZE],
        &[ARCH],
    )
}

/// What the checkpoint that `key` names says of itself.
fn facts(composed: &Composed, key: &str, path: &str, context: &Context<'_>) -> Result<Facts> {
    let passphrase = composed.text("encryption_key", context)?.filter(|text| !text.is_empty());
    Ok(Facts::of(&model::open(passphrase.map(Passphrase::new).as_ref(), key, path)?))
}

/// The file that a key means; a choice among a folder's checkpoints is noted, and the file takes the folder's place.
fn choose(composed: &mut Composed, key: &str, context: &Context<'_>) -> Result<Option<String>> {
    let Some(text) = composed.text(key, context)? else { return Ok(None) };
    if is_onnx(&text) {
        return Ok(Some(text));
    }
    let artefact = artefact::choose(key, &text)?;
    let path = text_of(&artefact.path);
    if let Some(rule) = artefact.rule {
        composed.notes.push(format!("{key}: {rule}"));
        let origin = composed.origin(key);
        composed.set(key, Value::Str(path.clone()), origin);
    }
    Ok(Some(path))
}

/// The checkpoint that an action starts from.
struct Start<'a> {
    /// The key that names it.
    key: &'a str,
    path: &'a str,
    /// What to do when the spec is right and the checkpoint is wrong.
    other: &'a str,
}

impl Start<'_> {
    fn origin(&self) -> Origin {
        Origin::Checkpoint { file: Arc::from(self.path) }
    }

    /// Gives the fields of `carried` that nobody set the checkpoint's values, and refuses other values of the fields
    /// of `binding`.
    fn settle(
        &self,
        composed: &mut Composed,
        context: &Context<'_>,
        facts: &Facts,
        carried: &[&str],
        binding: &[&str],
    ) -> Result<()> {
        let mut taken = Vec::new();
        for &field in carried {
            let Some(value) = value(facts, field) else { continue };
            let (wanted, found) = (composed.text(field, context)?, value.to_text());
            let set = composed.origin(field).is_explicit() && wanted.is_some();
            if wanted.as_deref() == Some(found.as_str()) {
                continue;
            }
            if !set {
                taken.push(format!("{field} = {found}"));
                composed.set(field, value, self.origin());
            } else if binding.contains(&field) {
                return Err(Error::File {
                    key: self.key.to_owned(),
                    problem: format!(
                        "{} was trained with {field} = {found}, but the spec says {field} = {} ({})",
                        self.path,
                        wanted.unwrap_or_default(),
                        composed.origin(field)
                    ),
                    help: format!("set {field}={found}, or leave it out, or {}", self.other),
                });
            }
        }
        if !taken.is_empty() {
            composed.notes.push(format!("unset, so taken from {}: {}", self.path, taken.join(", ")));
        }
        Ok(())
    }

    /// Another input size than in training is allowed, and worth a word.
    fn note_other_size(&self, composed: &mut Composed, context: &Context<'_>, facts: &Facts) -> Result<()> {
        let wanted = composed.text(SIZE, context)?;
        if let (Some(size), Some(wanted)) = (facts.input_size, wanted)
            && size.to_string() != wanted
        {
            composed.notes.push(format!("{SIZE} = {wanted}; the model was trained at {size}"));
        }
        Ok(())
    }
}

fn value(facts: &Facts, field: &str) -> Option<Value> {
    let number = |number: Option<usize>| number.map(|number| Value::Int(number as i128));
    match field {
        STAGE => facts.stage.map(|stage: Stage| Value::Str(stage.name().to_owned())),
        ARCH => facts.arch.clone().map(Value::Str),
        CLASSES => number(facts.num_classes),
        SIZE => number(facts.input_size),
        _ => None,
    }
}

/// The root of the results that a checkpoint lies in: `results` for `results/train/x.pth`.
fn results_beside(checkpoint: &Path) -> PathBuf {
    let folder =
        checkpoint.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let root = folder.parent().filter(|_| folder.file_name().is_some_and(|name| name == "train"));
    match root {
        Some(root) if root.as_os_str().is_empty() => PathBuf::from("."),
        Some(root) => root.to_owned(),
        None => folder.to_owned(),
    }
}

fn text_of(path: &Path) -> String {
    path.to_string_lossy().into_owned()
}

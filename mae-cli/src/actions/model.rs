//! From the plan to a model, with the weights it starts from.

use std::path::Path;

use mae_core::arch::Arch;
use mae_core::checkpoint::dialect::{LoadReport, Role};
use mae_core::checkpoint::{Checkpoint, Passphrase, Value};
use mae_core::model::Model;

use super::Run;
use crate::error::{Error, Result};
use crate::spec::Plan;
use crate::spec::schema::Stage;

/// A new model for the plan's stage.
pub(super) fn build(plan: &Plan, run: &Run) -> Result<Model> {
    let size = plan.dataset.augmentation.input_size as i64;
    let arch = Arch::by_name(&plan.model.arch)?;
    let seed = plan.train.seed as u64;
    let device = run.device;
    Ok(match plan.train.stage {
        Stage::Pretrain => Model::pretrain(arch, (size, size), plan.pretrain_config(arch), seed, device)?,
        Stage::Finetune => Model::classifier(arch, (size, size), &plan.classifier_config(), seed, device)?,
    })
}

/// The weights that fine-tuning starts from, if the plan names any.
pub(super) fn load_pretrained(plan: &Plan, model: &mut Model, run: &mut Run) -> Result<()> {
    let Some(path) = &plan.train.pretrained_model_path else { return Ok(()) };
    if plan.train.stage == Stage::Pretrain {
        run.progress.say("note: train.pretrained_model_path counts only in fine-tuning; it is left aside");
        return Ok(());
    }
    let key = "train.pretrained_model_path";
    let report = load(model, key, path, &open(plan.passphrase().as_ref(), key, path)?, Role::Finetune)?;
    run.progress.say(&format!("Weights from {path}: {report}"));
    Ok(())
}

/// A model with all the weights of the plan's checkpoint: evaluation, inference, export of a classifier.
pub(super) fn restore(plan: &Plan, run: &mut Run) -> Result<(Model, Checkpoint)> {
    let key = format!("{}.checkpoint", plan.action().name());
    let checkpoint = open_trained(plan, run)?;
    let mut model = build(plan, run)?;
    let report = load(&mut model, &key, plan.checkpoint(), &checkpoint, Role::Full)?;
    run.progress.say(&format!("Weights from {}: {report}", plan.checkpoint()));
    Ok((model, checkpoint))
}

/// Opens the checkpoint of evaluate, inference or export, and checks that it is one of the plan's model.
pub(super) fn open_trained(plan: &Plan, run: &mut Run) -> Result<Checkpoint> {
    let (key, path) = (format!("{}.checkpoint", plan.action().name()), plan.checkpoint());
    let checkpoint = open(plan.passphrase().as_ref(), &key, path)?;
    run.status.loading_checkpoint(path)?;
    agree(plan, &key, path, &checkpoint, "give another checkpoint")?;
    Ok(checkpoint)
}

/// Loads the checkpoint at `path`, which `key` of the spec names.
pub(super) fn load(
    model: &mut Model,
    key: &str,
    path: &str,
    checkpoint: &Checkpoint,
    role: Role,
) -> Result<LoadReport> {
    model.load(checkpoint, role).map_err(|error| Error::Core(error).at(format!("{key}: {path}")))
}

/// Opens a checkpoint that a key of the spec names.
pub(super) fn open(passphrase: Option<&Passphrase>, key: &str, path: &str) -> Result<Checkpoint> {
    if !Path::new(path).exists() {
        return Err(Error::File {
            key: key.to_owned(),
            problem: format!("the checkpoint {path} does not exist"),
            help: "give the .pth that mae train wrote, for example results/train/convnextv2_atto_latest.pth"
                .into(),
        });
    }
    Checkpoint::open_with(path, passphrase).map_err(|error| Error::from(error).at(key))
}

/// Refuses a checkpoint of another architecture or stage by name, before its tensors are compared; `other` is what to
/// do when the spec is right.
pub(super) fn agree(plan: &Plan, key: &str, path: &str, checkpoint: &Checkpoint, other: &str) -> Result<()> {
    let extra = checkpoint.root().get("mae");
    let stored = |field: &str| extra.and_then(|extra| extra.get(field)).and_then(Value::as_str);
    for (field, setting, wanted) in [
        ("arch", "model.arch", plan.model.arch.as_str()),
        ("stage", "train.stage", plan.train.stage.as_str()),
    ] {
        if let Some(found) = stored(field)
            && found != wanted
        {
            return Err(Error::File {
                key: key.to_owned(),
                problem: format!(
                    "{path} was trained with {setting} = {found}, but the spec says {setting} = {wanted}"
                ),
                help: format!("set {setting}={found}, or {other}"),
            });
        }
    }
    Ok(())
}

/// Names of the classes that a checkpoint was trained on; empty when it does not say.
pub(super) fn stored_classes(checkpoint: &Checkpoint) -> Vec<String> {
    let classes =
        checkpoint.root().get_path(&["mae", "classes"]).and_then(Value::as_slice).unwrap_or_default();
    classes.iter().filter_map(Value::as_str).map(str::to_owned).collect()
}

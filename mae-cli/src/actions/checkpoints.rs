//! The checkpoints of a results folder: their names, the link to the latest, and what a run resumes from.

use std::fs;
use std::path::{Path, PathBuf};

use mae_core::checkpoint::lightning::{CheckpointContents, ModelCheckpoint};
use mae_core::checkpoint::{self, Value};
use mae_core::engine::{SaveReason, Trainer};

use super::{artefact, model};
use crate::error::{Error, Result};
use crate::spec::Plan;
use crate::spec::schema::IntervalUnit;

/// Writes the checkpoints of one training.
pub(super) struct Checkpoints {
    folder: PathBuf,
    link: PathBuf,
    every: (i64, i64),
    extra: Vec<(&'static str, Value)>,
    has_written: bool,
}

impl Checkpoints {
    /// `extra` is stored in every file: what later actions want to know of the training.
    pub(super) fn new(plan: &Plan, extra: Vec<(&'static str, Value)>) -> Self {
        let interval = plan.train.checkpoint_interval as i64;
        Checkpoints {
            folder: plan.results_dir().to_owned(),
            link: link(plan),
            every: match plan.train.checkpoint_interval_unit {
                IntervalUnit::Step => (interval, 0),
                IntervalUnit::Epoch => (0, interval),
            },
            extra,
            has_written: false,
        }
    }

    /// Writes `model_epoch_EEE_step_SSSSS.pth` whole, then moves `ARCH_latest.pth` to it.
    pub(super) fn save(&mut self, trainer: &Trainer<'_>, reason: SaveReason) -> Result<PathBuf> {
        let mut contents = trainer.checkpoint(reason.epoch_done(), self.extra.clone())?;
        let name = format!("model_epoch_{:03}_step_{:05}.pth", contents.epoch, contents.global_step);
        let path = self.folder.join(&name);
        let text = |path: &Path| path.to_string_lossy().into_owned();
        contents.callback = Some(ModelCheckpoint {
            every_n_train_steps: self.every.0,
            every_n_epochs: self.every.1,
            dirpath: text(&self.folder),
            best_model_path: text(&path),
            last_model_path: if self.has_written { text(&self.link) } else { String::new() },
        });
        checkpoint::write(&path, &contents.to_value()).map_err(Error::Save)?;
        checkpoint::swap_symlink(&self.link, &name).map_err(Error::Save)?;
        self.has_written = true;
        Ok(path)
    }
}

/// Removes what a run that was killed while it wrote a checkpoint has left; a large model leaves gigabytes.
pub(super) fn remove_unfinished(plan: &Plan) -> Result<()> {
    let folder = plan.results_dir();
    let failed = |source| crate::report::Error::Write { path: folder.to_owned(), source };
    for entry in fs::read_dir(folder).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        let name = entry.file_name();
        let name = name.to_string_lossy();
        if name.starts_with('.') && name.contains(".pth.") && name.ends_with(".tmp") {
            fs::remove_file(entry.path()).map_err(failed)?;
        }
    }
    Ok(())
}

/// `<results folder>/<arch>_latest.pth`.
fn link(plan: &Plan) -> PathBuf {
    plan.results_dir().join(format!("{}_latest.pth", plan.model.arch))
}

/// What the training resumes from: the file that the spec names, else the latest one of the results folder.
pub(super) fn resume_point(plan: &Plan) -> Result<Option<(PathBuf, CheckpointContents)>> {
    let (key, path) = match plan.train.resume_training_checkpoint_path.as_deref() {
        Some(path) => ("train.resume_training_checkpoint_path", Some(PathBuf::from(path))),
        None => ("results_dir", artefact::resume_point(plan.results_dir(), Some(&plan.model.arch))?),
    };
    let Some(path) = path else { return Ok(None) };
    let text = path.to_string_lossy();
    let file = model::open(key, &text)?;
    let contents = CheckpointContents::from_value(file.root())
        .map_err(|e| Error::from(e).at(format!("{key}: {text}")))?;
    Ok(Some((path, contents)))
}

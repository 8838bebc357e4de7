//! The checkpoints of a results folder: their names, the links to the latest and the best, which are kept, and what a run
//! resumes from.

use std::fs;
use std::path::{Path, PathBuf};

use mae_core::checkpoint::lightning::{CheckpointContents, ModelCheckpoint};
use mae_core::checkpoint::{self, Background, Checkpoint, Passphrase, TensorView, Value};
use mae_core::engine::{Metrics, SaveReason, Trainer};

use super::model;
use crate::error::{Error, Result};
use crate::report::is_unfinished;
use crate::spec::Plan;
use crate::spec::schema::IntervalUnit;

/// Where a checkpoint keeps the best validation so far.
const BEST: &str = "best";

/// Writes the checkpoints of one training, off the thread that trains.
pub(super) struct Checkpoints {
    folder: PathBuf,
    links: Links,
    every: (i64, i64),
    extra: Vec<(&'static str, Value)>,
    has_written: bool,
    keep_last: usize,
    keep_best: bool,
    safetensors: bool,
    passphrase: Option<Passphrase>,
    best: Option<Best>,
    /// The validation since the last optimizer step, if there was one.
    validated: Option<(u64, Metrics)>,
    background: Background<Error>,
}

/// `ARCH_latest.pth` and `ARCH_best.pth`.
#[derive(Debug, Clone)]
struct Links {
    latest: PathBuf,
    best: PathBuf,
}

/// The best validation so far.
#[derive(Debug, Clone, PartialEq)]
struct Best {
    /// Accuracy, or the loss with its sign changed: larger is better.
    score: f64,
    file: String,
}

impl Best {
    fn score(metrics: &Metrics) -> f64 {
        metrics.accuracy.unwrap_or(-metrics.loss)
    }

    fn to_value(&self) -> Value {
        Value::dict([("score", Value::Float(self.score)), ("file", Value::str(&self.file))])
    }

    fn from_value(value: &Value) -> Option<Self> {
        Some(Best { score: value.get("score")?.as_f64()?, file: value.get("file")?.as_str()?.to_owned() })
    }
}

/// One checkpoint, ready to be written while the training goes on.
struct Job {
    path: PathBuf,
    name: String,
    root: Value,
    weights: Option<Vec<(String, TensorView)>>,
    passphrase: Option<Passphrase>,
    links: Links,
    best: Option<String>,
    keep_last: usize,
}

impl Checkpoints {
    /// `extra` is stored in every file: what later actions want to know of the training. `resumed` is the checkpoint
    /// that the training continues from.
    pub(super) fn new(
        plan: &Plan,
        extra: Vec<(&'static str, Value)>,
        resumed: Option<&CheckpointContents>,
    ) -> Self {
        let interval = plan.train.checkpoint_interval as i64;
        let stored = resumed.and_then(|contents| contents.extra.as_ref()?.get(BEST));
        Checkpoints {
            folder: plan.results_dir().to_owned(),
            links: Links {
                latest: link(plan),
                best: plan.results_dir().join(format!("{}_best.pth", plan.model.arch)),
            },
            every: match plan.train.checkpoint_interval_unit {
                IntervalUnit::Step => (interval, 0),
                IntervalUnit::Epoch => (0, interval),
            },
            extra,
            has_written: resumed.is_some(),
            keep_last: plan.train.checkpoint_keep_last,
            keep_best: plan.train.checkpoint_keep_best,
            safetensors: plan.train.checkpoint_safetensors,
            passphrase: plan.passphrase().filter(|_| plan.train.encrypt_checkpoints),
            best: stored.and_then(Best::from_value),
            validated: None,
            background: Background::default(),
        }
    }

    /// Stores another fact in every file from now on, in place of an earlier one of that name.
    pub(super) fn set_fact(&mut self, name: &'static str, value: Value) {
        self.extra.retain(|(other, _)| *other != name);
        self.extra.push((name, value));
    }

    /// Remembers a validation of the state as it is, for `ARCH_best.pth`.
    pub(super) fn validated(&mut self, step: u64, metrics: &Metrics) {
        self.validated = Some((step, *metrics));
    }

    /// Copies the state and has it written as `model_epoch_EEE_step_SSSSS.pth`, whole, after which `ARCH_latest.pth` is
    /// moved to it. Waits for the one before; an error of that one comes back here.
    pub(super) fn save(&mut self, trainer: &Trainer<'_>, reason: SaveReason) -> Result<PathBuf> {
        let step = trainer.cursor().step;
        let mut extra = self.extra.clone();
        let (epoch, global_step) = trainer.checkpoint_position();
        let name = format!("model_epoch_{epoch:03}_step_{global_step:05}.pth");
        if self.keep_best {
            // A save that no interval asked for must not make this run's best another than an undisturbed one's.
            let asked = reason != SaveReason::Interrupt;
            let score = self
                .validated
                .filter(|(at, _)| asked && *at == step)
                .map(|(_, metrics)| Best::score(&metrics));
            if let Some(score) =
                score.filter(|score| self.best.as_ref().is_none_or(|best| *score > best.score))
            {
                self.best = Some(Best { score, file: name.clone() });
            }
            extra.extend(self.best.as_ref().map(|best| (BEST, best.to_value())));
        }
        let mut contents = trainer.checkpoint(reason.epoch_done(), extra)?;
        let path = self.folder.join(&name);
        let text = |path: &Path| path.to_string_lossy().into_owned();
        contents.callback = Some(ModelCheckpoint {
            every_n_train_steps: self.every.0,
            every_n_epochs: self.every.1,
            dirpath: text(&self.folder),
            best_model_path: text(&path),
            last_model_path: if self.has_written { text(&self.links.latest) } else { String::new() },
        });
        // Before the copy, so that there are never two of them.
        self.background.wait()?;
        let root = contents.to_value().snapshot().map_err(Error::Save)?;
        let weights = self.safetensors.then(|| weights_of(&root));
        let job = Job {
            path: path.clone(),
            name,
            root,
            weights,
            passphrase: self.passphrase.clone(),
            links: self.links.clone(),
            best: self.best.as_ref().map(|best| best.file.clone()),
            keep_last: self.keep_last,
        };
        self.background.start(move || job.run())?;
        self.has_written = true;
        Ok(path)
    }

    /// Gives the error of a checkpoint that could not be written, as soon as it is known.
    pub(super) fn poll(&mut self) -> Result<()> {
        self.background.poll()
    }

    /// Waits until what was saved is on the disk.
    pub(super) fn wait(&mut self) -> Result<()> {
        self.background.wait()
    }
}

impl Job {
    fn run(self) -> Result<()> {
        if let Some(weights) = &self.weights {
            checkpoint::write_safetensors(&self.path.with_extension("safetensors"), weights)
                .map_err(Error::Save)?;
        }
        match &self.passphrase {
            Some(passphrase) => checkpoint::write_encrypted(&self.path, &self.root, passphrase),
            None => checkpoint::write(&self.path, &self.root),
        }
        .map_err(Error::Save)?;
        checkpoint::swap_symlink(&self.links.latest, &self.name).map_err(Error::Save)?;
        if let Some(best) = &self.best {
            checkpoint::swap_symlink(&self.links.best, best).map_err(Error::Save)?;
        }
        if self.keep_last > 0 {
            self.remove_old()?;
        }
        Ok(())
    }

    /// Removes all checkpoints but the newest, the best, and this one.
    fn remove_old(&self) -> Result<()> {
        let folder = self.path.parent().unwrap_or(Path::new("."));
        let mut all = in_folder(folder)?;
        all.truncate(all.len().saturating_sub(self.keep_last));
        for (_, path) in all {
            let name = path.file_name().map(|name| name.to_string_lossy().into_owned());
            if name.as_ref() == Some(&self.name) || (name.is_some() && name == self.best) {
                continue;
            }
            let failed = |source| crate::report::Error::Write { path: path.clone(), source };
            fs::remove_file(&path).map_err(failed)?;
            let beside = path.with_extension("safetensors");
            if beside.exists() {
                fs::remove_file(&beside).map_err(failed)?;
            }
        }
        Ok(())
    }
}

/// The tensors under `state_dict`, without Lightning's prefix.
fn weights_of(root: &Value) -> Vec<(String, TensorView)> {
    let items = root.get("state_dict").and_then(Value::as_dict).unwrap_or_default();
    let named = items.iter().filter_map(|(name, value)| Some((name.as_str()?, value.as_tensor()?)));
    named.map(|(name, view)| (checkpoint::dialect::bare_name(name).to_owned(), view.clone())).collect()
}

/// The checkpoints of a folder by epoch and step, the oldest first.
fn in_folder(folder: &Path) -> Result<Vec<((u64, u64), PathBuf)>> {
    let failed = |source| crate::report::Error::Write { path: folder.to_owned(), source };
    let mut found = Vec::new();
    let entries = match fs::read_dir(folder) {
        Ok(entries) => entries,
        // Before the first run there is no folder.
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(found),
        Err(error) => return Err(failed(error).into()),
    };
    for entry in entries {
        let path = entry.map_err(failed)?.path();
        let position = path.file_name().and_then(|name| position(&name.to_string_lossy()));
        found.extend(position.map(|position| (position, path)));
    }
    found.sort();
    Ok(found)
}

/// Epoch and step of `model_epoch_EEE_step_SSSSS.pth`.
fn position(name: &str) -> Option<(u64, u64)> {
    let (epoch, step) = name.strip_prefix("model_epoch_")?.strip_suffix(".pth")?.split_once("_step_")?;
    Some((epoch.parse().ok()?, step.parse().ok()?))
}

/// Removes what a run that was killed while it wrote has left; a checkpoint of a large model has gigabytes.
pub(super) fn remove_unfinished(plan: &Plan) -> Result<()> {
    let folder = plan.results_dir();
    let failed = |source| crate::report::Error::Write { path: folder.to_owned(), source };
    for entry in fs::read_dir(folder).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        let name = entry.file_name();
        let name = name.to_string_lossy();
        if is_unfinished(&name) {
            fs::remove_file(entry.path()).map_err(failed)?;
        }
    }
    Ok(())
}

/// `<results folder>/<arch>_latest.pth`.
pub(super) fn link(plan: &Plan) -> PathBuf {
    plan.results_dir().join(format!("{}_latest.pth", plan.model.arch))
}

/// What a training resumes from.
pub(super) struct ResumePoint {
    pub(super) path: PathBuf,
    pub(super) contents: CheckpointContents,
    /// What the user should know: newer files that are of no use.
    pub(super) notes: Vec<String>,
}

/// What the training resumes from: the file that the spec names, else the latest one of the results folder. Where that
/// is damaged or gone, the newest one before it that is whole.
pub(super) fn resume_point(plan: &Plan) -> Result<Option<ResumePoint>> {
    if let Some(path) = plan.train.resume_training_checkpoint_path.as_deref() {
        let key = "train.resume_training_checkpoint_path";
        let contents = read(plan, key, Path::new(path), "give another checkpoint")?;
        return Ok(Some(ResumePoint { path: path.into(), contents, notes: Vec::new() }));
    }
    let linked = checkpoint::link_target(&link(plan))?;
    let mut candidates: Vec<PathBuf> = linked.iter().cloned().collect();
    // A run that was killed before it moved the link leaves a newer file, or the only one.
    let others = in_folder(plan.results_dir())?.into_iter().rev().map(|(_, path)| path);
    candidates.extend(others.filter(|path| linked.as_ref().is_none_or(|linked| !same_file(linked, path))));
    let mut failure = None;
    let mut notes = Vec::new();
    for path in candidates {
        match read(plan, "results_dir", &path, "choose another results_dir") {
            Ok(contents) => return Ok(Some(ResumePoint { path, contents, notes })),
            // Another model's checkpoint is no damage, and an older one would not be better.
            Err(error @ Error::File { .. }) if path.exists() => return Err(error),
            Err(error) if error.is_about_the_passphrase() => return Err(error),
            Err(error) => {
                notes.push(format!("{error}"));
                failure.get_or_insert(error);
            }
        }
    }
    failure.map_or(Ok(None), Err)
}

/// Opens a checkpoint, checks that it is of the plan's model and that every byte is as it was written.
fn read(plan: &Plan, key: &str, path: &Path, other: &str) -> Result<CheckpointContents> {
    let text = path.to_string_lossy();
    let file: Checkpoint = model::open(plan.passphrase().as_ref(), key, &text)?;
    model::agree(plan, key, &text, &file, other)?;
    let at = |error| Error::from(error).at(format!("{key}: {text}"));
    file.verify().map_err(at)?;
    CheckpointContents::from_value(file.root()).map_err(at)
}

fn same_file(a: &Path, b: &Path) -> bool {
    a.file_name() == b.file_name()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn positions_come_from_names() {
        assert_eq!(position("model_epoch_004_step_00465.pth"), Some((4, 465)));
        assert_eq!(position("model_epoch_1004_step_1234567.pth"), Some((1004, 1_234_567)));
        for other in [
            "convnextv2_atto_latest.pth",
            "model_epoch_004_step_00465.safetensors",
            "model_epoch_x_step_1.pth",
        ] {
            assert_eq!(position(other), None, "{other}");
        }
    }
}

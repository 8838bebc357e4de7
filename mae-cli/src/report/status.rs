//! `status.json`: one JSON object a line, appended, in upstream's fields, order and wording.
//!
//! Upstream never writes SUCCESS and leaves some failures without a line. Here every end has its line: a run that ends
//! well writes upstream's last line and the same once more with status SUCCESS, and a writer that is dropped without an
//! end (a panic, a forgotten path) writes FAILURE.

use super::python_json::Json;
use super::{Error, Result, rewind};
use crate::spec::Action;
use std::fs::{File, OpenOptions};
use std::io::{Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// The `status` of a line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Status {
    /// Something begins.
    Started,
    /// It goes on.
    Running,
    /// It ended well.
    Success,
    /// It ended badly.
    Failure,
    /// Something was left out.
    Skipped,
}

impl Status {
    const fn as_str(self) -> &'static str {
        match self {
            Self::Started => "STARTED",
            Self::Running => "RUNNING",
            Self::Success => "SUCCESS",
            Self::Failure => "FAILURE",
            Self::Skipped => "SKIPPED",
        }
    }
}

/// The `verbosity` of a line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verbosity {
    /// Ordinary.
    Info,
    /// Deserves a look.
    Warning,
    /// Something failed.
    Error,
}

impl Verbosity {
    const fn as_str(self) -> &'static str {
        match self {
            Self::Info => "INFO",
            Self::Warning => "WARNING",
            Self::Error => "ERROR",
        }
    }
}

/// Why a run failed; upstream has one wording for each.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Failure {
    /// The spec.
    Configuration,
    /// Something that is not supported.
    NotImplemented,
    /// A value or a data set that does not fit.
    Parameter,
    /// Files.
    FileSystem,
    /// Everything else: out of memory, a defect. Upstream writes no line for these.
    Runtime,
}

impl Failure {
    const fn prefix(self) -> &'static str {
        match self {
            Self::Configuration => "Configuration error",
            Self::NotImplemented => "Feature not implemented",
            Self::Parameter => "Parameter validation error",
            Self::FileSystem => "File system error",
            Self::Runtime => "Runtime error",
        }
    }
}

/// What the line at the end of an epoch says.
#[derive(Clone, Copy, Debug)]
pub struct EpochStatus {
    /// The epoch, from 0.
    pub epoch: usize,
    /// Epochs of the run.
    pub num_epochs: usize,
    /// Optimizer steps so far, over all epochs.
    pub step: usize,
    /// Batches of an epoch. Upstream's `max_step` counts batches, not steps.
    pub batches_per_epoch: usize,
    /// Time of this epoch.
    pub time_per_epoch: Duration,
    /// Mean time of a batch since the start.
    pub time_per_step: Duration,
    /// Images per second in this epoch; upstream has no such field.
    pub images_per_second: Option<f64>,
    /// Share of the epoch spent waiting for the loader, 0..1; upstream has no such field.
    pub loader_stall: Option<f64>,
}

/// The writer. Only rank 0 of a run holds one that writes.
#[derive(Debug)]
pub struct StatusFile {
    out: Option<(PathBuf, File)>,
    action: Action,
    kpi: Vec<(String, Json)>,
    uploaded: bool,
    ended: bool,
}

impl StatusFile {
    /// Opens `status.json` in a results folder that exists, to append.
    ///
    /// # Errors
    /// The file cannot be opened.
    pub fn open(results_dir: &Path, action: Action) -> Result<Self> {
        let path = results_dir.join("status.json");
        let file = append(&path)?;
        Ok(Self { out: Some((path, file)), action, kpi: Vec::new(), uploaded: false, ended: false })
    }

    /// Removes the lines of epochs from `epoch` on and of optimizer steps from `step` on, which a resumed training will
    /// write again.
    ///
    /// # Errors
    /// The file cannot be read or written.
    pub fn rewind(&mut self, epoch: u64, step: u64) -> Result<()> {
        let Some((path, file)) = &mut self.out else { return Ok(()) };
        let text = std::fs::read_to_string(&*path).map_err(Error::write(path))?;
        let kept = rewind::lines_before(&text, epoch, step);
        if kept != text {
            super::write_atomically(path, kept.as_bytes())?;
            *file = append(path)?;
        }
        Ok(())
    }

    /// One that writes nothing, for the other ranks.
    pub fn silent(action: Action) -> Self {
        Self { out: None, action, kpi: Vec::new(), uploaded: false, ended: true }
    }

    /// Says whether whoever started the run (`CLOUD_BASED=True`) takes the results folder away when it is done: TAO's
    /// services wait for a line about it. This program itself sends nothing.
    pub fn uploaded_by_the_starter(mut self, uploaded: bool) -> Self {
        self.uploaded = uploaded;
        self
    }

    /// The first line of a run.
    ///
    /// # Errors
    /// The file cannot be written; so for all methods.
    pub fn starting(&mut self) -> Result<()> {
        self.line(Status::Started, Verbosity::Info, &format!("Starting MAE {}.", self.action.name()))
    }

    /// A remark.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn info(&mut self, message: &str) -> Result<()> {
        self.line(Status::Running, Verbosity::Info, message)
    }

    /// A remark that deserves a look.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn warning(&mut self, message: &str) -> Result<()> {
        self.line(Status::Running, Verbosity::Warning, message)
    }

    /// The two lines of a resumed training; `checkpoint` is the real path.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn resuming(&mut self, checkpoint: &Path) -> Result<()> {
        let checkpoint = checkpoint.display();
        self.info(&format!("Setting resume checkpoint to {checkpoint}"))?;
        self.info(&format!("Resuming training from checkpoint: {checkpoint}"))
    }

    /// Evaluate, inference and export say which checkpoint they load, as configured.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn loading_checkpoint(&mut self, checkpoint: &str) -> Result<()> {
        self.info(&format!("Loading checkpoint: {checkpoint}"))
    }

    /// Which modules `train.freeze` froze and which it did not find.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn frozen(&mut self, found: &[String], missing: &[String]) -> Result<()> {
        let list = |names: &[String]| {
            format!("[{}]", names.iter().map(|name| format!("'{name}'")).collect::<Vec<_>>().join(", "))
        };
        if !found.is_empty() {
            self.info(&format!("Freezed module {}", list(found)))?;
        }
        if !missing.is_empty() {
            let message = format!("module {} not found. Skipped freezing", list(missing));
            self.line(Status::Skipped, Verbosity::Warning, &message)?;
        }
        Ok(())
    }

    /// The training loop begins.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn loop_started(&mut self) -> Result<()> {
        self.line(Status::Started, Verbosity::Info, "Starting Training Loop.")
    }

    /// A validation ended. Comes before the epoch's progress line; its KPIs stay on later lines.
    ///
    /// `accuracy` is in 0..1, and absent in pretraining.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn validated(&mut self, val_loss: f64, accuracy: Option<f64>) -> Result<()> {
        self.kpi = metrics(val_loss, accuracy);
        // Upstream's wording, although the metrics are there.
        self.info("Eval metrics skipped.")
    }

    /// An epoch's progress, then its training loss.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn epoch(&mut self, status: &EpochStatus, train_loss: f64) -> Result<()> {
        let max_epoch = status.num_epochs.saturating_sub(1);
        let remaining = max_epoch.saturating_sub(status.epoch);
        let int = |value: usize| Json::Int(value as i64);
        let text = |duration: f64| Json::Text(duration_text(duration));
        let epoch_seconds = status.time_per_epoch.as_secs_f64();
        let mut data = vec![
            ("epoch", int(status.epoch)),
            ("step", int(status.step)),
            ("max_epoch", int(max_epoch)),
            ("max_step", int(status.num_epochs * status.batches_per_epoch)),
            ("time_per_epoch", text(epoch_seconds)),
            ("time_per_step", text(status.time_per_step.as_secs_f64())),
            ("eta", text(epoch_seconds * remaining as f64)),
        ];
        data.extend(status.images_per_second.map(|value| ("images_per_second", Json::Float(value))));
        data.extend(status.loader_stall.map(|value| ("loader_stall", Json::Float(value))));
        self.write(&data, Status::Running, Verbosity::Info, "Training loop in progress")?;
        self.trained(train_loss)
    }

    /// The mean training loss of an epoch.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn trained(&mut self, train_loss: f64) -> Result<()> {
        self.kpi = vec![("train_loss".to_owned(), Json::Float(train_loss))];
        self.info("Train metrics generated.")
    }

    /// The training loop ended.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn loop_complete(&mut self) -> Result<()> {
        self.info("Training loop complete.")
    }

    /// Evaluate ended with these metrics.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn tested(&mut self, val_loss: f64, accuracy: Option<f64>) -> Result<()> {
        self.kpi = metrics(val_loss, accuracy);
        self.info("Test metrics generated.")
    }

    /// The run ended well.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn succeed(mut self) -> Result<()> {
        let message = format!("{} finished successfully.", self.action.title());
        self.info(&message)?;
        if self.uploaded {
            self.info("Job artifacts in results dir are being uploaded to the cloud")?;
        }
        self.end(Status::Success, Verbosity::Info, &message)
    }

    /// The run failed.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn fail(mut self, failure: Failure, text: &str) -> Result<()> {
        self.end(Status::Failure, Verbosity::Info, &format!("{}: {text}", failure.prefix()))
    }

    /// The user or the system interrupted the run.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn interrupted(mut self) -> Result<()> {
        let message = format!("User/System interruption: {} was interrupted", self.action.title());
        self.end(Status::Failure, Verbosity::Info, &message)
    }

    /// Any line.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn line(&mut self, status: Status, verbosity: Verbosity, message: &str) -> Result<()> {
        self.write(&[], status, verbosity, message)
    }

    fn end(&mut self, status: Status, verbosity: Verbosity, message: &str) -> Result<()> {
        self.ended = true;
        self.line(status, verbosity, message)
    }

    fn write(
        &mut self,
        data: &[(&str, Json)],
        status: Status,
        verbosity: Verbosity,
        message: &str,
    ) -> Result<()> {
        let Some((path, file)) = &mut self.out else { return Ok(()) };
        let (date, time) = date_time(&jiff::Zoned::now());
        let mut entries: Vec<(String, Json)> =
            data.iter().map(|(key, value)| ((*key).to_owned(), value.clone())).collect();
        let mut text = |key: &str, value: &str| entries.push((key.to_owned(), Json::Text(value.to_owned())));
        text("date", &date);
        text("time", &time);
        text("status", status.as_str());
        text("verbosity", verbosity.as_str());
        if !message.is_empty() {
            text("message", message);
        }
        if !self.kpi.is_empty() {
            entries.push(("kpi".to_owned(), Json::Object(self.kpi.clone())));
        }
        // One write a line, so that lines of two processes do not mix.
        let line = format!("{}\n", Json::Object(entries));
        file.write_all(line.as_bytes()).map_err(Error::write(path))
    }
}

impl Drop for StatusFile {
    fn drop(&mut self) {
        if !self.ended {
            // Nothing can be done here if the disk is full.
            let _ = self.end(
                Status::Failure,
                Verbosity::Error,
                "Runtime error: the run stopped without a result",
            );
        }
    }
}

/// Opens a file of lines to append to it. A last line that a full disk or a crash cut short is removed.
fn append(path: &Path) -> Result<File> {
    let open = || {
        let mut file = OpenOptions::new().create(true).read(true).append(true).open(path)?;
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes)?;
        let whole = bytes.iter().rposition(|byte| *byte == b'\n').map_or(0, |newline| newline + 1);
        if whole < bytes.len() {
            file.set_len(whole as u64)?;
        }
        Ok(file)
    };
    open().map_err(Error::write(path))
}

fn metrics(val_loss: f64, accuracy: Option<f64>) -> Vec<(String, Json)> {
    let mut kpi = vec![("val_loss".to_owned(), Json::Float(val_loss))];
    kpi.extend(accuracy.map(|accuracy| ("ACC_all".to_owned(), Json::Float(accuracy))));
    kpi
}

/// `M/D/YYYY` and `H:M:S` without padding, local time.
fn date_time(now: &jiff::Zoned) -> (String, String) {
    (
        format!("{}/{}/{}", now.month(), now.day(), now.year()),
        format!("{}:{}:{}", now.hour(), now.minute(), now.second()),
    )
}

/// `str()` of Python's `timedelta`: `0:01:01.250000`, `2 days, 0:00:00`; rounded half to even to microseconds.
pub fn duration_text(seconds: f64) -> String {
    let micros = (seconds * 1e6).round_ties_even() as i64;
    let (total, fraction) = (micros.div_euclid(1_000_000), micros.rem_euclid(1_000_000));
    let (days, rest) = (total.div_euclid(86_400), total.rem_euclid(86_400));
    let days = match days {
        0 => String::new(),
        1 | -1 => format!("{days} day, "),
        _ => format!("{days} days, "),
    };
    let fraction = if fraction == 0 { String::new() } else { format!(".{fraction:06}") };
    format!("{days}{}:{:02}:{:02}{fraction}", rest / 3600, rest / 60 % 60, rest % 60)
}

#[cfg(test)]
mod tests;

//! Progress: a bar on a terminal, a plain line every few seconds elsewhere, nothing when silent. Always on stderr.

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use std::fs::{File, OpenOptions};
use std::io::{IsTerminal as _, Write};
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// Time between two plain lines of one task.
const PLAIN_EVERY: Duration = Duration::from_secs(10);

/// Where progress goes. Cheap to clone.
#[derive(Clone)]
pub struct Progress {
    target: Target,
    /// A second place for every line.
    log: Option<Arc<Mutex<File>>>,
}

#[derive(Clone)]
enum Target {
    Terminal,
    Lines(Arc<Mutex<dyn Write + Send>>),
    Silent,
}

impl Progress {
    /// A bar when stderr is a terminal, else lines.
    pub fn detect() -> Self {
        if std::io::stderr().is_terminal() {
            Self { target: Target::Terminal, log: None }
        } else {
            Self::lines(std::io::stderr())
        }
    }

    /// The same, with every line also in the file that TAO's services show: `microservices_log.txt` in the folder of the
    /// job, `$TAO_MICROSERVICES_TTY_LOG/$JOB_ID`, when there is one. A log that cannot be written stops nothing.
    pub fn logged(mut self, env: &dyn Fn(&str) -> Option<String>) -> Self {
        let folder = env("TAO_MICROSERVICES_TTY_LOG").zip(env("JOB_ID")).filter(|(_, job)| !job.is_empty());
        self.log = folder.and_then(|(root, job)| {
            let path = Path::new(&root).join(job).join("microservices_log.txt");
            let file = OpenOptions::new().create(true).append(true).open(path);
            Some(Arc::new(Mutex::new(file.ok()?)))
        });
        self
    }

    /// Plain lines into a writer.
    pub fn lines(out: impl Write + Send + 'static) -> Self {
        Self { target: Target::Lines(Arc::new(Mutex::new(out))), log: None }
    }

    /// Nothing, for the other ranks.
    pub fn silent() -> Self {
        Self { target: Target::Silent, log: None }
    }

    /// One line, above any bar.
    pub fn say(&self, line: &str) {
        if let Some(log) = &self.log {
            write_line(&**log, line);
        }
        match &self.target {
            Target::Terminal => {
                let _ = writeln!(std::io::stderr(), "{line}");
            }
            Target::Lines(out) => write_line(&**out, line),
            Target::Silent => {}
        }
    }

    /// Bytes that are read, e.g. of an archive that is indexed.
    pub fn bytes(&self, title: &str, total: u64) -> Task {
        self.task(title, total, "B")
    }

    /// Items that are done, e.g. images of an evaluation.
    pub fn items(&self, title: &str, total: u64) -> Task {
        self.task(title, total, "img")
    }

    /// The epochs of a training. `done_batches` of `num_epochs * batches_per_epoch` are done already when it resumes. How
    /// many batches an epoch has may only be known after the first.
    pub fn training(
        &self,
        num_epochs: usize,
        batches_per_epoch: Option<usize>,
        done_batches: usize,
    ) -> Training {
        Training {
            progress: self.clone(),
            num_epochs,
            batches_per_epoch,
            done: done_batches,
            first: done_batches,
            bar: None,
            line: LineClock::default(),
            start: Instant::now(),
            epoch_start: Instant::now(),
            images: 0,
            waited: Duration::ZERO,
            slowest: "reading",
        }
    }

    fn task(&self, title: &str, total: u64, unit: &'static str) -> Task {
        let template = if unit == "B" {
            "{msg} [{bar:30}] {bytes}/{total_bytes}  {bytes_per_sec}  ETA {eta}"
        } else {
            "{msg} [{bar:30}] {pos}/{len}  {per_sec}  ETA {eta}"
        };
        let bar = self.bar(total, template);
        if let Some(bar) = &bar {
            bar.set_message(title.to_owned());
        }
        Task {
            progress: self.clone(),
            title: title.to_owned(),
            unit,
            total,
            done: 0,
            bar,
            line: LineClock::default(),
            start: Instant::now(),
        }
    }

    fn bar(&self, total: u64, template: &str) -> Option<ProgressBar> {
        matches!(self.target, Target::Terminal).then(|| {
            let bar = ProgressBar::with_draw_target(Some(total), ProgressDrawTarget::stderr_with_hz(8));
            let style =
                ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar());
            bar.set_style(style.progress_chars("=> "));
            bar
        })
    }
}

fn write_line<W: Write + ?Sized>(out: &Mutex<W>, line: &str) {
    // Progress never stops a run: a closed stderr is no reason to lose an epoch.
    if let Ok(mut out) = out.lock() {
        let _ = writeln!(out, "{line}");
        let _ = out.flush();
    }
}

/// Tells when the next plain line is due.
#[derive(Default)]
struct LineClock(Option<Instant>);

impl LineClock {
    fn due(&mut self) -> bool {
        let now = Instant::now();
        match self.0 {
            Some(last) if now - last < PLAIN_EVERY => false,
            // The first call starts the clock: a short task says only how it ended.
            None => {
                self.0 = Some(now);
                false
            }
            Some(_) => {
                self.0 = Some(now);
                true
            }
        }
    }
}

/// A task with a known amount.
pub struct Task {
    progress: Progress,
    title: String,
    unit: &'static str,
    total: u64,
    done: u64,
    bar: Option<ProgressBar>,
    line: LineClock,
    start: Instant,
}

impl Task {
    /// How much is done by now.
    pub fn at(&mut self, done: u64) {
        self.done = done;
        match &self.bar {
            Some(bar) => bar.set_position(done),
            None if self.line.due() => self.progress.say(&self.text(self.start.elapsed())),
            None => {}
        }
    }

    /// Ends the task with a line that says what was done.
    pub fn finish(self, summary: &str) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
        self.progress.say(summary);
    }

    fn text(&self, elapsed: Duration) -> String {
        let rate = self.done as f64 / elapsed.as_secs_f64().max(1e-9);
        let eta = self.total.saturating_sub(self.done) as f64 / rate.max(1e-9);
        let amount = |value: f64| match self.unit {
            "B" => format!("{:.1} MB", value / 1e6),
            unit => format!("{value:.0} {unit}"),
        };
        format!(
            "{}: {} of {}, {}/s, ETA {}",
            self.title,
            amount(self.done as f64),
            amount(self.total as f64),
            amount(rate),
            clock(eta)
        )
    }
}

/// What one training step reports.
#[derive(Clone, Copy, Debug)]
pub struct Step {
    /// Loss of the batch.
    pub loss: f64,
    /// Learning rate that the step used.
    pub lr: f64,
    /// Images in the batch, over all devices.
    pub images: usize,
    /// Time that the step waited for the loader.
    pub waited: Duration,
    /// What takes the loader longest, e.g. `decoding`.
    pub slowest: &'static str,
}

/// Rates of an epoch.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct EpochRates {
    /// Time of the epoch.
    pub elapsed: Duration,
    /// Mean time of a batch since the start of the run.
    pub per_batch: Duration,
    /// Images per second.
    pub images_per_second: f64,
    /// Share of the time spent waiting for the loader, 0..1.
    pub stall: f64,
    /// What a faster run needs first: less of what takes the loader longest, or a faster model.
    pub bottleneck: &'static str,
}

impl EpochRates {
    /// `stall 12% (decoding)`.
    fn stall_text(&self) -> String {
        format!("stall {:.0}% ({})", self.stall * 100.0, self.bottleneck)
    }
}

/// From this share of waiting on the loader is the bottleneck, not the model.
const STALLS: f64 = 0.05;

/// Progress of a training.
pub struct Training {
    progress: Progress,
    num_epochs: usize,
    batches_per_epoch: Option<usize>,
    done: usize,
    first: usize,
    bar: Option<ProgressBar>,
    line: LineClock,
    start: Instant,
    epoch_start: Instant,
    images: usize,
    waited: Duration,
    slowest: &'static str,
}

impl Training {
    /// How many batches an epoch has.
    pub fn set_batches_per_epoch(&mut self, batches: usize) {
        // A bar without an end makes way for one that has it.
        if self.batches_per_epoch.replace(batches).is_none()
            && let Some(bar) = self.bar.take()
        {
            bar.finish_and_clear();
        }
    }

    /// A batch is done.
    pub fn step(&mut self, step: &Step) {
        if self.bar.is_none() {
            self.bar = match self.batches_per_epoch {
                Some(batches) => self.progress.bar(batches as u64, "{prefix} [{bar:30}] {pos}/{len}  {msg}"),
                None => self.progress.bar(0, "{prefix} [{spinner}] batch {pos}  {msg}"),
            };
        }
        self.done += 1;
        self.images += step.images;
        self.waited += step.waited;
        self.slowest = step.slowest;
        match &self.bar {
            Some(bar) => {
                bar.set_prefix(self.epoch_name());
                bar.set_position(self.batch_in_epoch() as u64);
                bar.set_message(self.text(step));
            }
            None if self.line.due() => {
                let of = self.batches_per_epoch.map_or_else(String::new, |batches| format!("/{batches}"));
                let line =
                    format!("{} batch {}{of}  {}", self.epoch_name(), self.batch_in_epoch(), self.text(step));
                self.progress.say(&line);
            }
            None => {}
        }
    }

    /// Rates of the epoch so far. Validation does not count when this is read before it.
    pub fn rates(&self) -> EpochRates {
        let elapsed = self.epoch_start.elapsed();
        let seconds = elapsed.as_secs_f64().max(1e-9);
        let stall = (self.waited.as_secs_f64() / seconds).clamp(0.0, 1.0);
        let batches = u32::try_from(self.done - self.first).unwrap_or(u32::MAX).max(1);
        EpochRates {
            elapsed,
            per_batch: self.start.elapsed() / batches,
            images_per_second: self.images as f64 / seconds,
            stall,
            bottleneck: if stall < STALLS { "model" } else { self.slowest },
        }
    }

    /// Ends an epoch with a line, e.g. `train_loss 0.8123  val_loss 0.7011  accuracy 0.871`.
    pub fn end_epoch(&mut self, summary: &str) {
        let rates = self.rates();
        if let Some(bar) = self.bar.take() {
            bar.finish_and_clear();
        }
        let batches = self.batches_per_epoch.unwrap_or(self.done);
        let epoch = self.done.div_ceil(batches.max(1));
        let left = (self.num_epochs * batches).saturating_sub(self.done);
        self.progress.say(&format!(
            "epoch {epoch}/{}  {summary}  {:.0} img/s  {}  {}  ETA {}",
            self.num_epochs,
            rates.images_per_second,
            rates.stall_text(),
            clock(rates.elapsed.as_secs_f64()),
            clock(self.seconds_per_batch() * left as f64),
        ));
        (self.images, self.waited, self.epoch_start) = (0, Duration::ZERO, Instant::now());
        self.line = LineClock::default();
    }

    /// A line above the bar.
    pub fn say(&self, line: &str) {
        match &self.bar {
            Some(bar) => bar.suspend(|| self.progress.say(line)),
            None => self.progress.say(line),
        }
    }

    fn epoch_name(&self) -> String {
        format!(
            "epoch {}/{}",
            self.done.saturating_sub(1) / self.batches_per_epoch.unwrap_or(self.done).max(1) + 1,
            self.num_epochs
        )
    }

    fn batch_in_epoch(&self) -> usize {
        self.done.saturating_sub(1) % self.batches_per_epoch.unwrap_or(self.done).max(1) + 1
    }

    fn seconds_per_batch(&self) -> f64 {
        self.start.elapsed().as_secs_f64() / (self.done - self.first).max(1) as f64
    }

    fn text(&self, step: &Step) -> String {
        let rates = self.rates();
        // Without an end there is no time to it.
        let left = self
            .batches_per_epoch
            .map_or(f64::INFINITY, |batches| (self.num_epochs * batches).saturating_sub(self.done) as f64);
        format!(
            "loss {:.4}  lr {:.2e}  {:.0} img/s  {}  ETA {}",
            step.loss,
            step.lr,
            rates.images_per_second,
            rates.stall_text(),
            clock(self.seconds_per_batch() * left),
        )
    }
}

/// `H:MM:SS`.
fn clock(seconds: f64) -> String {
    if !seconds.is_finite() || seconds > 1e9 {
        return "?".to_owned();
    }
    let seconds = seconds.round() as u64;
    format!("{}:{:02}:{:02}", seconds / 3600, seconds / 60 % 60, seconds % 60)
}

#[cfg(test)]
mod tests;

//! `mae bench loader`: the loader of a training alone.

use std::time::{Duration, Instant};

use mae_core::engine::SingleProcess;
use mae_data::loader::Work;
use mae_data::{Layout, Loader};
use serde::Serialize;

use super::signals::Interrupt;
use super::{data, device};
use crate::error::Result;
use crate::report::progress::Progress;
use crate::spec::Plan;
use crate::spec::schema::Stage;
use crate::tool_args::BenchLimits;

/// What was measured.
#[derive(Debug, Serialize)]
struct Measured {
    source: String,
    dataset_images: usize,
    input_size: usize,
    batch_size: usize,
    threads: usize,
    /// Measured after the first batch, whose preparation is the start.
    images: u64,
    seconds: f64,
    images_per_second: f64,
    /// Of one core's time, all threads together: comparable on a machine that others use too.
    images_per_cpu_second: f64,
    /// Share of the time that the consumer waited.
    stall: f64,
    bytes_read: u64,
    /// Mean time of an image in a thread, in milliseconds.
    reading_ms: f64,
    decoding_ms: f64,
    augmenting_ms: f64,
    slowest: &'static str,
    first_batch_seconds: f64,
    open_seconds: f64,
    unreadable: usize,
}

/// Runs the loader that `mae train` with this plan would have, and tells how fast it is.
///
/// # Errors
/// When the data cannot be used.
pub fn bench_loader(plan: &Plan, limits: &BenchLimits) -> Result<String> {
    let interrupt = Interrupt::watch()?;
    let progress = Progress::detect();
    let layout = match plan.train.stage {
        Stage::Finetune => Layout::ImageFolder,
        Stage::Pretrain => Layout::Flat,
    };
    let start = Instant::now();
    let source = &plan.dataset.train_data_sources;
    let dataset = data::open(plan, "dataset.train_data_sources", source, layout, &progress)?;
    let open = start.elapsed();
    let device = device::choose(plan, 0, &progress)?;
    let loader = data::shuffled(plan, dataset, None, device, &SingleProcess)?;
    let measured = measure(plan, &loader, limits, open, || interrupt.is_asked())?;
    Ok(if limits.json { to_json(&measured) } else { measured.to_text() })
}

fn measure(
    plan: &Plan,
    loader: &Loader,
    limits: &BenchLimits,
    open: Duration,
    stop: impl Fn() -> bool,
) -> Result<Measured> {
    let begin = Instant::now();
    let mut first: Option<(Instant, f64, Work)> = None;
    let (mut images, mut batches, mut waited, mut first_batch) = (0, 0, Duration::ZERO, Duration::ZERO);
    'run: for epoch in 0.. {
        let mut iter = loader.epoch(epoch, 0);
        loop {
            let asked = Instant::now();
            let Some(batch) = iter.next() else { break };
            let batch = batch?;
            let now = Instant::now();
            match &first {
                None => {
                    first_batch = now - begin;
                    first = Some((now, cpu_seconds(), loader.meter().read()));
                }
                Some(_) => {
                    waited += now - asked;
                    images += batch.valid as u64;
                    batches += 1;
                }
            }
            loader.recycle(batch.images);
            std::thread::sleep(Duration::from_secs_f64(limits.step_ms.clamp(0.0, 1e6) / 1e3));
            let elapsed = first.as_ref().map_or(0.0, |(start, ..)| start.elapsed().as_secs_f64());
            let enough = limits.batches.is_some_and(|limit| batches >= limit);
            if enough || batches > 0 && elapsed >= limits.seconds || stop() {
                break 'run;
            }
        }
    }
    let (start, cpu, work) = first.unwrap_or_else(|| (begin, cpu_seconds(), Work::default()));
    let seconds = start.elapsed().as_secs_f64().max(1e-9);
    let cpu = (cpu_seconds() - cpu).max(1e-9);
    let work = loader.meter().read().since(&work);
    let each = |time: Duration| time.as_secs_f64() * 1e3 / work.images.max(1) as f64;
    Ok(Measured {
        source: loader.dataset().source().to_owned(),
        dataset_images: loader.dataset().len(),
        input_size: plan.dataset.augmentation.input_size,
        batch_size: plan.batch_size(),
        threads: loader.threads(),
        images,
        seconds,
        images_per_second: images as f64 / seconds,
        // The threads are ahead of the consumer: what they have prepared belongs to their time.
        images_per_cpu_second: work.images as f64 / cpu,
        stall: (waited.as_secs_f64() / seconds).clamp(0.0, 1.0),
        bytes_read: work.bytes,
        reading_ms: each(work.reading),
        decoding_ms: each(work.decoding),
        augmenting_ms: each(work.augmenting),
        slowest: work.longest().name(),
        first_batch_seconds: first_batch.as_secs_f64(),
        open_seconds: open.as_secs_f64(),
        unreadable: loader.bad_samples().len(),
    })
}

impl Measured {
    fn to_text(&self) -> String {
        format!(
            "{} images of {}, batches of {} at {}x{}, {} threads\n\
             {:.0} images/s in {:.1} s ({:.0} per second of one core), {:.1} MB/s read\n\
             a consumer waited {:.0}% of the time; each image in a thread: reading {:.2} ms, decoding {:.2} ms, \
             augmenting {:.2} ms\n\
             opened in {:.2} s, first batch after {:.2} s, {} images unreadable",
            self.dataset_images,
            self.source,
            self.batch_size,
            self.input_size,
            self.input_size,
            self.threads,
            self.images_per_second,
            self.seconds,
            self.images_per_cpu_second,
            self.bytes_read as f64 / 1e6 / self.seconds,
            self.stall * 100.0,
            self.reading_ms,
            self.decoding_ms,
            self.augmenting_ms,
            self.open_seconds,
            self.first_batch_seconds,
            self.unreadable,
        )
    }
}

fn to_json(measured: &Measured) -> String {
    // A struct of numbers and texts always has a JSON form.
    serde_json::to_string(measured).unwrap_or_default()
}

/// Processor time of all threads of this process so far, in steps of a hundredth of a second; 0 where Linux' `/proc`
/// is missing.
fn cpu_seconds() -> f64 {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    // The name in parentheses may hold blanks; user and system time are the 12th and 13th fields after it.
    let fields = stat.rsplit_once(')').map_or("", |(_, rest)| rest).split_whitespace();
    fields.skip(11).take(2).filter_map(|ticks| ticks.parse::<f64>().ok()).sum::<f64>() / 100.0
}

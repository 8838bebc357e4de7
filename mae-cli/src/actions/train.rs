//! `mae train`: pretraining and fine-tuning.

use std::cell::Cell;
use std::path::Path;
use std::rc::Rc;
use std::time::Duration;

use mae_core::arch::Family;
use mae_core::checkpoint::Value;
use mae_core::checkpoint::lightning::CheckpointContents;
use mae_core::engine::{
    Batch, Collective, Control, Data as _, EpochReport, FitConfig, FitEnd, Hooks, IntervalUnit, Metrics,
    SaveReason, SkipReason, Skipped, StepReport, Trainer, TrainerConfig, fit,
};
use mae_core::model::{Model, Network};
use mae_core::ops::Precision;
use mae_core::optim::{
    AdamW, AdamWConfig, GroupRule, LrSchedule, Optimizer, Sgd, estimated_steps, param_groups,
};
use mae_data::Loader;
use mae_data::loader::Work;

use super::bad_samples::BadSamples;
use super::checkpoints::{Checkpoints, ResumePoint, resume_point};
use super::skipped::SkippedSteps;
use super::training_data::{CurrentLoader, TrainingData};
use super::{End, Run, agreement, checkpoints, model, picture};
use crate::error::{Error, Result};
use crate::report::progress::{Step, Training};
use crate::report::status::EpochStatus;
use crate::report::tensorboard::{self, EventWriter};
use crate::spec::Plan;
use crate::spec::schema::{self, Compat, DistributedStrategy, LrScheduler, OptimType, Stage};

/// Upstream's trainings log as version 1.
const LOG_VERSION: u32 = 1;
/// Names the training data in a checkpoint.
const DATA_DIGEST: &str = "data_digest";

pub(super) fn train(plan: &Plan, run: &mut Run) -> Result<End> {
    if run.is_first() {
        checkpoints::remove_unfinished(plan)?;
    }
    // First what is checked in no time: an archive may have to be unpacked.
    let mut model = model::build(plan, run)?;
    let resume = resume_point(plan)?;
    match &resume {
        None => model::load_pretrained(plan, &mut model, run)?,
        Some(_) if plan.train.pretrained_model_path.is_some() => run
            .progress
            .say("note: train.pretrained_model_path is left aside: the training is resumed, and has its own weights"),
        Some(_) => {}
    }
    freeze(plan, &mut model, run)?;
    let start_epoch = resume.as_ref().map_or(0, |ResumePoint { contents, .. }| {
        contents.epoch as u64 + u64::from(contents.loops.epoch_done)
    });
    let mut data = TrainingData::open(plan, run, start_epoch, resume.is_some())?;
    if run.is_interrupted() {
        return Ok(End::Interrupted);
    }

    let batches = data.known_batches();
    let collective = run.collective_handle();
    let extra = stored_facts(plan, &data, collective.world_size());
    let trainer_config = trainer_config(plan);
    let shares = if is_sharded(plan) { run.sharding()? } else { None };
    if let Some(sharding) = shares {
        model.params.shard(sharding, trainer_config.precision)?;
    }
    let (optimizer, schedule) = (optimizer(plan, &model), schedule(plan, batches));
    let mut trainer = Trainer::new(model, optimizer, schedule, trainer_config, &*collective);
    agree(plan, &data, &resume, &*collective)?;
    if let Some(ResumePoint { path, contents, notes }) = &resume {
        for note in notes {
            run.progress.say(&format!("note: not used: {note}"));
        }
        trainer
            .resume(contents)
            .map_err(|error| Error::Core(error).at(format!("resuming from {}", path.display())))?;
        run.status.resuming(path)?;
        run.progress.say(&format!("Resuming from {}", path.display()));
        let digest = contents.extra.as_ref().and_then(|extra| extra.get(DATA_DIGEST)).and_then(Value::as_str);
        if digest.is_some_and(|digest| digest != data.loader().dataset().digest()) {
            run.progress
                .say("note: the training data is not that of the checkpoint; the order of samples differs");
        }
        rescale(plan, contents, &mut trainer, run);
    }
    // Of shares, each is held once.
    if collective.world_size() > 1 && !trainer.model.params.is_sharded() {
        // Another CPU or another libtorch may have drawn or read other bits.
        let mut tensors: Vec<_> =
            trainer.model.params.iter().map(|(_, _, tensor)| tensor.shallow_clone()).collect();
        collective.broadcast(&mut tensors)?;
    }
    announce(plan, &data, &trainer, run);

    let config = FitConfig {
        epochs: plan.train.num_epochs as u64,
        checkpoint_interval: plan.train.checkpoint_interval as u64,
        checkpoint_unit: match plan.train.checkpoint_interval_unit {
            schema::IntervalUnit::Epoch => IntervalUnit::Epoch,
            schema::IntervalUnit::Step => IntervalUnit::Step,
        },
        validation_interval: plan.train.validation_interval as u64,
    };
    if trainer.cursor().epoch >= config.epochs {
        run.progress.say(&format!(
            "Nothing to do: all {} epochs are done. To train on, raise train.num_epochs; to train anew, choose another \
             results_dir.",
            config.epochs
        ));
        return Ok(End::Done);
    }
    let start = *trainer.cursor();
    let good_steps = |trainer: &Trainer<'_>| trainer.cursor().step - trainer.skipped_steps();
    let good_at_start = good_steps(&trainer);
    if run.is_first() {
        // What was logged after the state that the run starts from will be logged again.
        run.status.rewind(start.epoch, start.step)?;
        let validation_is_due = batches == Some(start.batch);
        tensorboard::rewind(
            plan.results_dir(),
            LOG_VERSION,
            start.step.saturating_sub(u64::from(validation_is_due)),
        )?;
    }
    let preview = preview(plan, &mut data)?;
    let bad = BadSamples::open(plan, collective.rank(), resume.is_some())?;
    let done = (start.epoch * batches.unwrap_or(0) + start.batch) as usize;
    let mut hooks = TrainHooks {
        training: run.progress.training(plan.train.num_epochs, batches.map(|batches| batches as usize), done),
        events: if run.is_first() {
            Some(EventWriter::create(plan.results_dir(), LOG_VERSION)?)
        } else {
            None
        },
        checkpoints: Checkpoints::new(plan, extra, resume.as_ref().map(|resume| &resume.contents)),
        skipped: SkippedSteps::new(plan.results_dir(), Rc::clone(data.current())),
        run,
        preview,
        waited: Rc::clone(data.waited()),
        bad,
        work_before: Work::default(),
        current: Rc::clone(data.current()),
        validation: data.validation_loader().cloned(),
        world_size: collective.world_size(),
        timeouts: (plan.train.init_timeout, plan.train.comm_timeout),
        settled: false,
        num_epochs: plan.train.num_epochs,
    };
    hooks.run.status.loop_started()?;
    let result = fit(&mut trainer, &mut data, &mut hooks, &config)
        .map_err(|error| in_step(error, &trainer, batches.unwrap_or(0)));
    if let Err(Error::Core(mae_core::Error::NotFinite { what, step, samples, .. })) = &result {
        let reason = if *what == "loss" { SkipReason::Loss } else { SkipReason::Gradients };
        hooks.left_out(*step, &Skipped { reason, samples: samples.clone() })?;
    }
    // What a step has earned is not lost to an error after it.
    if result.is_err() && good_steps(&trainer) > good_at_start {
        hooks.save_after_an_error(&trainer);
    }
    let saved = hooks.checkpoints.wait();
    let loaders = hooks.loaders();
    let TrainHooks { mut bad, run, .. } = hooks;
    bad.keep(&loaders)?;
    bad.announce(&run.progress);
    let end = result?;
    saved?;
    match end {
        FitEnd::Finished | FitEnd::AlreadyFinished => {
            run.status.loop_complete()?;
            Ok(End::Done)
        }
        FitEnd::Interrupted => {
            if run.is_time_over() {
                run.progress.say("train.max_time is over; the same command goes on");
            }
            Ok(End::Interrupted)
        }
    }
}

/// The first validation images of a pretraining, whose reconstruction is shown after each epoch.
fn preview(plan: &Plan, data: &mut TrainingData<'_>) -> Result<Option<Batch>> {
    if plan.train.stage != Stage::Pretrain {
        return Ok(None);
    }
    let Some(mut batches) = data.validation()? else { return Ok(None) };
    Ok(batches.next().transpose()?.filter(|batch| batch.valid > 0))
}

fn freeze(plan: &Plan, model: &mut Model, run: &mut Run) -> Result<()> {
    let modules = &plan.train.freeze;
    if modules.is_empty() {
        return Ok(());
    }
    let counts = model.params.freeze(modules)?;
    let (mut found, mut missing) = (Vec::new(), Vec::new());
    for (module, count) in modules.iter().zip(counts) {
        if count > 0 { &mut found } else { &mut missing }.push(module.clone());
    }
    run.status.frozen(&found, &missing)?;
    if !missing.is_empty() {
        run.progress.say(&format!(
            "note: train.freeze names modules that the model does not have: {}",
            missing.join(", ")
        ));
    }
    if model.params.trainable().next().is_none() {
        return Err(mae_core::Error::Setting {
            key: "train.freeze".into(),
            problem: "it freezes every parameter, so nothing is left to train".into(),
            remedy: "leave at least one module out of it".into(),
        }
        .into());
    }
    Ok(())
}

/// What later actions want to know, stored in each checkpoint.
fn stored_facts(plan: &Plan, data: &TrainingData<'_>, world_size: usize) -> Vec<(&'static str, Value)> {
    let loader = data.loader();
    let dataset = loader.dataset();
    let augmentation = &plan.dataset.augmentation;
    let mut facts = vec![
        ("mean", Value::List(augmentation.mean.iter().copied().map(Value::Float).collect())),
        ("std", Value::List(augmentation.std.iter().copied().map(Value::Float).collect())),
        ("images_per_batch", Value::Int(images_per_batch(plan, world_size))),
        ("mae_version", Value::str(env!("CARGO_PKG_VERSION"))),
    ];
    if !dataset.is_growing() {
        facts.push((DATA_DIGEST, Value::str(dataset.digest())));
    }
    if plan.train.stage == Stage::Finetune {
        facts.push(("num_classes", Value::Int(plan.model.num_classes as i64)));
        facts.push(("classes", Value::List(dataset.classes().iter().map(Value::str).collect())));
    }
    facts
}

fn trainer_config(plan: &Plan) -> TrainerConfig {
    TrainerConfig {
        seed: plan.train.seed as u64,
        precision: match plan.train.precision {
            schema::Precision::Fp32 => Precision::Fp32,
            schema::Precision::Bf16 => Precision::Bf16,
            schema::Precision::Fp16 => Precision::Fp16,
        },
        accumulate: plan.train.accum_grad_batches as u64,
        clip_grad_norm: plan.train.clip_grad_norm,
        label_smoothing: plan.dataset.augmentation.smoothing,
        max_bad_steps: plan.train.max_bad_steps as u64,
    }
}

fn optimizer(plan: &Plan, model: &Model) -> Optimizer {
    let optim = &plan.train.optim;
    let rule = match plan.train.stage {
        Stage::Pretrain => GroupRule::Pretrain { decay_tokens_and_grn: plan.compat == Compat::Tao },
        Stage::Finetune => GroupRule::Finetune {
            family: model.arch.family,
            layer_decay: optim.layer_decay,
            applied: plan.is_honoured("train.optim.layer_decay"),
            backbone_multiplier: if plan.is_honoured("train.optim.backbone_multiplier") {
                optim.backbone_multiplier
            } else {
                1.0
            },
        },
    };
    let groups = param_groups(&model.params, optim.weight_decay, rule);
    match optim.r#type {
        OptimType::AdamW => {
            let mut config = AdamWConfig::default();
            if plan.is_honoured("train.optim.momentum") {
                config.betas.0 = optim.momentum;
            }
            if let Some([beta1, beta2]) = optim.betas {
                config.betas = (beta1, beta2);
            }
            Optimizer::AdamW(AdamW::new(&model.params, groups, config))
        }
        OptimType::Sgd => Optimizer::Sgd(Sgd::new(&model.params, groups, optim.momentum)),
    }
}

fn schedule(plan: &Plan, batches: Option<u64>) -> LrSchedule {
    let optim = &plan.train.optim;
    match optim.lr_scheduler {
        LrScheduler::MultiStep => LrSchedule::MultiStep {
            lr: optim.lr,
            milestones: optim.milestones.iter().map(|&epoch| epoch as u64).collect(),
            gamma: optim.gamma,
        },
        LrScheduler::Cosine => {
            let epochs = plan.train.num_epochs as u64;
            // The spec is refused with a first epoch whose length is not known.
            let total_steps =
                estimated_steps(batches.unwrap_or(0), plan.train.accum_grad_batches as u64, epochs);
            let warmup_steps = (total_steps / epochs) as f64 * optim.warmup_epochs;
            LrSchedule::Cosine { lr: optim.lr, warmup_steps, total_steps }
        }
    }
}

/// Whether several processes hold the model in shares.
fn is_sharded(plan: &Plan) -> bool {
    plan.train.distributed_strategy == DistributedStrategy::Fsdp
}

/// Every rank must see the same images in the same order, and start from the same place.
fn agree(
    plan: &Plan,
    data: &TrainingData<'_>,
    resume: &Option<ResumePoint>,
    group: &dyn Collective,
) -> Result<()> {
    if group.world_size() == 1 {
        return Ok(());
    }
    agreement::on_the_data("dataset.train_data_sources", data.loader().dataset(), group)?;
    if let Some(validation) = data.validation_loader() {
        agreement::on_the_data("dataset.val_data_sources", validation.dataset(), group)?;
    }
    let name = |path: &Path| path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let start = resume.as_ref().map_or("nothing to resume from".to_owned(), |point| name(&point.path));
    let help = "results_dir must be a folder that all machines share";
    let key = format!("the checkpoint to resume from in {}", plan.results_dir().display());
    agreement::on_the_facts("the same start", &[(key, start)], help, group)
}

/// Images of one batch on all ranks together.
fn images_per_batch(plan: &Plan, world_size: usize) -> i64 {
    (plan.batch_size() * world_size) as i64
}

/// A checkpoint of another number of ranks, or another batch size: goes on at the same image of the epoch's order.
fn rescale(plan: &Plan, contents: &CheckpointContents, trainer: &mut Trainer<'_>, run: &Run) {
    let stored = contents.extra.as_ref().and_then(|extra| extra.get("images_per_batch"));
    let Some(before) = stored.and_then(Value::as_i64).filter(|images| *images > 0) else { return };
    let now = images_per_batch(plan, trainer.collective.world_size());
    if before == now {
        return;
    }
    let again = trainer.rescale(before as u64, now as u64);
    let mut text = format!("note: a batch had {before} images on all processes together, and has {now} now");
    if again > 0 {
        text.push_str(&format!("; {again} images of this epoch are seen a second time"));
    }
    run.progress.say(&text);
}

/// Where in the training the other processes were lost.
fn in_step(error: Error, trainer: &Trainer<'_>, batches: u64) -> Error {
    if !matches!(error, Error::Core(mae_core::Error::Collective(_))) {
        return error;
    }
    let cursor = trainer.cursor();
    Error::InStep {
        source: Box::new(error),
        epoch: cursor.epoch,
        batch: (cursor.batch + 1).min(batches),
        batches,
        step: cursor.step,
    }
}

fn announce(plan: &Plan, data: &TrainingData<'_>, trainer: &Trainer<'_>, run: &Run) {
    let parameters = trainer.model.params.numel() as f64 / 1e6;
    let size = plan.dataset.augmentation.input_size;
    let validation = data
        .validation_loader()
        .map_or_else(String::new, |loader| format!(", {} to validate", loader.dataset().len()));
    let loader = data.loader();
    let (images, an_epoch) = match data.known_batches() {
        Some(batches) => (format!("{} images", loader.dataset().len()), format!("{batches} an epoch")),
        None => {
            run.progress.say(&format!(
                "The first epoch takes the images of {} while they are unpacked, in the order in which they come, \
                 through a shuffle buffer of {}",
                loader.dataset().source(),
                plan.dataset.shuffle_buffer
            ));
            (loader.dataset().source().to_owned(), "the archive tells how many an epoch".to_owned())
        }
    };
    run.progress.say(&format!(
        "{} of {} ({parameters:.1} M parameters) at {size}x{size} on {images}{validation}; batches of {}, {an_epoch}",
        match plan.train.stage {
            Stage::Pretrain => "Pretraining",
            Stage::Finetune => "Fine-tuning",
        },
        plan.model.arch,
        plan.batch_size(),
    ));
    if plan.train.stage == Stage::Pretrain
        && plan.train.mask_ratio == 0.75
        && !plan.is_set("train.mask_ratio")
        && !matches!(trainer.model.arch.family, Family::Vit(_))
    {
        run.progress.say("note: train.mask_ratio is TAO's 0.75; the papers of this family use 0.6");
    }
}

struct TrainHooks<'r> {
    run: &'r mut Run,
    training: Training,
    events: Option<EventWriter>,
    checkpoints: Checkpoints,
    skipped: SkippedSteps,
    preview: Option<Batch>,
    waited: Rc<Cell<Duration>>,
    bad: BadSamples,
    /// The training loader.
    current: CurrentLoader,
    validation: Option<Loader>,
    /// What the training loader had done when the epoch began.
    work_before: Work,
    world_size: usize,
    /// Seconds to wait for the other processes: in the first step and for checkpoints, and else.
    timeouts: (usize, usize),
    /// Whether the first step is done.
    settled: bool,
    num_epochs: usize,
}

impl TrainHooks<'_> {
    /// Without the other processes, which may be gone, and their shares with them. A second error is told, and the first
    /// one ends the run.
    fn save_after_an_error(&mut self, trainer: &Trainer<'_>) {
        if !self.run.is_first() || trainer.model.params.is_sharded() {
            return;
        }
        let saved = self.checkpoints.save(trainer, SaveReason::Interrupt);
        match saved.and_then(|path| self.checkpoints.wait().map(|()| path)) {
            Ok(path) => {
                self.training.say(&format!("Saved {}; the same command goes on from there", path.display()));
            }
            Err(error) => self.training.say(&error.to_string()),
        }
    }

    /// What the training loader has done so far.
    fn work(&self) -> Work {
        self.current.borrow().meter().read()
    }

    /// Training first.
    fn loaders(&self) -> Vec<Loader> {
        std::iter::once(self.current.borrow().clone()).chain(self.validation.clone()).collect()
    }

    fn scalar(&mut self, tag: &str, step: u64, value: f64) -> Result<()> {
        if let Some(events) = &mut self.events {
            events.scalar(tag, step.saturating_sub(1) as i64, value)?;
        }
        Ok(())
    }
}

impl TrainHooks<'_> {
    /// Reports a step (from 0) that was left out.
    fn left_out(&mut self, step: u64, skipped: &Skipped) -> Result<()> {
        if !self.run.is_first() {
            return Ok(());
        }
        let message = self.skipped.add(step, skipped)?;
        self.training.say(&message);
        Ok(self.run.status.warning(&message)?)
    }
}

impl Hooks<Error> for TrainHooks<'_> {
    fn epoch_started(&mut self, _epoch: u64, _start: u64, batches: Option<u64>) -> Result<()> {
        if let Some(batches) = batches {
            self.training.set_batches_per_epoch(batches as usize);
            self.checkpoints.set_fact(DATA_DIGEST, Value::str(self.current.borrow().dataset().digest()));
        }
        self.waited.set(Duration::ZERO);
        self.work_before = self.work();
        Ok(())
    }

    fn batch_done(&mut self, report: &StepReport) -> Result<Control> {
        if !self.settled {
            self.settled = true;
            self.run.set_timeout(self.timeouts.1)?;
        }
        if report.batches.is_none() {
            let loader = self.current.borrow();
            if loader.dataset().is_whole() {
                self.training.set_batches_per_epoch(loader.batches_per_epoch());
            }
        }
        // A full disk ends the run now, not at the next checkpoint.
        self.checkpoints.poll()?;
        let outcome = &report.outcome;
        self.training.step(&Step {
            loss: outcome.loss,
            lr: outcome.lr,
            images: report.images as usize * self.world_size,
            waited: self.waited.take(),
            slowest: self.work().since(&self.work_before).longest().name(),
        });
        if let Some(skipped) = &outcome.skipped {
            self.left_out(report.step.saturating_sub(1), skipped)?;
        }
        Ok(if self.run.is_interrupted() { Control::Interrupt } else { Control::Continue })
    }

    fn validated(&mut self, trainer: &Trainer<'_>, metrics: &Metrics) -> Result<()> {
        self.run.status.validated(metrics.loss, metrics.accuracy)?;
        let step = trainer.cursor().step;
        self.checkpoints.validated(step, metrics);
        self.scalar("val_loss", step, metrics.loss)?;
        if let Some(accuracy) = metrics.accuracy {
            self.scalar("acc", step, accuracy)?;
        }
        match (&self.preview, &mut self.events) {
            (Some(batch), Some(events)) => {
                let picture = picture::reconstruction(&trainer.model, batch, trainer.config.seed)?;
                let (width, height) = (picture.width, picture.height);
                let step = step.saturating_sub(1) as i64;
                events.picture("reconstruction", step, width, height, &picture.rgb)?;
            }
            // A model in shares computes nothing for one process alone.
            _ if matches!(trainer.model.network, Network::Pretrain(_)) => trainer.model.join_forward()?,
            _ => {}
        }
        Ok(())
    }

    fn epoch_done(&mut self, report: &EpochReport) -> Result<()> {
        self.bad.gather(&self.loaders(), self.run.collective())?;
        let rates = self.training.rates();
        let mut summary = format!("train_loss {:.4}", report.train_loss);
        if let Some(metrics) = &report.validation {
            summary.push_str(&format!("  val_loss {:.4}", metrics.loss));
            if let Some(accuracy) = metrics.accuracy {
                summary.push_str(&format!("  accuracy {accuracy:.4}"));
            }
        }
        self.training.end_epoch(&summary);
        self.scalar("train_loss_epoch", report.step, report.train_loss)?;
        self.scalar("lr", report.step, report.lr)?;
        self.scalar("epoch", report.step, report.epoch as f64)?;
        let status = EpochStatus {
            epoch: report.epoch as usize,
            num_epochs: self.num_epochs,
            step: report.step as usize,
            batches_per_epoch: report.batches as usize,
            time_per_epoch: rates.elapsed,
            time_per_step: rates.per_batch,
            images_per_second: Some(rates.images_per_second),
            loader_stall: Some(rates.stall),
        };
        Ok(self.run.status.epoch(&status, report.train_loss)?)
    }

    fn save(&mut self, trainer: &Trainer<'_>, reason: SaveReason) -> Result<()> {
        agreement::on_the_weights(&trainer.model.params, trainer.cursor().step, trainer.collective)?;
        if self.run.is_first() {
            let path = self.checkpoints.save(trainer, reason)?;
            if reason == SaveReason::Interrupt {
                self.checkpoints.wait()?;
                self.training.say(&format!("Saved {}; the same command goes on from there", path.display()));
            }
        } else if trainer.model.params.is_sharded() {
            // Its shares go to the first process, which writes the file.
            trainer.checkpoint(reason.epoch_done(), Vec::new())?;
        }
        // The others end only when the file is there; between epochs nobody waits for a disk.
        if reason == SaveReason::Interrupt {
            self.run.set_timeout(self.timeouts.0)?;
            trainer.collective.barrier()?;
        }
        Ok(())
    }
}

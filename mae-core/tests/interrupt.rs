//! Whatever batch an interrupt comes after, the resumed training is the uninterrupted one, validations included.

#![allow(clippy::unwrap_used, reason = "helpers of a test fail by panicking")]

use mae_core::Result;
use mae_core::arch::Arch;
use mae_core::backbone::Purpose;
use mae_core::checkpoint::lightning::CheckpointContents;
use mae_core::checkpoint::{self, Checkpoint};
use mae_core::classify::ClassifierConfig;
use mae_core::engine::{
    Batch, Batches, Control, Data, EpochReport, FitConfig, FitEnd, Hooks, IntervalUnit, Metrics, SaveReason,
    SingleProcess, StepReport, Trainer, TrainerConfig, fit,
};
use mae_core::model::Model;
use mae_core::ops::Precision;
use mae_core::optim::{AdamW, AdamWConfig, GroupRule, LrSchedule, Optimizer, param_groups};
use tch::{Device, Kind, Tensor};

const BATCHES: u64 = 3;
const EPOCHS: u64 = 2;

/// Noise with a label: what matters is that each batch is another one, and always the same.
struct Noise {
    /// Whether it tells beforehand how many batches an epoch has.
    counted: bool,
}

fn batch(number: i64) -> Result<Batch> {
    let ramp = Tensor::f_arange(2 * 3 * 32 * 32, (Kind::Float, Device::Cpu))?;
    let images = (ramp * (number + 1)).f_sin()?.f_reshape([2, 3, 32, 32])?;
    Ok(Batch {
        images,
        labels: Some(Tensor::from_slice(&[number % 2, 1])),
        targets: None,
        noise: None,
        samples: vec![2 * number as u64, 2 * number as u64 + 1],
        valid: 2,
    })
}

impl Data<mae_core::Error> for Noise {
    fn batches_per_epoch(&mut self, _epoch: u64) -> Result<Option<u64>> {
        Ok(self.counted.then_some(BATCHES))
    }

    fn train(&mut self, epoch: u64, start: u64) -> Result<Batches<'_, mae_core::Error>> {
        Ok(Box::new((start..BATCHES).map(move |index| batch((epoch * BATCHES + index) as i64))))
    }

    fn validation(&mut self) -> Result<Option<Batches<'_, mae_core::Error>>> {
        Ok(Some(Box::new(std::iter::once(batch(100)))))
    }
}

/// Interrupts after a number of batches, and notes what it is told.
struct Recorder {
    left: u64,
    folder: tempfile::TempDir,
    losses: Vec<(u64, f64, f64, f64)>,
}

impl Recorder {
    fn new(batches: u64) -> Self {
        Self { left: batches, folder: tempfile::tempdir().unwrap(), losses: Vec::new() }
    }

    fn saved(&self) -> CheckpointContents {
        let file = Checkpoint::open(self.folder.path().join("latest.pth")).unwrap();
        CheckpointContents::from_value(file.root()).unwrap()
    }
}

impl Hooks<mae_core::Error> for Recorder {
    fn epoch_started(&mut self, _epoch: u64, _start: u64, _batches: Option<u64>) -> Result<()> {
        Ok(())
    }

    fn batch_done(&mut self, _report: &StepReport) -> Result<Control> {
        self.left = self.left.saturating_sub(1);
        Ok(if self.left == 0 { Control::Interrupt } else { Control::Continue })
    }

    fn validated(&mut self, _trainer: &Trainer<'_>, _metrics: &Metrics) -> Result<()> {
        Ok(())
    }

    fn epoch_done(&mut self, report: &EpochReport) -> Result<()> {
        let validation = report.validation.unwrap().loss;
        self.losses.push((report.epoch, report.train_loss, validation, report.lr));
        Ok(())
    }

    fn save(&mut self, trainer: &Trainer<'_>, reason: SaveReason) -> Result<()> {
        let contents = trainer.checkpoint(reason.epoch_done(), vec![])?;
        Ok(checkpoint::write(&self.folder.path().join("latest.pth"), &contents.to_value())?)
    }
}

fn trainer() -> Trainer<'static> {
    let arch = Arch::by_name("convnextv2_atto").unwrap();
    let config = ClassifierConfig { num_classes: 2, drop_path_rate: 0.1, purpose: Purpose::Finetune };
    let model = Model::classifier(arch, (32, 32), &config, 5, Device::Cpu).unwrap();
    let groups = param_groups(&model.params, 0.05, GroupRule::Pretrain { decay_tokens_and_grn: false });
    let optimizer = Optimizer::AdamW(AdamW::new(&model.params, groups, AdamWConfig::default()));
    // Two batches a step, and one in the last step of an epoch.
    let config = TrainerConfig {
        seed: 5,
        precision: Precision::Fp32,
        accumulate: 2,
        clip_grad_norm: Some(1.0),
        label_smoothing: 0.1,
        max_bad_steps: 1,
    };
    let schedule = LrSchedule::Cosine { lr: 1e-3, warmup_steps: 1.0, total_steps: 4 };
    Trainer::new(model, optimizer, schedule, config, &SingleProcess)
}

fn run(trainer: &mut Trainer<'_>, hooks: &mut Recorder) -> FitEnd {
    run_on(Noise { counted: true }, trainer, hooks)
}

fn run_on(mut data: Noise, trainer: &mut Trainer<'_>, hooks: &mut Recorder) -> FitEnd {
    let config = FitConfig {
        epochs: EPOCHS,
        checkpoint_interval: 1,
        checkpoint_unit: IntervalUnit::Epoch,
        validation_interval: 1,
    };
    fit(trainer, &mut data, hooks, &config).unwrap()
}

#[test]
fn an_interrupt_after_any_batch_changes_nothing() {
    tch::set_num_threads(1);
    let mut whole = Recorder::new(u64::MAX);
    assert_eq!(run(&mut trainer(), &mut whole), FitEnd::Finished);
    assert_eq!(whole.losses.len(), EPOCHS as usize);

    // Between two steps, at the end of an epoch, in the next one, at the very end.
    for batches in [1, 3, 5, 6] {
        let mut first = Recorder::new(batches);
        assert_eq!(run(&mut trainer(), &mut first), FitEnd::Interrupted, "after batch {batches}");
        let saved = first.saved();
        // It goes on to the next optimizer step, which the end of an epoch is too.
        let done = if batches % BATCHES == 1 { batches + 1 } else { batches };
        assert_eq!(saved.loops.batches, done as i64, "after batch {batches}");

        let (mut resumed, mut rest) = (trainer(), Recorder::new(u64::MAX));
        resumed.resume(&saved).unwrap();
        assert_eq!(run(&mut resumed, &mut rest), FitEnd::Finished, "after batch {batches}");
        // Each epoch was reported once, with the same losses and rate.
        assert_eq!(
            [first.losses.clone(), rest.losses.clone()].concat(),
            whole.losses,
            "after batch {batches}"
        );
        assert!(rest.saved() == whole.saved(), "after batch {batches}");
    }
}

/// The last batch of an epoch ends a window of accumulated gradients, whether it was announced or not.
#[test]
fn batches_that_nobody_counted_change_nothing() {
    tch::set_num_threads(1);
    let (mut told, mut untold) = (Recorder::new(u64::MAX), Recorder::new(u64::MAX));
    run(&mut trainer(), &mut told);
    run_on(Noise { counted: false }, &mut trainer(), &mut untold);
    assert_eq!(told.losses, untold.losses);
    assert!(told.saved() == untold.saved());
}

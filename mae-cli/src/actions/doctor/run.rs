//! A spec: what the action would read, build and write, checked without training.

use std::path::Path;

use mae_core::arch::{Arch, Family};
use mae_core::checkpoint::dialect::{self, Facts, Role};
use mae_core::classify::Classifier;
use mae_core::params::{Declare, ParamSpec};
use mae_core::pretrain::MaskedAutoencoder;
use mae_data::{Dataset, Layout, decode};

use super::machine::free_space;
use super::report::{Report, bytes};
use crate::actions::classifier::is_onnx;
use crate::actions::{self, checkpoints, classes, data, device, model};
use crate::error::{Error, Result};
use crate::report::progress::Progress;
use crate::spec::schema::{IntervalUnit, OptimType, Stage};
use crate::spec::{Action, Plan};

/// Images of a source that are tried to be decoded, spread over the whole.
const TRIED: usize = 24;
/// Names of images that are shown.
const SHOWN: usize = 3;

pub(super) fn examine<S: AsRef<str>>(
    spec: &Path,
    overrides: &[S],
    action: Action,
    progress: &Progress,
    report: &mut Report,
) {
    report.section(&format!("mae {} -e {}", action.name(), spec.display()));
    // A spec whose checkpoint is at fault still tells of its data.
    let (plan, startable) = match actions::plan(spec, overrides, action) {
        Ok(plan) => (plan, true),
        Err(error) => {
            report.error("spec", &error);
            let Ok(plan) = Plan::load(spec, overrides, action) else { return };
            (plan, false)
        }
    };
    if startable {
        report.note("spec", "every field and rule holds");
    }
    plan.notes().iter().for_each(|note| report.warn("note", note));
    plan.differences_from_tao().iter().for_each(|note| report.note("note", note));
    devices(&plan, report);
    let has_model = plan.action() != Action::GenTrtEngine;
    if startable
        && has_model
        && let Err(error) = network(&plan, report)
    {
        report.error("model", &error);
    }
    if let Err(error) = results(&plan, report) {
        report.error("results", &error);
    }
    sources(&plan, progress, report);
}

fn devices(plan: &Plan, report: &mut Report) {
    match device::choose(plan, 0, &Progress::silent()) {
        Err(error) => report.error("device", &error),
        Ok(tch::Device::Cpu) => report.note("device", "CPU"),
        Ok(_) => {
            let devices = plan.devices();
            match device::visible().filter(|count| devices.iter().any(|id| id >= count)) {
                Some(count) => report.problem(
                    "device",
                    format!("GPUs {devices:?} are asked for, and this machine has {count}, counted from 0"),
                    2,
                ),
                None => report.note("device", format!("GPUs {devices:?}")),
            }
        }
    }
}

/// Declares the model, which costs no memory, and compares the weights that it would start from.
fn network(plan: &Plan, report: &mut Report) -> Result<()> {
    let arch = Arch::by_name(&plan.model.arch)?;
    let (height, width) = match plan.action() {
        Action::Export => plan.export_size(),
        _ => (plan.dataset.augmentation.input_size, plan.dataset.augmentation.input_size),
    };
    let size = (height as i64, width as i64);
    let root = Declare::root();
    match plan.train.stage {
        Stage::Pretrain if plan.action() != Action::Export => {
            MaskedAutoencoder::declare(&root, arch, size, plan.pretrain_config(arch))?;
        }
        Stage::Pretrain | Stage::Finetune => {
            Classifier::declare(&root, arch, size, &plan.classifier_config())?;
        }
    }
    let specs = root.into_specs();
    let parameters: i64 = specs.iter().map(ParamSpec::numel).sum();
    report.note(
        "model",
        format!(
            "{} for {} at {height}x{width}, {:.1} M parameters",
            arch.name,
            plan.train.stage,
            parameters as f64 / 1e6
        ),
    );
    if plan.action() == Action::Train {
        disk(plan, parameters as u64 * 4, report);
    }
    weights(plan, arch, &specs, report)
}

/// Whether the disk holds the checkpoints of the training.
fn disk(plan: &Plan, weights: u64, report: &mut Report) {
    // Weights, and AdamW's two moments or SGD's one.
    let one = weights * if plan.train.optim.r#type == OptimType::AdamW { 3 } else { 2 };
    let free = free_space(plan.results_dir()).unwrap_or(0);
    let count = (plan.train.checkpoint_interval_unit == IntervalUnit::Epoch)
        .then(|| plan.train.num_epochs.div_ceil(plan.train.checkpoint_interval) as u64);
    let all = count.map_or_else(String::new, |count| format!(", {} for all {count}", bytes(one * count)));
    let text =
        format!("{} a checkpoint{all}; {} free at {}", bytes(one), bytes(free), plan.results_dir().display());
    if one * count.unwrap_or(1) > free {
        report.warn("disk", format!("{text}: raise train.checkpoint_interval, or choose a larger disk"));
    } else {
        report.note("disk", text);
    }
}

fn weights(plan: &Plan, arch: &Arch, specs: &[ParamSpec], report: &mut Report) -> Result<()> {
    let (key, path, role) = match plan.action() {
        Action::Train => match checkpoints::resume_point(plan)? {
            Some(checkpoints::ResumePoint { path, contents, .. }) => {
                report.note(
                    "resume",
                    format!(
                        "from {}: epoch {}, step {}",
                        path.display(),
                        contents.epoch,
                        contents.global_step
                    ),
                );
                return Ok(());
            }
            None => {
                match plan.train.pretrained_model_path.clone().filter(|_| plan.train.stage == Stage::Finetune)
                {
                    Some(path) => ("train.pretrained_model_path".to_owned(), path, Role::Finetune),
                    None => {
                        report.note("start", "from new weights: nothing to resume, no pre-trained weights");
                        return Ok(());
                    }
                }
            }
        },
        action => {
            let role = match (action, plan.train.stage) {
                (Action::Export, Stage::Pretrain) => Role::Backbone,
                _ => Role::Full,
            };
            (format!("{}.checkpoint", action.name()), plan.checkpoint().to_owned(), role)
        }
    };
    if is_onnx(&path) {
        report.note("checkpoint", format!("{path}: an ONNX file, for onnxruntime"));
        return Ok(());
    }
    let checkpoint = model::open(plan.passphrase().as_ref(), &key, &path)?;
    let facts = Facts::of(&checkpoint);
    let known = [
        facts.arch.clone(),
        facts.stage.map(|stage| stage.name().to_owned()),
        facts.num_classes.map(|count| format!("{count} classes")),
        facts.input_size.map(|size| format!("{size} pixels")),
    ];
    let known = known.into_iter().flatten().collect::<Vec<_>>().join(", ");
    report.note(
        "checkpoint",
        format!("{path}: {}", if known.is_empty() { "of an unknown model" } else { &known }),
    );
    let family = match arch.family {
        Family::ConvNeXtV2(_) => dialect::Family::ConvNeXtV2,
        Family::Hiera(_) => dialect::Family::Hiera,
        Family::Vit(_) => dialect::Family::Vit,
    };
    let target: Vec<_> = specs.iter().map(|spec| (spec.name.clone(), spec.shape.clone())).collect();
    let plan = dialect::plan(&checkpoint.state_dict()?, &target, family, role)
        .map_err(|error| Error::from(error).at(format!("{key}: {path}")))?;
    report.note("weights", plan.report.to_string());
    Ok(())
}

/// Whether the results folder can be made and written to.
fn results(plan: &Plan, report: &mut Report) -> Result<()> {
    let folder = plan.results_dir();
    let nearest = folder.ancestors().find(|folder| folder.exists());
    let nearest = nearest.filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    tempfile::tempfile_in(nearest).map_err(|source| Error::File {
        key: "results_dir".into(),
        problem: format!("{} cannot be made or written: {source}", folder.display()),
        help: "name a folder below one that you can write to".into(),
    })?;
    report.note("results", format!("{}", folder.display()));
    if plan.action() == Action::Export {
        let file = plan.onnx_file();
        if file.exists() {
            report.problem(
                "export",
                format!("{} exists already, and export never overwrites a model", file.display()),
                1,
            );
        } else {
            report.note("export", format!("{}", file.display()));
        }
    }
    Ok(())
}

fn sources(plan: &Plan, progress: &Progress, report: &mut Report) {
    let finetune = plan.train.stage == Stage::Finetune;
    let labelled = if finetune { Layout::ImageFolder } else { Layout::Flat };
    let (train, val) = ("dataset.train_data_sources", "dataset.val_data_sources");
    let test = plan.dataset.test_data_sources.as_deref().unwrap_or_default();
    let wanted = match plan.action() {
        Action::Train => vec![
            (train, plan.dataset.train_data_sources.as_str(), labelled),
            (val, plan.dataset.val_data_sources.as_str(), labelled),
        ],
        Action::Evaluate => vec![(val, plan.dataset.val_data_sources.as_str(), labelled)],
        Action::Inference => vec![("dataset.test_data_sources", test, Layout::Flat)],
        Action::Export | Action::GenTrtEngine => Vec::new(),
    };
    let mut first: Option<Vec<String>> = None;
    for (key, source, layout) in wanted.into_iter().filter(|(_, source, _)| !source.is_empty()) {
        let outcome = data::open(plan, key, source, layout, &Progress::silent()).and_then(|dataset| {
            describe(plan, key, &dataset, report);
            if layout == Layout::ImageFolder {
                match &first {
                    None => classes::fit_the_model(plan, key, &dataset, progress)?,
                    Some(trained) => classes::agree(trained, key, &dataset)?,
                }
                first.get_or_insert_with(|| dataset.classes().to_vec());
            }
            Ok(())
        });
        if let Err(error) = outcome {
            report.error("data", &error);
        }
    }
}

/// Counts and first samples, and whether some of the images can be read.
fn describe(plan: &Plan, key: &str, dataset: &Dataset, report: &mut Report) {
    let (count, batch) = (dataset.len(), plan.batch_size());
    let mut text = format!("{key} = {}: {count} images", dataset.source());
    let counts = dataset.class_counts();
    if let (Some(least), Some(most)) = (counts.iter().min(), counts.iter().max()) {
        text.push_str(&format!(" of {} classes, {least} to {most} each", counts.len()));
    }
    let training = key == "dataset.train_data_sources";
    let batches = if training { count / batch } else { count.div_ceil(batch) };
    text.push_str(&format!("; {batches} batches of {batch}"));
    report.note("data", text);
    if training && batches == 0 {
        report.problem(
            "data",
            format!("Dataset size ({count}) is smaller than the total batch size ({batch}). Not enough data for train."),
            3,
        );
    }
    for index in 0..count.min(SHOWN) {
        report.note("", dataset.name(index));
    }
    for note in dataset.notes() {
        report.warn("data", note);
    }
    let mut bad = Vec::new();
    let mut smallest: Option<(usize, usize)> = None;
    let mut tried = 0;
    for index in (0..count).step_by(count.div_ceil(TRIED)) {
        tried += 1;
        let decoded = dataset
            .read(index)
            .map_err(|error| error.to_string())
            .and_then(|encoded| decode::decode(&encoded).map_err(|error| error.to_string()));
        match decoded {
            Ok(decoded) => {
                let size = (decoded.image.width, decoded.image.height);
                smallest = Some(smallest.map_or(size, |least| (least.0.min(size.0), least.1.min(size.1))));
            }
            Err(error) => bad.push(format!("{}: {error}", dataset.name(index))),
        }
    }
    let side = plan.dataset.augmentation.input_size;
    if let Some((width, height)) = smallest {
        let text = format!(
            "{} of {tried} tried can be read; the smallest sides are {width} and {height} pixels",
            tried - bad.len()
        );
        if width.min(height) * 2 < side {
            report.warn("images", format!("{text}, less than half of the model's {side}"));
        } else {
            report.note("images", text);
        }
    }
    if let Some(first) = bad.first() {
        let text = format!("{} of {tried} tried cannot be read, first {first}", bad.len());
        if bad.len() as f64 / tried as f64 > plan.dataset.max_bad_fraction {
            report.problem(
                "images",
                format!("{text}; dataset.max_bad_fraction = {}", plan.dataset.max_bad_fraction),
                3,
            );
        } else {
            report.warn("images", text);
        }
    }
}

//! The typed result: a spec for one action, every default explicit, every rule checked.

use mae_core::checkpoint::Passphrase;

use super::compose::{self, Composed, compose};
use super::error::{Error, Kind, Origin, Result};
use super::interpolation::{Context, Resolver};
use super::schema::{self, Compat, Spec};
use super::value::{Map, Node, Value, select, select_mut};
use super::yaml;
use std::fmt;
use std::ops::Deref;
use std::path::{Path, PathBuf};
use std::time::Duration;

mod check;
mod differences;
mod model;
mod typed;

/// What the program is asked to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Action {
    /// Pretraining or finetuning, as `train.stage` says.
    Train,
    /// Accuracy on the validation images.
    Evaluate,
    /// Class of each test image.
    Inference,
    /// ONNX file.
    Export,
    /// TensorRT engine.
    GenTrtEngine,
}

impl Action {
    /// All actions.
    pub const ALL: [Self; 5] =
        [Self::Train, Self::Evaluate, Self::Inference, Self::Export, Self::GenTrtEngine];

    /// The sub-command and section name, e.g. `train`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Train => "train",
            Self::Evaluate => "evaluate",
            Self::Inference => "inference",
            Self::Export => "export",
            Self::GenTrtEngine => "gen_trt_engine",
        }
    }

    /// The name at the start of a sentence, e.g. `Train`.
    pub const fn title(self) -> &'static str {
        match self {
            Self::Train => "Train",
            Self::Evaluate => "Evaluate",
            Self::Inference => "Inference",
            Self::Export => "Export",
            Self::GenTrtEngine => "Gen_trt_engine",
        }
    }
}

/// Precision of a TensorRT engine: `gen_trt_engine.tensorrt.data_type`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EnginePrecision {
    /// 32-bit floats.
    Fp32,
    /// 16-bit floats where that is faster.
    Fp16,
    /// 8-bit integers where that is faster.
    Int8,
}

/// A checked spec for one action. Its fields are those of [`Spec`], e.g. `plan.train.optim.lr`.
#[derive(Clone)]
pub struct Plan {
    action: Action,
    spec: Spec,
    /// The composed tree as `experiment.yaml` shows it: interpolations unresolved, results folder rewritten.
    root: Map,
    /// The same with every interpolation replaced by its value.
    resolved: Map,
    results_dir: PathBuf,
    notes: Vec<String>,
}

impl Deref for Plan {
    type Target = Spec;
    fn deref(&self) -> &Spec {
        &self.spec
    }
}

/// The trees are left out: they repeat the spec.
impl fmt::Debug for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Plan")
            .field("action", &self.action)
            .field("results_dir", &self.results_dir)
            .field("spec", &self.spec)
            .finish_non_exhaustive()
    }
}

impl Plan {
    /// Reads a spec file, applies overrides and checks everything that can be checked without touching data.
    ///
    /// # Errors
    /// A spec or usage error; it names the key, its value, where it was written, what was expected and what to do.
    pub fn load<S: AsRef<str>>(spec_path: &Path, overrides: &[S], action: Action) -> Result<Self> {
        let name = spec_path.file_name().map_or_else(String::new, |name| name.to_string_lossy().into_owned());
        let env = |name: &str| std::env::var(name).ok();
        Self::of(compose(Some(spec_path), overrides)?, action, &name, &env)
    }

    /// As [`Plan::load`], with the environment given by the caller.
    ///
    /// # Errors
    /// As [`Plan::load`].
    pub fn of(
        composed: Composed,
        action: Action,
        spec_name: &str,
        env: &dyn Fn(&str) -> Option<String>,
    ) -> Result<Self> {
        let Composed { mut root, mut notes } = composed;
        let context = Context { env, spec_name, action: action.name() };
        let results_dir = place_results(&mut root, action, &context)?;
        let resolved = resolve(&root, action, &context)?;
        let resolved = typed::canonical(resolved)?;
        check::fields(&resolved)?;
        let spec = typed::spec(&resolved)?;
        let plan =
            Self { action, spec, root, resolved, results_dir: PathBuf::from(results_dir), notes: Vec::new() };
        check::rules(&plan)?;
        model::rules(&plan)?;
        notes.extend(check::notes(&plan));
        Ok(Self { notes, ..plan })
    }

    /// The action.
    pub fn action(&self) -> Action {
        self.action
    }

    /// The folder of this action's results: `<action>.results_dir`, else `results_dir/<action>`.
    pub fn results_dir(&self) -> &Path {
        &self.results_dir
    }

    /// Whether the file or an override gave the field, e.g. `train.optim.layer_decay`.
    pub fn is_set(&self, path: &str) -> bool {
        self.origin(path).is_explicit()
    }

    /// Whether a field that TAO ignores takes effect in this run: it was given, and `compat` is not `tao`.
    pub fn is_honoured(&self, path: &str) -> bool {
        self.spec.compat == Compat::Fixed && self.is_set(path)
    }

    /// Where a field's value comes from.
    pub fn origin(&self, path: &str) -> Origin {
        select(&self.root, path).map_or(Origin::Default, |node| node.origin.clone())
    }

    /// The checkpoint of evaluate, inference or export; empty for other actions.
    pub fn checkpoint(&self) -> &str {
        match self.action {
            Action::Train | Action::GenTrtEngine => "",
            Action::Evaluate => &self.spec.evaluate.checkpoint,
            Action::Inference => &self.spec.inference.checkpoint,
            Action::Export => &self.spec.export.checkpoint,
        }
    }

    /// What encrypted checkpoints are opened with, and written with where `train.encrypt_checkpoints` is set.
    pub fn passphrase(&self) -> Option<Passphrase> {
        self.spec.encryption_key.as_ref().filter(|text| !text.is_empty()).map(Passphrase::new)
    }

    /// How long a training may run; `None` without a limit, or when the text is not DD:HH:MM:SS.
    pub fn max_time(&self) -> Option<Duration> {
        let text = self.spec.train.max_time.as_deref()?;
        let parts: Vec<u64> = text.split(':').map(|part| part.parse().ok()).collect::<Option<_>>()?;
        let [days, hours, minutes, seconds] = parts.as_slice() else { return None };
        let hours = days.checked_mul(24)?.checked_add(*hours)?;
        let minutes = hours.checked_mul(60)?.checked_add(*minutes)?;
        Some(Duration::from_secs(minutes.checked_mul(60)?.checked_add(*seconds)?))
    }

    /// Processes of this action on a node: `num_gpus`, or as many as `gpu_ids` lists.
    pub fn num_gpus(&self) -> usize {
        let (count, ids) = self.gpus();
        count.max(ids.len())
    }

    /// The device of a process of this action, given its index on its node: the one that `gpu_ids` lists there, or, when
    /// `num_gpus` asks for more devices than it lists, the one of that index.
    pub fn gpu_id(&self, local_rank: usize) -> usize {
        let (count, ids) = self.gpus();
        match self.action {
            Action::Export => usize::try_from(self.spec.export.gpu_id).unwrap_or(0),
            Action::GenTrtEngine => usize::try_from(self.spec.gen_trt_engine.gpu_id).unwrap_or(0),
            _ if count > ids.len() => local_rank,
            _ => ids.get(local_rank).copied().unwrap_or(local_rank),
        }
    }

    /// Machines that the spec asks for.
    pub fn num_nodes(&self) -> usize {
        match self.action {
            Action::Train => self.spec.train.num_nodes,
            Action::Evaluate => self.spec.evaluate.num_nodes,
            Action::Inference => self.spec.inference.num_nodes,
            Action::Export | Action::GenTrtEngine => 1,
        }
    }

    /// What every process of a run must have set alike: each field with its value, as text. Where files lie and which
    /// devices are used may differ from machine to machine.
    pub fn settings(&self) -> Vec<(String, String)> {
        const OWN: [&str; 6] =
            ["results_dir", "_data_sources", "cache_dir", "gpu_ids", "gpu_id", "num_workers_per_gpu"];
        schema::leaves()
            .into_iter()
            .filter(|(path, ..)| !OWN.iter().any(|end| path.ends_with(end)))
            .filter_map(|(path, ..)| {
                let value = select(&self.resolved, &path)?.value.shown();
                Some((path, value))
            })
            .collect()
    }

    fn gpus(&self) -> (usize, &[usize]) {
        match self.action {
            Action::Train => (self.spec.train.num_gpus, &self.spec.train.gpu_ids),
            Action::Evaluate => (self.spec.evaluate.num_gpus, &self.spec.evaluate.gpu_ids),
            Action::Inference => (self.spec.inference.num_gpus, &self.spec.inference.gpu_ids),
            Action::Export | Action::GenTrtEngine => (1, &[]),
        }
    }

    /// The devices of this action on a node, from 0: `gpu_ids`, or the first `num_gpus` when those are more.
    pub fn devices(&self) -> Vec<usize> {
        let (count, ids) = self.gpus();
        if ids.len() >= count { ids.to_vec() } else { (0..count).collect() }
    }

    /// Images per step and device of this action: its own batch size when one is set, else `dataset.batch_size`.
    pub fn batch_size(&self) -> usize {
        let own = match self.action {
            Action::Evaluate if self.is_honoured("evaluate.batch_size") => self.spec.evaluate.batch_size,
            Action::Inference if self.is_honoured("inference.batch_size") => self.spec.inference.batch_size,
            _ => -1,
        };
        usize::try_from(own).ok().filter(|own| *own > 0).unwrap_or(self.spec.dataset.batch_size)
    }

    /// The file that export writes: `export.onnx_file`, else `<results folder>/<arch>` with the format's extension.
    pub fn onnx_file(&self) -> PathBuf {
        match self.spec.export.onnx_file.as_str() {
            "" => self.results_dir.join(format!("{}.{}", self.spec.model.arch, self.spec.export.format)),
            file => PathBuf::from(file),
        }
    }

    /// Height and width of the exported input in pixels: as set, else `dataset.augmentation.input_size`.
    pub fn export_size(&self) -> (usize, usize) {
        let side = |key: &str, value: usize| {
            if self.is_set(key) { value } else { self.spec.dataset.augmentation.input_size }
        };
        (
            side("export.input_height", self.spec.export.input_height),
            side("export.input_width", self.spec.export.input_width),
        )
    }

    /// `gen_trt_engine.tensorrt.data_type`, where it says one. TAO's templates say `fp32,fp16`: 16 bits are allowed.
    pub fn engine_precision(&self) -> Option<EnginePrecision> {
        match self.spec.gen_trt_engine.tensorrt.data_type.trim().to_ascii_lowercase().as_str() {
            "fp32" => Some(EnginePrecision::Fp32),
            "fp16" | "fp32,fp16" => Some(EnginePrecision::Fp16),
            "int8" => Some(EnginePrecision::Int8),
            _ => None,
        }
    }

    /// The images that an export is verified on, with the key that names them: validation, else test, else training.
    pub fn verification_source(&self) -> Option<(&'static str, &str)> {
        let dataset = &self.spec.dataset;
        [
            ("dataset.val_data_sources", dataset.val_data_sources.as_str()),
            ("dataset.test_data_sources", dataset.test_data_sources.as_deref().unwrap_or_default()),
            ("dataset.train_data_sources", dataset.train_data_sources.as_str()),
        ]
        .into_iter()
        .find(|(_, source)| !source.is_empty())
    }

    /// What was accepted without effect or deserves a look, one sentence each, to be printed once at start.
    pub fn notes(&self) -> &[String] {
        &self.notes
    }

    /// Every field as this run uses it, as YAML: no interpolation is left, and what was unset has its value.
    pub fn to_resolved_yaml(&self) -> String {
        yaml::write(&compose::without_unset_extensions(&self.resolved))
    }

    /// The text of `experiment.yaml`, byte for byte as upstream writes it.
    ///
    /// Fields that only we know appear when they were set, so that TAO can read the file otherwise.
    /// The passphrase of encrypted checkpoints is left out, for the file lies beside them.
    pub fn to_yaml(&self) -> String {
        let mut root = compose::without_unset_extensions(&self.root);
        if self.spec.train.encrypt_checkpoints
            && let Some(node) = root.get_mut("encryption_key")
            && !node.value.is_interpolation()
        {
            node.value = Value::Str("***".to_owned());
        }
        yaml::write(&root)
    }
}

/// The text that `mae default_specs` writes: every default, as TAO's.
pub fn default_specs() -> String {
    yaml::write(&compose::without_unset_extensions(&compose::defaults()))
}

/// Decides the results folder and writes it into the tree, both at the root and in the action's section.
fn place_results(root: &mut Map, action: Action, context: &Context<'_>) -> Result<String> {
    let own = format!("{}.results_dir", action.name());
    let read = |path: &str| -> Result<(Option<String>, Origin)> {
        let Some(node) = select(root, path) else { return Ok((None, Origin::Default)) };
        let value = Resolver::new(root, context).resolve(path, node)?;
        let text = match value {
            Value::Null => None,
            value if value.is_missing() => None,
            value => Some(value.to_text()).filter(|text| !text.is_empty()),
        };
        Ok((text, node.origin.clone()))
    };
    let (folder, origin) = match read(&own)? {
        (Some(folder), origin) => (folder, origin),
        _ => match read("results_dir")? {
            (Some(folder), origin) if folder.ends_with('/') => (format!("{folder}{}", action.name()), origin),
            (Some(folder), origin) => (format!("{folder}/{}", action.name()), origin),
            _ => {
                return Err(Error::new(
                    Kind::Required,
                    format!("You need to set at least one of following fields: results_dir, {own}"),
                )
                .key("results_dir")
                .remedy("for example results_dir=./results"));
            }
        },
    };
    if folder.contains("://") {
        return Err(Error::new(
            Kind::NotAnOption,
            "results go into a folder of this machine, and this is an address",
        )
        .key("results_dir")
        .value(Value::Str(folder).shown())
        .at(&origin)
        .remedy("write into a local folder, for example results_dir=./results, and copy it from there"));
    }
    for path in ["results_dir", own.as_str()] {
        if let Some(node) = select_mut(root, path) {
            *node = Node::new(Value::Str(folder.clone()), origin.clone());
        }
    }
    Ok(folder)
}

/// Resolves every interpolation that the action reads. One in another action's section that cannot be resolved is
/// left as `???`, as upstream would never look at it.
fn resolve(root: &Map, action: Action, context: &Context<'_>) -> Result<Map> {
    let mut resolver = Resolver::new(root, context);
    let foreign = |path: &str| {
        let section = path.split('.').next().unwrap_or("");
        section != action.name()
            && Action::ALL.iter().any(|other| other.name() == section && *other != Action::Train)
    };
    let mut out = compose::defaults();
    for (path, ..) in schema::leaves() {
        let Some(node) = select(root, &path) else { continue };
        let value = match resolver.resolve(&path, node) {
            Ok(value) => value,
            Err(_) if foreign(&path) => Value::Str(super::value::MISSING.to_owned()),
            Err(error) => return Err(error),
        };
        if let Some(slot) = select_mut(&mut out, &path) {
            *slot = Node { value, ..node.clone() };
        }
    }
    Ok(out)
}

//! The structure of a checkpoint as PyTorch Lightning 2.6 and TAO write it, built and taken apart.
//!
//! | Room | What lives here |
//! |---|---|
//! | [`CheckpointContents`] | everything a resume needs, as plain Rust data |
//! | [`Loops`] | the counters of Lightning's loops |
//! | [`OptimizerState`], [`ParamGroup`], [`ParamState`] | `optimizer_states[0]` |
//! | [`LrScheduler`] | one entry of `lr_schedulers` |
//! | [`GradScaler`] | `MixedPrecision`, in fp16 |
//! | [`ModelCheckpoint`] | the state of the callback that wrote the file |
//!
//! Keys, their order and their types are those of upstream's files, so that Lightning resumes from ours and we
//! from theirs.

mod callback;
mod loops;
mod optimizer;
mod scaler;
mod scheduler;

pub use callback::ModelCheckpoint;
pub use loops::Loops;
pub use optimizer::{OptimizerKind, OptimizerState, ParamGroup, ParamState};
pub use scaler::GradScaler;
pub use scheduler::{LrScheduler, LrSchedulerKind};

use super::{Error, Result, TensorView, Value};

/// Version of Lightning whose structure is written.
pub const LIGHTNING_VERSION: &str = "2.6.1";
/// Prefix of every tensor name: the attribute that holds the network in TAO's LightningModule.
pub const MODEL_PREFIX: &str = "model.";
/// Key of what Lightning has no place for. Lightning ignores it.
pub const EXTRA_KEY: &str = "mae";

/// Everything in a training checkpoint.
#[derive(Debug, Clone, PartialEq)]
pub struct CheckpointContents {
    /// Epoch that was running when the file was written, from 0.
    pub epoch: i64,
    /// Optimizer steps so far.
    pub global_step: i64,
    /// Version of Lightning that wrote the file (or whose structure it has).
    pub lightning_version: String,
    /// Tensors of the network in state dict order, names without `model.`.
    pub state_dict: Vec<(String, TensorView)>,
    /// Counters of the loops.
    pub loops: Loops,
    /// State of the callback that writes checkpoints.
    pub callback: Option<ModelCheckpoint>,
    /// State of the optimizer; `None` in files with weights only.
    pub optimizer: Option<OptimizerState>,
    /// States of the learning rate schedulers.
    pub lr_schedulers: Vec<LrScheduler>,
    /// State of the gradient scaler; `None` unless the training is in fp16.
    pub scaler: Option<GradScaler>,
    /// What a bit-exact resume needs beyond Lightning's structure (random states, position in the data).
    pub extra: Option<Value>,
}

impl CheckpointContents {
    /// Contents with weights only, at the start of a training.
    pub fn new(state_dict: Vec<(String, TensorView)>) -> Self {
        Self {
            epoch: 0,
            global_step: 0,
            lightning_version: LIGHTNING_VERSION.into(),
            state_dict,
            loops: Loops::default(),
            callback: None,
            optimizer: None,
            lr_schedulers: Vec::new(),
            scaler: None,
            extra: None,
        }
    }

    /// The structure to write.
    pub fn to_value(&self) -> Value {
        let tensors = self.state_dict.iter();
        let tensors =
            tensors.map(|(name, view)| (format!("{MODEL_PREFIX}{name}"), Value::Tensor(view.clone())));
        let optimizers = self.optimizer.iter().map(OptimizerState::to_value);
        let mut root = vec![
            ("epoch", Value::Int(self.epoch)),
            ("global_step", Value::Int(self.global_step)),
            ("pytorch-lightning_version", Value::str(&self.lightning_version)),
            ("state_dict", Value::ordered_dict(tensors)),
            ("loops", self.loops.to_value()),
            ("callbacks", Value::dict(self.callback.iter().map(ModelCheckpoint::to_item))),
            ("optimizer_states", Value::List(optimizers.collect())),
            ("lr_schedulers", Value::List(self.lr_schedulers.iter().map(LrScheduler::to_value).collect())),
        ];
        root.extend(self.scaler.map(|scaler| (scaler::KEY, scaler.to_value())));
        root.push(("tao_model", Value::str("mae")));
        if let Some(extra) = &self.extra {
            root.push((EXTRA_KEY, extra.clone()));
        }
        Value::dict(root)
    }

    /// Takes a Lightning checkpoint apart, ours or upstream's. Loops, callbacks, optimizer, schedulers and scaler may
    /// be absent.
    ///
    /// # Errors
    /// [`Error::Key`] naming the key that is missing or has another type than Lightning's.
    pub fn from_value(root: &Value) -> Result<Self> {
        let keys = Keys { value: root, path: String::new() };
        let state_dict = keys.get("state_dict")?;
        let items = state_dict.value.as_dict().ok_or_else(|| state_dict.wrong("a state dict"))?;
        let tensors = items.iter().filter_map(|(key, value)| Some((key.as_str()?, value.as_tensor()?)));
        let tensors: Vec<_> = tensors.collect();
        let prefixed = tensors.iter().all(|(name, _)| name.starts_with(MODEL_PREFIX));
        let strip = |name: &str| match name.strip_prefix(MODEL_PREFIX) {
            Some(stripped) if prefixed => stripped.to_owned(),
            _ => name.to_owned(),
        };
        let loops = keys.optional("loops").map(|loops| Loops::from_value(&loops)).transpose()?;
        let optimizers = keys.optional("optimizer_states").map(|states| states.elements()).transpose()?;
        let schedulers = keys.optional("lr_schedulers").map(|states| states.elements()).transpose()?;
        Ok(Self {
            epoch: keys.get("epoch")?.int()?,
            global_step: keys.get("global_step")?.int()?,
            lightning_version: keys.get("pytorch-lightning_version")?.text()?,
            state_dict: tensors.into_iter().map(|(name, view)| (strip(name), view.clone())).collect(),
            loops: loops.unwrap_or_default(),
            callback: keys
                .optional("callbacks")
                .and_then(|callbacks| ModelCheckpoint::from_value(callbacks.value)),
            optimizer: match optimizers.as_deref() {
                Some([optimizer, ..]) => Some(OptimizerState::from_value(optimizer)?),
                _ => None,
            },
            lr_schedulers: schedulers.iter().flatten().map(LrScheduler::from_value).collect::<Result<_>>()?,
            scaler: match keys.optional(scaler::KEY).or_else(|| keys.optional(scaler::OLD_KEY)) {
                Some(state) => Some(GradScaler::from_value(&state)?),
                None => None,
            },
            extra: root.get(EXTRA_KEY).cloned(),
        })
    }
}

/// A value with its path, for messages.
struct Keys<'a> {
    value: &'a Value,
    path: String,
}

impl<'a> Keys<'a> {
    fn at(&self, key: &str, value: &'a Value) -> Keys<'a> {
        let path = if self.path.is_empty() { key.to_owned() } else { format!("{}.{key}", self.path) };
        Keys { value, path }
    }

    fn optional(&self, key: &str) -> Option<Keys<'a>> {
        self.value.get(key).map(|value| self.at(key, value))
    }

    fn get(&self, key: &str) -> Result<Keys<'a>> {
        self.optional(key).ok_or_else(|| Error::Key {
            key: if self.path.is_empty() { key.to_owned() } else { format!("{}.{key}", self.path) },
            expected: "a value (Lightning always writes it)",
            found: "nothing".into(),
        })
    }

    fn path(&self, keys: &[&str]) -> Result<Keys<'a>> {
        let mut at = Keys { value: self.value, path: self.path.clone() };
        for key in keys {
            at = at.get(key)?;
        }
        Ok(at)
    }

    fn int(&self) -> Result<i64> {
        self.value.as_i64().ok_or_else(|| self.wrong("an int"))
    }

    fn float(&self) -> Result<f64> {
        self.value.as_f64().ok_or_else(|| self.wrong("a number"))
    }

    fn text(&self) -> Result<String> {
        self.value.as_str().map(str::to_owned).ok_or_else(|| self.wrong("a str"))
    }

    fn elements(&self) -> Result<Vec<Keys<'a>>> {
        let items = self.value.as_slice().ok_or_else(|| self.wrong("a list"))?;
        Ok(items.iter().enumerate().map(|(index, value)| self.at(&index.to_string(), value)).collect())
    }

    fn floats(&self) -> Result<Vec<f64>> {
        self.elements()?.iter().map(Keys::float).collect()
    }

    fn wrong(&self, expected: &'static str) -> Error {
        Error::Key { key: self.path.clone(), expected, found: format!("a {}", self.value.type_name()) }
    }
}

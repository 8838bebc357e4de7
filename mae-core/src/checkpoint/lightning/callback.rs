//! State of Lightning's `ModelCheckpoint` callback.

use super::super::{TensorView, Value};

/// What the callback that writes checkpoints remembers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ModelCheckpoint {
    /// Interval in optimizer steps; 0 when it counts epochs.
    pub every_n_train_steps: i64,
    /// Interval in epochs; 0 when it counts steps.
    pub every_n_epochs: i64,
    /// Folder of the checkpoints.
    pub dirpath: String,
    /// Path of the checkpoint itself.
    pub best_model_path: String,
    /// Path of the `*_latest.pth` link; empty in the first checkpoint of a training.
    pub last_model_path: String,
}

impl ModelCheckpoint {
    /// Lightning looks the state up under a key made of the callback's settings.
    fn key(&self) -> String {
        format!(
            "ModelCheckpoint{{'monitor': None, 'mode': 'min', 'every_n_train_steps': {}, 'every_n_epochs': {}, \
             'train_time_interval': None}}",
            self.every_n_train_steps, self.every_n_epochs
        )
    }

    pub(super) fn to_item(&self) -> (String, Value) {
        let state = Value::dict([
            ("monitor", Value::None),
            ("best_model_score", Value::None),
            ("best_model_path", Value::str(&self.best_model_path)),
            ("current_score", Value::None),
            ("dirpath", Value::str(&self.dirpath)),
            ("best_k_models", Value::Dict(Vec::new())),
            ("kth_best_model_path", Value::str("")),
            ("kth_value", Value::Tensor(TensorView::scalar_f32(f32::INFINITY))),
            ("last_model_path", Value::str(&self.last_model_path)),
        ]);
        (self.key(), state)
    }

    /// The first `ModelCheckpoint` among the callbacks; `None` when there is none or its key is of another kind.
    pub(super) fn from_value(callbacks: &Value) -> Option<Self> {
        let (key, state) = callbacks.as_dict()?.iter().find_map(|(key, state)| {
            let settings = key.as_str()?.strip_prefix("ModelCheckpoint{")?;
            Some((settings, state))
        })?;
        let setting = |name: &str| -> Option<i64> {
            let (_, rest) = key.split_once(&format!("'{name}': "))?;
            rest.split([',', '}']).next()?.parse().ok()
        };
        let text = |name: &str| Some(state.get(name)?.as_str()?.to_owned());
        Some(Self {
            every_n_train_steps: setting("every_n_train_steps")?,
            every_n_epochs: setting("every_n_epochs")?,
            dirpath: text("dirpath")?,
            best_model_path: text("best_model_path")?,
            last_model_path: text("last_model_path")?,
        })
    }
}

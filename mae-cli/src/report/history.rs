//! The course of a finished training, read back from its `status.json`, ours or TAO's.

use std::fs;
use std::path::Path;

use serde_json::Value;

/// What was measured in one epoch.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct EpochRecord {
    /// The epoch, from 0.
    pub epoch: u64,
    /// Optimizer steps at its end.
    pub step: u64,
    /// Mean training loss.
    pub train_loss: Option<f64>,
    /// Validation loss, when the epoch was validated.
    pub val_loss: Option<f64>,
    /// Accuracy in 0..1, when the epoch was validated and the model is a classifier.
    pub accuracy: Option<f64>,
}

/// The epochs of the run in `folder`, each once, as it went last; empty without a readable `status.json`.
///
/// A line that is no JSON (a loss that is not finite is written as Python writes it) counts for nothing.
pub fn read(folder: &Path) -> Vec<EpochRecord> {
    let text = fs::read_to_string(folder.join("status.json")).unwrap_or_default();
    let mut epochs: Vec<EpochRecord> = Vec::new();
    let mut validated = (None, None);
    for line in text.lines() {
        let Ok(line) = serde_json::from_str::<Value>(line) else { continue };
        let kpi = |name: &str| line["kpi"][name].as_f64();
        match line["message"].as_str() {
            Some("Starting Training Loop.") => validated = (None, None),
            Some("Eval metrics skipped.") => validated = (kpi("val_loss"), kpi("ACC_all")),
            Some("Training loop in progress") => {
                let (Some(epoch), Some(step)) = (line["epoch"].as_u64(), line["step"].as_u64()) else {
                    continue;
                };
                let (val_loss, accuracy) = std::mem::take(&mut validated);
                epochs.retain(|earlier| earlier.epoch != epoch);
                epochs.push(EpochRecord { epoch, step, train_loss: None, val_loss, accuracy });
            }
            Some("Train metrics generated.") => {
                if let Some(last) = epochs.last_mut() {
                    last.train_loss = kpi("train_loss");
                }
            }
            _ => {}
        }
    }
    epochs
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn epochs_are_read_as_they_went_last() {
        let folder = tempfile::tempdir().unwrap();
        let progress = |epoch: u64, step: u64, kpi: &str| {
            format!(
                "{{\"epoch\": {epoch}, \"step\": {step}, \"message\": \"Training loop in progress\", \"kpi\": {kpi}}}\n"
            )
        };
        let line = |message: &str, kpi: &str| format!("{{\"message\": \"{message}\", \"kpi\": {kpi}}}\n");
        let text = [
            line("Starting Training Loop.", "{}"),
            line("Eval metrics skipped.", "{\"val_loss\": 0.7, \"ACC_all\": 0.25}"),
            progress(0, 4, "{\"val_loss\": 0.7, \"ACC_all\": 0.25}"),
            line("Train metrics generated.", "{\"train_loss\": 0.5}"),
            // Not validated: the training loss of the epoch before sticks to the line.
            progress(1, 8, "{\"train_loss\": 0.5}"),
            line("Train metrics generated.", "{\"train_loss\": 0.4}"),
            // Resumed: epoch 1 once more.
            line("Starting Training Loop.", "{}"),
            "{\"message\": \"Eval metrics skipped.\", \"kpi\": {\"val_loss\": NaN}}\n".to_owned(),
            progress(1, 9, "{}"),
            "half a li".to_owned(),
        ];
        fs::write(folder.path().join("status.json"), text.concat()).unwrap();
        let first = EpochRecord {
            epoch: 0,
            step: 4,
            train_loss: Some(0.5),
            val_loss: Some(0.7),
            accuracy: Some(0.25),
        };
        let second = EpochRecord { epoch: 1, step: 9, train_loss: None, val_loss: None, accuracy: None };
        assert_eq!(read(folder.path()), [first, second]);
        assert_eq!(read(&folder.path().join("nowhere")), []);
    }
}

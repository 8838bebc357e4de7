//! [`LoadReport`]: what became of every tensor, for a person.

use std::fmt;

use super::names::Candidate;
use super::{Role, Transform};

/// Lists longer than this are shortened.
const SHOWN: usize = 4;
/// What to do with weights of another model.
const OTHER_ARCHITECTURE: &str = "set model.arch to that of the checkpoint, or give another checkpoint";

/// What becomes of every tensor of the checkpoint and of the model.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct LoadReport {
    /// Tensors in the checkpoint.
    pub source_tensors: usize,
    /// Tensors in the model.
    pub target_tensors: usize,
    /// Loaded under their own name and shape.
    pub matched: Vec<String>,
    /// Loaded under another name: stored name, model's name, rule.
    pub renamed: Vec<(String, String, String)>,
    /// Loaded in another shape or layout (renamed or not).
    pub reshaped: Vec<Reshaped>,
    /// Position embeddings loaded on another grid, patch embeddings for patches of another size.
    pub interpolated: Vec<Reshaped>,
    /// Not loaded.
    pub skipped: Vec<Skipped>,
    /// Tensors of the model that keep their initial values.
    pub missing: Vec<String>,
}

/// A tensor that is loaded in another shape.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reshaped {
    /// Name in the checkpoint.
    pub source: String,
    /// Name in the model.
    pub target: String,
    /// Stored shape.
    pub from: Vec<i64>,
    /// What was done.
    pub transforms: Vec<Transform>,
}

/// A tensor that is not loaded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Skipped {
    /// Name in the checkpoint.
    pub source: String,
    /// Why.
    pub reason: SkipReason,
}

/// Why a tensor is not loaded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SkipReason {
    /// The decoder and what else only the pretraining uses.
    PretrainingOnly,
    /// The model has no tensor of this name.
    NotInModel,
    /// A head for another number of classes.
    HeadShape {
        /// Stored shape.
        found: Vec<i64>,
        /// Shape in the model.
        expected: Vec<i64>,
    },
    /// Another shape: another architecture.
    Shape {
        /// Stored shape.
        found: Vec<i64>,
        /// Shape in the model.
        expected: Vec<i64>,
    },
    /// A LayerScale, which is multiplied into the layer.
    Folded {
        /// The layer's name in the model.
        layer: String,
    },
    /// Another tensor was already loaded there.
    Duplicate {
        /// Name in the model.
        target: String,
    },
}

impl LoadReport {
    /// Number of tensors that are loaded.
    pub fn loaded_tensors(&self) -> usize {
        self.matched.len() + self.renamed.len() + self.reshaped.len() + self.interpolated.len()
    }

    pub(super) fn loaded(
        &mut self,
        source: &str,
        candidate: &Candidate,
        from: &[i64],
        transforms: &[Transform],
    ) {
        let target = &candidate.name;
        if transforms.is_empty() && source == target {
            self.matched.push(source.to_owned());
        } else if transforms.is_empty() {
            self.renamed.push((source.to_owned(), target.clone(), candidate.rule.clone()));
        } else {
            let entry = Reshaped {
                source: source.to_owned(),
                target: target.clone(),
                from: from.to_vec(),
                transforms: transforms.to_vec(),
            };
            let interpolated = transforms
                .iter()
                .any(|t| matches!(t, Transform::Positions { .. } | Transform::Patches { .. }));
            if interpolated { self.interpolated.push(entry) } else { self.reshaped.push(entry) }
        }
    }

    pub(super) fn skip(&mut self, source: &str, reason: SkipReason) {
        self.skipped.push(Skipped { source: source.to_owned(), reason });
    }

    /// Why the load must not happen and what can be done, if so.
    pub(super) fn refusal(&self, role: Role) -> Option<(String, String)> {
        let other_shape = self.skipped.iter().find_map(|skipped| match &skipped.reason {
            SkipReason::Shape { found, expected } => Some((&skipped.source, found, expected)),
            _ => None,
        });
        if let Some((name, found, expected)) = other_shape {
            return Some((
                format!(
                    "{name} has shape {found:?}, the model needs {expected:?}: the checkpoint is of another architecture"
                ),
                OTHER_ARCHITECTURE.into(),
            ));
        }
        let other_head = self.skipped.iter().find_map(|skipped| match &skipped.reason {
            SkipReason::HeadShape { found, expected } => Some((first(found), first(expected))),
            _ => None,
        });
        if let (Role::Full, Some((found, expected))) = (role, other_head) {
            return Some((
                format!("the checkpoint tells {found} classes apart, the model {expected}"),
                format!("set model.num_classes={found}, or give a checkpoint of {expected} classes"),
            ));
        }
        if role == Role::Full && !self.missing.is_empty() {
            return Some((
                format!(
                    "{} of the model's {} tensors are not in the checkpoint: it is of another stage or architecture",
                    self.missing.len(),
                    self.target_tensors
                ),
                "set train.stage and model.arch to those of the checkpoint, or give another checkpoint"
                    .into(),
            ));
        }
        let of_no_use =
            |reason: &SkipReason| matches!(reason, SkipReason::PretrainingOnly | SkipReason::Folded { .. });
        let usable =
            self.source_tensors - self.skipped.iter().filter(|skipped| of_no_use(&skipped.reason)).count();
        if self.loaded_tensors() * 10 < usable.max(1) {
            return Some((
                format!(
                    "only {} of the checkpoint's {} tensors fit: it is of another architecture",
                    self.loaded_tensors(),
                    self.source_tensors
                ),
                OTHER_ARCHITECTURE.into(),
            ));
        }
        None
    }
}

impl fmt::Display for LoadReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "loaded {} of the model's {} tensors", self.loaded_tensors(), self.target_tensors)?;
        write!(f, " from {} in the checkpoint", self.source_tensors)?;
        if !self.matched.is_empty() {
            write!(f, "\n  {} as they are", self.matched.len())?;
        }
        for (rule, names) in group(
            self.renamed.iter().map(|(source, target, rule)| (rule.clone(), format!("{source} → {target}"))),
        ) {
            line(f, "renamed", &rule, &names, 1)?;
        }
        for (what, entries) in [("reshaped", &self.reshaped), ("interpolated", &self.interpolated)] {
            for (how, names) in group(entries.iter().map(|entry| (entry.how(), entry.target.clone()))) {
                line(f, what, &how, &names, SHOWN)?;
            }
        }
        for (reason, names) in group(self.skipped.iter().map(|s| (s.reason.to_string(), s.source.clone()))) {
            line(f, "skipped", &reason, &names, SHOWN)?;
        }
        if !self.missing.is_empty() {
            line(f, "missing", "these keep their initial values", &self.missing, SHOWN)?;
        }
        Ok(())
    }
}

impl Reshaped {
    fn how(&self) -> String {
        let steps = self.transforms.iter().map(|transform| match transform {
            Transform::Reshape(to) => format!("{} to {} dimensions", self.from.len(), to.len()),
            Transform::SparseKernel { .. } => "MinkowskiEngine kernel".into(),
            Transform::Positions { from, to: (rows, columns), .. } => {
                format!("{from}x{from} to {rows}x{columns} positions, bicubic")
            }
            Transform::Patches { from, to } => format!("patches of {from} to {to} pixels, bicubic"),
        });
        steps.collect::<Vec<_>>().join(", ")
    }
}

impl fmt::Display for SkipReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            SkipReason::PretrainingOnly => f.write_str("used by the pretraining only"),
            SkipReason::NotInModel => f.write_str("not in this model"),
            SkipReason::HeadShape { found, expected } => {
                write!(
                    f,
                    "head for another number of classes ({} instead of {})",
                    first(found),
                    first(expected)
                )
            }
            SkipReason::Shape { found, expected } => write!(f, "shape {found:?} instead of {expected:?}"),
            SkipReason::Folded { .. } => f.write_str("LayerScale, multiplied into the layer before it"),
            SkipReason::Duplicate { target } => write!(f, "{target} was already loaded"),
        }
    }
}

fn first(shape: &[i64]) -> i64 {
    shape.first().copied().unwrap_or(0)
}

/// Names by what is said about them, in order of first appearance.
fn group(entries: impl Iterator<Item = (String, String)>) -> Vec<(String, Vec<String>)> {
    let mut groups: Vec<(String, Vec<String>)> = Vec::new();
    for (label, name) in entries {
        match groups.iter_mut().find(|(known, _)| *known == label) {
            Some((_, names)) => names.push(name),
            None => groups.push((label, vec![name])),
        }
    }
    groups
}

fn line(f: &mut fmt::Formatter<'_>, what: &str, label: &str, names: &[String], shown: usize) -> fmt::Result {
    write!(f, "\n  {} {what} ({label}): {}", names.len(), names[..names.len().min(shown)].join(", "))?;
    if names.len() > shown { write!(f, ", ...") } else { Ok(()) }
}

//! `mae ckpt diff`.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use mae_core::checkpoint::{Checkpoint, Distance, TensorView, Value};
use serde_json::{Map, Value as Json, json};

use super::{in_file, json, open, state_dict, text};
use crate::error::Result;

/// The exit code for checkpoints that differ, as diff's.
const DIFFERENT: u8 = 1;
/// Of each kind of difference this many are shown to a person.
const SHOWN: usize = 20;

/// How to compare.
pub(super) struct Options {
    pub(super) json: bool,
    pub(super) tolerance: f64,
    pub(super) weights_only: bool,
}

/// What differs.
#[derive(Default)]
struct Differences {
    compared: usize,
    only_a: Vec<String>,
    only_b: Vec<String>,
    /// Shapes or element types.
    kinds: Vec<(String, String, String)>,
    values: Vec<(String, Distance)>,
    /// What is no tensor.
    structure: Vec<(String, Json, Json)>,
}

/// Compares two files. Gives what to print, and the exit code.
pub(super) fn diff(a: &Path, b: &Path, options: &Options) -> Result<(String, u8)> {
    let files = (open(a)?, open(b)?);
    let mut found = Differences::default();
    // Files that wrap their weights in different ways have nothing else in common.
    let weights_only = options.weights_only || files.0.kind() != files.1.kind();
    let tensors = |path: &Path, file: &Checkpoint| -> Result<BTreeMap<String, TensorView>> {
        Ok(if weights_only {
            let weights = state_dict(path, file)?.into_iter();
            weights
                .map(|(name, view)| (mae_core::checkpoint::dialect::bare_name(&name).to_owned(), view))
                .collect()
        } else {
            file.root().tensors().into_iter().map(|(path, view)| (path.join("."), view.clone())).collect()
        })
    };
    let (left, right) = (tensors(a, &files.0)?, tensors(b, &files.1)?);
    found.only_a = left.keys().filter(|name| !right.contains_key(*name)).cloned().collect();
    found.only_b = right.keys().filter(|name| !left.contains_key(*name)).cloned().collect();
    for (name, view) in &left {
        let Some(other) = right.get(name) else { continue };
        found.compared += 1;
        if view.shape() != other.shape() || view.dtype() != other.dtype() {
            found.kinds.push((name.clone(), text::shape(view), text::shape(other)));
        }
        if view.shape() == other.shape() {
            let distance = view.distance(other).map_err(|error| in_file(b, error))?;
            if distance.max > options.tolerance {
                found.values.push((name.clone(), distance));
            }
        }
    }
    if !weights_only {
        let (mut left, mut right) = (BTreeMap::new(), BTreeMap::new());
        leaves(files.0.root(), &mut Vec::new(), &mut left);
        leaves(files.1.root(), &mut Vec::new(), &mut right);
        let keys: BTreeSet<&String> = left.keys().chain(right.keys()).collect();
        for key in keys {
            let (a, b) = (left.get(key), right.get(key));
            if a != b {
                let side = |side: Option<&Json>| side.cloned().unwrap_or_else(|| json!("(absent)"));
                found.structure.push((key.clone(), side(a), side(b)));
            }
        }
    }
    let code = if found.is_empty() { 0 } else { DIFFERENT };
    Ok((if options.json { format!("{:#}", found.json()) } else { found.text(weights_only) }, code))
}

/// Everything that is neither a tensor nor has children, by its path.
fn leaves(value: &Value, path: &mut Vec<String>, out: &mut BTreeMap<String, Json>) {
    if matches!(value, Value::Tensor(_) | Value::NumpyArray(_)) {
        return;
    }
    let children = value.children();
    if children.is_empty() {
        out.insert(path.join("."), json::value(value));
    }
    for (key, child) in children {
        path.push(key);
        leaves(child, path, out);
        path.pop();
    }
}

impl Differences {
    fn is_empty(&self) -> bool {
        let Differences { compared: _, only_a, only_b, kinds, values, structure } = self;
        only_a.is_empty()
            && only_b.is_empty()
            && kinds.is_empty()
            && values.is_empty()
            && structure.is_empty()
    }

    fn json(&self) -> Json {
        let pairs = |items: &[(String, String, String)]| -> Map<String, Json> {
            items.iter().map(|(name, a, b)| (name.clone(), json!([a, b]))).collect()
        };
        let values = self.values.iter().map(|(name, distance)| {
            let figures = json!({
                "max": json::number(distance.max),
                "l2": json::number(distance.l2),
                "relative": json::number(distance.relative),
            });
            (name.clone(), figures)
        });
        let structure = self.structure.iter().map(|(name, a, b)| (name.clone(), json!([a, b])));
        json!({
            "equal": self.is_empty(),
            "tensors_compared": self.compared,
            "only_in_a": self.only_a,
            "only_in_b": self.only_b,
            "kinds": pairs(&self.kinds),
            "values": values.collect::<Map<_, _>>(),
            "structure": structure.collect::<Map<_, _>>(),
        })
    }

    fn text(&self, weights_only: bool) -> String {
        let what = if weights_only { "weights" } else { "tensors" };
        if self.is_empty() {
            let rest = if weights_only { "" } else { ", and so is the rest of the structure" };
            return format!("{} {what} compared, all equal{rest}", text::count(self.compared));
        }
        let mut out = format!("{} {what} compared", text::count(self.compared));
        let mut list = |title: &str, lines: Vec<String>| {
            if lines.is_empty() {
                return;
            }
            out.push_str(&format!("\n\n{title}: {}", text::count(lines.len())));
            for line in lines.iter().take(SHOWN) {
                out.push_str(&format!("\n  {line}"));
            }
            if lines.len() > SHOWN {
                out.push_str(&format!("\n  ... {} more; --json shows all", lines.len() - SHOWN));
            }
        };
        list("only in the first", self.only_a.clone());
        list("only in the second", self.only_b.clone());
        list(
            "another shape or element type",
            self.kinds.iter().map(|(n, a, b)| format!("{n}: {a} → {b}")).collect(),
        );
        let values = self.values.iter().map(|(name, Distance { max, relative, .. })| {
            format!("{name}: largest difference {max:.3e}, relative {relative:.3e}")
        });
        list("other values", values.collect());
        list("other structure", self.structure.iter().map(|(n, a, b)| format!("{n}: {a} → {b}")).collect());
        out
    }
}

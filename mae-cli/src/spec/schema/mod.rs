//! What a spec may contain: one table, one row a field.
//!
//! The table is `table.rs`. A row there is a field of a typed struct and at once the row that parsing, conversion,
//! checking, `default_specs` and the messages read, so a field is added in one place.

mod choice;
mod row;
mod table;

pub use choice::*;
pub use row::{Condition, Entry, Leaf, Limit, Literal, Row, Shape, Upstream};
pub use table::*;

/// What a dotted path names.
#[derive(Clone, Copy, Debug)]
pub enum Found {
    /// A section with these rows.
    Section(&'static [Row]),
    /// A field.
    Leaf(&'static Row, &'static Leaf),
}

/// The rows of the whole spec.
pub fn root() -> &'static [Row] {
    Spec::ROWS
}

/// The row of a name among rows.
pub fn row(rows: &'static [Row], name: &str) -> Option<&'static Row> {
    rows.iter().find(|row| row.name == name)
}

/// What a dotted path such as `train.optim.lr` names. The empty path is the whole spec.
pub fn find(path: &str) -> Option<Found> {
    if path.is_empty() {
        return Some(Found::Section(root()));
    }
    let mut rows = root();
    let mut names = path.split('.').peekable();
    while let Some(name) = names.next() {
        let row = row(rows, name)?;
        match &row.entry {
            Entry::Section(inner) if names.peek().is_none() => return Some(Found::Section(inner)),
            Entry::Section(inner) => rows = inner,
            Entry::Leaf(leaf) if names.peek().is_none() => return Some(Found::Leaf(row, leaf)),
            Entry::Leaf(_) => return None,
        }
    }
    None
}

/// Every field in table order, with its dotted path.
pub fn leaves() -> Vec<(String, &'static Row, &'static Leaf)> {
    fn walk(prefix: &str, rows: &'static [Row], out: &mut Vec<(String, &'static Row, &'static Leaf)>) {
        for row in rows {
            let path = if prefix.is_empty() { row.name.to_owned() } else { format!("{prefix}.{}", row.name) };
            match &row.entry {
                Entry::Section(inner) => walk(&path, inner, out),
                Entry::Leaf(leaf) => out.push((path, row, leaf)),
            }
        }
    }
    let mut out = Vec::new();
    walk("", root(), &mut out);
    out
}

/// The full path of a field or section that is most like an unknown one, for "did you mean".
///
/// The last name counts most: `train.learning_rate` and `learning_rate` both lead to `train.optim.lr` only through
/// the table of common synonyms, `model.mask_ratio` leads to `train.mask_ratio` because the name is the same.
pub fn suggest(path: &str) -> Option<String> {
    const SYNONYMS: &[(&str, &str)] = &[
        ("learning_rate", "train.optim.lr"),
        ("epochs", "train.num_epochs"),
        ("max_epochs", "train.num_epochs"),
        ("optimizer", "train.optim"),
        ("workers", "dataset.num_workers_per_gpu"),
        ("num_workers", "dataset.num_workers_per_gpu"),
        ("image_size", "dataset.augmentation.input_size"),
        ("img_size", "dataset.augmentation.input_size"),
        ("architecture", "model.arch"),
        ("backbone", "model.arch"),
        ("output_dir", "results_dir"),
        ("weights", "train.pretrained_model_path"),
        ("scheduler", "train.optim.lr_scheduler"),
        ("warmup", "train.optim.warmup_epochs"),
        ("betas", "train.optim.betas"),
    ];
    let last = path.rsplit('.').next().unwrap_or(path);
    let lower = last.to_ascii_lowercase();
    let mut candidates: Vec<String> = leaves().into_iter().map(|(path, ..)| path).collect();
    candidates.extend(sections());
    let parent = path.rsplit_once('.').map_or("", |(parent, _)| parent);
    let distance = |candidate: &str| {
        let (candidate_parent, candidate_last) = candidate.rsplit_once('.').unwrap_or(("", candidate));
        let name = strsim::damerau_levenshtein(&lower, &candidate_last.to_ascii_lowercase());
        let place = usize::from(candidate_parent != parent);
        (name <= lower.len().max(3) / 3).then_some(name * 2 + place)
    };
    if let Some((_, target)) = SYNONYMS.iter().find(|(name, _)| *name == lower) {
        return Some((*target).to_owned());
    }
    candidates
        .into_iter()
        .filter_map(|candidate| Some((distance(&candidate)?, candidate)))
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, candidate)| candidate)
}

/// The dotted paths of all sections, in table order.
pub fn sections() -> Vec<String> {
    fn walk(prefix: &str, rows: &'static [Row], out: &mut Vec<String>) {
        for row in rows {
            if let Entry::Section(inner) = &row.entry {
                let path =
                    if prefix.is_empty() { row.name.to_owned() } else { format!("{prefix}.{}", row.name) };
                out.push(path.clone());
                walk(&path, inner, out);
            }
        }
    }
    let mut out = Vec::new();
    walk("", root(), &mut out);
    out
}

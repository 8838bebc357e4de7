//! `mae ckpt inspect`.

use std::collections::{BTreeMap, HashMap};
use std::path::Path;

use mae_core::checkpoint::{Checkpoint, Format, Kind, Statistics, TensorView, Value};
use serde_json::{Value as Json, json};

use super::recognise::{Recognised, recognise};
use super::{in_file, json, open, text};
use crate::error::Result;

/// A tensor with where it is and its figures.
struct Entry<'a> {
    path: Vec<String>,
    view: &'a TensorView,
    statistics: Statistics,
    /// Number of its storage; tensors with the same number share one.
    storage: usize,
}

/// What is known of a file.
struct Facts<'a> {
    path: &'a Path,
    bytes: u64,
    file: &'a Checkpoint,
    tensors: Vec<Entry<'a>>,
    /// Names and classes of tensors that cannot be read (quantised, sparse).
    unsupported: Vec<(String, String)>,
    recognised: Option<Recognised>,
}

/// Describes a checkpoint.
pub(super) fn inspect(path: &Path, as_json: bool, all: bool) -> Result<String> {
    let file = open(path)?;
    let mut tensors = Vec::new();
    let mut storages: HashMap<usize, usize> = HashMap::new();
    for (keys, view) in file.root().tensors() {
        // Reading it checks it.
        let statistics = view.statistics().map_err(|error| in_file(path, error))?;
        let next = storages.len();
        let storage = *storages.entry(view.storage_id()).or_insert(next);
        tensors.push(Entry { path: keys, view, statistics, storage });
    }
    let mut unsupported = Vec::new();
    find_unsupported(file.root(), &mut Vec::new(), &mut unsupported);
    let recognised = file.state_dict().ok().and_then(|weights| recognise(&weights));
    let bytes = std::fs::metadata(path).map_or(0, |metadata| metadata.len());
    let facts = Facts { path, bytes, file: &file, tensors, unsupported, recognised };
    Ok(if as_json { format!("{:#}", facts.json()) } else { facts.text(all) })
}

fn find_unsupported(value: &Value, path: &mut Vec<String>, found: &mut Vec<(String, String)>) {
    if let Value::Opaque(object) = value
        && object.instance
        && object.class.starts_with("torch._utils._rebuild")
    {
        found.push((path.join("."), object.class.clone()));
        return;
    }
    for (key, child) in value.children() {
        path.push(key);
        find_unsupported(child, path, found);
        path.pop();
    }
}

impl Facts<'_> {
    fn json(&self) -> Json {
        let file = self.file;
        let mut dtypes: BTreeMap<&str, usize> = BTreeMap::new();
        for entry in &self.tensors {
            *dtypes.entry(entry.view.dtype().name()).or_default() += 1;
        }
        let globals =
            file.globals().iter().map(|global| json!({"name": global.name, "known": global.is_known}));
        let unsupported = self.unsupported.iter().map(|(name, class)| json!({"name": name, "class": class}));
        json!({
            "file": self.path.display().to_string(),
            "bytes": self.bytes,
            "format": self.format_name(),
            "encrypted": file.is_encrypted(),
            "zip_root": match file.format() {
                Format::Zip { root } => json!(root),
                _ => Json::Null,
            },
            "kind": self.kind_name(),
            "written_by": self.written_by(),
            "architecture": self.recognised.as_ref().map(|found| json!({
                "arch": found.arch.name,
                "stage": found.stage,
                "num_classes": found.num_classes,
            })),
            "integrity": {"checked": self.checksum(), "ok": true},
            "security": {"code_was_run": false, "globals": globals.collect::<Vec<_>>()},
            "n_tensors": self.tensors.len(),
            "n_storages": self.tensors.iter().map(|entry| entry.storage + 1).max().unwrap_or(0),
            "n_elements": self.tensors.iter().map(|entry| entry.view.numel()).sum::<usize>(),
            "dtypes": dtypes,
            "unsupported": unsupported.collect::<Vec<_>>(),
            "structure": json::value(file.root()),
            "tensors": self.tensors.iter().map(Entry::json).collect::<Vec<_>>(),
        })
    }

    fn text(&self, all: bool) -> String {
        let mut out = format!("{}\n", self.path.display());
        let mut line = |name: &str, what: String| out.push_str(&format!("  {name:<12}{what}\n"));
        let encrypted = if self.file.is_encrypted() { ", encrypted with age" } else { "" };
        line("format", format!("{}{encrypted}, {}", self.file.format(), text::bytes(self.bytes)));
        line("written by", self.written_by());
        if let Some(found) = &self.recognised {
            line("model", found.describe());
        }
        let elements: usize = self.tensors.iter().map(|entry| entry.view.numel()).sum();
        line("tensors", format!("{}, {} elements", text::count(self.tensors.len()), text::count(elements)));
        line(
            "integrity",
            format!(
                "every record was read; {}",
                match self.checksum() {
                    "blake3" => "the BLAKE3 digests match",
                    "crc32" => "the CRC-32 sums match",
                    _ => "the format has no checksums",
                }
            ),
        );
        line("security", self.security());
        let bad = self.tensors.iter().filter(|entry| entry.statistics.non_finite > 0);
        let bad: Vec<String> = bad.map(|entry| entry.path.join(".")).collect();
        if !bad.is_empty() {
            line("warning", format!("NaN or infinite elements in {}", bad.join(", ")));
        }
        for (name, class) in &self.unsupported {
            line(
                "warning",
                format!("{name} cannot be read: it is stored as {class} (quantised, sparse or 8-bit)"),
            );
        }
        out.push_str("\nstructure\n");
        match text::inline(self.file.root()) {
            Some(text) => out.push_str(&format!("  {text}\n")),
            None => text::structure(self.file.root(), 2, &mut out),
        }
        self.table(all, &mut out);
        out
    }

    fn table(&self, all: bool, out: &mut String) {
        let is_optimizer =
            |entry: &Entry<'_>| entry.path.first().is_some_and(|key| key.starts_with("optimizer"));
        let shown: Vec<&Entry<'_>> =
            self.tensors.iter().filter(|entry| all || !is_optimizer(entry)).collect();
        let names: Vec<String> = shown.iter().map(|entry| entry.path.join(".")).collect();
        let shapes: Vec<String> = shown.iter().map(|entry| text::shape(entry.view)).collect();
        let width = |texts: &[String]| texts.iter().map(|text| text.chars().count()).max().unwrap_or(0);
        let (name_width, shape_width) = (width(&names).max(6), width(&shapes));
        if !shown.is_empty() {
            out.push_str(&format!(
                "\n{:<name_width$}  {:<shape_width$}  {:>14}  {:>14}\n",
                "tensor", "", "sum", "L2 norm"
            ));
        }
        for ((entry, name), shape) in shown.iter().zip(&names).zip(&shapes) {
            let Statistics { sum, l2, .. } = entry.statistics;
            out.push_str(&format!("{name:<name_width$}  {shape:<shape_width$}  {sum:>14.6e}  {l2:>14.6e}\n"));
        }
        let hidden = self.tensors.len() - shown.len();
        if hidden > 0 {
            out.push_str(&format!("{} tensors of the optimizer are shown with --all\n", text::count(hidden)));
        }
    }

    fn format_name(&self) -> &'static str {
        match self.file.format() {
            Format::Zip { .. } => "zip",
            Format::Legacy => "legacy",
            Format::Tar => "tar",
            Format::Safetensors => "safetensors",
        }
    }

    fn kind_name(&self) -> String {
        match self.file.kind() {
            Kind::Lightning => "lightning".into(),
            Kind::Nested(key) => format!("nested:{key}"),
            Kind::StateDict => "state_dict".into(),
            Kind::Other => "other".into(),
        }
    }

    /// Which program's file it is, as far as it says.
    fn written_by(&self) -> String {
        let root = self.file.root();
        let text = |keys: &[&str]| root.get_path(keys).and_then(Value::as_str);
        let lightning =
            text(&["pytorch-lightning_version"]).map(|version| format!("PyTorch Lightning {version}"));
        match (text(&["mae", "mae_version"]), text(&["tao_model"]), lightning) {
            (Some(version), _, Some(lightning)) => format!("mae {version}, in the layout of {lightning}"),
            (None, Some(model), Some(lightning)) => format!("TAO (tao_model {model}), with {lightning}"),
            (None, None, Some(lightning)) => lightning,
            _ => match self.file.format() {
                Format::Safetensors => "a writer of safetensors".into(),
                Format::Tar => "PyTorch 0.1".into(),
                Format::Legacy => "PyTorch before 1.6, or with its old format".into(),
                Format::Zip { .. } => "PyTorch 1.6 or later".into(),
            },
        }
    }

    fn checksum(&self) -> &'static str {
        match self.file.format() {
            _ if self.file.has_digests() => "blake3",
            Format::Zip { .. } => "crc32",
            _ => "none",
        }
    }

    fn security(&self) -> String {
        let globals = self.file.globals();
        let unknown: Vec<&str> =
            globals.iter().filter(|global| !global.is_known).map(|global| &*global.name).collect();
        match (globals.len(), unknown.as_slice()) {
            (0, _) => "nothing was run; the file names no class or function".into(),
            (all, []) => format!(
                "nothing was run; it names {all} classes and functions, all of tensors and plain data"
            ),
            (all, unknown) => format!(
                "nothing was run; it names {all} classes and functions, of which these are read as plain data: {}",
                unknown.join(", ")
            ),
        }
    }
}

impl Entry<'_> {
    fn json(&self) -> Json {
        let Statistics { sum, imaginary_sum, l2, min, max, non_finite } = self.statistics;
        let complex = self.view.dtype().name().starts_with("complex");
        let sum =
            if complex { json!([json::number(sum), json::number(imaginary_sum)]) } else { json::number(sum) };
        json!({
            "name": self.path.join("."),
            "path": self.path,
            "shape": self.view.shape(),
            "dtype": self.view.dtype().name(),
            "stride": self.view.strides(),
            "storage_offset": self.view.storage_offset(),
            "storage": self.storage,
            "storage_bytes": self.view.storage_nbytes(),
            "sum": sum,
            "l2": json::number(l2),
            "min": json::number(min),
            "max": json::number(max),
            "non_finite": non_finite,
        })
    }
}

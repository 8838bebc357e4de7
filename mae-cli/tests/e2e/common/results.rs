//! What a run left in its results folder.

use std::fs;
use std::path::{Path, PathBuf};

use mae_core::checkpoint::Checkpoint;
use mae_core::checkpoint::lightning::CheckpointContents;
use prost::Message;

/// Every file below a folder, by path within it, sorted; nothing when there is no such folder.
pub fn files_below(folder: &Path) -> Vec<String> {
    fn walk(root: &Path, folder: &Path, out: &mut Vec<String>) {
        for entry in fs::read_dir(folder).into_iter().flatten() {
            let path = entry.unwrap().path();
            if path.is_dir() && !path.is_symlink() {
                walk(root, &path, out);
            } else {
                out.push(path.strip_prefix(root).unwrap().to_str().unwrap().to_owned());
            }
        }
    }
    let mut out = Vec::new();
    walk(folder, folder, &mut out);
    out.sort();
    out
}

/// Files that only an unfinished write can have left, or that a run which failed should not have written.
pub fn leftovers(folder: &Path) -> Vec<String> {
    let mut files = files_below(folder);
    files.retain(|name| {
        let file = Path::new(name).file_name().unwrap().to_str().unwrap();
        file.starts_with('.') || [".pth", ".onnx", ".data", ".tmp"].iter().any(|end| file.ends_with(end))
    });
    files
}

/// The lines of a `status.json`.
pub fn status_lines(path: &Path) -> Vec<serde_json::Value> {
    let text = fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// The rows of a `results.csv`.
pub fn results_csv(path: &Path) -> Vec<(String, usize)> {
    let mut reader = csv::ReaderBuilder::new().has_headers(false).from_path(path).unwrap();
    reader.deserialize().map(Result::unwrap).collect()
}

/// A checkpoint taken apart, without the state of the callback: that holds the paths of the folder it lies in.
pub fn contents(path: &Path) -> CheckpointContents {
    let file = Checkpoint::open(path).unwrap();
    CheckpointContents { callback: None, ..CheckpointContents::from_value(file.root()).unwrap() }
}

/// A scalar or picture of a TensorBoard event file.
#[derive(Debug)]
pub struct Event {
    pub tag: String,
    pub step: i64,
    pub value: Option<f32>,
}

#[derive(Message)]
struct EventMessage {
    #[prost(int64, tag = "2")]
    step: i64,
    #[prost(message, optional, tag = "5")]
    summary: Option<Summary>,
}

#[derive(Message)]
struct Summary {
    #[prost(message, repeated, tag = "1")]
    value: Vec<SummaryValue>,
}

#[derive(Message)]
struct SummaryValue {
    #[prost(string, tag = "1")]
    tag: String,
    #[prost(float, optional, tag = "2")]
    simple_value: Option<f32>,
}

/// What the one event file of a `lightning_logs/version_1` holds.
pub fn events(folder: &Path) -> Vec<Event> {
    let name = |path: &PathBuf| path.file_name().unwrap().to_str().unwrap().to_owned();
    let files: Vec<PathBuf> = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    let files: Vec<_> = files.iter().filter(|path| name(path).starts_with("events.out.tfevents.")).collect();
    assert_eq!(files.len(), 1, "{files:?}");
    let bytes = fs::read(files[0]).unwrap();
    let mut events = Vec::new();
    let mut rest = &bytes[..];
    while !rest.is_empty() {
        // A length, its checksum, the message, its checksum.
        let length = u64::from_le_bytes(rest[..8].try_into().unwrap()) as usize;
        let message = EventMessage::decode(&rest[12..12 + length]).unwrap();
        let values = message.summary.into_iter().flat_map(|summary| summary.value);
        events.extend(values.map(|v| Event { tag: v.tag, step: message.step, value: v.simple_value }));
        rest = &rest[16 + length..];
    }
    events
}

//! Which file a checkpoint's key means: a file, or one of a results folder's checkpoints.
//!
//! A folder that holds one checkpoint means that one. Of several, one must be asked for:
//!
//! | after the folder | means |
//! | --- | --- |
//! | `@epoch=3` | `model_epoch_003_step_*.pth`; the epoch counts from 0, as in the file's name |
//! | `@step=99` | `model_epoch_*_step_00099.pth` |
//! | `@epoch=3,step=99` | both |
//! | `@latest` | what the link `*_latest.pth` points to |
//! | `@best` | the epoch of the best metric in `status.json`: highest accuracy, else lowest validation loss, else lowest training loss |
//!
//! There is no other rule, and nothing is ever guessed from dates.

use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};

use mae_core::checkpoint;

use crate::error::{Error, Result};
use crate::report::history::{self, EpochRecord};

/// The file that was chosen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Artefact {
    /// The checkpoint.
    pub(super) path: PathBuf,
    /// Why this one, for the log; `None` when the key names the file itself.
    pub(super) rule: Option<String>,
}

/// Which of a folder's checkpoints.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Selector {
    Only,
    Exactly { epoch: Option<u64>, step: Option<u64> },
    Latest,
    Best,
}

/// A checkpoint of a results folder.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Candidate {
    epoch: u64,
    step: u64,
    path: PathBuf,
}

impl fmt::Display for Candidate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&name_of(&self.path))
    }
}

/// Finds the file that `text`, the value of `key`, means.
///
/// # Errors
/// Nothing is there, or the folder holds several checkpoints and none is asked for: the error lists them.
pub(super) fn choose(key: &str, text: &str) -> Result<Artefact> {
    let whole = Path::new(text);
    if whole.is_file() {
        return Ok(Artefact { path: whole.to_owned(), rule: None });
    }
    let (base, selector) = if whole.exists() { (text, Selector::Only) } else { split(key, text)? };
    let folder = Path::new(base);
    if !folder.exists() {
        return Err(Error::File {
            key: key.to_owned(),
            problem: format!("the checkpoint {base} does not exist"),
            help: "give the .pth that mae train wrote, or its folder: results/train@latest, @best, @epoch=3 or @step=99"
                .into(),
        });
    }
    if folder.is_file() {
        return Err(Error::File {
            key: key.to_owned(),
            problem: format!(
                "{base} is a file, and `{}` chooses among the checkpoints of a folder",
                &text[base.len()..]
            ),
            help: format!("leave it away: {key}={base}"),
        });
    }
    let folder = run_folder(folder);
    let (path, rule) = match selector {
        Selector::Latest => (latest(key, &folder)?, "the newest, by the link *_latest.pth".to_owned()),
        Selector::Best => best(key, &folder)?,
        Selector::Exactly { epoch, step } => {
            let all = candidates(&folder);
            let fits = |candidate: &&Candidate| {
                epoch.is_none_or(|epoch| candidate.epoch == epoch)
                    && step.is_none_or(|step| candidate.step == step)
            };
            let found: Vec<_> = all.iter().filter(fits).cloned().collect();
            (one_of(key, &folder, &found, &all)?, format!("asked for as `{}`", &text[base.len()..]))
        }
        Selector::Only => {
            let all = candidates(&folder);
            let path = match all.is_empty() {
                true => only_weights(key, &folder)?,
                false => one_of(key, &folder, &all, &all)?,
            };
            (path, "the only one".to_owned())
        }
    };
    Ok(Artefact { rule: Some(format!("{} of {}: {rule}", name_of(&path), folder.display())), path })
}

/// What a results folder is resumed from: the target of its link for `arch`, of its only link when no architecture
/// is asked for, or its newest checkpoint when the link was lost; `None` when it holds no run.
pub(super) fn resume_point(folder: &Path, arch: Option<&str>) -> Result<Option<PathBuf>> {
    let links = links(folder);
    let own = arch.map(|arch| folder.join(format!("{arch}_latest.pth"))).filter(|link| links.contains(link));
    match (own, links.as_slice()) {
        (Some(link), _) => target(&link),
        (None, []) => {
            let newest =
                candidates(folder).into_iter().max_by_key(|candidate| (candidate.step, candidate.epoch));
            Ok(newest.map(|candidate| candidate.path))
        }
        (None, [link]) => target(link),
        (None, [..]) => Err(Error::File {
            key: "results_dir".into(),
            problem: format!(
                "{} holds runs of several architectures: {}",
                folder.display(),
                listed(links.iter().map(|link| name_of(link)))
            ),
            help: "set model.arch to one of them, or choose another results_dir".into(),
        }),
    }
}

/// `folder@selector` taken apart; the whole text is the folder when what follows its last `@` is no selector.
fn split<'t>(key: &str, text: &'t str) -> Result<(&'t str, Selector)> {
    let Some((base, asked)) = text.rsplit_once('@') else { return Ok((text, Selector::Only)) };
    let selector = match asked {
        "latest" => Selector::Latest,
        "best" => Selector::Best,
        _ => {
            let (mut epoch, mut step) = (None, None);
            for part in asked.split(',') {
                let slot = match part.split_once('=') {
                    Some(("epoch", number)) => (&mut epoch, number),
                    Some(("step", number)) => (&mut step, number),
                    _ => return unknown_selector(key, text, base, asked),
                };
                let Ok(number) = slot.1.parse() else { return unknown_selector(key, text, base, asked) };
                *slot.0 = Some(number);
            }
            Selector::Exactly { epoch, step }
        }
    };
    Ok((base, selector))
}

fn unknown_selector<'t>(key: &str, text: &'t str, base: &str, asked: &str) -> Result<(&'t str, Selector)> {
    if !Path::new(base).is_dir() {
        return Ok((text, Selector::Only));
    }
    Err(Error::File {
        key: key.to_owned(),
        problem: format!("`@{asked}` is no way to choose a checkpoint of {base}"),
        help: "use @latest, @best, @epoch=3 or @step=99 (numbers as in the file's name)".into(),
    })
}

/// The folder itself, or its `train` when the root of the results is given.
fn run_folder(folder: &Path) -> PathBuf {
    let below = folder.join("train");
    let holds_run = |folder: &Path| !candidates(folder).is_empty() || !links(folder).is_empty();
    if !holds_run(folder) && holds_run(&below) { below } else { folder.to_owned() }
}

/// The checkpoints of a training, in the order of steps.
fn candidates(folder: &Path) -> Vec<Candidate> {
    let mut found: Vec<_> = files(folder)
        .into_iter()
        .filter_map(|path| {
            let name = name_of(&path);
            let numbers = name.strip_prefix("model_epoch_")?.strip_suffix(".pth")?;
            let (epoch, step) = numbers.split_once("_step_")?;
            Some(Candidate { epoch: epoch.parse().ok()?, step: step.parse().ok()?, path })
        })
        .collect();
    found.sort_by_key(|candidate| (candidate.step, candidate.epoch));
    found
}

/// The `*_latest.pth` of a folder, sorted.
fn links(folder: &Path) -> Vec<PathBuf> {
    let mut found: Vec<_> =
        files(folder).into_iter().filter(|path| name_of(path).ends_with("_latest.pth")).collect();
    found.sort();
    found
}

fn files(folder: &Path) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(folder) else { return Vec::new() };
    entries
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| !name_of(path).starts_with('.'))
        .collect()
}

/// Where a link points; the file itself where the file system has no links.
fn target(link: &Path) -> Result<Option<PathBuf>> {
    Ok(Some(checkpoint::link_target(link)?.unwrap_or_else(|| link.to_owned())))
}

fn latest(key: &str, folder: &Path) -> Result<PathBuf> {
    let links = links(folder);
    let problem = match links.as_slice() {
        [link] => return Ok(target(link)?.unwrap_or_else(|| link.clone())),
        [] => format!("{} has no link *_latest.pth{}", folder.display(), there_are(&candidates(folder))),
        [..] => format!(
            "{} has several links *_latest.pth: {}",
            folder.display(),
            listed(links.iter().map(|link| name_of(link)))
        ),
    };
    Err(Error::File { key: key.to_owned(), problem, help: "name the file itself".into() })
}

/// The checkpoint at the end of the epoch that measured best.
fn best(key: &str, folder: &Path) -> Result<(PathBuf, String)> {
    let all = candidates(folder);
    let mut measured: Vec<(&Candidate, EpochRecord)> = Vec::new();
    for record in history::read(folder) {
        let at_its_end =
            |candidate: &&Candidate| (candidate.epoch, candidate.step) == (record.epoch, record.step);
        measured.extend(all.iter().find(at_its_end).map(|candidate| (candidate, record)));
    }
    type Metric = (&'static str, fn(&EpochRecord) -> Option<f64>, f64);
    const METRICS: [Metric; 3] = [
        ("ACC_all", |record| record.accuracy, -1.0),
        ("val_loss", |record| record.val_loss, 1.0),
        ("train_loss", |record| record.train_loss, 1.0),
    ];
    for (name, metric, sign) in METRICS {
        let values = measured.iter().filter_map(|(candidate, record)| Some((*candidate, metric(record)?)));
        // Of equals the first: later epochs brought nothing.
        if let Some((candidate, value)) = values.min_by(|(_, a), (_, b)| (sign * a).total_cmp(&(sign * b))) {
            return Ok((candidate.path.clone(), format!("the best, by {name} = {value} in status.json")));
        }
    }
    Err(Error::File {
        key: key.to_owned(),
        problem: format!(
            "status.json of {} has no metric for any of its checkpoints{}",
            folder.display(),
            there_are(&all)
        ),
        help: "choose with @epoch=… or @step=…, or name the file itself".into(),
    })
}

/// The one checkpoint that was found, or an error that lists what there is.
fn one_of(key: &str, folder: &Path, found: &[Candidate], all: &[Candidate]) -> Result<PathBuf> {
    let problem = match found {
        [only] => return Ok(only.path.clone()),
        [] => format!("{} has no such checkpoint{}", folder.display(), there_are(all)),
        [..] => format!("{} holds {} checkpoints: {}", folder.display(), found.len(), listed(found)),
    };
    let folder = folder.display();
    let mut choices = vec![format!("{folder}@latest"), format!("{folder}@best")];
    if let Some(example) = found.last().or(all.last()) {
        let same_epoch = found.iter().filter(|candidate| candidate.epoch == example.epoch).count() > 1;
        if !same_epoch {
            choices.push(format!("{folder}@epoch={}", example.epoch));
        }
        choices.push(format!("{folder}@step={}", example.step));
    }
    Err(Error::File { key: key.to_owned(), problem, help: format!("choose one: {}", choices.join(", ")) })
}

/// The only weights of a folder that no training of ours or TAO's wrote.
fn only_weights(key: &str, folder: &Path) -> Result<PathBuf> {
    const ENDINGS: [&str; 6] = ["pth", "pt", "ckpt", "bin", "safetensors", "tlt"];
    let mut found = files(folder);
    found.retain(|path| path.extension().is_some_and(|end| ENDINGS.iter().any(|known| end == *known)));
    found.sort();
    let problem = match found.as_slice() {
        [only] => return Ok(only.clone()),
        [] => format!("the folder {} holds no checkpoint", folder.display()),
        [..] => format!(
            "{} holds {} files: {}",
            folder.display(),
            found.len(),
            listed(found.iter().map(|path| name_of(path)))
        ),
    };
    Err(Error::File { key: key.to_owned(), problem, help: "name the checkpoint itself".into() })
}

fn there_are(all: &[Candidate]) -> String {
    if all.is_empty() { "; it holds no checkpoint".into() } else { format!("; there are {}", listed(all)) }
}

fn listed<T: ToString>(names: impl IntoIterator<Item = T>) -> String {
    const SHOWN: usize = 12;
    let names: Vec<_> = names.into_iter().map(|name| name.to_string()).collect();
    match names.len().checked_sub(SHOWN) {
        None | Some(0) => names.join(", "),
        Some(more) => format!("{}, … and {more} more", names[..SHOWN].join(", ")),
    }
}

fn name_of(path: &Path) -> String {
    path.file_name().map_or_else(String::new, |name| name.to_string_lossy().into_owned())
}

#[cfg(test)]
mod tests;

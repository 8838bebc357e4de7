//! The results of inference: TAO's `results.csv`, or tables with probabilities and names.

mod csv;
mod jsonl;
#[cfg(feature = "parquet")]
mod parquet;

use std::fs::{File, Permissions};
use std::io::{self, BufWriter, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::{Error, Result};
use crate::spec::schema::InferenceOutput;

/// What a classifier says of one image.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Prediction {
    /// The image's number in its data set, by which results are ordered.
    pub sample: u64,
    /// Its path, as results show it.
    pub path: String,
    /// The likeliest classes, the first one first, at least one: index and probability.
    pub classes: Vec<(u32, f32)>,
}

/// How results are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// `path,class index`, without a header: TAO's `results.csv`.
    TaoCsv,
    /// `path,rank,class_index,class,probability` with a header, a row for each class named.
    Csv,
    /// One object a line: `path` and `predictions`, each with `class_index`, `class` and `probability`.
    Jsonl,
    /// The columns of [`Format::Csv`].
    Parquet,
}

impl Format {
    /// What `inference.output` asks for; `ranked` when `inference.top_k` was set.
    pub fn of(output: InferenceOutput, ranked: bool) -> Self {
        match output {
            InferenceOutput::Csv if ranked => Self::Csv,
            InferenceOutput::Csv => Self::TaoCsv,
            InferenceOutput::Jsonl => Self::Jsonl,
            InferenceOutput::Parquet => Self::Parquet,
        }
    }

    /// The file's name.
    pub const fn file_name(self) -> &'static str {
        match self {
            Self::TaoCsv | Self::Csv => "results.csv",
            Self::Jsonl => "results.jsonl",
            Self::Parquet => "results.parquet",
        }
    }

    /// Whether this build writes it.
    pub const fn is_built(self) -> bool {
        cfg!(feature = "parquet") || !matches!(self, Self::Parquet)
    }
}

/// One row of a table: an image and one of its classes.
struct Row<'a> {
    path: &'a str,
    /// From 1.
    rank: i32,
    class_index: u32,
    class: Option<&'a str>,
    probability: f32,
}

fn rows<'a>(predictions: &'a [Prediction], names: &'a [String]) -> impl Iterator<Item = Row<'a>> {
    predictions.iter().flat_map(move |prediction| {
        prediction.classes.iter().zip(1..).map(move |(&(class_index, probability), rank)| Row {
            path: &prediction.path,
            rank,
            class_index,
            class: names.get(class_index as usize).map(String::as_str),
            probability,
        })
    })
}

/// Writes the results into `folder` in one move, so that nobody sees half of them: in the order of the samples, each once.
/// `names` are those of the classes, where they are known.
///
/// # Errors
/// The file cannot be written, or this build has no such format.
pub fn write(
    folder: &Path,
    format: Format,
    names: &[String],
    mut predictions: Vec<Prediction>,
) -> Result<PathBuf> {
    predictions.sort_by_key(|prediction| prediction.sample);
    predictions.dedup_by_key(|prediction| prediction.sample);
    let path = folder.join(format.file_name());
    publish(&path, |file| match format {
        Format::TaoCsv => csv::write_tao(file, &predictions),
        Format::Csv => csv::write_table(file, rows(&predictions, names)),
        Format::Jsonl => jsonl::write(file, names, &predictions),
        #[cfg(feature = "parquet")]
        Format::Parquet => parquet::write(file, rows(&predictions, names)),
        #[cfg(not(feature = "parquet"))]
        Format::Parquet => Err(io::Error::other("this program was built without its feature parquet")),
    })
    .map_err(Error::write(&path))?;
    Ok(path)
}

/// A file that is there whole or not at all, as readable as every other file of the folder.
fn publish(path: &Path, fill: impl FnOnce(&mut BufWriter<&File>) -> io::Result<()>) -> io::Result<()> {
    let folder = path.parent().unwrap_or(Path::new("."));
    let temporary =
        tempfile::Builder::new().permissions(Permissions::from_mode(0o666)).tempfile_in(folder)?;
    let mut file = BufWriter::new(temporary.as_file());
    fill(&mut file)?;
    file.flush()?;
    drop(file);
    temporary.as_file().sync_all()?;
    temporary.persist(path)?;
    Ok(())
}

#[cfg(test)]
mod tests;

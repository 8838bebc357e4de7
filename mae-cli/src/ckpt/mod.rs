//! `mae ckpt`: looks into checkpoints, converts, compares and averages them. Nothing in a file is executed.
//!
//! | room | what lives there |
//! | --- | --- |
//! | [`Command`] | what the user typed |
//! | `inspect` | structure, tensors, who wrote it, what its pickle names |
//! | `convert` | other containers, other projects' names, other element types |
//! | `diff` | what differs between two files |
//! | `average` | one model from several |
//! | `recognise` | whose weights are these? |
//! | `json`, `text` | values of a checkpoint for programs and for people |

mod average;
mod convert;
mod diff;
mod inspect;
mod json;
mod recognise;
mod text;

use std::path::{Path, PathBuf};

use mae_core::checkpoint::{self, Checkpoint, Passphrase, TensorView, Value};

use crate::error::{Error, Result};

/// The sub-commands of `mae ckpt`.
#[derive(Debug, Clone, PartialEq, clap::Subcommand)]
pub enum Command {
    /// Show what a file holds: structure, tensors with sums and norms, who wrote it, what its pickle names
    Inspect {
        /// A .pth, .pt, .ckpt, .bin or .safetensors, whoever wrote it
        file: PathBuf,
        /// Print JSON, with every tensor
        #[arg(long)]
        json: bool,
        /// List the tensors of the optimizer too
        #[arg(long)]
        all: bool,
    },
    /// Write a checkpoint in another form; the ending of OUTPUT decides between PyTorch and safetensors
    Convert {
        /// The checkpoint to read
        input: PathBuf,
        /// The file to write: .safetensors, or .pth, .pt, .ckpt, .bin
        output: PathBuf,
        /// Whose names and layout; without it they stay as they are
        #[arg(long, value_name = "DIALECT")]
        to: Option<convert::Dialect>,
        /// Element type of the weights
        #[arg(long, value_name = "DTYPE", value_parser = ["float32", "float16", "bfloat16"])]
        dtype: Option<String>,
        /// Leave out optimizer, schedule and counters
        #[arg(long)]
        weights_only: bool,
        /// Replace OUTPUT if it exists
        #[arg(long)]
        force: bool,
    },
    /// Compare two checkpoints; ends with 0 when they are equal, with 1 when they differ
    Diff {
        /// The first
        a: PathBuf,
        /// The second
        b: PathBuf,
        /// Print JSON
        #[arg(long)]
        json: bool,
        /// Largest absolute difference of elements that counts as equal
        #[arg(long, value_name = "NUMBER", default_value_t = 0.0)]
        tolerance: f64,
        /// Compare the weights only, under names without wrappers' prefixes
        #[arg(long)]
        weights_only: bool,
    },
    /// Average the weights of several checkpoints of one model
    Average {
        /// The checkpoints
        #[arg(required = true, num_args = 2..)]
        inputs: Vec<PathBuf>,
        /// The file to write: .safetensors, or .pth, .pt, .ckpt, .bin
        #[arg(short, long)]
        output: PathBuf,
        /// Share of each checkpoint, as many as there are; they are scaled to a sum of 1
        #[arg(long, value_name = "NUMBER,...", value_delimiter = ',')]
        weights: Option<Vec<f64>>,
        /// Replace OUTPUT if it exists
        #[arg(long)]
        force: bool,
    },
}

/// Holds the passphrase of encrypted files.
const KEY_VARIABLE: &str = "MAE_ENCRYPTION_KEY";

/// Examples for the help.
pub const EXAMPLES: &str = "\
Examples:
  mae ckpt inspect results/train/convnextv2_atto_latest.pth
  mae ckpt inspect --json model.safetensors
  mae ckpt convert results/train/convnextv2_atto_latest.pth model.safetensors
  mae ckpt convert --to timm results/train/convnextv2_atto_latest.pth timm.safetensors
  mae ckpt diff a.pth b.pth
  mae ckpt average -o soup.pth model_epoch_098_step_00990.pth model_epoch_099_step_01000.pth

No file is ever unpickled: a checkpoint that could run code is refused, and what it names is shown.
The passphrase of encrypted checkpoints is taken from MAE_ENCRYPTION_KEY.";

/// Runs a sub-command. Gives what to print, and the exit code.
///
/// # Errors
/// [`Error::Checkpoint`] for files that cannot be read or written.
pub fn run(command: &Command) -> Result<(String, u8)> {
    match command {
        Command::Inspect { file, json, all } => Ok((inspect::inspect(file, *json, *all)?, 0)),
        Command::Convert { input, output, to, dtype, weights_only, force } => {
            may_be_written(output, *force)?;
            let options = convert::Options { to: *to, dtype: dtype.as_deref(), weights_only: *weights_only };
            Ok((convert::convert(input, output, &options)?, 0))
        }
        Command::Diff { a, b, json, tolerance, weights_only } => {
            let options = diff::Options { json: *json, tolerance: *tolerance, weights_only: *weights_only };
            diff::diff(a, b, &options)
        }
        Command::Average { inputs, output, weights, force } => {
            may_be_written(output, *force)?;
            Ok((average::average(inputs, output, weights.as_deref())?, 0))
        }
    }
}

/// Opens a file that the user named. A passphrase is not taken from the command line, which everybody on the machine sees.
fn open(path: &Path) -> Result<Checkpoint> {
    let passphrase = std::env::var(KEY_VARIABLE).ok().filter(|text| !text.is_empty()).map(Passphrase::new);
    Checkpoint::open_with(path, passphrase.as_ref()).map_err(Error::Checkpoint)
}

/// The weights of a file.
fn state_dict(path: &Path, file: &Checkpoint) -> Result<Vec<(String, TensorView)>> {
    file.state_dict().map_err(|source| in_file(path, source))
}

/// Names the file in which an error happened.
fn in_file(path: &Path, source: checkpoint::Error) -> Error {
    Error::Checkpoint(match source {
        named @ (checkpoint::Error::Io { .. } | checkpoint::Error::InFile { .. }) => named,
        source => checkpoint::Error::InFile { path: path.to_owned(), source: Box::new(source) },
    })
}

/// Refuses to write over a file, and endings that name no format.
fn may_be_written(output: &Path, force: bool) -> Result<()> {
    let ending = output.extension().and_then(|ending| ending.to_str()).unwrap_or("");
    if !["pth", "pt", "ckpt", "bin", "safetensors"].contains(&ending) {
        return Err(refused(
            output,
            "its ending names no format",
            "end it in .safetensors, or in .pth, .pt, .ckpt or .bin for PyTorch",
        ));
    }
    if output.exists() && !force {
        return Err(refused(output, "it exists", "choose another name, or add --force to replace it"));
    }
    Ok(())
}

fn is_safetensors(path: &Path) -> bool {
    path.extension().is_some_and(|ending| ending == "safetensors")
}

/// Writes `root`, or only `weights` where the format holds nothing else.
fn write(output: &Path, root: &Value, weights: &[(String, TensorView)]) -> Result<()> {
    let written = if is_safetensors(output) {
        checkpoint::write_safetensors(output, weights)
    } else {
        checkpoint::write(output, root)
    };
    written.map_err(|source| in_file(output, source))
}

fn refused(path: &Path, problem: &str, help: &str) -> Error {
    Error::File { key: path.display().to_string(), problem: problem.to_owned(), help: help.to_owned() }
}

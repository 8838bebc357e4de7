//! What the user typed.
//!
//! The rules are upstream's: one sub-command, `-e` before or after it (the last one wins, long names may be cut short),
//! overrides anywhere after the sub-command. Two differ: a usage error exits with 1, not 2, because 2 means that a run
//! failed; and the command line is never split a second time, so paths with blanks work.

use crate::bench::StepOptions;
use crate::spec::generate::Strictness;
use crate::spec::schema::{self, Found};
use crate::spec::{self, Action, Kind};
use crate::tool_args::{Bench, BenchLimits, DataTool};
use clap::builder::{OsStringValueParser, PossibleValue, TypedValueParser as _};
use clap::{CommandFactory, FromArgMatches, Parser, Subcommand, ValueEnum};
use std::ffi::OsString;
use std::path::{Path, PathBuf};

/// Trains and uses masked autoencoders: ConvNeXt V2, ViT and Hiera.
///
/// Reads the spec files and overrides of NVIDIA TAO's `mae`.
#[derive(Debug, Parser)]
#[command(name = "mae", version, propagate_version = true, infer_long_args = true, args_override_self = true)]
pub struct Args {
    /// Spec file in YAML.
    #[arg(
        short = 'e',
        long = "experiment_spec_file",
        value_name = "FILE",
        global = true,
        value_parser = OsStringValueParser::new().map(PathBuf::from)
    )]
    pub spec: Option<PathBuf>,
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// The sub-commands.
#[derive(Debug, Subcommand)]
#[command(rename_all = "snake_case")]
pub enum Command {
    /// Pretrain a masked autoencoder, or finetune a classifier
    Train(Overrides),
    /// Measure the accuracy of a finetuned model
    Evaluate(Overrides),
    /// Write the class of each image of a folder or archive
    Inference(Overrides),
    /// Write an ONNX file
    Export(Overrides),
    /// Build a TensorRT engine from an ONNX file with NVIDIA's trtexec
    GenTrtEngine(Overrides),
    /// Look into checkpoints, convert, compare and average them
    Ckpt {
        /// What to do with them
        #[command(subcommand)]
        command: crate::ckpt::Command,
    },
    /// Look at images, check them, pack them anew, divide them
    Data {
        /// The tool
        #[command(subcommand)]
        tool: DataTool,
    },
    /// Measure speed
    Bench {
        /// What is measured
        #[command(subcommand)]
        what: Bench,
    },
    /// Write a spec file with every default
    DefaultSpecs {
        /// Only `results_dir=FOLDER` has a meaning here
        #[arg(value_name = "KEY=VALUE")]
        overrides: Vec<String>,
    },
    /// Say what works on this machine, and what a spec would run into
    Doctor(ActionOf),
    /// Show a spec as it is understood, or the reference of all fields
    Spec {
        /// What to show
        #[command(subcommand)]
        what: Shown,
    },
    /// Print TAO's JSON schema and spec template of an action
    Schema(Schema),
    /// Print a completion script for a shell
    Completions {
        /// The shell
        shell: clap_complete::Shell,
    },
}

/// What `mae spec` shows.
#[derive(Debug, Subcommand)]
pub enum Shown {
    /// The spec with its overrides and all defaults
    Show {
        /// As a run would use it: every reference resolved, the checkpoint chosen, what is unset taken from it
        #[arg(long)]
        resolved: bool,
        /// Only what was set, and where
        #[arg(long, conflicts_with = "resolved")]
        origins: bool,
        /// The spec's overrides and action
        #[command(flatten)]
        of: ActionOf,
    },
    /// Every field in Markdown, as in docs/spec-reference.md
    Reference,
}

/// A spec's overrides, and the action that it is looked at for.
#[derive(Debug, clap::Args)]
pub struct ActionOf {
    /// Values that win over the spec file, e.g. train.optim.lr=1e-4
    #[arg(value_name = "KEY=VALUE")]
    pub overrides: Vec<String>,
    /// The action that the spec is for
    #[arg(long, default_value = "train")]
    pub action: Action,
}

/// `mae schema`.
#[derive(Debug, clap::Args)]
pub struct Schema {
    /// The action
    #[arg(value_parser = spec::generate::ACTIONS, required_unless_present = "out")]
    pub action: Option<String>,
    /// The spec template instead of the schema
    #[arg(long)]
    pub template: bool,
    /// JSON that strict parsers read: leave infinite maxima out, which TAO writes as Infinity
    #[arg(long)]
    pub strict: bool,
    /// Write manifest.json, schemas/ and references/ of all actions into this folder
    #[arg(short, long, value_name = "FOLDER", conflicts_with_all = ["action", "template"])]
    pub out: Option<PathBuf>,
}

impl ValueEnum for Action {
    fn value_variants<'a>() -> &'a [Self] {
        &Self::ALL
    }

    fn to_possible_value(&self) -> Option<PossibleValue> {
        Some(PossibleValue::new(self.name()))
    }
}

/// Overrides of the spec, and options that Hydra's users know.
#[derive(Debug, clap::Args)]
pub struct Overrides {
    /// Values that win over the spec file, e.g. train.optim.lr=1e-4
    #[arg(value_name = "KEY=VALUE")]
    pub overrides: Vec<String>,
    /// Print the composed spec instead of running (only `job`, as Hydra calls it)
    #[arg(short = 'c', long, value_name = "job", value_parser = ["job"], hide_possible_values = true)]
    pub cfg: Option<String>,
    /// With --cfg: replace ${...} by values
    #[arg(long, requires = "cfg")]
    pub resolve: bool,
    /// With --cfg: only this section
    #[arg(short, long, requires = "cfg", value_name = "SECTION")]
    pub package: Option<String>,
    /// Run once for each combination of values, e.g. train.optim.lr=1e-3,1e-4, each in multirun/DATE/TIME/NUMBER
    #[arg(short, long)]
    pub multirun: bool,
    /// Another spec beside the one of -e, in its place
    #[arg(long = "config-name", value_name = "NAME", hide = true)]
    pub config_name: Option<PathBuf>,
}

/// What the command line asks for.
#[derive(Debug, Clone, PartialEq)]
pub enum Request {
    /// An action with a spec file.
    Run {
        /// The action.
        action: Action,
        /// The spec file; whether it exists is not known yet.
        spec: PathBuf,
        /// Overrides in order.
        overrides: Vec<String>,
    },
    /// `--multirun`: an action once for each combination of values.
    Sweep {
        /// The action.
        action: Action,
        /// The spec file.
        spec: PathBuf,
        /// Overrides in order, some with several values.
        overrides: Vec<String>,
    },
    /// `--cfg job`: print the composed spec.
    Show {
        /// The action.
        action: Action,
        /// The spec file.
        spec: PathBuf,
        /// Overrides in order.
        overrides: Vec<String>,
        /// Whether interpolations are replaced by values.
        resolve: bool,
        /// The only section to print.
        package: Option<String>,
    },
    /// `bench step`.
    BenchStep(StepOptions),
    /// `ckpt`.
    Checkpoint(crate::ckpt::Command),
    /// `default_specs`.
    DefaultSpecs {
        /// Overrides in order; `results_dir=` is the one that matters.
        overrides: Vec<String>,
    },
    /// `doctor`: look at the machine and, when one is given, at a spec.
    Doctor {
        /// The action that the spec is for.
        action: Action,
        /// The spec file, if any.
        spec: Option<PathBuf>,
        /// Overrides in order.
        overrides: Vec<String>,
    },
    /// `spec show`: a spec as it is understood.
    ShowSpec {
        /// The action that the spec is for.
        action: Action,
        /// The spec file; without one, the defaults.
        spec: Option<PathBuf>,
        /// Overrides in order.
        overrides: Vec<String>,
        /// What of it.
        view: View,
    },
    /// `spec reference`.
    Reference,
    /// `schema ACTION`: the text of one file.
    Schema {
        /// The action.
        action: String,
        /// The template instead of the schema.
        template: bool,
        /// How infinite maxima are written.
        strictness: Strictness,
    },
    /// `schema --out FOLDER`: all files.
    SchemaFiles {
        /// Where they go.
        folder: PathBuf,
        /// How infinite maxima are written.
        strictness: Strictness,
    },
    /// `completions SHELL`.
    Completions {
        /// The shell.
        shell: clap_complete::Shell,
    },
    /// `data`.
    Data(DataTool),
    /// `bench loader`.
    BenchLoader {
        /// The spec file.
        spec: PathBuf,
        /// Overrides in order.
        overrides: Vec<String>,
        /// How long and how.
        limits: BenchLimits,
    },
}

/// What `mae spec show` shows of a spec.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum View {
    /// Everything, references as written.
    Composed,
    /// Everything, as a run would use it.
    Resolved,
    /// What was set, and where.
    Origins,
}

impl Args {
    /// The request, or a usage error when `-e` is missing.
    ///
    /// # Errors
    /// [`Kind::Usage`].
    pub fn request(self) -> spec::Result<Request> {
        let (action, given) = match self.command {
            Command::Train(given) => (Action::Train, given),
            Command::Evaluate(given) => (Action::Evaluate, given),
            Command::Inference(given) => (Action::Inference, given),
            Command::Export(given) => (Action::Export, given),
            Command::GenTrtEngine(given) => (Action::GenTrtEngine, given),
            Command::Bench { what: Bench::Step(options) } => return Ok(Request::BenchStep(options)),
            Command::Ckpt { command } => return Ok(Request::Checkpoint(command)),
            Command::DefaultSpecs { overrides } => return Ok(Request::DefaultSpecs { overrides }),
            Command::Doctor(ActionOf { overrides, action }) => {
                return Ok(Request::Doctor { action, spec: self.spec, overrides });
            }
            Command::Spec { what: Shown::Reference } => return Ok(Request::Reference),
            Command::Spec { what: Shown::Show { resolved, origins, of: ActionOf { overrides, action } } } => {
                let view = match (resolved, origins) {
                    (true, _) => View::Resolved,
                    (_, true) => View::Origins,
                    _ => View::Composed,
                };
                return Ok(Request::ShowSpec { action, spec: self.spec, overrides, view });
            }
            Command::Schema(Schema { action, template, strict, out }) => {
                let strictness = if strict { Strictness::Strict } else { Strictness::AsTao };
                return Ok(match (out, action) {
                    (Some(folder), _) => Request::SchemaFiles { folder, strictness },
                    (None, action) => {
                        Request::Schema { action: action.unwrap_or_default(), template, strictness }
                    }
                });
            }
            Command::Completions { shell } => return Ok(Request::Completions { shell }),
            Command::Data { tool } => return Ok(Request::Data(tool)),
            Command::Bench { what: Bench::Loader { overrides, limits } } => {
                let spec = self.spec.ok_or_else(|| no_spec("bench loader"))?;
                return Ok(Request::BenchLoader { spec, overrides, limits });
            }
        };
        let given = Overrides {
            // As upstream: an argument that a script left empty is none.
            overrides: given.overrides.into_iter().filter(|text| !text.is_empty()).collect(),
            ..given
        };
        match self.spec {
            Some(spec) => {
                let spec = match &given.config_name {
                    Some(name) => spec.with_file_name(with_yaml(name)),
                    None => spec,
                };
                Ok(match given {
                    Overrides { overrides, cfg: Some(_), resolve, package, .. } => {
                        Request::Show { action, spec, overrides, resolve, package }
                    }
                    Overrides { overrides, multirun: true, .. } => Request::Sweep { action, spec, overrides },
                    Overrides { overrides, .. } => Request::Run { action, spec, overrides },
                })
            }
            None => Err(no_spec(action.name())),
        }
    }
}

/// The file of a name that Hydra takes without its ending.
fn with_yaml(name: &Path) -> PathBuf {
    match name.extension() {
        Some(_) => name.to_owned(),
        None => name.with_extension("yaml"),
    }
}

fn no_spec(command: &str) -> spec::Error {
    spec::Error::new(
        Kind::Usage,
        format!("The subtask `{command}` requires the following argument: -e/--experiment_spec_file"),
    )
    .remedy(format!(
        "mae {command} -e spec.yaml; `mae default_specs results_dir=specs` writes a spec to start from"
    ))
}

/// Parses a command line, the program's name first.
///
/// # Errors
/// clap's error, which is also how it asks to print help or the version. Print it with `error.print()`; exit with 0 when
/// `error.use_stderr()` is false, else with 1.
pub fn parse<I, T>(arguments: I) -> Result<Args, clap::Error>
where
    I: IntoIterator<Item = T>,
    T: Into<OsString> + Clone,
{
    let matches = command().try_get_matches_from(arguments)?;
    Args::from_arg_matches(&matches)
}

/// The command with its help texts, in which fields and defaults come from the table of the schema.
pub fn command() -> clap::Command {
    let mut command = Args::command().after_help(AFTER_HELP);
    command = command.mut_subcommand("ckpt", |sub| sub.after_help(crate::ckpt::EXAMPLES));
    for (name, example, keys) in HELP {
        command = command.mut_subcommand(name, |sub| sub.after_help(format!("{}{example}", fields(keys))));
    }
    command
}

/// The completion script of a shell: commands, options, and the fields of the table as `key=`.
pub fn completions(shell: clap_complete::Shell) -> String {
    let keys: Vec<PossibleValue> =
        schema::leaves().into_iter().map(|(path, ..)| PossibleValue::new(format!("{path}="))).collect();
    let mut command = command();
    for name in ["train", "evaluate", "inference", "export", "doctor"] {
        let keys = keys.clone();
        command = command.mut_subcommand(name, |sub| sub.mut_arg("overrides", |arg| arg.value_parser(keys)));
    }
    command = command.mut_subcommand("spec", |sub| {
        sub.mut_subcommand("show", |show| show.mut_arg("overrides", |arg| arg.value_parser(keys)))
    });
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut command, "mae", &mut script);
    let mut script = String::from_utf8_lossy(&script).into_owned();
    match shell {
        clap_complete::Shell::Bash => script.push_str(BASH_KEYS),
        // Its generator knows nothing of arguments without a dash.
        clap_complete::Shell::Fish => {
            let keys: String = schema::leaves().iter().map(|(path, ..)| format!("{path}= ")).collect();
            script.push_str(&format!(
                "complete -c mae -n \"__fish_seen_subcommand_from train evaluate inference export doctor show\" -f -a \"{}\"\n",
                keys.trim_end()
            ));
        }
        _ => {}
    }
    script
}

/// No blank after `key=`: the value follows.
const BASH_KEYS: &str = "\
_mae_with_keys() {
    _mae \"$@\"
    if [[ ${#COMPREPLY[@]} -eq 1 && ${COMPREPLY[0]} == *= ]]; then compopt -o nospace; fi
}
complete -F _mae_with_keys -o nosort -o bashdefault -o default mae
";

const AFTER_HELP: &str = "\
Start:
  mae default_specs results_dir=specs        a spec with every default, specs/experiment.yaml
  mae doctor -e spec.yaml                    what a training would run into, before it starts
  mae train -e spec.yaml                     pretrain (train.stage=pretrain) or finetune
  mae evaluate -e spec.yaml evaluate.checkpoint=results/train@best
  mae train --help                           the fields that matter most

Checkpoints:
  A file, or a results folder: results/train@latest, @best, @epoch=3, @step=99. A folder with
  one checkpoint means that one. Stage, architecture, classes and input size are those of the
  checkpoint where the spec leaves them unset.

Overrides:
  key=value sets, +key=value adds, ++key=value sets or adds, ~section deletes.
  Lists: train.gpu_ids=[0,1]   Text with special characters: 'wandb.name=\"a, b\"'
  ${section.key} and ${oc.env:NAME} refer to other values.

Exit codes:
  0  done
  1  the spec or the command line is wrong; nothing was started
  2  failed while running
  3  the data is missing or unusable
  4  interrupted; the same command resumes a training, and starts anything else anew

Nothing is ever sent anywhere: there is no telemetry.";

/// Sub-command, example, and the fields its help shows.
const HELP: &[(&str, &str, &[&str])] = &[
    (
        "train",
        "Examples:
  mae train -e pretrain.yaml results_dir=results train.num_epochs=100
  mae train -e finetune.yaml train.stage=finetune model.num_classes=10 \\
      train.pretrained_model_path=results/train@latest

Writes into results_dir/train: experiment.yaml, status.json, lightning_logs/, model_epoch_EEE_step_SSSSS.pth and
ARCH_latest.pth. The same command again resumes from there.",
        &[
            "results_dir",
            "train.stage",
            "model.arch",
            "model.num_classes",
            "dataset.train_data_sources",
            "dataset.val_data_sources",
            "dataset.batch_size",
            "dataset.augmentation.input_size",
            "train.num_epochs",
            "train.optim.lr",
            "train.optim.lr_scheduler",
            "train.pretrained_model_path",
            "train.precision",
            "train.num_gpus",
            "train.seed",
            "device",
        ],
    ),
    (
        "evaluate",
        "Example:
  mae evaluate -e finetune.yaml evaluate.checkpoint=results/train@best

Writes into results_dir/evaluate: experiment.yaml, status.json with val_loss and ACC_all.",
        &["evaluate.checkpoint", "dataset.val_data_sources", "evaluate.batch_size", "train.stage", "results_dir", "device"],
    ),
    (
        "inference",
        "Example:
  mae inference -e finetune.yaml inference.checkpoint=results/train@latest

Writes into results_dir/inference: experiment.yaml, status.json, results.csv (path,class index).
inference.output and inference.top_k give probabilities and names. A checkpoint may be an ONNX file.",
        &[
            "inference.checkpoint",
            "dataset.test_data_sources",
            "inference.batch_size",
            "inference.output",
            "inference.top_k",
            "train.stage",
            "results_dir",
            "device",
        ],
    ),
    (
        "export",
        "Example:
  mae export -e finetune.yaml export.checkpoint=results/train@best export.onnx_file=results/export/model.onnx",
        &[
            "export.checkpoint",
            "export.onnx_file",
            "export.input_height",
            "export.input_width",
            "export.batch_size",
            "export.opset_version",
            "export.head",
            "export.precision",
            "export.include_preprocessing",
            "export.format",
            "export.verify",
        ],
    ),
    (
        "gen_trt_engine",
        "Example:
  mae gen_trt_engine -e finetune.yaml gen_trt_engine.onnx_file=results/export/convnextv2_atto.onnx \\
      gen_trt_engine.tensorrt.data_type=fp16 gen_trt_engine.tensorrt.max_batch_size=16

Needs TensorRT on this machine. Without it, the command that it would run is printed.",
        &[
            "gen_trt_engine.onnx_file",
            "gen_trt_engine.trt_engine",
            "gen_trt_engine.batch_size",
            "gen_trt_engine.tensorrt.min_batch_size",
            "gen_trt_engine.tensorrt.opt_batch_size",
            "gen_trt_engine.tensorrt.max_batch_size",
            "gen_trt_engine.tensorrt.data_type",
            "gen_trt_engine.tensorrt.int8_calibration.cal_image_dir",
            "gen_trt_engine.timing_cache",
            "gen_trt_engine.trtexec",
        ],
    ),
    (
        "default_specs",
        "Example:
  mae default_specs results_dir=specs        writes specs/experiment.yaml",
        &[],
    ),
    (
        "doctor",
        "Examples:
  mae doctor                         versions, libraries as loaded, devices, threads, memory
  mae doctor -e finetune.yaml        and the spec's data, model, weights and disk
  mae doctor --action evaluate -e finetune.yaml

Nothing is trained or written. Ends with 0 when nothing is in the way, else with the exit
code of the run that it warns of.",
        &[],
    ),
    (
        "spec",
        "Examples:
  mae spec show --resolved -e finetune.yaml     every field as the training would use it
  mae spec show --origins -e finetune.yaml      what was set, and where",
        &[],
    ),
    (
        "schema",
        "Examples:
  mae schema train                           train.schema.json
  mae schema train --template                spec_template_train.yaml
  mae schema --out packaged                  these of all actions, and manifest.json",
        &[],
    ),
    (
        "completions",
        "Example:
  mae completions bash > ~/.local/share/bash-completion/completions/mae",
        &[],
    ),
];

/// Fields as lines of `key = default`, then the help text; an empty line at the end.
fn fields(keys: &[&str]) -> String {
    let mut out = String::new();
    for key in keys {
        let Some(Found::Leaf(row, leaf)) = schema::find(key) else { continue };
        let mut default = spec::default_text(leaf);
        // A list of sixteen names is no help text; the field's own errors name them.
        if (2..=3).contains(&leaf.options.len()) {
            default = format!("{default} ({})", leaf.options.join(", "));
        }
        if out.is_empty() {
            out.push_str("Fields (default):\n");
        }
        out.push_str(&format!("  {key} = {default}\n      {}\n", row.help()));
    }
    if !out.is_empty() {
        out.push('\n');
    }
    out
}

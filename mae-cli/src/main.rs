//! The `mae` binary: reads the command line, runs one action, ends with its documented exit code.

use std::io::{IsTerminal as _, Write as _};
use std::process::ExitCode;

use mae_cli::actions::{self, End, ToolEnd};
use mae_cli::args::{self, Request};
use mae_cli::bench;
use mae_cli::error::Error;
use mae_cli::report::progress::Progress;
use mae_cli::spec::interpolation::Context;
use mae_cli::spec::{self, Action, Plan};

/// The exit code of a check that found wrong data.
const WRONG_DATA: u8 = 3;
/// The exit code of a run that was interrupted.
const INTERRUPTED: u8 = 4;

fn main() -> ExitCode {
    // A worker must not outlive the launcher that started it.
    if !mae_dist::follow_launcher() {
        return ExitCode::FAILURE;
    }
    actions::prepare_device();
    tracing_subscriber::fmt()
        .with_env_filter(
            tracing_subscriber::EnvFilter::try_from_env("MAE_LOG").unwrap_or_else(|_| "warn".into()),
        )
        .with_writer(std::io::stderr)
        // Most users see one or two such lines in their life: they read like the other lines, not like a log.
        .with_ansi(std::io::stderr().is_terminal())
        .without_time()
        .with_target(false)
        .init();
    let arguments = match args::parse(std::env::args_os()) {
        Ok(arguments) => arguments,
        Err(error) => {
            let code = u8::from(error.use_stderr());
            return match error.print() {
                Ok(()) => ExitCode::from(code),
                Err(_) => ExitCode::FAILURE,
            };
        }
    };
    match arguments.request().map_err(Error::from).and_then(run) {
        Ok(code) => ExitCode::from(code),
        Err(error) => {
            say(&format!("error: {error}"));
            ExitCode::from(error.exit_code())
        }
    }
}

fn run(request: Request) -> Result<u8, Error> {
    match request {
        Request::Run { action, spec, overrides } => {
            let result = actions::plan(&spec, &overrides, action).and_then(|plan| actions::execute(&plan));
            match &result {
                _ if !actions::speaks_for_all() => {}
                Ok(End::Done) if is_quiet() => {}
                Ok(End::Done) => say("Execution status: PASS"),
                // As upstream: nothing ran, so nothing has a status.
                Err(_) if !spec.exists() => {}
                Ok(End::Interrupted) | Err(_) => say("Execution status: FAIL"),
            }
            result.map(|end| if end == End::Done { 0 } else { INTERRUPTED })
        }
        Request::Sweep { action, spec, overrides } => Ok(actions::sweep(&spec, &overrides, action)?),
        Request::Show { action, spec, overrides, resolve, package } => {
            let composed = spec::compose(Some(&spec), &overrides)?;
            let spec_name =
                spec.file_name().map_or_else(String::new, |name| name.to_string_lossy().into_owned());
            let env = |name: &str| std::env::var(name).ok();
            let context = Context { env: &env, spec_name: &spec_name, action: action.name() };
            print(&composed.show(resolve.then_some(&context), package.as_deref())?);
            Ok(0)
        }
        Request::ShowSpec { action, spec, overrides, view } => {
            print(&actions::show_spec(spec.as_deref(), &overrides, action, view)?);
            Ok(0)
        }
        Request::Doctor { action, spec, overrides } => {
            let (text, code) = actions::doctor(spec.as_deref(), &overrides, action, &Progress::detect());
            print(&text);
            Ok(code)
        }
        Request::Reference => {
            print(spec::generate::reference().trim_end());
            Ok(0)
        }
        Request::Schema { action, template, strictness } => {
            let text = match template {
                true => spec::generate::template(&action),
                false => spec::generate::json_schema(&action, strictness),
            };
            print(text.trim_end());
            Ok(0)
        }
        Request::SchemaFiles { folder, strictness } => {
            let count = actions::write_schema_files(&folder, strictness)?;
            print(&format!("{count} files written into {}", folder.display()));
            Ok(0)
        }
        Request::Completions { shell } => {
            print(args::completions(shell).trim_end());
            Ok(0)
        }
        Request::BenchStep(options) => {
            let report = bench::step(&options)?;
            let json = || serde_json::to_string(&report).unwrap_or_default();
            print(&if options.json { json() } else { report.to_string() });
            Ok(0)
        }
        Request::Checkpoint(command) => {
            let (text, code) = mae_cli::ckpt::run(&command)?;
            print(&text);
            Ok(code)
        }
        Request::Data(tool) => match actions::data_tool(&tool)? {
            ToolEnd::Done(text) => {
                print(&text);
                Ok(0)
            }
            ToolEnd::Wrong(text) => {
                print(&text);
                Ok(WRONG_DATA)
            }
            ToolEnd::Interrupted => Ok(INTERRUPTED),
        },
        Request::BenchLoader { spec, overrides, limits } => {
            let plan = Plan::load(&spec, &overrides, Action::Train)?;
            print(&actions::bench_loader(&plan, &limits)?);
            Ok(0)
        }
        Request::DefaultSpecs { overrides } => {
            let path = spec::write_default_specs(&overrides)?;
            print(&format!("Default specification file for mae generated at '{}'", path.display()));
            Ok(0)
        }
    }
}

/// Whether `TAO_LOGGING_LEVEL` asks for warnings and errors only: upstream's PASS is a line of level INFO.
fn is_quiet() -> bool {
    let level = std::env::var("TAO_LOGGING_LEVEL").unwrap_or_default();
    ["WARN", "WARNING", "ERROR", "CRITICAL", "FATAL"].iter().any(|quiet| level.eq_ignore_ascii_case(quiet))
}

fn say(line: &str) {
    // Where nobody listens, nothing is lost.
    let _ = writeln!(std::io::stderr(), "{line}");
}

/// Prints what was asked for. A reader that has seen enough, such as `head`, is no error.
fn print(text: &str) {
    let _ = writeln!(std::io::stdout(), "{text}");
}

//! `mae gen_trt_engine`: a TensorRT engine from an ONNX file, built by NVIDIA's own builder, `trtexec`.
//!
//! An engine belongs to one kind of GPU and one version of TensorRT, so it is built where it will run. Everything that can
//! be checked without TensorRT is checked first.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use mae_core::onnx::{self, Description};

use super::{End, Run};
use crate::error::{Error, Result};
use crate::report;
use crate::spec::{EnginePrecision, Plan};

mod calibrate;
mod check;
mod profile;
mod trtexec;

use profile::Profile;
use trtexec::Trtexec;

/// How often a builder under way is looked at.
const POLL: Duration = Duration::from_millis(50);
/// Lines of the builder's log that an error shows.
const SHOWN_LINES: usize = 8;

pub(super) fn gen_trt_engine(plan: &Plan, run: &mut Run) -> Result<End> {
    let key = "gen_trt_engine.onnx_file";
    let onnx = PathBuf::from(&plan.gen_trt_engine.onnx_file);
    if !onnx.exists() {
        return Err(Error::File {
            key: key.into(),
            problem: format!("the ONNX file {} does not exist", onnx.display()),
            help: "give the file that mae export wrote".into(),
        });
    }
    let description = onnx::describe(&onnx).map_err(|error| Error::Core(error).at(key))?;
    let profile = check::profile(plan, &description)?;
    check::model(plan, &description)?;
    let engine = engine_path(plan, &onnx);
    let found = Trtexec::find(plan);
    if let Ok(builder) = &found {
        check::builder(plan, builder, &description)?;
    }
    check::precision(plan, &description)?;
    make_folder(&engine)?;
    let onnx = calibrate::quantized(plan, run, &onnx, &engine, &description)?.unwrap_or(onnx);
    let job = Job { plan, onnx: &onnx, description: &description, profile: &profile };
    match found {
        Ok(builder) => build(run, &job, &builder, &engine),
        // The exact command, for the machine that has the builder.
        Err(missing) => Err(Error::Program {
            problem: format!("TensorRT's trtexec is not there: {missing}"),
            help: format!(
                "install TensorRT, or name its trtexec with gen_trt_engine.trtexec=…; the engine has to be built on the \
                 kind of GPU it will run on, and this command does it there (TensorRT 8.6 to 10):\n{}",
                trtexec::shell("trtexec", &job.arguments(None, &engine))
            ),
        }),
    }
}

/// What is to be built.
struct Job<'a> {
    plan: &'a Plan,
    onnx: &'a Path,
    description: &'a Description,
    profile: &'a Profile,
}

impl Job<'_> {
    fn arguments(&self, builder: Option<&Trtexec>, engine: &Path) -> Vec<String> {
        trtexec::arguments(self.plan, builder, self.onnx, self.description, self.profile, engine)
    }
}

fn engine_path(plan: &Plan, onnx: &Path) -> PathBuf {
    match plan.gen_trt_engine.trt_engine.as_deref() {
        Some(path) if !path.is_empty() && path != crate::spec::MISSING => PathBuf::from(path),
        _ => plan.results_dir().join(onnx.file_stem().unwrap_or_default()).with_extension("engine"),
    }
}

fn folder_of(path: &Path) -> &Path {
    path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

fn make_folder(engine: &Path) -> Result<()> {
    fs::create_dir_all(folder_of(engine)).map_err(|source| Error::File {
        key: "gen_trt_engine.trt_engine".into(),
        problem: format!("the folder {} cannot be made: {source}", folder_of(engine).display()),
        help: "choose a place that you can write to".into(),
    })
}

/// Runs the builder. The engine gets its name when it is complete; an older one stays until then.
fn build(run: &mut Run, job: &Job<'_>, builder: &Trtexec, engine: &Path) -> Result<End> {
    let staging = tempfile::Builder::new()
        .prefix(".trt-")
        .tempdir_in(folder_of(engine))
        .map_err(report::Error::write(engine))?;
    let unfinished = staging.path().join(engine.file_name().unwrap_or_default());
    let log = job.plan.results_dir().join("trtexec.log");
    let out = File::create(&log).map_err(report::Error::write(&log))?;
    let errors = out.try_clone().map_err(report::Error::write(&log))?;
    run.progress.say(&format!(
        "Building {} with TensorRT {} (this takes minutes); its log is {}:\n{}",
        engine.display(),
        builder.version_text(),
        log.display(),
        trtexec::shell(&builder.path.to_string_lossy(), &job.arguments(Some(builder), engine))
    ));
    let started = Instant::now();
    let mut child = Command::new(&builder.path)
        .args(job.arguments(Some(builder), &unfinished))
        .stdin(Stdio::null())
        .stdout(out)
        .stderr(errors)
        .spawn()
        .map_err(|error| {
            program(builder, &format!("cannot be started: {error}"), "check gen_trt_engine.trtexec")
        })?;
    let status = loop {
        let ended = child.try_wait();
        match ended
            .map_err(|error| program(builder, &format!("cannot be watched: {error}"), "start it again"))?
        {
            Some(status) => break status,
            None if run.is_interrupted() => {
                // Both fail when it has ended by itself, on the same Ctrl-C.
                let _ = child.kill();
                let _ = child.wait();
                return Ok(End::Interrupted);
            }
            None => std::thread::sleep(POLL),
        }
    };
    if run.is_interrupted() {
        return Ok(End::Interrupted);
    }
    let size = fs::metadata(&unfinished).map_or(0, |file| file.len());
    if !status.success() || size == 0 {
        let how = if status.success() { "wrote no engine".to_owned() } else { format!("failed ({status})") };
        return Err(program(
            builder,
            &format!("{how}; the last lines of {}:\n{}", log.display(), last_lines(&log)),
            "the log says why; gen_trt_engine.verbose=true makes it longer",
        ));
    }
    fs::rename(&unfinished, engine).map_err(report::Error::write(engine))?;
    run.progress.say(&format!(
        "Wrote {}: {}, {:.1} MB, {:.0} s",
        engine.display(),
        job.profile,
        size as f64 / 1e6,
        started.elapsed().as_secs_f64()
    ));
    Ok(End::Done)
}

fn program(builder: &Trtexec, problem: &str, help: &str) -> Error {
    Error::Program { problem: format!("{} {problem}", builder.path.display()), help: help.to_owned() }
}

/// The errors of a log, or else its end.
fn last_lines(log: &Path) -> String {
    let text = fs::read(log).map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default();
    let errors: Vec<&str> = text.lines().filter(|line| line.contains("[E]")).collect();
    let lines = if errors.is_empty() { text.lines().collect() } else { errors };
    let shown = &lines[lines.len().saturating_sub(SHOWN_LINES)..];
    shown.iter().map(|line| format!("    {line}")).collect::<Vec<_>>().join("\n")
}

/// Whether the plan asks for 8-bit integers.
fn wants_int8(plan: &Plan) -> bool {
    plan.engine_precision() == Some(EnginePrecision::Int8)
}

//! A folder of its own for each test, with a few of the demo's images and specs; runs of `mae` in it.

mod images;
mod results;

pub use images::{Image, demo_images, write_archive, write_folder};
pub use results::{contents, events, files_below, leftovers, results_csv, status_lines};

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

/// A run that takes longer than this hangs.
pub const PATIENCE: Duration = Duration::from_secs(300);

/// A folder in which a test works; every path that `mae` sees is relative to it.
pub struct Sandbox(tempfile::TempDir);

/// How a run ended.
#[derive(Debug)]
pub struct Run {
    pub code: Option<i32>,
    pub stdout: String,
    pub stderr: String,
}

impl Run {
    /// The run, after a check that it ended well.
    #[track_caller]
    pub fn passed(self) -> Self {
        assert_eq!(self.code, Some(0), "{}", self.stderr);
        assert!(self.stderr.contains("Execution status: PASS"), "{}", self.stderr);
        self
    }
}

impl Sandbox {
    /// An empty folder.
    pub fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    /// The absolute path of a file in it.
    pub fn path(&self, name: impl AsRef<Path>) -> PathBuf {
        self.0.path().join(name)
    }

    /// Writes a file.
    pub fn write(&self, name: &str, bytes: impl AsRef<[u8]>) -> PathBuf {
        let path = self.path(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, bytes).unwrap();
        path
    }

    /// Images of the demo as `train` (48 or as many as asked), and others as `val` (20): class folders of all ten
    /// classes.
    pub fn with_images(self, train_per_class: usize, val_per_class: usize) -> Self {
        write_folder(&self.path("train"), &demo_images("train", train_per_class));
        write_folder(&self.path("val"), &demo_images("val", val_per_class));
        self
    }

    /// With `pretrain.yaml` and `finetune.yaml`, small and fast: the smallest ConvNeXt V2 at its smallest sizes.
    pub fn with_specs(self) -> Self {
        self.write("pretrain.yaml", PRETRAIN);
        self.write("finetune.yaml", FINETUNE);
        self
    }

    /// A command that starts `mae` here.
    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_mae"));
        command
            .args(arguments)
            .current_dir(self.0.path())
            .env("MAE_CACHE", self.path("cache"))
            // Several tests run at a time; a pool of threads in each would only make them wait for each other.
            .env("OMP_NUM_THREADS", "1")
            .stdin(Stdio::null());
        for name in ["RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT", "NODE_RANK", "MAE_LOG"]
        {
            command.env_remove(name);
        }
        command
    }

    /// Runs `mae` in the Python environment of `python`, as after `source bin/activate`: its onnxruntime is found.
    pub fn mae_in(&self, python: &Path, arguments: &str) -> Run {
        let mut command = self.command(&arguments.split_whitespace().collect::<Vec<_>>());
        command.env("VIRTUAL_ENV", python.parent().unwrap().parent().unwrap()).env_remove("ORT_DYLIB_PATH");
        // Two programs run the same model of up to 700 M parameters on 64 images.
        Self::finished_within(command, 12 * PATIENCE)
    }

    /// Runs `mae` with arguments that are separated by blanks.
    pub fn mae(&self, arguments: &str) -> Run {
        self.run(&arguments.split_whitespace().collect::<Vec<_>>())
    }

    /// Runs `mae`.
    pub fn run(&self, arguments: &[&str]) -> Run {
        Self::finished(self.command(arguments))
    }

    /// Runs a command to its end.
    pub fn finished(command: Command) -> Run {
        Self::finished_within(command, PATIENCE)
    }

    fn finished_within(command: Command, patience: Duration) -> Run {
        let run = assert_cmd::Command::from_std(command).timeout(patience).output().unwrap();
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
        Run { code: run.status.code(), stdout: text(run.stdout), stderr: text(run.stderr) }
    }

    /// Starts `mae` in the background; what it says goes to `name.log`.
    pub fn start(&self, name: &str, arguments: &[&str]) -> Started {
        self.start_command(name, self.command(arguments))
    }

    /// Starts a command in the background; what it says goes to `name.log`.
    pub fn start_command(&self, name: &str, mut command: Command) -> Started {
        let log = self.path(format!("{name}.log"));
        let file = fs::File::create(&log).unwrap();
        let child = command.stdout(file.try_clone().unwrap()).stderr(file).spawn().unwrap();
        Started { child, log }
    }
}

/// A run under way. A test that fails ends it.
pub struct Started {
    child: Child,
    log: PathBuf,
}

impl Started {
    /// Waits until `condition` holds while the run goes on.
    #[track_caller]
    pub fn wait_until(&mut self, what: &str, condition: impl Fn() -> bool) {
        let start = Instant::now();
        while !condition() {
            if let Some(status) = self.child.try_wait().unwrap() {
                panic!("the run ended ({status}) before {what}: {}", self.log());
            }
            assert!(start.elapsed() < PATIENCE, "no sign of {what}: {}", self.log());
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    /// Sends a signal.
    pub fn signal(&self, signal: rustix::process::Signal) {
        rustix::process::kill_process(rustix::process::Pid::from_child(&self.child), signal).unwrap();
    }

    /// Waits for the end.
    #[track_caller]
    pub fn wait(&mut self) -> ExitStatus {
        let start = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status;
            }
            assert!(start.elapsed() < PATIENCE, "the run does not end: {}", self.log());
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// What it said so far.
    pub fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap()
    }
}

impl Drop for Started {
    fn drop(&mut self) {
        // Both fail when it has ended, as it should have.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The recorded data of upstream, where this machine has it.
pub fn goldens() -> Option<PathBuf> {
    let folder = match std::env::var_os("MAE_GOLDENS") {
        Some(folder) => PathBuf::from(folder),
        None => workspace().join("../shared/goldens"),
    };
    folder.is_dir().then_some(folder)
}

/// A Python with the packages of `tests/interop`, where `MAE_PYTHON` names one; CI has to.
pub fn python() -> Option<PathBuf> {
    match std::env::var_os("MAE_PYTHON") {
        Some(python) => Some(PathBuf::from(python)),
        None if std::env::var("CI").as_deref() == Ok("true") => {
            panic!("CI=true, and MAE_PYTHON is not set: MAE_PYTHON=$(scripts/python-env)")
        }
        None => {
            eprintln!("skipped: MAE_PYTHON is not set (MAE_PYTHON=$(scripts/python-env))");
            None
        }
    }
}

/// The root of the workspace.
pub fn workspace() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("..")
}

const PRETRAIN: &str = "\
results_dir: results/pretrain
device: cpu
dataset:
  train_data_sources: train
  val_data_sources: val
  batch_size: 8
  num_workers_per_gpu: 2
  augmentation:
    input_size: 64
    min_scale: 0.4
    max_scale: 1.0
train:
  stage: pretrain
  num_epochs: 1
  checkpoint_interval: 1
  validation_interval: 1
  seed: 11
  mask_ratio: 0.5
  norm_pix_loss: true
  optim:
    lr: 0.001
    lr_scheduler: MultiStep
    milestones: [100]
    warmup_epochs: 0
model:
  arch: convnextv2_atto
";

const FINETUNE: &str = "\
results_dir: results/finetune
device: cpu
dataset:
  train_data_sources: train
  val_data_sources: val
  test_data_sources: val
  batch_size: 8
  num_workers_per_gpu: 2
  augmentation:
    input_size: 32
    min_scale: 0.6
    max_scale: 1.0
    auto_aug: null
    mixup: 0.0
    cutmix: 0.0
train:
  stage: finetune
  num_epochs: 1
  checkpoint_interval: 1
  validation_interval: 1
  seed: 12
  optim:
    lr: 0.001
    lr_scheduler: MultiStep
    milestones: [100]
    warmup_epochs: 0
model:
  arch: convnextv2_atto
  num_classes: 10
evaluate:
  checkpoint: results/finetune/train/convnextv2_atto_latest.pth
inference:
  checkpoint: results/finetune/train/convnextv2_atto_latest.pth
export:
  checkpoint: results/finetune/train/convnextv2_atto_latest.pth
  on_cpu: true
";

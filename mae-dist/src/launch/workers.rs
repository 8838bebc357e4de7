//! The processes of a node, and what they write.

use std::io::{BufRead, BufReader, Read};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{self, Receiver, Sender};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, kill_process_group, waitid};

use super::{LAUNCHER_PID, Line, LocalLauncher, POLL, Stream};
use crate::error::DistError;

/// How long to wait for the last lines of workers that have ended.
const LAST_LINES: Duration = Duration::from_millis(500);

/// A node's workers. Dropped, it kills those that still run, and what they started.
pub(super) struct Workers {
    workers: Vec<Worker>,
    pub(super) lines: Receiver<Line>,
    last_look: Instant,
}

/// A worker that ended before its work was done.
pub(super) struct Failed {
    rank: usize,
    status: ExitStatus,
}

struct Worker {
    rank: usize,
    child: Child,
    status: Option<ExitStatus>,
    last_line: String,
    /// Whether that line says that it is an error; what follows then explains it.
    said_why: bool,
}

impl Workers {
    pub(super) fn spawn(
        launcher: &LocalLauncher,
        address: &str,
        port: u16,
        attempt: usize,
    ) -> Result<Self, DistError> {
        let (sender, lines) = mpsc::channel();
        let mut workers = Self { workers: Vec::new(), lines, last_look: Instant::now() };
        let cores = thread::available_parallelism().map_or(1, usize::from);
        let threads = (cores / launcher.workers.max(1)).max(1);
        for local_rank in 0..launcher.workers {
            let rank = launcher.node_rank * launcher.workers + local_rank;
            let mut command = Command::new(&launcher.program);
            command
                .args(&launcher.args)
                .env("RANK", rank.to_string())
                .env("LOCAL_RANK", local_rank.to_string())
                .env("WORLD_SIZE", (launcher.nodes * launcher.workers).to_string())
                .env("LOCAL_WORLD_SIZE", launcher.workers.to_string())
                .env("MASTER_ADDR", address)
                .env("MASTER_PORT", port.to_string())
                .env("TORCHELASTIC_USE_AGENT_STORE", "True")
                .env("TORCHELASTIC_RESTART_COUNT", attempt.to_string())
                .env("TORCHELASTIC_MAX_RESTARTS", launcher.max_restarts.to_string())
                .env(LAUNCHER_PID, std::process::id().to_string())
                .stdin(Stdio::null())
                .stdout(Stdio::piped())
                .stderr(if launcher.first_draws && local_rank == 0 {
                    Stdio::inherit()
                } else {
                    Stdio::piped()
                })
                .process_group(0);
            // Threads that wait by spinning would take the cores of the other workers. Warnings of libtorch's sockets say
            // nothing that our errors do not.
            for (name, value) in [
                ("OMP_NUM_THREADS", threads.to_string()),
                ("OMP_WAIT_POLICY", "passive".into()),
                ("TORCH_CPP_LOG_LEVEL", "ERROR".into()),
            ] {
                if std::env::var_os(name).is_none() {
                    command.env(name, value);
                }
            }
            command.envs(launcher.variables.iter().map(|(name, value)| (name, value)));
            let mut child = command.spawn().map_err(|error| DistError::Spawn {
                host: crate::host_name(),
                program: launcher.program.display().to_string(),
                rank,
                reason: error.to_string(),
            })?;
            let (stdout, stderr) = (child.stdout.take(), child.stderr.take());
            workers.workers.push(Worker {
                rank,
                child,
                status: None,
                last_line: String::new(),
                said_why: false,
            });
            if let Some(stdout) = stdout {
                forward(stdout, rank, Stream::Stdout, sender.clone());
            }
            if let Some(stderr) = stderr {
                forward(stderr, rank, Stream::Stderr, sender.clone());
            }
        }
        Ok(workers)
    }

    /// Remembers what a worker last said, or the error that it named, for the error that names the worker.
    pub(super) fn note(&mut self, line: Line) {
        if line.stream == Stream::Stderr
            && !line.text.trim().is_empty()
            && let Some(worker) = self.workers.iter_mut().find(|worker| worker.rank == line.rank)
        {
            let says_why = line.text.starts_with("error: ");
            if says_why || !worker.said_why {
                worker.said_why = says_why;
                worker.last_line = line.text;
            }
        }
    }

    /// Whether it is time to look at the processes again.
    pub(super) fn due(&self) -> bool {
        self.last_look.elapsed() >= POLL
    }

    /// Collects the workers that have ended since the last call, each of which `ended` is told, and gives the first
    /// failure among them.
    pub(super) fn reap(&mut self, mut ended: impl FnMut(usize)) -> Option<Failed> {
        self.last_look = Instant::now();
        let mut failed = None;
        for worker in self.workers.iter_mut().filter(|worker| worker.status.is_none()) {
            if !worker.has_ended() {
                continue;
            }
            let Ok(status) = worker.end_group() else { continue };
            worker.status = Some(status);
            ended(worker.rank);
            if !status.success() && failed.is_none() {
                failed = Some(Failed { rank: worker.rank, status });
            }
        }
        failed
    }

    /// The error for a worker that failed; to be asked for after [`drain`](Self::drain).
    pub(super) fn error(&self, failed: &Failed) -> DistError {
        let worker = self.workers.iter().find(|worker| worker.rank == failed.rank);
        DistError::Worker {
            rank: failed.rank,
            host: crate::host_name(),
            ended: describe(failed.status),
            code: failed.status.code(),
            last_line: worker.map(|worker| worker.last_line.clone()).unwrap_or_default(),
        }
    }

    pub(super) fn all_ended(&self) -> bool {
        self.workers.iter().all(|worker| worker.status.is_some())
    }

    /// Sends a signal to every worker that still runs, and to what it started.
    pub(super) fn signal(&self, signal: Signal) {
        for worker in self.workers.iter().filter(|worker| worker.status.is_none()) {
            worker.signal(signal);
        }
    }

    /// Passes on the last lines of workers that have all ended.
    pub(super) fn drain(&mut self, output: &mut impl FnMut(&Line)) {
        let until = Instant::now() + LAST_LINES;
        // Disconnected once every stream is at its end; a process that left its group may keep one open.
        while let Ok(line) = self.lines.recv_timeout(until.saturating_duration_since(Instant::now())) {
            output(&line);
            self.note(line);
        }
    }
}

impl Drop for Workers {
    fn drop(&mut self) {
        self.signal(Signal::KILL);
        for worker in self.workers.iter_mut().filter(|worker| worker.status.is_none()) {
            // A killed process ends; if it cannot be waited for, it is not ours any more.
            let _ = worker.child.wait();
        }
    }
}

impl Worker {
    fn pid(&self) -> Option<Pid> {
        i32::try_from(self.child.id()).ok().and_then(Pid::from_raw)
    }

    /// Looks without collecting the exit status: until then, nobody else can get its process id.
    fn has_ended(&self) -> bool {
        let options = WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
        self.pid().is_none_or(|pid| !matches!(waitid(WaitId::Pid(pid), options), Ok(None)))
    }

    /// Kills what an ended worker has left behind in its group, and collects its exit status.
    fn end_group(&mut self) -> std::io::Result<ExitStatus> {
        self.signal(Signal::KILL);
        self.child.wait()
    }

    fn signal(&self, signal: Signal) {
        if let Some(pid) = self.pid() {
            // Fails only if there is nobody left to get it.
            let _ = kill_process_group(pid, signal);
        }
    }
}

/// Sends every line of a stream, until its end, from a thread of its own.
fn forward(stream: impl Read + Send + 'static, rank: usize, name: Stream, lines: Sender<Line>) {
    thread::spawn(move || {
        let mut stream = BufReader::new(stream);
        let mut bytes = Vec::new();
        while matches!(stream.read_until(b'\n', &mut bytes), Ok(count) if count > 0) {
            let text = String::from_utf8_lossy(&bytes);
            let line = Line { rank, stream: name, text: text.trim_end_matches(['\n', '\r']).to_owned() };
            if lines.send(line).is_err() {
                break;
            }
            bytes.clear();
        }
    });
}

fn describe(status: ExitStatus) -> String {
    match (status.code(), status.signal()) {
        (Some(code), _) => format!("exited with code {code}"),
        (None, Some(signal)) => {
            let name = match signal {
                1 => " (SIGHUP)",
                2 => " (SIGINT)",
                4 => " (SIGILL)",
                6 => " (SIGABRT)",
                7 => " (SIGBUS)",
                9 => " (SIGKILL; out of memory, if nobody sent it)",
                11 => " (SIGSEGV)",
                15 => " (SIGTERM)",
                _ => "",
            };
            format!("was killed by signal {signal}{name}")
        }
        (None, None) => "ended".into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn endings_are_described() {
        assert_eq!(describe(ExitStatus::from_raw(2 << 8)), "exited with code 2");
        assert_eq!(describe(ExitStatus::from_raw(11)), "was killed by signal 11 (SIGSEGV)");
        assert_eq!(describe(ExitStatus::from_raw(10)), "was killed by signal 10");
    }
}

//! Starting ranks as processes of their own.
#![allow(dead_code, reason = "each test binary uses a part")]

use std::io::{BufRead, BufReader};
use std::net::TcpListener;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{self, Receiver};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use mae_dist::c10d::{Store, StoreRole, TcpStoreOptions};
use rustix::process::{Pid, Signal, kill_process};
use tch::{Kind, Tensor};

/// Nothing here takes as long as this; what does, hangs.
const HANGS: Duration = Duration::from_secs(120);

/// Processes that run one case of the test binary's `rank_main`. Dropped, it kills them.
pub struct Ranks {
    children: Vec<Option<(Child, JoinHandle<String>)>>,
    lines: Receiver<(usize, String)>,
    _store: Option<Store>,
}

/// A rank that has ended.
pub struct Rank {
    pub rank: usize,
    pub succeeded: bool,
    pub output: String,
}

impl Rank {
    /// The rest of the first line that starts with `word`.
    pub fn said(&self, word: &str) -> Option<&str> {
        self.output.lines().find_map(|line| line.strip_prefix(word))
    }
}

impl Ranks {
    /// Starts ranks that meet in a store which this process serves, as a launcher does.
    pub fn start(case: &str, world_size: usize) -> Self {
        let store = Store::serve(
            TcpListener::bind("127.0.0.1:0").unwrap(),
            &TcpStoreOptions {
                host: "127.0.0.1".into(),
                port: 0,
                role: StoreRole::Server,
                world_size: None,
                wait_for_workers: false,
                timeout: Duration::from_secs(60),
                rank: None,
            },
        )
        .unwrap();
        let port = store.port().unwrap();
        Self::spawn(case, world_size, port, Some(store))
    }

    /// Starts ranks of which rank 0 serves the store.
    pub fn start_without_launcher(case: &str, world_size: usize) -> Self {
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        Self::spawn(case, world_size, port, None)
    }

    fn spawn(case: &str, world_size: usize, port: u16, store: Option<Store>) -> Self {
        let (sender, lines) = mpsc::channel();
        let children = (0..world_size)
            .map(|rank| {
                let mut child = Command::new(std::env::current_exe().unwrap())
                    .args(["--exact", "rank_main", "--ignored", "--nocapture"])
                    .env("MAE_TEST_CASE", case)
                    .env("RANK", rank.to_string())
                    .env("LOCAL_RANK", rank.to_string())
                    .env("WORLD_SIZE", world_size.to_string())
                    .env("MASTER_ADDR", "127.0.0.1")
                    .env("MASTER_PORT", port.to_string())
                    .env("TORCHELASTIC_USE_AGENT_STORE", if store.is_some() { "True" } else { "False" })
                    .stdout(Stdio::piped())
                    .stderr(Stdio::piped())
                    .spawn()
                    .unwrap();
                let (stdout, stderr) = (child.stdout.take().unwrap(), child.stderr.take().unwrap());
                let sender = sender.clone();
                let errors = thread::spawn(move || std::io::read_to_string(stderr).unwrap());
                let output = thread::spawn(move || {
                    let mut text = String::new();
                    for line in BufReader::new(stdout).lines() {
                        let line = line.unwrap();
                        text.push_str(&line);
                        text.push('\n');
                        let _ = sender.send((rank, line));
                    }
                    text + &errors.join().unwrap()
                });
                Some((child, output))
            })
            .collect();
        Self { children, lines, _store: store }
    }

    /// Waits until every rank has written this line.
    pub fn wait_for(&mut self, word: &str) {
        let mut left: Vec<_> = (0..self.children.len()).collect();
        while !left.is_empty() {
            let (rank, line) = self
                .lines
                .recv_timeout(HANGS)
                .unwrap_or_else(|_| panic!("ranks {left:?} never said {word:?}"));
            if line == word {
                left.retain(|other| *other != rank);
            }
        }
    }

    pub fn kill(&self, rank: usize) {
        self.signal(rank, Signal::KILL);
    }

    pub fn stop(&self, rank: usize) {
        self.signal(rank, Signal::STOP);
    }

    fn signal(&self, rank: usize, signal: Signal) {
        let (child, _) = self.children[rank].as_ref().unwrap();
        kill_process(Pid::from_child(child), signal).unwrap();
    }

    /// Waits for the end of all ranks.
    pub fn finish(self) -> Vec<Rank> {
        self.finish_all_but(usize::MAX)
    }

    /// Waits for the end of all ranks but one, which is then killed.
    pub fn finish_all_but(mut self, except: usize) -> Vec<Rank> {
        let deadline = Instant::now() + HANGS;
        (0..self.children.len())
            .filter(|rank| *rank != except)
            .map(|rank| {
                let (mut child, output) = self.children[rank].take().unwrap();
                let status = loop {
                    if let Some(status) = child.try_wait().unwrap() {
                        break status;
                    }
                    if Instant::now() > deadline {
                        child.kill().unwrap();
                        child.wait().unwrap();
                        panic!("rank {rank} hangs:\n{}", output.join().unwrap());
                    }
                    thread::sleep(Duration::from_millis(10));
                };
                Rank { rank, succeeded: status.success(), output: output.join().unwrap() }
            })
            .collect()
    }
}

impl Drop for Ranks {
    fn drop(&mut self) {
        for (child, _) in self.children.iter_mut().flatten() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// The bits of a float32 tensor's values.
pub fn tensor_bits(tensor: &Tensor) -> Vec<u32> {
    let values = Vec::<f32>::try_from(tensor.to_kind(Kind::Float).reshape([-1])).unwrap();
    values.into_iter().map(f32::to_bits).collect()
}

//! Data behind addresses: a real S3 server that checks signatures, and a network in front of it that fails.

use std::collections::VecDeque;
use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use crate::common::{Sandbox, contents, demo_images, python, workspace, write_archive};

/// `tests/interop/s3_server.py` at work; it ends when this is dropped.
struct S3 {
    child: Child,
    input: Option<ChildStdin>,
    /// Open, so that nothing the server says fails.
    _output: BufReader<ChildStdout>,
    url: String,
    key: String,
    secret: String,
}

impl S3 {
    /// With the files below a folder as objects.
    fn with_objects(python: &Path, folder: &Path) -> Self {
        let mut child = Command::new(python)
            .arg(workspace().join("tests/interop/s3_server.py"))
            .arg(folder)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut output = BufReader::new(child.stdout.take().unwrap());
        let mut line = String::new();
        // What the server's own start says comes before the line of JSON.
        while !line.starts_with('{') {
            line.clear();
            assert!(output.read_line(&mut line).unwrap() > 0, "the S3 server ended");
        }
        let access: serde_json::Value = serde_json::from_str(&line).unwrap();
        let text = |name: &str| access[name].as_str().unwrap().to_owned();
        S3 {
            input: child.stdin.take(),
            child,
            _output: output,
            url: text("url"),
            key: text("key"),
            secret: text("secret"),
        }
    }
}

impl Drop for S3 {
    fn drop(&mut self) {
        drop(self.input.take());
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// What happens to one connection.
enum Fault {
    /// It is reset after so many bytes of the answer.
    Reset(usize),
    /// It ends after so many bytes of the answer, as if all was there.
    Cut(usize),
    /// The answer is that the service is busy.
    Busy,
    /// The answer comes in small pieces.
    Slow,
}

/// A network in front of a server: connections are passed on, and the next ones have faults.
#[derive(Clone)]
struct Network {
    url: String,
    faults: Arc<Mutex<VecDeque<Fault>>>,
}

impl Network {
    fn before(server: &str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let network = Network { url, faults: Arc::default() };
        let (faults, target) = (Arc::clone(&network.faults), server.trim_start_matches("http://").to_owned());
        std::thread::spawn(move || {
            for client in listener.incoming().flatten() {
                let fault = faults.lock().unwrap().pop_front();
                let server = TcpStream::connect(&target).unwrap();
                // A side that has gone away is what the faults are for.
                std::thread::spawn(move || drop(pass_on(client, server, fault)));
            }
        });
        network
    }

    fn faults(&self, faults: impl IntoIterator<Item = Fault>) {
        self.faults.lock().unwrap().extend(faults);
    }

    fn remaining(&self) -> usize {
        self.faults.lock().unwrap().len()
    }
}

fn pass_on(mut client: TcpStream, mut server: TcpStream, fault: Option<Fault>) -> std::io::Result<()> {
    if matches!(fault, Some(Fault::Busy)) {
        // The answer does not depend on the request, of which the first piece is enough.
        let _ = client.read(&mut [0; 1 << 16])?;
        return client.write_all(b"HTTP/1.1 503 Slow Down\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
    }
    let (mut from, mut to) = (client.try_clone()?, server.try_clone()?);
    std::thread::spawn(move || {
        let _ = std::io::copy(&mut from, &mut to);
        let _ = to.shutdown(Shutdown::Write);
    });
    let (limit, resets) = match fault {
        Some(Fault::Reset(limit)) => (limit, true),
        Some(Fault::Cut(limit)) => (limit, false),
        _ => {
            let piece = if matches!(fault, Some(Fault::Slow)) { 2000 } else { 1 << 16 };
            let mut buffer = vec![0; piece];
            loop {
                let count = server.read(&mut buffer)?;
                if count == 0 {
                    return client.shutdown(Shutdown::Write);
                }
                client.write_all(&buffer[..count])?;
                if piece == 2000 {
                    std::thread::sleep(Duration::from_millis(10));
                }
            }
        }
    };
    std::io::copy(&mut (&server).take(limit as u64), &mut client)?;
    if resets {
        // Without a wait for what is not sent: the other side reads an error, and not an end.
        rustix::net::sockopt::set_socket_linger(&client, Some(Duration::ZERO))?;
    }
    client.shutdown(Shutdown::Both)
}

/// A sandbox with an archive and a folder of images, and a server that has the same.
fn place(python: &Path) -> (Sandbox, S3) {
    let sandbox = Sandbox::new().with_specs().with_images(4, 1);
    fs::create_dir_all(sandbox.path("bucket")).unwrap();
    write_archive(&sandbox.path("bucket/train.tar.gz"), &demo_images("train", 4));
    crate::common::write_folder(&sandbox.path("bucket/val"), &demo_images("val", 1));
    let server = S3::with_objects(python, &sandbox.path("bucket"));
    (sandbox, server)
}

fn command(sandbox: &Sandbox, server: &S3, url: &str, arguments: &str) -> Command {
    let mut command = sandbox.command(&arguments.split_whitespace().collect::<Vec<_>>());
    command
        .env("AWS_ACCESS_KEY_ID", &server.key)
        .env("AWS_SECRET_ACCESS_KEY", &server.secret)
        .env("AWS_REGION", "us-east-1")
        .env("AWS_ENDPOINT_URL", url)
        .env_remove("http_proxy")
        .env_remove("HTTP_PROXY");
    command
}

const SOURCES: &str =
    "dataset.train_data_sources=s3://photos/train.tar.gz dataset.val_data_sources=s3://photos/val/";

#[test]
fn training_from_a_bucket_equals_training_from_files_whatever_the_network_does() {
    let Some(python) = python() else { return };
    let (sandbox, server) = place(&python);
    let local = "dataset.train_data_sources=bucket/train.tar.gz dataset.val_data_sources=bucket/val";
    sandbox.mae(&format!("train -e finetune.yaml results_dir=local {local}")).passed();

    let network = Network::before(&server.url);
    network.faults([
        Fault::Busy,
        Fault::Reset(3000),
        Fault::Slow,
        Fault::Reset(5000),
        Fault::Busy,
        Fault::Cut(4000),
        Fault::Reset(700),
    ]);
    let train = format!("train -e finetune.yaml results_dir=bucket_run {SOURCES}");
    Sandbox::finished(command(&sandbox, &server, &network.url, &train)).passed();
    assert_eq!(network.remaining(), 0, "not every fault was met");

    let weights = |results: &str| {
        contents(&sandbox.path(format!("{results}/train/convnextv2_atto_latest.pth"))).state_dict
    };
    assert!(weights("bucket_run") == weights("local"), "the weights differ");
}

#[test]
fn a_wrong_signature_is_refused_and_no_secret_is_shown() {
    let Some(python) = python() else { return };
    let (sandbox, mut server) = place(&python);
    server.secret = "not-the-secret".into();
    let train = format!("train -e finetune.yaml results_dir=refused {SOURCES}");
    let run = Sandbox::finished(command(&sandbox, &server, &server.url.clone(), &train));
    assert_ne!(run.code, Some(0));
    assert!(
        run.stderr.contains("s3://photos/") && run.stderr.contains("AWS_SECRET_ACCESS_KEY"),
        "{}",
        run.stderr
    );
    assert!(!run.stderr.contains("not-the-secret") && !run.stderr.contains(&server.key), "{}", run.stderr);
}

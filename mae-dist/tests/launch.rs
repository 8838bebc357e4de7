//! A launcher and its workers: this same test binary, started by the launcher, runs what
//! [`worker_main`] says.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a test ends by panicking"
)]

use std::ffi::OsString;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use mae_core::engine::Collective;
use mae_dist::{
    DistError, Ended, Environment, GlooCollective, GlooCollectiveOptions, Line, LocalLauncher, Role, Stream,
    follow_launcher,
};
use rustix::process::{Pid, Signal, kill_process, test_kill_process};

fn launcher(case: &str, workers: usize) -> LocalLauncher {
    let args = ["--exact", "worker_main", "--ignored", "--nocapture"].map(OsString::from).to_vec();
    let mut launcher = LocalLauncher::new(std::env::current_exe().unwrap(), args, workers);
    launcher.variables = vec![("MAE_TEST_CASE".into(), case.into())];
    launcher.report_timeout = Duration::from_millis(500);
    launcher.grace = Duration::from_millis(500);
    launcher
}

#[test]
#[ignore = "the body of one worker, which the other tests start"]
fn worker_main() {
    assert!(follow_launcher());
    let Role::Worker(worker) = Environment::resolve(&Environment::variables(), None).unwrap().role else {
        panic!("a worker must know that it is one");
    };
    match std::env::var("MAE_TEST_CASE").unwrap().as_str() {
        "sum" => {
            tch::set_num_threads(1);
            let group = GlooCollective::connect(&worker, &GlooCollectiveOptions::default()).unwrap();
            let mut values = [worker.rank as f64 + 1.0];
            group.sum(&mut values).unwrap();
            println!(
                "\nsum {} of {} threads {}",
                values[0],
                worker.world_size,
                std::env::var("OMP_NUM_THREADS").unwrap()
            );
            eprintln!("end without a newline");
        }
        // The group of the second life is a new one, over the same store.
        "restart" => {
            tch::set_num_threads(1);
            let group = GlooCollective::connect(&worker, &GlooCollectiveOptions::default()).unwrap();
            if worker.restart_count == 0 && worker.rank == 1 {
                eprintln!("error: no luck\n  help: try again");
                std::process::exit(2);
            }
            let mut values = [1.0];
            match group.sum(&mut values) {
                Ok(()) => println!("\nsum {} in life {}", values[0], worker.restart_count),
                Err(_) => std::process::exit(2),
            }
        }
        "fail" if worker.rank == 1 => {
            eprintln!("no space left on device");
            std::process::exit(3);
        }
        "kill" if worker.rank == 0 => {
            kill_process(rustix::process::getpid(), Signal::KILL).unwrap();
        }
        // Says who it is, starts a child of its own, and never ends.
        "fail" | "kill" | "hang" => {
            let mut child = std::process::Command::new("sleep").arg("1000").spawn().unwrap();
            println!("\npid {}\npid {}", std::process::id(), child.id());
            child.wait().unwrap();
        }
        // A launcher of its own, to be killed.
        "nested" => {
            let lines = |line: &Line| println!("{}", line.text);
            let _ = launcher("hang", 2).run(&AtomicBool::new(false), lines, |_| {});
        }
        case => panic!("no such case: {case:?}"),
    }
}

/// The processes that say so in the output.
fn pids(lines: &[Line]) -> Vec<Pid> {
    let pid = |line: &Line| Pid::from_raw(line.text.strip_prefix("pid ")?.parse().ok()?);
    lines.iter().filter_map(pid).collect()
}

/// Waits for processes to be gone, which takes a moment after they were killed.
fn assert_gone(pids: &[Pid]) {
    let deadline = Instant::now() + Duration::from_secs(30);
    for pid in pids {
        while is_running(*pid) {
            assert!(Instant::now() < deadline, "process {pid:?} was left behind");
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

/// A zombie that nobody has collected does not run.
fn is_running(pid: Pid) -> bool {
    let stat = PathBuf::from(format!("/proc/{}/stat", pid.as_raw_nonzero()));
    let state = std::fs::read_to_string(stat).ok().and_then(|stat| stat.rsplit(") ").next()?.chars().next());
    test_kill_process(pid).is_ok() && state.is_some_and(|state| state != 'Z')
}

#[test]
fn workers_meet_and_their_output_is_passed_on() {
    let mut lines = Vec::new();
    let ended =
        launcher("sum", 3).run(&AtomicBool::new(false), |line| lines.push(line.clone()), |_| {}).unwrap();
    assert_eq!(ended, Ended::Done);
    for rank in 0..3 {
        let said = |stream, text: &str| {
            lines.iter().any(|line| (line.rank, line.stream) == (rank, stream) && line.text == text)
        };
        let threads = (std::thread::available_parallelism().unwrap().get() / 3).max(1);
        assert!(said(Stream::Stdout, &format!("sum 6 of 3 threads {threads}")), "{lines:?}");
        assert!(said(Stream::Stderr, "end without a newline"), "{lines:?}");
    }
    assert_eq!(Line { rank: 12, stream: Stream::Stderr, text: "text".into() }.to_string(), "[rank 12] text");
}

#[test]
fn the_first_failure_ends_all_workers() {
    let mut lines = Vec::new();
    let error = launcher("fail", 3)
        .run(&AtomicBool::new(false), |line| lines.push(line.clone()), |_| {})
        .unwrap_err();
    assert!(
        matches!(&error, DistError::Worker { rank: 1, code: Some(3), last_line, .. }
            if last_line == "no space left on device"),
        "{error}"
    );
    assert_gone(&pids(&lines));
}

#[test]
fn a_group_that_failed_is_started_again() {
    let mut launcher = launcher("restart", 2);
    launcher.max_restarts = 2;
    launcher.final_codes = vec![1, 3];
    launcher.report_timeout = Duration::from_secs(10);
    let (mut lines, mut failures) = (Vec::new(), Vec::new());
    let ended = launcher.run(
        &AtomicBool::new(false),
        |line| lines.push(line.clone()),
        |error| failures.push(error.to_string()),
    );
    assert_eq!(ended.unwrap(), Ended::Done);
    assert_eq!(failures.len(), 1, "{failures:?}");
    // Either of the two can be seen first.
    assert!(failures[0].contains("exited with code 2"), "{failures:?}");
    let sums = lines.iter().filter(|line| line.text == "sum 2 in life 1").count();
    assert_eq!(sums, 2, "{lines:?}");
}

#[test]
fn some_failures_are_final() {
    let mut launcher = launcher("fail", 2);
    launcher.max_restarts = 3;
    launcher.final_codes = vec![3];
    let mut restarts = 0;
    let error = launcher.run(&AtomicBool::new(false), |_| {}, |_| restarts += 1).unwrap_err();
    assert!(matches!(&error, DistError::Worker { code: Some(3), .. }), "{error}");
    assert_eq!(restarts, 0);
}

#[test]
fn a_killed_worker_is_named() {
    let mut lines = Vec::new();
    let error = launcher("kill", 2)
        .run(&AtomicBool::new(false), |line| lines.push(line.clone()), |_| {})
        .unwrap_err();
    assert!(matches!(&error, DistError::Worker { rank: 0, code: None, .. }), "{error}");
    assert!(error.to_string().contains("was killed by signal 9 (SIGKILL"), "{error}");
    assert_gone(&pids(&lines));
}

#[test]
fn workers_stop_when_asked() {
    let stop = AtomicBool::new(false);
    let mut lines = Vec::new();
    let ended = launcher("hang", 2)
        .run(
            &stop,
            |line| {
                lines.push(line.clone());
                stop.store(pids(&lines).len() == 4, Ordering::Relaxed);
            },
            |_| {},
        )
        .unwrap();
    assert_eq!((ended, pids(&lines).len()), (Ended::Stopped, 4));
    assert_gone(&pids(&lines));
}

#[test]
fn no_worker_outlives_its_launcher() {
    // The outer worker is a launcher itself; once its workers run, it is killed.
    let mut outer = launcher("nested", 1);
    outer.report_timeout = Duration::ZERO;
    let mut lines = Vec::new();
    let mut launcher_pid = None;
    let error = outer
        .run(
            &AtomicBool::new(false),
            |line| {
                lines.push(line.clone());
                let found = pids(&lines);
                if found.len() == 4 && launcher_pid.is_none() {
                    launcher_pid = parent(found[0]);
                    kill_process(launcher_pid.unwrap(), Signal::KILL).unwrap();
                }
            },
            |_| {},
        )
        .unwrap_err();
    assert!(matches!(error, DistError::Worker { rank: 0, code: None, .. }), "{error}");
    // The workers, not what they started: that is what SIGTERM and their own groups are for.
    let workers: Vec<_> = pids(&lines).into_iter().step_by(2).collect();
    assert_gone(&workers);
    pids(&lines).into_iter().filter(|pid| is_running(*pid)).for_each(|pid| {
        let _ = kill_process(pid, Signal::KILL);
    });
}

fn parent(pid: Pid) -> Option<Pid> {
    let stat = std::fs::read_to_string(format!("/proc/{}/stat", pid.as_raw_nonzero())).ok()?;
    Pid::from_raw(stat.rsplit(") ").next()?.split(' ').nth(1)?.parse().ok()?)
}

#[test]
fn a_program_that_is_not_there_is_an_error() {
    let error = LocalLauncher::new("/no/such/program".into(), Vec::new(), 2)
        .run(&AtomicBool::new(false), |_| {}, |_| {})
        .unwrap_err();
    assert!(
        matches!(&error, DistError::Spawn { rank: 0, program, .. } if program == "/no/such/program"),
        "{error}"
    );
}

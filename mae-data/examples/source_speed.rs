//! How fast an archive is opened and read, beside the limits: `source_speed ARCHIVE [FOLDER]`.
//!
//! Prints wall and CPU seconds of raw gunzip, of the first and the second opening, and of reading every image. On a busy
//! machine, compare CPU seconds.

#![allow(clippy::print_stdout, clippy::unwrap_used)]

use std::fs::File;
use std::io::{BufReader, Read};
use std::time::Instant;

use flate2::bufread::MultiGzDecoder;
use mae_data::{Dataset, Layout, OpenOptions};

fn main() {
    let mut arguments = std::env::args().skip(1);
    let archive = arguments.next().unwrap();
    let folder = arguments.next();
    let cache = tempfile::tempdir_in(std::env::current_dir().unwrap()).unwrap();
    let mut options = OpenOptions::default();
    options.cache_dir = cache.path().to_owned();
    let open = |source: &str, options: &OpenOptions| Dataset::open(source, Layout::Flat, options).unwrap();
    for round in 0..3 {
        println!("round {round}");
        if archive.ends_with("gz") {
            timed("gunzip, the limit", || {
                let file = BufReader::with_capacity(1 << 20, File::open(&archive).unwrap());
                let mut decoder = MultiGzDecoder::new(file);
                let mut buffer = vec![0; 1 << 18];
                let mut sum = 0u64;
                loop {
                    match decoder.read(&mut buffer).unwrap() {
                        0 => break format!("{:.1} MB", sum as f64 / 1e6),
                        n => sum += n as u64,
                    }
                }
            });
        }
        let _ = std::fs::remove_dir_all(cache.path());
        timed("first opening", || format!("{} images", open(&archive, &options).len()));
        timed("second opening", || format!("{} images", open(&archive, &options).len()));
        let dataset = open(&archive, &options);
        timed("reading every image", || read_all(&dataset));
        drop(dataset);
        if archive.ends_with("gz") {
            let _ = std::fs::remove_dir_all(cache.path());
            let mut in_place = options.clone();
            in_place.cache_limit = Some(1);
            timed("first opening, restart points", || format!("{} images", open(&archive, &in_place).len()));
            let dataset = open(&archive, &in_place);
            timed("reading through restart points", || read_all(&dataset));
        }
        if let Some(folder) = &folder {
            let dataset = open(folder, &options);
            timed("reading every file of the folder", || read_all(&dataset));
        }
    }
}

fn read_all(dataset: &Dataset) -> String {
    // Touched like a decoder does: every byte of a mapped file has to come.
    let sum: u64 = (0..dataset.len())
        .map(|i| dataset.read(i).unwrap().iter().map(|byte| u64::from(*byte)).sum::<u64>())
        .sum();
    format!("sum {sum}")
}

fn timed(what: &str, run: impl FnOnce() -> String) {
    let (cpu, wall) = (cpu_seconds(), Instant::now());
    let result = run();
    println!(
        "  {what:<34} {:8.3} s  {:8.3} s CPU  {result}",
        wall.elapsed().as_secs_f64(),
        cpu_seconds() - cpu
    );
}

/// User and system time of this process, in steps of 10 ms.
fn cpu_seconds() -> f64 {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap();
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap().split_whitespace().collect();
    (fields[11].parse::<f64>().unwrap() + fields[12].parse::<f64>().unwrap()) / 100.0
}

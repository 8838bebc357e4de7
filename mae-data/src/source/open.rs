//! Opens the sources of a data set, several at once.

use std::collections::HashMap;
use std::fs;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use super::address::Address;
use super::place::Opened;
use super::{OpenOptions, OpenProgress, archive, folder};
use crate::error::Error;

/// More archives at once only wait for the disk.
const MOST_THREADS: usize = 16;

/// Opens all sources, in their order. Of several errors, that of the first source is told.
pub(crate) fn open_all(
    source: &str,
    addresses: &[Address],
    options: &OpenOptions,
) -> Result<Vec<Opened>, Error> {
    if let [address] = addresses {
        return Ok(vec![open_one(address, options)?]);
    }
    let options = OpenOptions { progress: joined(source, addresses, options), ..options.clone() };
    let threads = std::thread::available_parallelism().map_or(1, |n| n.get().min(MOST_THREADS));
    let next = AtomicUsize::new(0);
    let mut results: Vec<(usize, Result<Opened, Error>)> = std::thread::scope(|scope| {
        let work = || {
            let mut results = Vec::new();
            loop {
                let index = next.fetch_add(1, Ordering::Relaxed);
                let Some(address) = addresses.get(index) else { return results };
                let result = open_one(address, &options);
                if result.is_err() {
                    // What was not begun is left.
                    next.store(addresses.len(), Ordering::Relaxed);
                }
                results.push((index, result));
            }
        };
        let workers: Vec<_> = (1..threads.min(addresses.len())).map(|_| scope.spawn(work)).collect();
        let mut results = work();
        for worker in workers {
            match worker.join() {
                Ok(more) => results.extend(more),
                Err(panic) => std::panic::resume_unwind(panic),
            }
        }
        results
    });
    results.sort_by_key(|(index, _)| *index);
    results.into_iter().map(|(_, result)| result).collect()
}

/// Opens one source.
pub(crate) fn open_one(address: &Address, options: &OpenOptions) -> Result<Opened, Error> {
    match address {
        Address::Local(path) => open_local(path, options),
        #[cfg(feature = "remote")]
        Address::Remote(url) => super::remote::open(url, options),
        #[cfg(not(feature = "remote"))]
        Address::Remote(url) => Err(Error::NoRemote { url: url.clone() }),
    }
}

fn open_local(path: &Path, options: &OpenOptions) -> Result<Opened, Error> {
    let metadata = fs::metadata(path).map_err(|e| match e.kind() {
        std::io::ErrorKind::NotFound => Error::NotFound { path: path.to_owned() },
        _ => Error::io("open", path, e),
    })?;
    if metadata.is_dir() { folder::open(path) } else { archive::open(path, options) }
}

/// One progress over all archives.
fn joined(source: &str, addresses: &[Address], options: &OpenOptions) -> Option<super::ProgressFn> {
    let tell = options.progress.clone()?;
    let source = source.to_owned();
    let size = |address: &Address| match address {
        Address::Local(path) => fs::metadata(path).map_or(0, |m| if m.is_file() { m.len() } else { 0 }),
        Address::Remote(_) => 0,
    };
    let local: u64 = addresses.iter().map(size).sum();
    let seen: Mutex<HashMap<String, (u64, u64)>> = Mutex::default();
    Some(Arc::new(move |progress: OpenProgress| {
        let (done, total) = {
            let mut seen = seen.lock().unwrap_or_else(PoisonError::into_inner);
            seen.insert(progress.archive, (progress.bytes_done, progress.bytes_total));
            seen.values().fold((0, 0), |sum, one| (sum.0 + one.0, sum.1 + one.1))
        };
        let bytes_total = total.max(local);
        tell(OpenProgress { archive: source.clone(), bytes_done: done.min(bytes_total), bytes_total });
    }))
}

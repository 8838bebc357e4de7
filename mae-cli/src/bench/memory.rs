//! Memory of this process, as Linux counts it.

use std::fs;

/// Memory in use now, in bytes; `None` where `/proc` does not say.
pub(super) fn resident() -> Option<u64> {
    field("VmRSS:")
}

/// The most memory that was in use since [`forget_peak`], or the process's start, in bytes.
pub(super) fn peak() -> Option<u64> {
    field("VmHWM:")
}

/// Starts the count of [`peak`] anew. Where the kernel does not allow it, the peak is that of the whole process.
pub(super) fn forget_peak() {
    // 5 is the kernel's code for the peak alone (proc(5), clear_refs).
    let _ = fs::write("/proc/self/clear_refs", "5");
}

fn field(name: &str) -> Option<u64> {
    let status = fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix(name))?;
    let kilobytes: u64 = line.split_whitespace().next()?.parse().ok()?;
    Some(kilobytes * 1024)
}

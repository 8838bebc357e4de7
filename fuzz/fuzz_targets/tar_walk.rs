//! The member table of a tar archive: any bytes give members that lie inside the archive, or an error.
#![no_main]

use libfuzzer_sys::fuzz_target;
use mae_data::source::tar;

fuzz_target!(|bytes: &[u8]| {
    let _ = tar::walk(bytes);
});

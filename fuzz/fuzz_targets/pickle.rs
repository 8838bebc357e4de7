//! The pickle machine: any bytes give data, or an error; nothing is run, and memory stays in proportion.
#![no_main]

use libfuzzer_sys::fuzz_target;
use mae_core::checkpoint::parse_pickle;

fuzz_target!(|bytes: &[u8]| {
    if let Ok(value) = parse_pickle(bytes, &[7; 256]) {
        for (_, view) in value.tensors() {
            let _ = view.to_contiguous_bytes();
        }
    }
});

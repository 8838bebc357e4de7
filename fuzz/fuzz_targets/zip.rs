//! The zip format of checkpoints: any bytes give a checkpoint whose tensors can be asked for, or an error.
#![no_main]

use libfuzzer_sys::fuzz_target;
use mae_core::checkpoint::parse_bytes;

fuzz_target!(|bytes: &[u8]| {
    if bytes.starts_with(b"PK")
        && let Ok(checkpoint) = parse_bytes(bytes)
    {
        let _ = checkpoint.verify();
        let _ = checkpoint.state_dict();
    }
});

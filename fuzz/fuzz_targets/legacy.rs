//! The formats of checkpoints before the zip format, and safetensors: any bytes give a checkpoint, or an error.
#![no_main]

use libfuzzer_sys::fuzz_target;
use mae_core::checkpoint::parse_bytes;

fuzz_target!(|bytes: &[u8]| {
    if let Ok(checkpoint) = parse_bytes(bytes) {
        let _ = checkpoint.verify();
        let _ = checkpoint.state_dict();
    }
});

//! A zip archive: any bytes give an error, or members of the size that their entry states, or an error for each.
#![no_main]

use libfuzzer_sys::fuzz_target;
use mae_data::source::zip;

fuzz_target!(|bytes: &[u8]| {
    let _ = zip::unpack(bytes, &mut |name, _| assert!(!name.starts_with('/') && name.split('/').all(|part| part != "..")));
});

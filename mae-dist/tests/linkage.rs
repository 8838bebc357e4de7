//! What an executable of the workspace needs from the loader: libtorch's CPU half and nothing else of
//! it, found without `LD_LIBRARY_PATH`. Were `libtorch.so` needed, so would be every CUDA library.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test ends by panicking")]

use std::path::Path;
use std::process::Command;

/// What may be needed; names with their versions cut off.
const ALLOWED: [&str; 8] = [
    "libtorch_cpu",
    "libc10",
    "libstdc++",
    "libgcc_s",
    "libc",
    "libm",
    "ld-linux-x86-64",
    "ld-linux-aarch64",
];

#[test]
fn only_the_cpu_half_of_libtorch_is_needed() {
    // This executable uses tensors, and through the crate c10d.
    assert_eq!(tch::Tensor::from_slice(&[1i64, 2]).sum(tch::Kind::Int64).int64_value(&[]), 3);
    assert!(
        mae_dist::c10d::Store::tcp(&mae_dist::c10d::TcpStoreOptions {
            host: "nul\0".into(),
            port: 0,
            role: mae_dist::c10d::StoreRole::Client,
            world_size: None,
            wait_for_workers: false,
            timeout: std::time::Duration::from_millis(1),
            rank: None,
        })
        .is_err()
    );

    let output = Command::new("readelf").arg("-d").arg(std::env::current_exe().unwrap()).output().unwrap();
    let output = String::from_utf8(output.stdout).unwrap();
    let bracketed = |tag: &str| -> Vec<&str> {
        let lines = output.lines().filter(|line| line.contains(tag));
        lines.filter_map(|line| line.split_once('[')?.1.strip_suffix(']')).collect()
    };
    let needed = bracketed("(NEEDED)");
    assert!(needed.contains(&"libtorch_cpu.so") && needed.contains(&"libc10.so"), "{needed:?}");
    for library in needed {
        let name = library.split(".so").next().unwrap();
        assert!(ALLOWED.contains(&name), "{library} is needed too");
    }
    let folders = bracketed("(RUNPATH)");
    let [folder] = folders[..] else { panic!("expected one run path, found {folders:?}") };
    assert!(
        Path::new(folder).is_absolute() && Path::new(folder).join("libtorch_cpu.so").is_file(),
        "{folder}"
    );
}

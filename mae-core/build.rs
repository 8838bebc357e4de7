//! Puts libtorch's folder into the run path of this package's tests, so that they run without
//! `LD_LIBRARY_PATH`.

use std::env;
use std::path::PathBuf;

fn main() -> Result<(), String> {
    println!("cargo::rerun-if-changed=build.rs");
    // torch-sys says where it found libtorch; cargo hands that only to its direct dependents.
    let libdir = env::var_os("DEP_TCH_LIBTORCH_LIB").map(PathBuf::from).ok_or(
        "torch-sys did not say where libtorch is (DEP_TCH_LIBTORCH_LIB); mae-core must depend on it directly",
    )?;
    // The workspace's .libtorch is a link: resolved here, the binaries outlive a change of it.
    let resolved = libdir
        .canonicalize()
        .map_err(|error| format!("libtorch's folder {}: {error}; run scripts/setup", libdir.display()))?;
    println!("cargo::rerun-if-changed={}", libdir.join("libc10.so").display());
    println!("cargo::rustc-link-arg=-Wl,-rpath,{}", resolved.display());
    Ok(())
}

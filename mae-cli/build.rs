//! Puts libtorch's folder into the run path of `mae` and of this package's tests.
//!
//! Linker arguments do not travel through Rust libraries, so every package with executables has to
//! give its own; `mae-dist` publishes the folder.

use std::env;

fn main() -> Result<(), String> {
    println!("cargo::rerun-if-changed=build.rs");
    let libdir = env::var("DEP_MAE_DIST_LIBDIR").map_err(|_| {
        "mae-dist did not say where libtorch is (DEP_MAE_DIST_LIBDIR); mae-cli must depend on it directly"
    })?;
    println!("cargo::rustc-link-arg=-Wl,-rpath,{libdir}");
    Ok(())
}

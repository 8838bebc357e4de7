//! Builds the C++ shim over libtorch's c10d, and tells the packages that depend on this one where
//! libtorch is (`DEP_MAE_DIST_LIBDIR`).

use std::env;
use std::path::PathBuf;

fn main() -> Result<(), String> {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-changed=native");
    let published = env::var_os("DEP_TCH_LIBTORCH_LIB").map(PathBuf::from).ok_or(
        "torch-sys did not say where libtorch is (DEP_TCH_LIBTORCH_LIB); mae-dist must depend on it directly",
    )?;
    // The workspace's .libtorch is a link: resolved here, the binaries outlive a change of it.
    let libdir = published
        .canonicalize()
        .map_err(|error| format!("libtorch's folder {}: {error}; run scripts/setup", published.display()))?;
    println!("cargo::rerun-if-changed={}", published.join("libc10.so").display());
    println!("cargo::metadata=LIBDIR={}", libdir.display());

    let include =
        env::var_os("LIBTORCH_INCLUDE").map_or_else(|| libdir.join(".."), PathBuf::from).join("include");
    let mut shim = cc::Build::new();
    shim.cpp(true)
        .std("c++17")
        .define("_GLIBCXX_USE_CXX11_ABI", "1")
        .define("USE_DISTRIBUTED", None)
        .define("USE_C10D_GLOO", None)
        .file("native/c10d.cpp");
    // -isystem: libtorch's headers are not ours to keep free of warnings.
    for folder in
        [PathBuf::from("native/gloo-headers"), include.clone(), include.join("torch/csrc/api/include")]
    {
        shim.flag("-isystem").flag(folder);
    }
    shim.compile("mae_dist");

    println!("cargo::rustc-link-lib=torch_cpu");
    println!("cargo::rustc-link-lib=c10");
    // For this package's own tests: linker arguments do not travel through Rust libraries.
    println!("cargo::rustc-link-arg=-Wl,-rpath,{}", libdir.display());
    Ok(())
}

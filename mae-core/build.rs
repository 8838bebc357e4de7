//! Builds the C++ shim over the parts of libtorch that its Rust binding lacks, and puts libtorch's folder into the run
//! path of this package's tests, so that they run without `LD_LIBRARY_PATH`.

use std::env;
use std::path::PathBuf;

/// Instruction sets that kernels are compiled for, and chosen among at run time.
const TARGETS: [(&str, &[&str]); 2] = [
    ("avx2", &["-mavx2", "-mfma"]),
    // GCC 12 takes its own intrinsics for uses of what is not initialised.
    (
        "avx512",
        &[
            "-mavx512f",
            "-mavx512bw",
            "-mavx512dq",
            "-mavx512vl",
            "-mavx512bf16",
            "-mfma",
            "-Wno-maybe-uninitialized",
        ],
    ),
];

fn main() -> Result<(), String> {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-changed=native");
    // torch-sys says where it found libtorch; cargo hands that only to its direct dependents.
    let libdir = env::var_os("DEP_TCH_LIBTORCH_LIB").map(PathBuf::from).ok_or(
        "torch-sys did not say where libtorch is (DEP_TCH_LIBTORCH_LIB); mae-core must depend on it directly",
    )?;
    // The workspace's .libtorch is a link: resolved here, the binaries outlive a change of it.
    let resolved = libdir
        .canonicalize()
        .map_err(|error| format!("libtorch's folder {}: {error}; run scripts/setup", libdir.display()))?;
    println!("cargo::rerun-if-changed={}", libdir.join("libc10.so").display());

    let include =
        env::var_os("LIBTORCH_INCLUDE").map_or_else(|| resolved.join(".."), PathBuf::from).join("include");
    let mut shim = cc::Build::new();
    shim.cpp(true).std("c++17").define("_GLIBCXX_USE_CXX11_ABI", "1").files([
        "native/ops.cpp",
        "native/kernels/depthwise.cpp",
        "native/kernels/convnext_block.cpp",
    ]);
    // Vectors never cross a function that is not inlined, so how they would be passed does not matter.
    shim.flag("-Wno-psabi");
    // at::parallel_for is a template: without OpenMP here it runs on one thread. The library is the one libtorch loads.
    shim.flag("-fopenmp");
    // -isystem: libtorch's headers are not ours to keep free of warnings.
    shim.flag("-isystem").flag(&include);
    shim.flag("-isystem").flag(include.join("torch/csrc/api/include"));
    shim.compile("mae_core");
    if env::var("CARGO_CFG_TARGET_ARCH").is_ok_and(|arch| arch == "x86_64") {
        for (target, flags) in TARGETS {
            let mut kernels = cc::Build::new();
            kernels.cpp(true).std("c++17").opt_level(3).flag("-Wno-psabi");
            flags.iter().for_each(|flag| {
                kernels.flag(flag);
            });
            kernels.file(format!("native/kernels/convnext_block_{target}.cpp"));
            kernels.compile(&format!("mae_core_{target}"));
        }
    }

    println!("cargo::rustc-link-lib=torch_cpu");
    println!("cargo::rustc-link-lib=c10");
    println!("cargo::rustc-link-lib=gomp");
    println!("cargo::rustc-link-arg=-Wl,-rpath,{}", resolved.display());
    Ok(())
}

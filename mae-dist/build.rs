//! Builds the C++ shim over libtorch's c10d, and tells the packages that depend on this one where
//! libtorch is (`DEP_MAE_DIST_LIBDIR`).

use std::env;
use std::path::{Path, PathBuf};

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
        .files(["native/c10d.cpp", "native/sharder.cpp", "native/sharder_calls.cpp"]);
    // -isystem: libtorch's headers are not ours to keep free of warnings.
    for folder in
        [PathBuf::from("native/gloo-headers"), include.clone(), include.join("torch/csrc/api/include")]
    {
        shim.flag("-isystem").flag(folder);
    }
    shim.compile("mae_dist");

    nccl(&libdir, &include)?;

    println!("cargo::rustc-link-lib=torch_cpu");
    println!("cargo::rustc-link-lib=c10");
    // For this package's own tests: linker arguments do not travel through Rust libraries.
    println!("cargo::rustc-link-arg=-Wl,-rpath,{}", libdir.display());
    Ok(())
}

/// Builds the library for several CUDA devices, where the headers of CUDA and NCCL are: in the folders that
/// `MAE_CUDA_INCLUDE` lists, beside a libtorch of PyTorch's wheels, or in /usr/local/cuda. Without them, nothing is built.
fn nccl(libdir: &Path, include: &Path) -> Result<(), String> {
    println!("cargo::rerun-if-env-changed=MAE_CUDA_INCLUDE");
    let wheels = libdir.join("../../nvidia");
    let given = env::var_os("MAE_CUDA_INCLUDE").unwrap_or_default();
    let mut folders: Vec<PathBuf> = env::split_paths(&given).filter(|folder| folder.is_dir()).collect();
    for root in [wheels.join("cu13/include"), wheels.join("nccl/include"), "/usr/local/cuda/include".into()] {
        folders.extend([root.join("cccl"), root].into_iter().filter(|folder| folder.is_dir()));
    }
    // The last two come in packages of their own, which PyTorch does not need.
    for header in ["nccl.h", "cuda_runtime_api.h", "cusparse.h", "crt/host_defines.h", "nv/target"] {
        if !folders.iter().any(|folder| folder.join(header).exists()) {
            return Ok(());
        }
    }
    let target = PathBuf::from(env::var_os("OUT_DIR").ok_or("cargo set no OUT_DIR")?).join("libmae_nccl.so");
    let mut command = cc::Build::new().cpp(true).std("c++17").pic(true).get_compiler().to_command();
    command.args(["-shared", "-D_GLIBCXX_USE_CXX11_ABI=1", "-DUSE_DISTRIBUTED", "-DUSE_C10D_GLOO"]);
    command.args(["-DUSE_C10D_NCCL", "-DUSE_CUDA"]);
    let own =
        [PathBuf::from("native/gloo-headers"), include.to_owned(), include.join("torch/csrc/api/include")];
    for folder in own.iter().chain(&folders) {
        command.arg("-isystem").arg(folder);
    }
    command.arg("native/nccl.cpp").arg("-o").arg(&target);
    let status = command.status().map_err(|error| format!("{command:?}: {error}"))?;
    if !status.success() {
        return Err(format!(
            "native/nccl.cpp: the compiler ended with {status}; MAE_CUDA_INCLUDE lists other headers"
        ));
    }
    println!("cargo::rustc-env=MAE_NCCL_BUILT={}", target.display());
    Ok(())
}

//! The machine: versions, libraries as they were really loaded, devices, threads, memory, disk.

use std::fs;
use std::path::{Path, PathBuf};

use mae_core::sys::Kernels;
use tch::{Device, Kind, Tensor};

use super::report::{Report, bytes};
use crate::actions::device;

/// The libtorch that this program is made for.
const LIBTORCH: &str = "2.11.0";

pub(super) fn examine(report: &mut Report) {
    report.section("Machine");
    report.note(
        "mae",
        format!("{} for {}-{}", env!("CARGO_PKG_VERSION"), std::env::consts::ARCH, std::env::consts::OS),
    );
    libraries(report);
    let device = gpu(report);
    precision(device, report);
    cpu(report);
    memory(report);
}

/// libtorch, CUDA and NCCL, from the files that are mapped into this process.
fn libraries(report: &mut Report) {
    let mapped = mapped_files();
    let find = |name: &str| mapped.iter().find(|path| file_name(path).starts_with(name));
    match find("libtorch_cpu.so") {
        None => report.warn("libtorch", "linked statically or not found among the loaded libraries"),
        Some(path) => match version_beside(path) {
            Some(version) if version.starts_with(LIBTORCH) => {
                report.note("libtorch", format!("{version}, {}", path.display()));
            }
            Some(version) => report.problem(
                "libtorch",
                format!(
                    "expected {LIBTORCH}, found {version} at {}\nhelp: unset LIBTORCH and LIBTORCH_USE_PYTORCH, run \
                     scripts/setup and build again",
                    path.display()
                ),
                2,
            ),
            None => report.warn("libtorch", format!("of unknown version, {}", path.display())),
        },
    }
    for (what, library) in [("CUDA", "libtorch_cuda.so"), ("CUDA runtime", "libcudart"), ("NCCL", "libnccl")]
    {
        match find(library) {
            Some(path) => report.note(what, format!("{}", path.display())),
            None if device::driver_is_there() => {
                report.warn(
                    what,
                    format!("{library} is not loaded, although this machine has an NVIDIA driver"),
                );
            }
            None => {}
        }
    }
}

/// The device that `device: auto` takes.
fn gpu(report: &mut Report) -> Device {
    let driver = fs::read_to_string("/proc/driver/nvidia/version").ok();
    let Some(driver) = driver.as_deref().and_then(|text| text.lines().next()) else {
        report.note("GPU", "no NVIDIA driver: everything runs on the CPU");
        return Device::Cpu;
    };
    report.note("driver", driver.trim());
    match device::visible() {
        Some(count) => {
            report.note("GPU", format!("{count} usable by libtorch"));
            Device::Cuda(0)
        }
        None => {
            report.problem(
                "GPU",
                "an NVIDIA driver is there, but libtorch cannot use it\nhelp: set device=cpu, or build with a libtorch \
                 2.11.0 that has CUDA (LIBTORCH_USE_PYTORCH=1 scripts/setup)",
                2,
            );
            Device::Cpu
        }
    }
}

/// Whether the device multiplies in bf16 and fp16, tried out.
fn precision(device: Device, report: &mut Report) {
    let works = |kind: Kind| {
        let matrix = Tensor::f_ones([8, 8], (kind, device))?;
        let sum = matrix.f_matmul(&matrix)?.f_sum(Kind::Float)?;
        f64::try_from(sum).map(|sum| sum == 512.0)
    };
    for (name, kind) in [("bf16", Kind::BFloat16), ("fp16", Kind::Half)] {
        match (works(kind), device) {
            (Ok(true), Device::Cpu) if !has_units(kind) => {
                report.note(name, "works, without units of its own in this CPU: fp32 is faster");
            }
            (Ok(true), _) => report.note(name, "works"),
            (Ok(false), _) => {
                report.warn(name, "gives wrong results on this device: use train.precision=fp32")
            }
            (Err(error), _) => {
                let error = error.to_string();
                let first = error.lines().next().unwrap_or_default();
                report.warn(name, format!("does not work here ({first}): use train.precision=fp32"));
            }
        }
    }
}

/// Whether the CPU has instructions for the type.
fn has_units(kind: Kind) -> bool {
    let flags = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let has = |flag: &str| flags.split_whitespace().any(|word| word == flag);
    match kind {
        Kind::BFloat16 => has("avx512_bf16") || has("amx_bf16") || has("bf16"),
        _ => has("avx512_fp16") || has("amx_fp16") || has("fphp"),
    }
}

fn cpu(report: &mut Report) {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let threads = usize::try_from(tch::get_num_threads()).unwrap_or(1);
    let flags = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let units: Vec<_> = ["avx2", "avx512f", "amx_tile", "asimd", "sve"]
        .into_iter()
        .filter(|unit| flags.split_whitespace().any(|word| word == *unit))
        .collect();
    report.note(
        "CPU",
        format!(
            "{cores} cores for this process ({}); threads that libtorch computes on: {threads}",
            units.join(", ")
        ),
    );
    match Kernels::chosen() {
        Ok(kernels) if kernels == Kernels::detected() => {
            report.note("CPU kernels", format!("{}, the fastest this CPU has", kernels.name()));
        }
        Ok(kernels) => report.warn(
            "CPU kernels",
            format!("{}, as MAE_KERNELS says; this CPU has {}", kernels.name(), Kernels::detected().name()),
        ),
        Err(error) => report.error("CPU kernels", &error.into()),
    }
    if threads > cores {
        report.warn("threads", format!("more threads than cores: set OMP_NUM_THREADS to at most {cores}"));
    }
    if cfg!(target_arch = "x86_64") && !units.contains(&"avx2") {
        report.warn("CPU", "without AVX2 libtorch is several times slower");
    }
}

fn memory(report: &mut Report) {
    let meminfo = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let kilobytes = |field: &str| {
        let line = meminfo.lines().find(|line| line.starts_with(field))?;
        line.split_whitespace().nth(1)?.parse::<u64>().ok()
    };
    let free = kilobytes("MemAvailable:").unwrap_or(0) * 1024;
    let total = kilobytes("MemTotal:").unwrap_or(0) * 1024;
    let limit =
        fs::read_to_string("/sys/fs/cgroup/memory.max").ok().and_then(|text| text.trim().parse::<u64>().ok());
    let limited =
        limit.filter(|limit| *limit < total).map(|limit| format!(", this process may use {}", bytes(limit)));
    report.note("memory", format!("{} of {} free{}", bytes(free), bytes(total), limited.unwrap_or_default()));
    if free < 1 << 30 {
        report.warn("memory", "less than 1 GB is free: large models or batches will not fit");
    }
}

/// Free bytes of the disk that a path lies on, or will lie on once its folders are made.
pub(super) fn free_space(path: &Path) -> Option<u64> {
    let there =
        path.ancestors().find(|folder| folder.exists()).filter(|folder| !folder.as_os_str().is_empty());
    let disk = rustix::fs::statvfs(there.unwrap_or(Path::new("."))).ok()?;
    Some(disk.f_bavail * disk.f_frsize)
}

fn mapped_files() -> Vec<PathBuf> {
    let maps = fs::read_to_string("/proc/self/maps").unwrap_or_default();
    let mut files: Vec<_> =
        maps.lines().filter_map(|line| line.find('/').map(|at| PathBuf::from(&line[at..]))).collect();
    files.dedup();
    files
}

/// The version in the folder that a library's `lib` lies in, as libtorch's archive or PyTorch's wheel says it.
fn version_beside(library: &Path) -> Option<String> {
    let root = library.parent()?.parent()?;
    if let Ok(version) = fs::read_to_string(root.join("build-version")) {
        return Some(version.trim().to_owned());
    }
    let text = fs::read_to_string(root.join("version.py")).ok()?;
    let line = text.lines().find(|line| line.starts_with("__version__"))?;
    Some(line.split(['\'', '"']).nth(1)?.to_owned())
}

fn file_name(path: &Path) -> &str {
    path.file_name().and_then(|name| name.to_str()).unwrap_or_default()
}

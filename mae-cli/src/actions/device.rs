//! CPU or CUDA. Never a silent fallback: a machine without an NVIDIA driver runs on the CPU and says so; a driver that
//! is there but cannot be used is an error.

use std::path::Path;

use tch::{Cuda, Device};

use crate::error::{Error, Result};
use crate::report::progress::Progress;
use crate::spec::schema::Device as Wanted;
use crate::spec::{Action, Plan};

/// Loads libtorch's CUDA part where a driver is, and sets the memory's rules. Call it first in `main`.
pub fn prepare() {
    mae_core::sys::keep_freed_memory();
    if driver_is_there()
        && let Err(reason) = mae_core::sys::load_cuda()
    {
        tracing::debug!(reason, "libtorch_cuda.so was not loaded");
    }
}

/// CUDA devices that libtorch can use; `None` where there is none.
pub(super) fn visible() -> Option<usize> {
    usize::try_from(Cuda::device_count()).ok().filter(|count| *count > 0 && Cuda::is_available())
}

/// The device of the process with this index on its node.
pub(super) fn choose(plan: &Plan, local_rank: usize, progress: &Progress) -> Result<Device> {
    let on_cpu = match plan.action() {
        Action::Export => plan.export.on_cpu,
        // The engine is built by another program, on the device that it is told.
        Action::GenTrtEngine => true,
        _ => false,
    };
    if on_cpu {
        return Ok(Device::Cpu);
    }
    let (device, remark) = find(plan.device, plan.gpu_id(local_rank))?;
    if let Some(remark) = remark {
        progress.say(remark);
    }
    Ok(device)
}

/// The device that is wanted, and what the user should know about it.
pub(crate) fn find(wanted: Wanted, gpu_id: usize) -> Result<(Device, Option<&'static str>)> {
    let usable = Cuda::is_available();
    match wanted {
        Wanted::Cpu => Ok((Device::Cpu, None)),
        Wanted::Cuda | Wanted::Auto if usable => Ok((Device::Cuda(gpu_id), None)),
        Wanted::Auto if !driver_is_there() => Ok((
            Device::Cpu,
            Some("Running on the CPU: this machine has no NVIDIA driver (device=cpu says that this is meant)."),
        )),
        Wanted::Cuda if !driver_is_there() => Err(Error::Device {
            problem: "device = cuda, but this machine has no NVIDIA driver".into(),
            help: "set device=cpu, or install the driver".into(),
        }),
        Wanted::Cuda | Wanted::Auto => Err(Error::Device {
            problem: "an NVIDIA driver is there, but libtorch cannot use it: libtorch_cuda.so is missing or does not load"
                .into(),
            help: "set device=cpu to train on the CPU; for the GPU, point LIBTORCH at a libtorch 2.11.0 with CUDA (the \
                   lib folder of pip's torch 2.11.0), run scripts/setup and build again"
                .into(),
        }),
    }
}

pub(super) fn driver_is_there() -> bool {
    Path::new("/proc/driver/nvidia/version").exists()
}

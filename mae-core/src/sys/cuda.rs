//! libtorch's CUDA part.

use libloading::os::unix::{Library, RTLD_GLOBAL, RTLD_NOW};

/// Loads libtorch's CUDA part, so that one binary serves machines with and without a GPU. Call it before anything asks
/// libtorch about CUDA: the answer is remembered for the life of the process.
///
/// # Errors
/// The loader's own words.
pub fn load_cuda() -> Result<(), String> {
    // SAFETY: libtorch_cuda.so is built to be loaded beside the libtorch_cpu.so of this process; its initialisers only
    // register operators and hooks. It stays loaded for the life of the process, so no symbol of it can dangle.
    match unsafe { Library::open(Some("libtorch_cuda.so"), RTLD_NOW | RTLD_GLOBAL) } {
        Ok(library) => {
            std::mem::forget(library);
            Ok(())
        }
        Err(error) => Err(error.to_string()),
    }
}

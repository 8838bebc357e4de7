//! libtorch's NCCL backend, which lives in a library of its own.

use std::ffi::c_void;
use std::path::PathBuf;
use std::ptr::NonNull;

use libloading::os::unix::{Library, RTLD_LOCAL, RTLD_NOW};

/// The library's name, beside the program.
const FILE: &str = "libmae_nccl.so";

/// The loaded library of `native/nccl.cpp`.
///
/// It is built where the headers of CUDA and NCCL are (`mae-dist/build.rs` says where it looks), and needs libtorch's CUDA
/// part to be loaded before it.
#[derive(Debug, Clone, Copy)]
pub struct Nccl {
    attach: NonNull<c_void>,
}

impl Nccl {
    /// Loads it: the file that `MAE_NCCL` names, else the one beside the program, else the one of this build.
    ///
    /// # Errors
    /// Why no candidate could be loaded, one line each.
    pub fn load() -> Result<Self, String> {
        let mut reasons = Vec::new();
        for path in candidates() {
            match Self::open(&path) {
                Ok(nccl) => return Ok(nccl),
                Err(reason) => reasons.push(format!("{}: {reason}", path.display())),
            }
        }
        if option_env!("MAE_NCCL_BUILT").is_none() {
            reasons.push("this build found no headers of CUDA and NCCL, and made none".into());
        }
        Err(reasons.join("\n"))
    }

    fn open(path: &PathBuf) -> Result<Self, String> {
        // SAFETY: the library only defines functions; its symbols are libtorch's, of the same version (it is built
        // from the same headers). It stays loaded for the life of the process, so `attach` cannot dangle.
        let library =
            unsafe { Library::open(Some(path), RTLD_NOW | RTLD_LOCAL) }.map_err(|error| error.to_string())?;
        // SAFETY: only the address is taken here; the call casts it to the function's own signature.
        let symbol =
            unsafe { library.get::<*mut c_void>(b"mae_nccl_attach\0") }.map_err(|error| error.to_string())?;
        let attach = NonNull::new(*symbol).ok_or("its function mae_nccl_attach is null")?;
        std::mem::forget(library);
        Ok(Self { attach })
    }

    /// The address of `mae_nccl_attach`.
    pub(super) fn attach(&self) -> *mut c_void {
        self.attach.as_ptr()
    }
}

fn candidates() -> Vec<PathBuf> {
    if let Some(path) = std::env::var_os("MAE_NCCL") {
        return vec![PathBuf::from(path)];
    }
    let beside = std::env::current_exe().ok().and_then(|program| Some(program.parent()?.join(FILE)));
    beside
        .into_iter()
        .filter(|path| path.exists())
        .chain(option_env!("MAE_NCCL_BUILT").map(PathBuf::from))
        .collect()
}

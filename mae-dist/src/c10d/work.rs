//! A collective operation that is under way.

use std::fmt;
use std::ptr::NonNull;

use tch::Tensor;

use super::ffi::{self, NativeError};
use super::process_group::Identity;
use super::store::made;
use crate::error::DistError;

/// A collective operation that is under way, and the tensor it will give back.
///
/// The tensor belongs to the operation until [`wait`](Self::wait) returns it: nothing else may read
/// or write its storage before (a shallow clone could, and would see it half done). A `Work` that is
/// dropped waits too, so that its storage is never written to after it was freed.
#[must_use = "the result is there only after wait()"]
pub struct Work {
    handle: NonNull<ffi::MaeWork>,
    operation: &'static str,
    identity: Identity,
    output: Option<Tensor>,
}

// SAFETY: c10d's Work is made to be waited for on any thread; the tensor is Send and not shared.
unsafe impl Send for Work {}

impl Work {
    /// Starts an operation that writes to `output`.
    pub(super) fn start(
        operation: &'static str,
        identity: &Identity,
        mut output: Tensor,
        start: impl FnOnce(*mut torch_sys::C_tensor, *mut *mut ffi::MaeWork) -> i32,
    ) -> Result<Self, DistError> {
        let pointer = output.as_mut_ptr();
        match made(|out| start(pointer, out)) {
            Ok(handle) => Ok(Self { handle, operation, identity: identity.clone(), output: Some(output) }),
            Err(error) => Err(identity.error(operation, error)),
        }
    }

    /// Waits until the operation is done on this rank, and gives its tensor back.
    ///
    /// # Errors
    /// [`DistError::Operation`] when a peer is lost, or when the group's timeout has passed; the group
    /// is then of no more use.
    pub fn wait(mut self) -> Result<Tensor, DistError> {
        self.finish().map_err(|error| self.identity.error(self.operation, error))?;
        self.output.take().ok_or_else(|| {
            let text = "the operation's tensor was taken before".into();
            self.identity.error(self.operation, NativeError { kind: ffi::ErrorKind::Unknown, text })
        })
    }

    fn finish(&mut self) -> Result<(), NativeError> {
        // SAFETY: the handle is valid while `self` lives.
        ffi::check(unsafe { ffi::mae_dist_work_wait(self.handle.as_ptr()) })
    }
}

impl Drop for Work {
    fn drop(&mut self) {
        if self.output.is_some() {
            // Whoever drops a running operation has no use for its error.
            let _ = self.finish();
        }
        // SAFETY: the handle is ours and freed once.
        unsafe { ffi::mae_dist_work_free(self.handle.as_ptr()) }
    }
}

impl fmt::Debug for Work {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Work").field("operation", &self.operation).finish_non_exhaustive()
    }
}

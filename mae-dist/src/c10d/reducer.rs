//! Averaging gradients while the backward pass still runs.

use std::ffi::c_int;
use std::fmt;
use std::ptr::NonNull;

use tch::Tensor;

use super::ProcessGroup;
use super::ffi::{self, NativeError};
use super::process_group::Identity;
use super::store::made;
use crate::error::DistError;

/// Bytes of the first bucket, whose gradients come last in the backward pass: nothing is left to hide a large
/// one behind. PyTorch's value.
const FIRST_BUCKET_BYTES: usize = 1 << 20;

/// The engine of PyTorch's DistributedDataParallel.
///
/// It watches the gradients of some parameters. As soon as those of one bucket are there, they are averaged over
/// the ranks, while the backward pass goes on with earlier layers. Gradients are views of the buckets, so nothing
/// is copied. The buckets follow from the parameters alone and never change: a step has the same bits whenever the
/// run was started.
pub struct Reducer {
    handle: NonNull<ffi::MaeReducer>,
    identity: Identity,
    parameters: usize,
}

// SAFETY: the handle owns a c10d reducer, which is used by one thread at a time; `&Reducer` does not cross threads
// (not Sync).
unsafe impl Send for Reducer {}

impl Reducer {
    /// Compares kinds and shapes of the parameters with those of rank 0, and plans the buckets. `parameters` are
    /// leaves that require gradients, in the order of the forward pass.
    ///
    /// # Errors
    /// [`DistError::Operation`]: the ranks hold different parameters, or a peer is lost.
    pub fn new(
        group: &ProcessGroup,
        parameters: &mut [Tensor],
        bucket_bytes: usize,
    ) -> Result<Self, DistError> {
        const OPERATION: &str = "Reducer";
        let pointers: Vec<_> = parameters.iter_mut().map(Tensor::as_mut_ptr).collect();
        // SAFETY: the pointers are to tensors that are borrowed until the call returns; the reducer keeps its own
        // references. The group's handle is valid, `out` is a place to write to.
        let handle = made(|out| unsafe {
            ffi::mae_dist_reducer_new(
                group.as_ptr(),
                pointers.as_ptr(),
                pointers.len(),
                bucket_bytes,
                FIRST_BUCKET_BYTES,
                out,
            )
        });
        let identity = group.identity().clone();
        match handle {
            Ok(handle) => Ok(Self { handle, identity, parameters: parameters.len() }),
            Err(error) => Err(identity.error(OPERATION, error)),
        }
    }

    /// How many parameters it watches.
    #[must_use]
    pub fn parameters(&self) -> usize {
        self.parameters
    }

    /// Runs the backward pass of `loss` (a scalar) and returns when every gradient is its mean over the ranks.
    ///
    /// # Errors
    /// [`DistError::Operation`] named `all_reduce`: a lost or late peer, or a failure of the backward pass itself.
    /// The reducer and its group are then of no more use.
    pub fn backward(&self, loss: &Tensor) -> Result<(), DistError> {
        const OPERATION: &str = "all_reduce";
        let mut loss = loss.shallow_clone();
        // SAFETY: handle and tensor are valid; both calls only borrow them.
        let prepared = unsafe { ffi::mae_dist_reducer_prepare(self.handle.as_ptr(), loss.as_mut_ptr()) };
        self.check(OPERATION, prepared)?;
        // SAFETY: the tensor is valid.
        let done = unsafe { ffi::mae_dist_backward(loss.as_mut_ptr()) };
        self.check(OPERATION, done)
    }

    fn check(&self, operation: &'static str, code: c_int) -> Result<(), DistError> {
        ffi::check(code).map_err(|error: NativeError| self.identity.error(operation, error))
    }
}

impl Drop for Reducer {
    fn drop(&mut self) {
        // SAFETY: the handle is ours and freed once; freeing takes its hooks off the parameters.
        unsafe { ffi::mae_dist_reducer_free(self.handle.as_ptr()) }
    }
}

impl fmt::Debug for Reducer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reducer").field("parameters", &self.parameters).finish_non_exhaustive()
    }
}

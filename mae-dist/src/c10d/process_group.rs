//! The processes that compute together.

use std::ffi::c_int;
use std::fmt;
use std::ptr::{self, NonNull};
use std::sync::Arc;
use std::time::Duration;

use tch::Tensor;

use super::ffi::{self, NativeError};
use super::store::made;
use super::{Nccl, Store, Work, describe, milliseconds};
use crate::error::{DistError, Origin};

/// How values of several ranks become one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReduceOp {
    /// Their sum.
    Sum = 0,
    /// The smallest.
    Min = 1,
    /// The largest.
    Max = 2,
}

/// How to make a group on gloo, c10d's backend for tensors in main memory.
#[derive(Debug, Clone)]
pub struct GlooOptions {
    /// The index of this process, `0 <= rank < world_size`.
    pub rank: usize,
    /// How many processes the group has.
    pub world_size: usize,
    /// How long making the group, and then every operation, may take.
    pub timeout: Duration,
    /// Network interfaces to listen on, such as `eth0`; may be empty.
    pub interfaces: Vec<String>,
    /// Without interfaces: a name or address of this machine to listen on. `None` is what the
    /// machine's own name resolves to, or loopback if it does not.
    pub address: Option<String>,
    /// Threads that run operations; as many operations can be under way at once.
    pub threads: usize,
}

/// A c10d process group.
///
/// Every operation must be called by all ranks, in the same order, with tensors of the same shape and
/// dtype, dense and in main memory. After an operation failed, the group is of no more use: drop it
/// (its peers then see closed connections at once, instead of waiting for their timeout) and end.
///
/// Dropping a group ends its connections.
pub struct ProcessGroup {
    handle: NonNull<ffi::MaeProcessGroup>,
    identity: Identity,
    world_size: usize,
}

// SAFETY: the handle owns an atomically counted reference to a c10d process group, whose operations
// may be called from any one thread at a time; `&ProcessGroup` does not cross threads (not Sync).
unsafe impl Send for ProcessGroup {}

/// Who to name in the errors of a group and of its operations.
#[derive(Debug, Clone)]
pub(super) struct Identity(Arc<Origin>);

impl Identity {
    pub(super) fn error(&self, operation: &'static str, error: NativeError) -> DistError {
        let (failure, reason) = describe(error);
        DistError::Operation { operation, origin: Origin::clone(&self.0), failure, reason }
    }
}

impl ProcessGroup {
    /// Makes the group: returns when every rank has connected to every other.
    ///
    /// The keys are those of `torch.distributed.init_process_group("gloo")`, so that Python processes
    /// can be ranks of the same group.
    ///
    /// # Errors
    /// [`DistError::Operation`] named `init_process_group`: a rank did not come within the timeout, or
    /// an interface or address is not one of this machine.
    pub fn gloo(store: &Store, options: &GlooOptions) -> Result<Self, DistError> {
        const OPERATION: &str = "init_process_group";
        let identity = Identity(Arc::new(Origin { rank: Some(options.rank), host: crate::host_name() }));
        let make = || {
            let interfaces =
                options.interfaces.iter().map(|name| ffi::c_string(name)).collect::<Result<Vec<_>, _>>()?;
            let interfaces: Vec<_> = interfaces.iter().map(|name| name.as_ptr()).collect();
            let address = options.address.as_deref().map(ffi::c_string).transpose()?;
            let (rank, world_size) = (to_int(options.rank)?, to_int(options.world_size)?);
            let threads = to_int(options.threads.max(1))?;
            // SAFETY: all strings outlive the call, the store's handle is valid, `out` is a place to
            // write to.
            made(|out| unsafe {
                ffi::mae_dist_process_group_gloo_new(
                    store.as_ptr(),
                    rank,
                    world_size,
                    milliseconds(options.timeout),
                    interfaces.as_ptr(),
                    interfaces.len(),
                    address.as_ref().map_or(ptr::null(), |address| address.as_ptr()),
                    threads,
                    out,
                )
            })
        };
        match make() {
            Ok(handle) => Ok(Self { handle, identity, world_size: options.world_size }),
            Err(error) => Err(identity.error(OPERATION, error)),
        }
    }

    /// Gives the group NCCL for tensors on a CUDA device, beside gloo for those in main memory. All ranks call it.
    ///
    /// # Errors
    /// [`DistError::Operation`] if the backend cannot be made.
    pub fn attach_nccl(
        &self,
        nccl: &Nccl,
        store: &Store,
        device: usize,
        timeout: Duration,
    ) -> Result<(), DistError> {
        const OPERATION: &str = "init_process_group(nccl)";
        let device = to_int(device).map_err(|error| self.identity.error(OPERATION, error))?;
        // SAFETY: both handles are valid; `attach` is the function of native/nccl.cpp, whose library stays loaded, with
        // the signature that native/c10d.cpp calls it with.
        let code = unsafe {
            ffi::mae_dist_process_group_attach_nccl(
                self.handle.as_ptr(),
                store.as_ptr(),
                nccl.attach(),
                device,
                milliseconds(timeout),
            )
        };
        self.check(OPERATION, code)
    }

    /// The index of this process in the group.
    #[must_use]
    pub fn rank(&self) -> usize {
        self.identity.0.rank.unwrap_or(0)
    }

    /// How many processes the group has.
    #[must_use]
    pub fn world_size(&self) -> usize {
        self.world_size
    }

    /// Changes how long operations that start from now on may take.
    ///
    /// # Errors
    /// [`DistError::Operation`] if the backend refuses.
    pub fn set_timeout(&self, timeout: Duration) -> Result<(), DistError> {
        // SAFETY: the handle is valid while `self` lives.
        let code =
            unsafe { ffi::mae_dist_process_group_set_timeout(self.handle.as_ptr(), milliseconds(timeout)) };
        self.check("set_timeout", code)
    }

    /// Returns when every rank has called it.
    ///
    /// # Errors
    /// [`DistError::Operation`]: a lost or late peer.
    pub fn barrier(&self) -> Result<(), DistError> {
        // SAFETY: the handle is valid while `self` lives.
        let code = unsafe { ffi::mae_dist_barrier(self.handle.as_ptr()) };
        self.check("barrier", code)
    }

    /// Like [`barrier`](Self::barrier), but rank 0 says which ranks did not come.
    ///
    /// # Errors
    /// [`DistError::Operation`]: a lost or late peer.
    pub fn monitored_barrier(&self, timeout: Duration) -> Result<(), DistError> {
        // SAFETY: the handle is valid while `self` lives.
        let code = unsafe { ffi::mae_dist_monitored_barrier(self.handle.as_ptr(), milliseconds(timeout)) };
        self.check("monitored_barrier", code)
    }

    /// Starts to copy the tensor of rank `root` into the tensors of all ranks.
    ///
    /// # Errors
    /// [`DistError::Tensor`]: a tensor that is not contiguous. [`DistError::Operation`]: one that is not in
    /// main memory.
    pub fn broadcast(&self, tensor: Tensor, root: usize) -> Result<Work, DistError> {
        const OPERATION: &str = "broadcast";
        check_contiguous(OPERATION, &tensor)?;
        let root = to_int(root).map_err(|error| self.identity.error(OPERATION, error))?;
        // SAFETY: group and tensor are valid; the Work holds the tensor until the operation is done.
        Work::start(OPERATION, &self.identity, tensor, |tensor, out| unsafe {
            ffi::mae_dist_broadcast(self.handle.as_ptr(), tensor, root, out)
        })
    }

    /// Copies the tensors of rank `root` into those of all ranks, several tensors a message of up to
    /// `buffer_bytes`. Any shape, strides and dtype.
    ///
    /// # Errors
    /// [`DistError::Operation`]: a lost or late peer.
    pub fn broadcast_coalesced(
        &self,
        tensors: &mut [Tensor],
        buffer_bytes: usize,
        root: usize,
    ) -> Result<(), DistError> {
        const OPERATION: &str = "broadcast_coalesced";
        if let Some(index) = tensors.iter().position(|tensor| !tensor.defined()) {
            let (expected, found) = ("a tensor that is defined", "an undefined one".into());
            return Err(DistError::Tensor { operation: OPERATION, index, expected, found });
        }
        let root = to_int(root).map_err(|error| self.identity.error(OPERATION, error))?;
        let pointers: Vec<_> = tensors.iter_mut().map(Tensor::as_mut_ptr).collect();
        // SAFETY: the pointers are to tensors that are borrowed until the call returns, and it returns
        // only when the operation is done.
        let code = unsafe {
            ffi::mae_dist_broadcast_coalesced(
                self.handle.as_ptr(),
                pointers.as_ptr(),
                pointers.len(),
                buffer_bytes,
                root,
            )
        };
        self.check(OPERATION, code)
    }

    /// Starts to reduce the tensors of all ranks, elementwise; every rank gets the same bits.
    ///
    /// # Errors
    /// [`DistError::Tensor`]: a tensor that is not contiguous. [`DistError::Operation`]: one that is not in
    /// main memory, or of a dtype that cannot be reduced.
    pub fn all_reduce(&self, tensor: Tensor, op: ReduceOp) -> Result<Work, DistError> {
        const OPERATION: &str = "all_reduce";
        check_contiguous(OPERATION, &tensor)?;
        // SAFETY: group and tensor are valid; the Work holds the tensor until the operation is done.
        Work::start(OPERATION, &self.identity, tensor, |tensor, out| unsafe {
            ffi::mae_dist_all_reduce(self.handle.as_ptr(), tensor, op as c_int, out)
        })
    }

    /// Starts to gather the tensors of all ranks, each `[N]`, one after the other in rank order, as
    /// `[world_size * N]`.
    ///
    /// # Errors
    /// [`DistError::Tensor`]: a tensor that is not contiguous. [`DistError::Operation`]: one that is not in
    /// main memory.
    pub fn all_gather_into_tensor(&self, mut input: Tensor) -> Result<Work, DistError> {
        const OPERATION: &str = "all_gather_into_tensor";
        check_contiguous(OPERATION, &input)?;
        let elements = self.world_size * input.numel();
        let output = i64::try_from(elements)
            .map_err(|_| format!("{elements} elements are too many for a tensor"))
            .and_then(|elements| {
                Tensor::f_empty([elements], (input.kind(), input.device())).map_err(|error| reason(&error))
            })
            .map_err(|text| {
                self.identity.error(OPERATION, NativeError { kind: ffi::ErrorKind::Torch, text })
            })?;
        // SAFETY: group and tensors are valid; c10d's own Work holds a reference to each of them.
        Work::start(OPERATION, &self.identity, output, |output, out| unsafe {
            ffi::mae_dist_all_gather_into_tensor(self.handle.as_ptr(), output, input.as_mut_ptr(), out)
        })
    }

    /// Ends operations that are under way, where the backend can (gloo cannot: they end with their
    /// timeout), and the group.
    ///
    /// # Errors
    /// [`DistError::Operation`] if the backend fails to.
    pub fn abort(self) -> Result<(), DistError> {
        // SAFETY: the handle is valid while `self` lives.
        let code = unsafe { ffi::mae_dist_process_group_abort(self.handle.as_ptr()) };
        self.check("abort", code)
    }

    pub(super) fn as_ptr(&self) -> *mut ffi::MaeProcessGroup {
        self.handle.as_ptr()
    }

    pub(super) fn identity(&self) -> &Identity {
        &self.identity
    }

    /// An error of this rank for a computation on tensors around an operation.
    pub(crate) fn tensor_error(&self, operation: &'static str, error: &tch::TchError) -> DistError {
        self.identity.error(operation, NativeError { kind: ffi::ErrorKind::Torch, text: reason(error) })
    }

    fn check(&self, operation: &'static str, code: c_int) -> Result<(), DistError> {
        ffi::check(code).map_err(|error| self.identity.error(operation, error))
    }
}

impl Drop for ProcessGroup {
    fn drop(&mut self) {
        // SAFETY: the handle is ours and freed once.
        unsafe { ffi::mae_dist_process_group_free(self.handle.as_ptr()) }
    }
}

impl fmt::Debug for ProcessGroup {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ProcessGroup")
            .field("origin", &self.identity.0)
            .field("world_size", &self.world_size)
            .finish()
    }
}

fn to_int(value: usize) -> Result<c_int, NativeError> {
    c_int::try_from(value).map_err(|_| NativeError {
        kind: ffi::ErrorKind::Standard,
        text: format!("expected a number up to {}, found {value}", c_int::MAX),
    })
}

/// gloo reads and writes a tensor's storage as one block of `numel` elements, whatever its strides say:
/// it would give wrong values, or write outside of the storage.
fn check_contiguous(operation: &'static str, tensor: &Tensor) -> Result<(), DistError> {
    let found = if !tensor.defined() {
        "an undefined one".to_owned()
    } else if !tensor.is_contiguous() {
        format!("shape {:?} with strides {:?}", tensor.size(), tensor.stride())
    } else {
        return Ok(());
    };
    Err(DistError::Tensor { operation, index: 0, expected: "a contiguous tensor", found })
}

/// What libtorch said, without the C++ backtrace that tch's errors carry.
fn reason(error: &tch::TchError) -> String {
    let text = error.to_string();
    text.split("Exception raised from").next().unwrap_or_default().to_owned()
}

//! Parameters, gradients and optimizer state in shares: `native/sharder.h`.

use std::ffi::c_int;
use std::fmt;
use std::ptr::{self, NonNull};

use tch::{Kind, Tensor};
use torch_sys::C_tensor;

use super::ProcessGroup;
use super::ffi::{self, NativeError};
use super::process_group::Identity;
use super::store::made;
use crate::error::DistError;

/// How the parameters of a unit are sent and computed with. Shares and gradients are fp32.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct UnitOptions {
    /// The dtype in which they travel.
    pub wire: Kind,
    /// The dtype that they have when they are gathered.
    pub held: Kind,
    /// Whether they stay gathered throughout a pass.
    pub stays: bool,
}

/// Keeps this rank's share of parameters, and gathers and reduces them in units, such as one block of a network.
///
/// [`gather`](Self::gather) and [`release`](Self::release) go around the forward pass of a unit, and
/// [`backward`](Self::backward) does the rest: it gathers each unit anew shortly before its gradients are computed, and
/// sums these over the ranks, of which each keeps its part. The unit that comes next is gathered ahead.
pub struct Sharder {
    handle: NonNull<ffi::MaeSharderHandle>,
    identity: Identity,
    world_size: usize,
    units: usize,
}

// SAFETY: the handle owns a C++ object that is used by one thread at a time; `&Sharder` does not cross threads (not Sync).
unsafe impl Send for Sharder {}

/// A parameter of a unit.
#[derive(Debug)]
pub struct ShardedParameter {
    /// It as a whole: a leaf of its full shape, whose storage is empty but while the unit is gathered.
    pub whole: Tensor,
    /// This rank's part, `[length]` fp32: a leaf, which gets the gradients.
    pub share: Tensor,
    /// First element of each rank's part, and how many it has.
    pub parts: Vec<(i64, i64)>,
}

impl Sharder {
    /// Without units yet.
    ///
    /// # Errors
    /// [`DistError::Operation`] if memory runs out.
    pub fn new(group: &ProcessGroup) -> Result<Self, DistError> {
        let identity = group.identity().clone();
        // SAFETY: the group's handle is valid, `out` is a place to write to.
        match made(|out| unsafe { ffi::mae_dist_sharder_new(group.as_ptr(), out) }) {
            Ok(handle) => Ok(Self { handle, identity, world_size: group.world_size(), units: 0 }),
            Err(error) => Err(identity.error("Sharder", error)),
        }
    }

    /// Takes fp32 parameters as the next unit, numbered from 0, and copies this rank's share of each. All ranks do so
    /// with the same ones; nothing is sent.
    ///
    /// # Errors
    /// [`DistError::Operation`] for other dtypes, or if memory runs out.
    pub fn add(
        &mut self,
        parameters: &[Tensor],
        options: UnitOptions,
    ) -> Result<Vec<ShardedParameter>, DistError> {
        let (wire, held) = (self.scalar_type(options.wire)?, self.scalar_type(options.held)?);
        let mut handles: Vec<_> = parameters.iter().map(Tensor::shallow_clone).collect();
        let pointers: Vec<_> = handles.iter_mut().map(Tensor::as_mut_ptr).collect();
        // SAFETY: handle and tensors are valid and borrowed for the call.
        let code = unsafe {
            ffi::mae_dist_sharder_add(
                self.handle.as_ptr(),
                pointers.as_ptr(),
                pointers.len(),
                wire,
                held,
                c_int::from(options.stays),
            )
        };
        self.check("Sharder", code)?;
        let unit = self.units;
        self.units += 1;
        (0..parameters.len()).map(|place| self.parameter(unit, place)).collect()
    }

    fn parameter(&self, unit: usize, place: usize) -> Result<ShardedParameter, DistError> {
        let (mut whole, mut share): (*mut C_tensor, *mut C_tensor) = (ptr::null_mut(), ptr::null_mut());
        // SAFETY: the handle is valid, and `whole` and `share` are places to write to.
        let code = unsafe {
            ffi::mae_dist_sharder_tensors(self.handle.as_ptr(), unit, place, &raw mut whole, &raw mut share)
        };
        self.check("Sharder", code)?;
        // SAFETY: the call succeeded: both are new `at::Tensor`s that nobody else owns.
        let (whole, share) = unsafe { (Tensor::from_ptr(whole), Tensor::from_ptr(share)) };
        let parts = (0..self.world_size).map(|rank| self.part(unit, place, rank));
        Ok(ShardedParameter { whole, share, parts: parts.collect::<Result<_, _>>()? })
    }

    fn part(&self, unit: usize, place: usize, rank: usize) -> Result<(i64, i64), DistError> {
        let (mut start, mut length) = (0, 0);
        // SAFETY: the handle is valid, and `start` and `length` are places to write to.
        let code = unsafe {
            ffi::mae_dist_sharder_part(
                self.handle.as_ptr(),
                unit,
                place,
                rank as i64,
                &raw mut start,
                &raw mut length,
            )
        };
        self.check("Sharder", code)?;
        Ok((start, length))
    }

    /// Begins a forward pass: whatever is still gathered is released.
    ///
    /// # Errors
    /// [`DistError::Operation`]: a lost or late peer.
    pub fn begin_pass(&self) -> Result<(), DistError> {
        // SAFETY: the handle is valid while `self` lives.
        let code = unsafe { ffi::mae_dist_sharder_begin_pass(self.handle.as_ptr()) };
        self.check("all_gather", code)
    }

    /// Gathers units, so that their parameters can be computed with. The storage of the others stays empty: whoever
    /// reads it reads nowhere.
    ///
    /// # Errors
    /// [`DistError::Operation`]: a lost or late peer.
    pub fn gather(&self, units: &[usize]) -> Result<(), DistError> {
        // SAFETY: the handle is valid, and the units are borrowed for the call, which checks their numbers.
        let code = unsafe { ffi::mae_dist_sharder_gather(self.handle.as_ptr(), units.as_ptr(), units.len()) };
        self.check("all_gather", code)
    }

    /// Releases units. They are gathered again in the backward pass, when the gradient of `output` is there: whatever
    /// was computed with them leads to `output` alone.
    ///
    /// # Errors
    /// [`DistError::Operation`]: a lost or late peer.
    pub fn release(&self, units: &[usize], output: &Tensor) -> Result<(), DistError> {
        let mut output = output.shallow_clone();
        // SAFETY: handle and tensor are valid, and the units are borrowed for the call, which checks their numbers.
        let code = unsafe {
            ffi::mae_dist_sharder_release(
                self.handle.as_ptr(),
                units.as_ptr(),
                units.len(),
                output.as_mut_ptr(),
            )
        };
        self.check("all_gather", code)
    }

    /// Runs the backward pass of `loss` (a scalar), after which each share's gradient is its mean over the ranks, added to
    /// what was there before. Nothing is gathered any more.
    ///
    /// # Errors
    /// [`DistError::Operation`]: a lost or late peer, or a failure of the backward pass itself.
    pub fn backward(&self, loss: &Tensor) -> Result<(), DistError> {
        let mut loss = loss.shallow_clone();
        // SAFETY: handle and tensor are valid.
        let code = unsafe { ffi::mae_dist_sharder_backward(self.handle.as_ptr(), loss.as_mut_ptr()) };
        self.check("reduce_scatter", code)
    }

    /// libtorch's number of a dtype (`c10::ScalarType`).
    fn scalar_type(&self, kind: Kind) -> Result<c_int, DistError> {
        match kind {
            Kind::Half => Ok(5),
            Kind::Float => Ok(6),
            Kind::BFloat16 => Ok(15),
            other => {
                let text = format!("expected parameters in Float, BFloat16 or Half, found {other:?}");
                Err(self.identity.error("Sharder", NativeError { kind: ffi::ErrorKind::Torch, text }))
            }
        }
    }

    fn check(&self, operation: &'static str, code: c_int) -> Result<(), DistError> {
        ffi::check(code).map_err(|error: NativeError| self.identity.error(operation, error))
    }
}

impl Drop for Sharder {
    fn drop(&mut self) {
        // SAFETY: the handle is ours and freed once. Hooks that outlive it hold no reference, and do nothing.
        unsafe { ffi::mae_dist_sharder_free(self.handle.as_ptr()) }
    }
}

impl fmt::Debug for Sharder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sharder").field("units", &self.units).finish_non_exhaustive()
    }
}

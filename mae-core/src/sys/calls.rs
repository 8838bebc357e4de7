//! The functions of `native/ops.cpp`, made safe.

use std::ffi::{CStr, c_char, c_int};

use tch::{Device, Tensor};
use torch_sys::C_tensor;

use crate::error::{Error, Result};

unsafe extern "C" {
    fn mae_core_error() -> *const c_char;
    fn mae_core_keep_freed_memory();
    fn mae_core_grad_enabled() -> c_int;
    fn mae_core_upload(tensor: *const C_tensor, gpu: i64, out: *mut *mut C_tensor) -> c_int;
    fn mae_core_clear_grad(tensor: *const C_tensor) -> c_int;
    fn mae_core_fused_adamw(
        params: *const *const C_tensor,
        grads: *const *const C_tensor,
        exp_avgs: *const *const C_tensor,
        exp_avg_sqs: *const *const C_tensor,
        count: usize,
        step: *const C_tensor,
        lr: f64,
        beta1: f64,
        beta2: f64,
        weight_decay: f64,
        eps: f64,
    ) -> c_int;
}

/// Has this process keep the memory that it frees, for the next use. Training on a CPU allocates the same large tensors in
/// every step, and with glibc's usual rules the system would clear their pages anew each time: a tenth of the time and more.
/// A program calls this once, before it computes; where the C library is not glibc it does nothing.
pub fn keep_freed_memory() {
    // SAFETY: sets three parameters of the C library's allocator, which takes its own lock.
    unsafe { mae_core_keep_freed_memory() }
}

/// Whether operations on this thread are recorded for a backward pass.
pub(crate) fn grad_enabled() -> bool {
    // SAFETY: reads a thread-local flag.
    unsafe { mae_core_grad_enabled() != 0 }
}

/// A tensor of main memory on a device. On the way to a GPU it goes through page-locked memory, which the GPU reads while
/// this thread goes on.
///
/// # Errors
/// When memory runs out, there or here.
pub fn upload(tensor: &Tensor, device: Device) -> Result<Tensor> {
    let Device::Cuda(gpu) = device else { return Ok(tensor.f_to_device(device)?) };
    let mut out = std::ptr::null_mut();
    // SAFETY: the tensor is alive for the call, and `out` is a place for one pointer.
    check(unsafe { mae_core_upload(tensor.as_ptr(), gpu as i64, &raw mut out) })?;
    // SAFETY: on success the shim has put a tensor there that is ours.
    Ok(unsafe { Tensor::from_ptr(out) })
}

/// Drops a tensor's gradient, so that the next backward pass writes it anew instead of adding to zeros.
///
/// # Errors
/// When libtorch refuses.
pub fn clear_grad(tensor: &mut Tensor) -> Result<()> {
    // SAFETY: tch's pointer is that of a live `at::Tensor`, which `tensor` borrows exclusively.
    check(unsafe { mae_core_clear_grad(tensor.as_ptr()) })
}

/// One parameter's part of an AdamW step. All four tensors have one shape and are fp32.
#[derive(Debug)]
pub(crate) struct AdamWUpdate {
    pub(crate) param: Tensor,
    pub(crate) grad: Tensor,
    pub(crate) exp_avg: Tensor,
    pub(crate) exp_avg_sq: Tensor,
}

/// `torch.optim.AdamW(fused=True)` for parameters of one group that have made equally many steps: parameters and moments
/// change in place. `step` counts this one.
pub(crate) fn fused_adamw(
    updates: &[AdamWUpdate],
    step: i64,
    lr: f64,
    (beta1, beta2): (f64, f64),
    weight_decay: f64,
    eps: f64,
) -> Result<()> {
    let Some(first) = updates.first() else { return Ok(()) };
    let step = Tensor::f_from_slice(&[step as f32])?.f_squeeze()?.f_to_device(first.param.device())?;
    let pointers = |of: fn(&AdamWUpdate) -> &Tensor| -> Vec<*const C_tensor> {
        updates.iter().map(|update| of(update).as_ptr()).collect()
    };
    let (params, grads) = (pointers(|u| &u.param), pointers(|u| &u.grad));
    let (exp_avgs, exp_avg_sqs) = (pointers(|u| &u.exp_avg), pointers(|u| &u.exp_avg_sq));
    // SAFETY: the four lists have `updates.len()` pointers to live `at::Tensor`s, which `updates` keeps alive; so does
    // `step`. libtorch checks devices and dtypes, and the shim that the storages can be walked side by side.
    check(unsafe {
        mae_core_fused_adamw(
            params.as_ptr(),
            grads.as_ptr(),
            exp_avgs.as_ptr(),
            exp_avg_sqs.as_ptr(),
            updates.len(),
            step.as_ptr(),
            lr,
            beta1,
            beta2,
            weight_decay,
            eps,
        )
    })
}

pub(super) fn check(code: c_int) -> Result<()> {
    if code == 0 {
        return Ok(());
    }
    // SAFETY: the text lives in this thread until its next failing call, and ends with a zero.
    let text = unsafe { CStr::from_ptr(mae_core_error()) };
    Err(Error::Torch { reason: text.to_string_lossy().trim().to_owned() })
}

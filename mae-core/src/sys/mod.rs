//! What tch lacks and needs `unsafe`: loading libtorch's CUDA part at run time, and a few calls of libtorch.
#![allow(unsafe_code, reason = "the one place of this crate where foreign code is called")]

mod calls;
mod cuda;
mod kernels;

pub(crate) use calls::{AdamWUpdate, fused_adamw, grad_enabled};
pub use calls::{clear_grad, keep_freed_memory, upload};
pub use cuda::load_cuda;
pub use kernels::Kernels;
pub(crate) use kernels::{BlockInput, convnext_block, depthwise_conv};

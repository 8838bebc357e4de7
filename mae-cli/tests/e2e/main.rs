//! The `mae` binary from end to end, on real images, as a user starts it.
//!
//! | room | what it holds |
//! | --- | --- |
//! | `road` | pretrain, finetune, evaluate, inference, export, and the artefacts of each |
//! | `interop` | our files in PyTorch, onnx and onnxruntime; upstream's checkpoint in ours |
//! | `resume` | interrupts, kills, threads: the same weights bit for bit |
//! | `errors` | what a user reads when something is wrong, and the exit code |
//! | `families` | ViT and Hiera |
//! | `numerics` | precision, steps that are not finite, the sparse encoder, illegal sizes, `mae bench` |
//! | `cli` | default specs, version |
//! | `ckpt` | inspect, convert, diff, average |
//! | `saving` | which checkpoints are kept, damaged ones, encrypted ones, a limit of time |
//! | `data_tools` | `mae data`, `mae bench` |
//! | `common` | a folder with a few of the demo's images, runs in it, what they left there |

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::print_stderr,
    reason = "helpers of tests fail by panicking"
)]

mod ckpt;
mod cli;
mod common;
mod data_tools;
mod errors;
mod families;
mod interop;
mod numerics;
mod resume;
mod road;
mod saving;

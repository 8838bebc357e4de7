//! The `mae` binary from end to end, on real images, as a user starts it.
//!
//! | room | what it holds |
//! | --- | --- |
//! | `road` | pretrain, finetune, evaluate, inference, export, and the artefacts of each |
//! | `interop` | our files in PyTorch, onnx and onnxruntime; upstream's checkpoint in ours |
//! | `distributed` | several processes: launch, equality with one, failures, restarts, torchrun |
//! | `resume` | interrupts, kills, threads: the same weights bit for bit |
//! | `errors` | what a user reads when something is wrong, and the exit code |
//! | `families` | ViT and Hiera |
//! | `carry` | what a checkpoint decides when the spec is silent |
//! | `doctor` | what is told before a run |
//! | `exports` | what export can write, onnxruntime in the place of libtorch, and the tables of inference |
//! | `engine` | TensorRT engines, with a stand-in for NVIDIA's builder |
//! | `numerics` | precision, steps that are not finite, the sparse encoder, illegal sizes, `mae bench` |
//! | `cli` | default specs, version |
//! | `ckpt` | inspect, convert, diff, average |
//! | `saving` | which checkpoints are kept, damaged ones, encrypted ones, a limit of time |
//! | `remote` | an S3 server that checks signatures, behind a network that fails |
//! | `data_tools` | `mae data`, `mae bench` |
//! | `common` | a folder with a few of the demo's images, runs in it, what they left there |

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::print_stderr,
    clippy::print_stdout,
    reason = "helpers of tests fail by panicking"
)]

mod carry;
mod ckpt;
mod cli;
mod common;
mod data_tools;
mod distributed;
mod doctor;
mod encryption;
mod engine;
mod errors;
mod exports;
mod families;
mod interop;
mod numerics;
#[cfg(feature = "remote")]
mod remote;
mod resume;
mod road;
mod saving;
mod streamed;

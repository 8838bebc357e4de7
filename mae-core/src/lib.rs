//! Masked autoencoders on libtorch: models, optimizers, the training engine, checkpoints and ONNX.
//!
//! | room | what lives there |
//! | --- | --- |
//! | [`arch`] | the catalogue of architectures |
//! | [`params`] | the one named table of parameters |
//! | [`ops`] | the operations models are written over, and their eager interpreter |
//! | [`nn`] | layers, initialisation, positions |
//! | [`backbone`] | ConvNeXt V2, Hiera, ViT |
//! | [`model`] | a network with its parameters: what a library user holds |
//! | [`pretrain`] | masking, the masked autoencoders, the pixel loss |
//! | [`classify`] | heads, classification losses, accuracy |
//! | [`optim`] | AdamW and SGD with named state, parameter groups, schedules |
//! | [`engine`] | the step and the loop around it |
//! | [`checkpoint`] | formats and dialects |
//! | [`onnx`] | the recording interpreter and the file |
//! | [`sys`] | what needs `unsafe` |
//!
//! A library user begins with [`arch::Arch::by_name`] and one of [`Model::pretrain`](model::Model::pretrain),
//! [`Model::classifier`](model::Model::classifier) and [`Model::backbone`](model::Model::backbone); each has an example.

pub mod arch;
pub mod backbone;
pub mod checkpoint;
pub mod classify;
pub mod engine;
mod error;
pub mod model;
pub mod nn;
pub mod onnx;
pub mod ops;
pub mod optim;
pub mod params;
pub mod pretrain;
pub mod sys;

pub use error::{Error, Result};

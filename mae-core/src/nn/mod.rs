//! Layers that the families share. A layer is a set of handles; its `forward` is written over [`Ops`](crate::ops::Ops).

pub mod init;
mod layers;
pub mod position;
mod transformer;

pub use layers::{Conv2d, ConvNeXtV2Block, DropPath, GlobalResponseNorm, LayerNorm, Linear};
pub use transformer::{Attention, Mlp, TransformerBlock};

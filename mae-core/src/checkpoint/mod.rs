//! Checkpoints: read from anywhere, run no code, written as Lightning writes them.
//!
//! | Room | What lives here |
//! |---|---|
//! | [`Checkpoint`] | a `.pth`, `.pt`, `.ckpt`, `.bin` or `.safetensors`, opened: structure and lazily read tensors |
//! | [`Value`] | the Python data of a checkpoint; unknown classes are [`Opaque`] data |
//! | [`TensorView`] | dtype, shape, strides; the bytes when asked |
//! | [`write()`], [`write_encrypted`], [`write_safetensors`], [`swap_symlink`] | atomic publishing |
//! | [`Passphrase`] | what encrypted checkpoints are written and read with |
//! | [`Background`] | writing off the training thread |
//! | [`Statistics`], [`Distance`] | figures over the elements of tensors |
//! | [`lightning`] | the structure of a Lightning checkpoint, built and taken apart |
//! | [`dialect`] | other projects' tensor names and shapes → ours, with a report of every tensor |
//! | `pickle`, `container` | the formats |
//!
//! A pickle is a program. Here it is only data: a stack machine builds [`Value`]s, known constructors
//! (`collections.OrderedDict`, `torch._utils._rebuild_tensor_v2`, ...) are replaced by code of this crate, unknown
//! classes stay opaque, and names that exist to run code (`os.system`, `builtins.eval`, ...) make the file refused.

mod background;
mod container;
pub mod dialect;
mod dtype;
mod encryption;
mod error;
mod file;
pub mod lightning;
pub(crate) mod mmap;
mod module;
mod pickle;
mod publish;
mod statistics;
mod storage;
mod tensor;
mod value;

pub use background::Background;
pub use dtype::DType;
pub use encryption::Passphrase;
pub use error::{Error, Result};
pub use file::{Checkpoint, Format, Kind, parse_bytes, parse_pickle};
pub use pickle::NamedGlobal;
pub use publish::{link_target, swap_symlink, write, write_encrypted, write_safetensors};
pub use statistics::{Distance, Statistics};
pub use tensor::TensorView;
pub use value::{Opaque, Value, big_int_to_decimal};

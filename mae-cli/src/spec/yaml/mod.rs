//! YAML as PyYAML and OmegaConf read and write it.
//!
//! Events come from `saphyr-parser`, which speaks YAML 1.2; [`read()`] gives scalars their YAML 1.1 meaning, checks what
//! PyYAML checks (duplicate keys, tabs, foreign tags, one document) and bounds time and memory. [`write()`] spells a tree
//! as PyYAML's dumper does, byte for byte.

mod collect;
mod read;
pub mod scalar;
mod tag;
mod text;
mod write;

pub use read::{MAX_BYTES, MAX_DEPTH, MAX_NODES, read, read_file};
pub use write::write;

//! From a spec file and overrides to a [`Plan`].
//!
//! Raw, then resolved: [`yaml`] and [`overrides`] give a raw tree in which every value remembers where it was written,
//! [`compose`](fn@compose()) layers defaults, file and overrides with Hydra 1.3's and OmegaConf 2.3's rules, [`interpolation`] reads
//! `${...}`, and [`Plan`] is the typed result with every rule checked. What a spec may hold stands in one table,
//! [`schema`].
//!
//! The layers are our own rather than the figment crate's: its value tree has no room for `???`, for interpolations
//! that are resolved only after all layers are merged, for `+key`, `++key` and `~key`, nor for a line and column on
//! every value, and those are what a TAO spec consists of.

pub mod compose;
mod convert;
mod defaults_file;
mod error;
pub mod interpolation;
pub mod overrides;
mod plan;
mod primitive;
mod python;
pub mod schema;
mod value;
pub mod yaml;

pub use compose::{Composed, compose};
pub use convert::default_text;
pub use defaults_file::write_default_specs;
pub use error::{Error, Kind, Origin, Result};
pub use plan::{Action, EnginePrecision, Plan, default_specs};
pub use python::float_repr;
pub use value::{MISSING, Map, Node, Value, select};

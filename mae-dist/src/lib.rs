//! From one process to many: how the processes of a run find each other and compute together, on
//! libtorch's own c10d.
//!
//! - [`env`](mod@env): what the environment says this process is: alone, a worker, or a node's launcher.
//! - [`launch`]: starts a node's workers, passes on their output, and leaves no orphan behind.
//! - [`c10d`]: stores, process groups and collective operations; the C++ shim and its safe wrapper.
//! - [`collective`]: `mae-core`'s [`Collective`](mae_core::engine::Collective) on a gloo group.
//! - [`fsdp`]: `mae-core`'s [`Sharding`](mae_core::params::Sharding) on the same group.
//! - [`fault`]: makes a rank fail on purpose, for tests.
//! - [`DistError`]: what can go wrong, with the operation, rank and host that it went wrong on.
//!
//! Processes and their addresses are known here; models, specs and data are not.

pub mod c10d;
pub mod collective;
pub mod env;
mod error;
pub mod fault;
pub mod fsdp;
pub mod launch;

pub use collective::{GlooCollective, GlooCollectiveOptions};
pub use env::{Environment, NodeLauncher, Role, Worker};
pub use error::{DistError, Failure, Origin};
pub use fsdp::Fsdp;
pub use launch::{Ended, Line, LocalLauncher, Stream, follow_launcher, has_launcher};

/// The name of this machine, as errors show it.
pub(crate) fn host_name() -> String {
    rustix::system::uname().nodename().to_string_lossy().into_owned()
}

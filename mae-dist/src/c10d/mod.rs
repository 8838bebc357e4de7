//! libtorch's c10d: stores, process groups and their collective operations.
//!
//! - [`Store`]: the key-value store where the processes of a group find each other.
//! - [`ProcessGroup`]: the processes that compute together, and the collective operations among them.
//! - [`Work`]: an operation that is under way, and the tensor it will give back.
//! - [`Nccl`]: libtorch's backend for CUDA devices, in a library of its own that is loaded at run time.
//! - [`Reducer`]: averages gradients while the backward pass still runs.
//! - [`Sharder`]: keeps a share of the parameters, and gathers them block by block.
//!
//! This is the crate's one module with `unsafe`: `native/c10d.cpp` holds the C++ side, where every
//! exception becomes an error value. A call that fails names its operation, rank and host
//! ([`crate::DistError`]). Joining a store, making a group and its operations end with their timeout; a
//! call to a store whose server is stopped, though still connected, does not.
#![allow(unsafe_code)]

mod ffi;
mod nccl;
mod process_group;
mod reducer;
mod sharder;
mod store;
mod work;

pub use nccl::Nccl;
pub use process_group::{GlooOptions, ProcessGroup, ReduceOp};
pub use reducer::Reducer;
pub use sharder::{ShardedParameter, Sharder, UnitOptions};
pub use store::{Store, StoreRole, TcpStoreOptions};
pub use work::Work;

use std::time::Duration;

use crate::error::Failure;
use ffi::{ErrorKind, NativeError};

/// c10d takes milliseconds, and reads 0 as "no timeout": nothing here may wait for ever.
fn milliseconds(timeout: Duration) -> i64 {
    i64::try_from(timeout.as_millis()).unwrap_or(i64::MAX).max(1)
}

/// What a user needs to know of a C++ exception: its class, and its text in one line without the
/// source position in front.
fn describe(error: NativeError) -> (Failure, String) {
    let mut text = error.text.trim();
    while let Some((position, rest)) = text.strip_prefix('[').and_then(|text| text.split_once("] ")) {
        if !position.contains(':') {
            break;
        }
        text = rest;
    }
    let text = text.split_whitespace().collect::<Vec<_>>().join(" ");
    let lower = text.to_lowercase();
    let says = |words: &[&str]| words.iter().any(|word| lower.contains(word));
    let failure = if error.kind == ErrorKind::OutOfMemory {
        Failure::OutOfMemory
    } else if says(&["timed out", "timeout"]) {
        Failure::Timeout
    } else if says(&["closed by peer", "reset by peer", "broken pipe", "connection closed"]) {
        Failure::LostPeer
    } else if matches!(error.kind, ErrorKind::Store | ErrorKind::Network) {
        Failure::Rendezvous
    } else {
        Failure::Other
    };
    (failure, text)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn described(kind: ErrorKind, text: &str) -> (Failure, String) {
        describe(NativeError { kind, text: text.into() })
    }

    #[test]
    fn source_positions_are_left_out() {
        let (failure, text) = described(
            ErrorKind::Standard,
            "[../third_party/gloo/gloo/transport/tcp/pair.cc:547] Connection closed by peer [127.0.0.1]:4242",
        );
        assert_eq!((failure, &*text), (Failure::LostPeer, "Connection closed by peer [127.0.0.1]:4242"));
        assert_eq!(described(ErrorKind::Torch, "[3, 4] is no shape").1, "[3, 4] is no shape");
    }

    #[test]
    fn failures_are_classed() {
        let class = |kind, text| described(kind, text).0;
        assert_eq!(class(ErrorKind::Standard, "Timed out waiting 3000ms for recv"), Failure::Timeout);
        assert_eq!(
            class(ErrorKind::Store, "Timed out after 4 seconds waiting for clients"),
            Failure::Timeout
        );
        assert_eq!(class(ErrorKind::Network, "failed to connect"), Failure::Rendezvous);
        assert_eq!(class(ErrorKind::Backend, "Connection reset by peer"), Failure::LostPeer);
        assert_eq!(class(ErrorKind::OutOfMemory, "alloc"), Failure::OutOfMemory);
        assert_eq!(class(ErrorKind::Torch, "Invalid scalar type"), Failure::Other);
    }

    #[test]
    fn no_timeout_is_endless() {
        assert_eq!(milliseconds(Duration::ZERO), 1);
        assert_eq!(milliseconds(Duration::from_secs(3)), 3000);
        assert_eq!(milliseconds(Duration::MAX), i64::MAX);
    }
}

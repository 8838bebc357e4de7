//! The crate's one error type.
#![forbid(unsafe_code)]

use std::fmt;

use thiserror::Error;

/// Anything that goes wrong between finding the other processes and computing with them.
#[derive(Debug, Error)]
pub enum DistError {
    /// An environment variable holds what it must not. `message` is upstream TAO's, where it has one.
    #[error("{message}: {variable} is {found:?}; {expected}")]
    Variable {
        /// The variable's name.
        variable: &'static str,
        /// Its value.
        found: String,
        /// The rule that was broken.
        message: String,
        /// What the variable is and which values it can have.
        expected: String,
    },
    /// Environment variables that must come together are not all there.
    #[error("{message}: {} missing; {expected}", list(.missing))]
    MissingVariables {
        /// The variables that are unset or empty.
        missing: Vec<&'static str>,
        /// The rule that was broken.
        message: &'static str,
        /// What to set.
        expected: String,
    },
    /// `MASTER_ADDR` is not a name or address of a machine.
    #[error(
        "Invalid master address: {address} ({reason}); set MASTER_ADDR to a name or address of the first node \
         that every node can resolve"
    )]
    MasterAddress {
        /// The value of `MASTER_ADDR`.
        address: String,
        /// What the resolver said.
        reason: String,
    },
    /// The first node cannot listen on `MASTER_ADDR:MASTER_PORT`.
    #[error(
        "Port {port} is already in use ({reason}); set MASTER_PORT to a port from 1024 to 65535 that is free on \
         {address}, the same on every node, and check that MASTER_ADDR is an address of node 0"
    )]
    MasterPort {
        /// The value of `MASTER_ADDR`.
        address: String,
        /// The value of `MASTER_PORT`.
        port: u16,
        /// What the operating system said.
        reason: String,
    },
    /// The store where the processes meet cannot be reached, or does not answer.
    #[error("{origin}: {operation} at {address} failed: {reason}; {}", failure.rendezvous_remedy())]
    Store {
        /// The operation, such as `TCPStore` (joining it), `get` or `set`.
        operation: &'static str,
        /// Host and port of the store.
        address: String,
        /// The process that reports the error.
        origin: Origin,
        /// What kind of failure it is.
        failure: Failure,
        /// What c10d said.
        reason: String,
    },
    /// A collective operation, or the making of the group, failed on this rank.
    #[error("{origin}: {operation} failed: {reason}; {}", failure.remedy())]
    Operation {
        /// The operation as c10d calls it, such as `all_reduce`.
        operation: &'static str,
        /// The process that reports the error, not necessarily the one that caused it.
        origin: Origin,
        /// What kind of failure it is.
        failure: Failure,
        /// What c10d or gloo said.
        reason: String,
    },
    /// A worker could not be started.
    #[error(
        "launcher on {host}: starting {program} for rank {rank} failed: {reason}; check that it can be executed and that memory and processes are not exhausted"
    )]
    Spawn {
        /// The machine.
        host: String,
        /// The program.
        program: String,
        /// The worker's rank.
        rank: usize,
        /// What the operating system said.
        reason: String,
    },
    /// A worker ended before its work was done. The others were ended too.
    #[error("rank {rank} on {host} {ended}; the other workers of this node were stopped{}", last_words(.last_line))]
    Worker {
        /// The rank of the worker that failed first.
        rank: usize,
        /// The machine.
        host: String,
        /// How it ended, such as `exited with code 2` or `was killed by signal 9 (SIGKILL)`.
        ended: String,
        /// Its exit code; none if it was killed by a signal.
        code: Option<i32>,
        /// The last line it wrote to standard error, if any.
        last_line: String,
    },
    /// The library for several CUDA devices cannot be loaded.
    #[error(
        "several processes on CUDA devices need libmae_nccl.so, which cannot be loaded: {reason}; build mae where the \
         headers of CUDA and NCCL are (docs/distributed.md), or set device=cpu"
    )]
    Nccl {
        /// What the loader said of each place.
        reason: String,
    },
    /// A tensor that the operation cannot take.
    #[error("{operation}: tensor {index}: expected {expected}, found {found}")]
    Tensor {
        /// The operation as c10d calls it.
        operation: &'static str,
        /// The tensor's place in the list that was given.
        index: usize,
        /// What the operation takes.
        expected: &'static str,
        /// What was given.
        found: String,
    },
}

impl DistError {
    /// Whether environment variables are at fault: nothing was started.
    #[must_use]
    pub fn is_variable(&self) -> bool {
        matches!(
            self,
            Self::Variable { .. }
                | Self::MissingVariables { .. }
                | Self::MasterAddress { .. }
                | Self::MasterPort { .. }
        )
    }
}

/// The process that an error comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Origin {
    /// Its rank; a launcher has none.
    pub rank: Option<usize>,
    /// The name of its machine.
    pub host: String,
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.rank {
            Some(rank) => write!(f, "rank {rank} on {}", self.host),
            None => write!(f, "launcher on {}", self.host),
        }
    }
}

/// What kind of failure ended an operation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Failure {
    /// A peer's connection broke: its process ended, or the network between was cut.
    LostPeer,
    /// A peer did not take part within the timeout: stopped, hanging, slow, or never started.
    Timeout,
    /// The store was not to be reached.
    Rendezvous,
    /// Memory ran out.
    OutOfMemory,
    /// Anything else, such as a tensor that the backend does not take.
    Other,
}

impl Failure {
    pub(crate) fn remedy(self) -> &'static str {
        match self {
            Self::LostPeer => "a process of the run has ended or cannot be reached: its own log says why",
            Self::Timeout => {
                "a process of the run is stopped, hangs or is slower than the timeout: look at its log, or give \
                 more time"
            }
            Self::Rendezvous => {
                "check that the first process runs, and that MASTER_ADDR and MASTER_PORT are the same on every node"
            }
            Self::OutOfMemory => "free memory, or use a smaller batch",
            Self::Other => "all ranks must run the same program with the same spec and data",
        }
    }

    fn rendezvous_remedy(self) -> &'static str {
        match self {
            Self::OutOfMemory => self.remedy(),
            _ => {
                "check that every process of the run was started, that MASTER_ADDR and MASTER_PORT are the same on \
                 every node and open in its firewall, and that the port is free on the first node"
            }
        }
    }
}

fn last_words(line: &str) -> String {
    if line.is_empty() { String::new() } else { format!("; its last words: {line}") }
}

fn list(names: &[&str]) -> String {
    match names {
        [one] => format!("{one} is"),
        many => format!("{} are", many.join(", ")),
    }
}

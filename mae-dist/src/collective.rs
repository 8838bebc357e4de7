//! `mae-core`'s [`Collective`] on a gloo group.
//!
//! [`GlooCollective`] meets the other workers, averages gradients while they are computed, and says after a
//! failure which ranks are missing.
#![forbid(unsafe_code)]

mod bucket;
mod diagnosis;

use std::cell::RefCell;
use std::hash::{DefaultHasher, Hasher};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, ToSocketAddrs, UdpSocket};
use std::time::Duration;

use mae_core::engine::{Collective, CollectiveError};
use tch::{Device, Kind, Tensor};

use crate::c10d::{
    GlooOptions, Nccl, ProcessGroup, ReduceOp, Reducer, Sharder, Store, StoreRole, TcpStoreOptions,
};
use crate::env::Worker;
use crate::error::{DistError, Failure};
use bucket::Buckets;
use diagnosis::Members;
pub(crate) use diagnosis::report_end;

/// How long things may take, and how much is sent at once.
#[derive(Debug, Clone)]
pub struct GlooCollectiveOptions {
    /// How long the processes may take to find each other. Workers on other nodes start later.
    pub rendezvous_timeout: Duration,
    /// How long one collective operation may take, waiting for the slowest rank included.
    pub timeout: Duration,
    /// After a failure: how long to wait for the other ranks to report, so as to name those that do not.
    pub report_timeout: Duration,
    /// Bytes that are averaged in one operation.
    pub bucket_bytes: usize,
    /// The CUDA device of this process, whose tensors NCCL then serves.
    pub cuda: Option<usize>,
}

impl Default for GlooCollectiveOptions {
    /// 10 minutes to meet and 5 for an operation, 3 seconds to report, 25 MiB at once (PyTorch's DDP).
    fn default() -> Self {
        Self {
            rendezvous_timeout: Duration::from_secs(600),
            timeout: Duration::from_secs(300),
            report_timeout: Duration::from_secs(3),
            bucket_bytes: 25 << 20,
            cuda: None,
        }
    }
}

/// A group of processes on gloo.
///
/// The first failure of an operation ends the group: its connections are closed, so that the other
/// ranks fail too instead of waiting; the ranks report to the store, and the error names those that
/// did not. Every later operation is an error that repeats the first one.
#[derive(Debug)]
pub struct GlooCollective {
    state: RefCell<State>,
    buckets: RefCell<Buckets>,
    members: Members,
    /// Where tensors may be, besides main memory.
    device: Device,
    rank: usize,
    world_size: usize,
}

#[derive(Debug)]
enum State {
    Open {
        /// Made by the first backward pass. In front of the group, so that it is dropped first.
        reducer: Option<Reducer>,
        /// Of the model in shares, if there is one.
        sharder: Option<Sharder>,
        group: ProcessGroup,
    },
    Failed(String),
}

impl GlooCollective {
    /// Meets the other workers, and returns when all are there.
    ///
    /// # Errors
    /// [`DistError::Store`] or [`DistError::Operation`] if they are not within the timeout.
    pub fn connect(worker: &Worker, options: &GlooCollectiveOptions) -> Result<Self, DistError> {
        let serves = !worker.agent_store && worker.rank == 0;
        let store = Store::tcp(&TcpStoreOptions {
            host: worker.master_addr.clone(),
            port: worker.master_port,
            role: if serves { StoreRole::Server } else { StoreRole::Client },
            world_size: Some(worker.world_size),
            wait_for_workers: true,
            timeout: options.rendezvous_timeout,
            rank: Some(worker.rank),
        })?;
        Self::join(store, worker, options)
    }

    /// Forms the group over a store that the workers have joined already.
    fn join(store: Store, worker: &Worker, options: &GlooCollectiveOptions) -> Result<Self, DistError> {
        let members = Members::register(&store, worker, options.report_timeout)?;
        // After a restart of the group, the addresses of its last life are still in the store.
        let attempt = match worker.restart_count {
            0 => None,
            count => Some(store.prefix(&format!("attempt/{count}"))?),
        };
        let group = ProcessGroup::gloo(
            attempt.as_ref().unwrap_or(&store),
            &GlooOptions {
                rank: worker.rank,
                world_size: worker.world_size,
                timeout: options.rendezvous_timeout,
                interfaces: worker.interfaces.clone(),
                address: address_towards(&worker.master_addr, worker.master_port)
                    .filter(|address| !worker.has_other_nodes() || !address.is_loopback())
                    .map(|address| address.to_string()),
                threads: 2,
            },
        )?;
        if let Some(device) = options.cuda {
            let nccl = Nccl::load().map_err(|reason| DistError::Nccl { reason })?;
            group.attach_nccl(
                &nccl,
                attempt.as_ref().unwrap_or(&store),
                device,
                options.rendezvous_timeout,
            )?;
        }
        group.barrier()?;
        group.set_timeout(options.timeout)?;
        Ok(Self {
            state: RefCell::new(State::Open { reducer: None, sharder: None, group }),
            buckets: RefCell::new(Buckets::new(options.bucket_bytes)),
            device: options.cuda.map_or(Device::Cpu, Device::Cuda),
            members,
            rank: worker.rank,
            world_size: worker.world_size,
        })
    }

    /// Changes how long an operation that starts from now on may take. The first step of a run is the
    /// slowest; after it a lost rank should be noticed sooner.
    ///
    /// # Errors
    /// A group that has failed.
    pub fn set_timeout(&self, timeout: Duration) -> Result<(), CollectiveError> {
        self.run("set_timeout", |group| group.set_timeout(timeout))
    }

    /// Like [`barrier`](Collective::barrier), but rank 0 names the ranks that did not come.
    ///
    /// # Errors
    /// A lost or late peer.
    pub fn monitored_barrier(&self, timeout: Duration) -> Result<(), CollectiveError> {
        self.run("monitored_barrier", |group| group.monitored_barrier(timeout))
    }

    /// Whether this rank is the one to report a failure of the group: rank 0 or, when that did not report to the
    /// store, the lowest one that did. `false` before a failure.
    #[must_use]
    pub fn speaks_for_the_run(&self) -> bool {
        matches!(&*self.state.borrow(), State::Failed(_)) && self.members.speaks_for_the_run()
    }

    /// Runs an operation on the open group, and closes the group if it fails.
    fn run<R>(
        &self,
        operation: &'static str,
        run: impl FnOnce(&ProcessGroup) -> Result<R, DistError>,
    ) -> Result<R, CollectiveError> {
        self.run_open(operation, |group, _, _| run(group))
    }

    /// Makes what shards a model, in place of that of an earlier one.
    pub(crate) fn make_sharder(&self) -> Result<(), CollectiveError> {
        self.run_open("Sharder", |group, _, sharder| {
            *sharder = Some(Sharder::new(group)?);
            Ok(())
        })
    }

    /// Runs an operation on what shards the model.
    pub(crate) fn run_with_sharder<R>(
        &self,
        operation: &'static str,
        run: impl FnOnce(&ProcessGroup, &mut Sharder) -> Result<R, DistError>,
    ) -> Result<R, CollectiveError> {
        self.run_open(operation, |group, _, sharder| match sharder {
            Some(sharder) => run(group, sharder),
            // Whoever asks has made it, and it ends with the group.
            None => run(group, sharder.insert(Sharder::new(group)?)),
        })
    }

    fn run_open<R>(
        &self,
        operation: &'static str,
        run: impl FnOnce(&ProcessGroup, &mut Option<Reducer>, &mut Option<Sharder>) -> Result<R, DistError>,
    ) -> Result<R, CollectiveError> {
        let mut state = self.state.borrow_mut();
        let (group, reducer, sharder) = match &mut *state {
            State::Open { group, reducer, sharder } => (&*group, reducer, sharder),
            State::Failed(first) => {
                let reason = format!("the group was closed when an earlier operation failed ({first})");
                return Err(CollectiveError { operation, rank: self.rank, reason });
            }
        };
        run(group, reducer, sharder).map_err(|error| {
            let (what, remedy) = explain(error);
            // Dropping the group closes its connections: ranks that wait for this one fail now.
            *state = State::Failed(format!("{operation}: {what}"));
            let reason = format!("{what}; {}", self.members.missing().unwrap_or(remedy));
            CollectiveError { operation, rank: self.rank, reason }
        })
    }

    fn reaches(&self, device: Device) -> bool {
        device == Device::Cpu || device == self.device
    }

    /// Refuses tensors that the backends cannot take, before anything is sent.
    fn check_tensors(
        &self,
        operation: &'static str,
        tensors: &[Tensor],
        expected: &'static str,
        takes: impl Fn(Kind) -> bool,
    ) -> Result<(), CollectiveError> {
        let wrong =
            |tensor: &Tensor| !tensor.defined() || !self.reaches(tensor.device()) || !takes(tensor.kind());
        match tensors.iter().position(wrong) {
            None => Ok(()),
            Some(index) => {
                let found = describe(&tensors[index]);
                let reason = format!("tensor {index}: expected {expected}, found {found}");
                Err(CollectiveError { operation, rank: self.rank, reason })
            }
        }
    }

    /// Compares the tensors' kinds and shapes with those of rank 0, which gloo does not.
    fn check_alike(&self, operation: &'static str, tensors: &[Tensor]) -> Result<(), CollectiveError> {
        let mine: Vec<_> = tensors.iter().map(describe).collect();
        let mut hasher = DefaultHasher::new();
        mine.iter().for_each(|line| hasher.write(line.as_bytes()));
        let digests = self.gather_bytes(&hasher.finish().to_le_bytes())?;
        if digests.windows(2).all(|pair| pair[0] == pair[1]) {
            return Ok(());
        }
        let lists = self.gather_bytes(mine.join("\n").as_bytes())?;
        let lists: Vec<_> = lists.iter().map(|list| String::from_utf8_lossy(list)).collect();
        let Some(rank) = lists.iter().position(|list| *list != lists[0]) else { return Ok(()) };
        let (first, other): (Vec<_>, Vec<_>) = (lists[0].lines().collect(), lists[rank].lines().collect());
        let index = first.iter().zip(&other).take_while(|(a, b)| a == b).count();
        let at = |list: &[&str]| list.get(index).map_or("none".to_owned(), |line| (*line).to_owned());
        let reason = format!(
            "ranks 0 and {rank} hold different tensors: rank 0 has {} and rank {rank} has {}; tensor {index} is {} on \
             rank 0 and {} on rank {rank}; all ranks must run the same program with the same spec",
            first.len(),
            other.len(),
            at(&first),
            at(&other)
        );
        Err(CollectiveError { operation, rank: self.rank, reason })
    }
}

impl Collective for GlooCollective {
    fn rank(&self) -> usize {
        self.rank
    }

    fn world_size(&self) -> usize {
        self.world_size
    }

    fn backward(&self, loss: &Tensor, parameters: &mut [Tensor]) -> mae_core::Result<()> {
        self.run_open("all_reduce", |group, reducer, _| {
            let reducer = match reducer {
                Some(reducer) => reducer,
                None => reducer.insert(Reducer::new(group, parameters, self.buckets.borrow().bytes())?),
            };
            if reducer.parameters() != parameters.len() {
                let (watched, given) = (reducer.parameters(), parameters.len());
                return Err(DistError::Tensor {
                    operation: "backward",
                    index: watched.min(given),
                    expected: "the parameters of the first backward pass",
                    found: format!("{given} parameters instead of {watched}"),
                });
            }
            reducer.backward(loss)
        })?;
        Ok(())
    }

    fn average(&self, tensors: &mut [Tensor]) -> Result<(), CollectiveError> {
        const OPERATION: &str = "all_reduce";
        let floating = |kind| matches!(kind, Kind::Float | Kind::Double | Kind::Half | Kind::BFloat16);
        self.check_tensors(
            OPERATION,
            tensors,
            "a floating tensor in main memory or on this rank's device",
            floating,
        )?;
        self.run(OPERATION, |group| self.buckets.borrow_mut().average(group, tensors))
    }

    fn sum(&self, values: &mut [f64]) -> Result<(), CollectiveError> {
        const OPERATION: &str = "all_reduce";
        if values.is_empty() {
            return Ok(());
        }
        self.run(OPERATION, |group| {
            let tensor =
                Tensor::f_from_slice(values).map_err(|error| group.tensor_error(OPERATION, &error))?;
            let sum = group.all_reduce(tensor, ReduceOp::Sum)?.wait()?;
            sum.f_copy_data(values, values.len()).map_err(|error| group.tensor_error(OPERATION, &error))
        })
    }

    fn broadcast(&self, tensors: &mut [Tensor]) -> Result<(), CollectiveError> {
        const OPERATION: &str = "broadcast";
        self.check_tensors(OPERATION, tensors, "a tensor in main memory or on this rank's device", |_| true)?;
        self.check_alike(OPERATION, tensors)?;
        let bytes = self.buckets.borrow().bytes();
        self.run(OPERATION, |group| group.broadcast_coalesced(tensors, bytes, 0))
    }

    fn gather_bytes(&self, bytes: &[u8]) -> Result<Vec<Vec<u8>>, CollectiveError> {
        const OPERATION: &str = "all_gather";
        self.run(OPERATION, |group| {
            let failed = |error: tch::TchError| group.tensor_error(OPERATION, &error);
            let length = Tensor::f_from_slice(&[bytes.len() as i64]).map_err(failed)?;
            let gathered = group.all_gather_into_tensor(length)?.wait()?;
            let mut lengths = vec![0i64; self.world_size];
            gathered.f_copy_data(&mut lengths, self.world_size).map_err(failed)?;
            let lengths: Vec<_> = lengths.into_iter().map(|n| usize::try_from(n).unwrap_or(0)).collect();
            let longest = lengths.iter().copied().max().unwrap_or(0);
            if longest == 0 {
                return Ok(vec![Vec::new(); self.world_size]);
            }
            // All ranks send as much as the longest.
            let mut padded = bytes.to_vec();
            padded.resize(longest, 0);
            let padded = Tensor::f_from_slice(&padded).map_err(failed)?;
            let gathered = group.all_gather_into_tensor(padded)?.wait()?;
            let mut flat = vec![0u8; longest * self.world_size];
            let total = flat.len();
            gathered.f_copy_data_u8(&mut flat, total).map_err(failed)?;
            Ok(flat.chunks(longest).zip(lengths).map(|(chunk, length)| chunk[..length].to_vec()).collect())
        })
    }

    fn barrier(&self) -> Result<(), CollectiveError> {
        self.run("barrier", ProcessGroup::barrier)
    }
}

/// What happened on which host, and what to do about it. Operation and rank are named elsewhere.
fn explain(error: DistError) -> (String, String) {
    match error {
        DistError::Operation { origin, failure, reason, .. } => {
            (format!("{reason} (on {})", origin.host), failure.remedy().to_owned())
        }
        other => (other.to_string(), Failure::Other.remedy().to_owned()),
    }
}

fn describe(tensor: &Tensor) -> String {
    if !tensor.defined() {
        return "an undefined tensor".into();
    }
    format!("{:?} {:?} on {:?}", tensor.kind(), tensor.size(), tensor.device())
}

/// The address of this machine that the others can reach: the one that a packet to the first node would leave from.
/// A machine's own name often resolves to loopback, which only its own processes reach. Nothing is sent.
fn address_towards(host: &str, port: u16) -> Option<IpAddr> {
    (host, port).to_socket_addrs().ok()?.find_map(|target| {
        let any: IpAddr = match target.ip() {
            IpAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
            IpAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
        };
        let socket = UdpSocket::bind((any, 0)).ok()?;
        socket.connect(target).ok()?;
        Some(socket.local_addr().ok()?.ip())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_address_is_that_of_the_way_to_the_first_node() {
        assert_eq!(address_towards("127.0.0.1", 29500), Some(Ipv4Addr::LOCALHOST.into()));
        assert_eq!(address_towards("no-such-host.invalid", 29500), None);
    }
}

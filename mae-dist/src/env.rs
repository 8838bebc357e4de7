//! What the environment says this process is.
//!
//! Two conventions use some of the same names. TAO's orchestrator starts one `mae` on each node, with
//! `WORLD_SIZE` = number of **nodes**, `NODE_RANK`, `MASTER_ADDR`, `MASTER_PORT` and, optionally,
//! `NUM_GPU_PER_NODE`; that process launches its node's workers. torchrun starts the workers itself,
//! with `WORLD_SIZE` = number of **processes**, `RANK` and `LOCAL_RANK`. `LOCAL_RANK` tells the two
//! apart: a process that has it is a worker.
//!
//! [`Environment::resolve`] reads a map, so that every case can be tested; [`NodeLauncher::check_network`]
//! is the part that needs the network. The rules and messages are upstream TAO's; where TAO warned and
//! went on with all the devices of one machine, these are errors.
#![forbid(unsafe_code)]

use std::collections::BTreeMap;
use std::fmt;
use std::net::{TcpListener, ToSocketAddrs};

use crate::error::DistError;

/// Environment variables by name.
pub type Variables = BTreeMap<String, String>;

/// What a process is in its run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Role {
    /// The environment asks for nothing: the spec decides how many workers there are.
    Alone,
    /// One of the processes that train, started by a launcher (ours or torchrun).
    Worker(Worker),
    /// The one process of its node, to start and supervise the node's workers.
    NodeLauncher(NodeLauncher),
}

/// What was found, for a person: which variable decided, and what follows.
impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Alone => f.write_str(
                "neither LOCAL_RANK nor WORLD_SIZE is set: this process starts as many as the spec asks for",
            ),
            Self::Worker(worker) => {
                let store = if worker.agent_store { "its launcher serves" } else { "rank 0 serves" };
                write!(
                    f,
                    "LOCAL_RANK is set: a worker, rank {} of {}, {} on this machine; they meet at {}:{}, which {store}",
                    worker.rank, worker.world_size, worker.local_rank, worker.master_addr, worker.master_port
                )
            }
            Self::NodeLauncher(node) => {
                write!(
                    f,
                    "WORLD_SIZE is set and LOCAL_RANK is not: node {} of {}",
                    node.node_rank, node.nodes
                )?;
                match node.gpus_per_node {
                    Some(workers) => write!(f, ", which starts {workers} processes")?,
                    None => f.write_str(", which starts a process for each device")?,
                }
                match &node.master {
                    Some((address, port)) => write!(f, "; they meet at {address}:{port}"),
                    None => Ok(()),
                }
            }
        }
    }
}

/// A worker's place in the run, and where it meets the others.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Worker {
    /// `RANK`: index among all workers, `0 <= rank < world_size`.
    pub rank: usize,
    /// `LOCAL_RANK`: index among the workers of this node, which is the index of its device.
    pub local_rank: usize,
    /// `WORLD_SIZE`: number of workers.
    pub world_size: usize,
    /// `LOCAL_WORLD_SIZE`: number of workers on this node, if the launcher says.
    pub local_world_size: Option<usize>,
    /// `MASTER_ADDR`: the machine of the store.
    pub master_addr: String,
    /// `MASTER_PORT`: the port of the store.
    pub master_port: u16,
    /// `TORCHELASTIC_USE_AGENT_STORE=True`: the launcher serves the store. Otherwise rank 0 does.
    pub agent_store: bool,
    /// `TORCHELASTIC_RESTART_COUNT`: how often the launcher has restarted the group.
    pub restart_count: usize,
    /// `GLOO_SOCKET_IFNAME`: network interfaces for gloo, separated by commas; may be empty.
    pub interfaces: Vec<String>,
}

/// A node's place in the run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeLauncher {
    /// `NODE_RANK`: index of this node, `0 <= node_rank < nodes`; 0 if there is one node.
    pub node_rank: usize,
    /// `WORLD_SIZE`: number of nodes.
    pub nodes: usize,
    /// `NUM_GPU_PER_NODE`: workers on each node; `None` is one for each visible device.
    pub gpus_per_node: Option<usize>,
    /// `MASTER_ADDR` and `MASTER_PORT`: where node 0 serves the store; `None` if there is one node.
    pub master: Option<(String, u16)>,
}

/// What [`Environment::resolve`] found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Environment {
    /// What this process is.
    pub role: Role,
    /// What was set and has no effect, to be shown once.
    pub warnings: Vec<String>,
}

const NODES: &str = "Number of nodes must be greater than 0";
const NODE_RANK: &str = "Node rank must be between 0 and num_nodes - 1";
const GPUS: &str = "Number of GPUs must be greater than 0 and less than the total number of GPUs";
const PORT: &str = "Port must be between 1024 and 65535";
const MULTINODE: &str = "Master address, port, and node rank must be specified for multinode training";
const IGNORED: &str =
    "Multinode training is not enabled through num_nodes, ignoring master address, port, and node rank";

impl Environment {
    /// The variables of this process. Values that are no UTF-8 are read with replacement characters.
    #[must_use]
    pub fn variables() -> Variables {
        std::env::vars_os()
            .map(|(name, value)| (name.to_string_lossy().into_owned(), value.to_string_lossy().into_owned()))
            .collect()
    }

    /// Finds out what a process with these variables is. `visible_gpus` bounds `NUM_GPU_PER_NODE`; on
    /// the CPU, where it counts processes, there is no such bound (`None`).
    ///
    /// # Errors
    /// [`DistError::Variable`] or [`DistError::MissingVariables`] for the first rule that is broken, in
    /// upstream's order.
    pub fn resolve(variables: &Variables, visible_gpus: Option<usize>) -> Result<Self, DistError> {
        if get(variables, "LOCAL_RANK").is_some() {
            let role = Role::Worker(Worker::resolve(variables)?);
            return Ok(Self { role, warnings: Vec::new() });
        }
        if get(variables, "WORLD_SIZE").is_some() {
            let (launcher, warnings) = NodeLauncher::resolve(variables, visible_gpus)?;
            return Ok(Self { role: Role::NodeLauncher(launcher), warnings });
        }
        let mut warnings: Vec<String> = ["NODE_RANK", "NUM_GPU_PER_NODE", "RANK"]
            .into_iter()
            .filter(|name| get(variables, name).is_some())
            .map(|name| {
                format!(
                    "{name} is set but WORLD_SIZE is not: this process runs alone; \
                     for several nodes set WORLD_SIZE to their number"
                )
            })
            .collect();
        // Their tasks would all write into one results folder.
        for name in ["SLURM_NTASKS", "OMPI_COMM_WORLD_SIZE"] {
            if let Some(tasks) = get(variables, name).filter(|tasks| *tasks != "1") {
                warnings.push(format!(
                    "{name} is {tasks}, but neither LOCAL_RANK nor WORLD_SIZE is set: each task runs alone; start one \
                     mae on each machine with WORLD_SIZE, NODE_RANK, MASTER_ADDR and MASTER_PORT set, as \
                     specs/launch/slurm.sbatch does"
                ));
            }
        }
        Ok(Self { role: Role::Alone, warnings })
    }
}

impl Worker {
    /// Whether the run has workers on other machines, as far as the launcher says.
    #[must_use]
    pub fn has_other_nodes(&self) -> bool {
        self.local_world_size.is_some_and(|local| local < self.world_size)
    }

    fn resolve(variables: &Variables) -> Result<Self, DistError> {
        const NEEDED: [&str; 4] = ["RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"];
        let missing: Vec<_> = NEEDED.into_iter().filter(|name| get(variables, name).is_none()).collect();
        if !missing.is_empty() {
            return Err(DistError::MissingVariables {
                missing,
                message: "LOCAL_RANK makes this process a worker of a distributed run",
                expected:
                    "start workers with torchrun or a launcher that sets them all, or unset LOCAL_RANK to \
                           run alone"
                        .into(),
            });
        }
        let count =
            |name, expected: &str| number(variables, name, expected, 1, usize::MAX, "Expected at least 1");
        let index =
            |name, expected: &str| number(variables, name, expected, 0, usize::MAX, "Expected at least 0");
        let rank = index("RANK", "the index of this process among all")?.unwrap_or(0);
        let local_rank = index("LOCAL_RANK", "the index of this process on its node")?.unwrap_or(0);
        let world_size = count("WORLD_SIZE", "the number of processes")?.unwrap_or(1);
        let local_world_size = count("LOCAL_WORLD_SIZE", "the number of processes on this node")?;
        let below = |variable, found: usize, of: usize, bound: &str| {
            (found >= of).then(|| DistError::Variable {
                variable,
                found: found.to_string(),
                message: format!("Expected at most {}", of - 1),
                expected: format!("it counts from 0, and {bound} is {of}"),
            })
        };
        let error = below("RANK", rank, world_size, "WORLD_SIZE").or_else(|| {
            let (of, bound) = local_world_size
                .map_or((world_size, "WORLD_SIZE"), |local| (local.min(world_size), "LOCAL_WORLD_SIZE"));
            below("LOCAL_RANK", local_rank, of, bound)
        });
        if let Some(error) = error {
            return Err(error);
        }
        Ok(Self {
            rank,
            local_rank,
            world_size,
            local_world_size,
            master_addr: get(variables, "MASTER_ADDR").unwrap_or_default().into(),
            // torchrun picks a free port, which can be any.
            master_port: port(variables, 1, "Port must be between 1 and 65535")?.unwrap_or(0),
            agent_store: get(variables, "TORCHELASTIC_USE_AGENT_STORE") == Some("True"),
            restart_count: index("TORCHELASTIC_RESTART_COUNT", "the number of restarts so far")?.unwrap_or(0),
            interfaces: get(variables, "GLOO_SOCKET_IFNAME")
                .map(|names| {
                    names.split(',').map(str::trim).filter(|n| !n.is_empty()).map(Into::into).collect()
                })
                .unwrap_or_default(),
        })
    }
}

impl NodeLauncher {
    fn resolve(variables: &Variables, visible_gpus: Option<usize>) -> Result<(Self, Vec<String>), DistError> {
        // Upstream reads all numbers before it checks any of them.
        for (name, expected) in [
            ("WORLD_SIZE", "the number of nodes"),
            ("NODE_RANK", "the index of this node"),
            ("MASTER_PORT", "the port of node 0"),
            ("NUM_GPU_PER_NODE", "the number of devices on each node"),
        ] {
            integer(variables, name, expected)?;
        }
        let nodes =
            number(variables, "WORLD_SIZE", "the number of nodes", 1, usize::MAX, NODES)?.unwrap_or(1);
        let node_rank = number(
            variables,
            "NODE_RANK",
            &format!("the index of this node, from 0 to {}", nodes - 1),
            0,
            nodes - 1,
            NODE_RANK,
        )?;
        let gpus_expected = match visible_gpus {
            Some(gpus) => format!("the number of devices on each node; this one has {gpus}"),
            None => "the number of processes on each node".into(),
        };
        let most = visible_gpus.unwrap_or(usize::MAX);
        let gpus_per_node = number(variables, "NUM_GPU_PER_NODE", &gpus_expected, 1, most, GPUS)?;
        let master_port = port(variables, 1024, PORT)?;
        let master_addr = get(variables, "MASTER_ADDR");

        let mut warnings = Vec::new();
        let (node_rank, master) = if nodes > 1 {
            let (Some(rank), Some(addr), Some(port)) = (node_rank, master_addr, master_port) else {
                let missing = ["MASTER_ADDR", "MASTER_PORT", "NODE_RANK"]
                    .into_iter()
                    .filter(|name| get(variables, name).is_none())
                    .collect();
                return Err(DistError::MissingVariables {
                    missing,
                    message: MULTINODE,
                    expected: multinode_help(variables, nodes),
                });
            };
            (rank, Some((addr.to_owned(), port)))
        } else {
            if node_rank.is_some() || master_addr.is_some() || master_port.is_some() {
                warnings.push(IGNORED.to_owned());
            }
            (0, None)
        };
        Ok((Self { node_rank, nodes, gpus_per_node, master }, warnings))
    }

    /// Checks that the name of node 0 is known here and, on node 0, that its port is free.
    ///
    /// # Errors
    /// [`DistError::MasterAddress`] or [`DistError::MasterPort`].
    pub fn check_network(&self) -> Result<(), DistError> {
        let Some((address, port)) = &self.master else { return Ok(()) };
        let unresolved = |reason: String| DistError::MasterAddress { address: address.clone(), reason };
        let found: Vec<_> = (address.as_str(), *port)
            .to_socket_addrs()
            .map_err(|error| unresolved(error.to_string()))?
            .collect();
        if found.is_empty() {
            return Err(unresolved("the name has no address".into()));
        }
        tracing::info!("Successfully validated connection to master worker.");
        if self.node_rank == 0 {
            TcpListener::bind(&*found).map_err(|error| DistError::MasterPort {
                address: address.clone(),
                port: *port,
                reason: error.to_string(),
            })?;
            tracing::info!("Successfully validated master node port binding.");
        }
        Ok(())
    }
}

fn multinode_help(variables: &Variables, nodes: usize) -> String {
    let mut help = format!(
        "WORLD_SIZE={nodes} means {nodes} nodes, each of which needs MASTER_ADDR, MASTER_PORT (1024 to 65535) and \
         NODE_RANK (0 to {})",
        nodes - 1
    );
    if let (Some(rank), None) = (get(variables, "RANK"), get(variables, "NODE_RANK")) {
        help.push_str(&format!("; if RANK={rank} is the index of this node, set NODE_RANK to it"));
    }
    help
}

/// A variable that is set and not empty.
fn get<'v>(variables: &'v Variables, name: &str) -> Option<&'v str> {
    variables.get(name).map(|value| value.trim()).filter(|value| !value.is_empty())
}

fn integer(variables: &Variables, variable: &'static str, expected: &str) -> Result<Option<i64>, DistError> {
    get(variables, variable)
        .map(|found| {
            found.parse().map_err(|_| DistError::Variable {
                variable,
                found: found.into(),
                message: format!("invalid literal for int() with base 10: '{found}'"),
                expected: format!("expected {expected}, a whole number"),
            })
        })
        .transpose()
}

fn number(
    variables: &Variables,
    variable: &'static str,
    expected: &str,
    least: usize,
    most: usize,
    message: &str,
) -> Result<Option<usize>, DistError> {
    let Some(found) = integer(variables, variable, expected)? else { return Ok(None) };
    match usize::try_from(found) {
        Ok(value) if (least..=most).contains(&value) => Ok(Some(value)),
        _ => Err(DistError::Variable {
            variable,
            found: found.to_string(),
            message: message.into(),
            expected: format!("expected {expected}"),
        }),
    }
}

fn port(variables: &Variables, least: u16, message: &str) -> Result<Option<u16>, DistError> {
    let most = usize::from(u16::MAX);
    let found =
        number(variables, "MASTER_PORT", "the port of the first node", usize::from(least), most, message)?;
    Ok(found.and_then(|port| u16::try_from(port).ok()))
}

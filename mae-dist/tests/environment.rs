//! What variables make of a process, with upstream's recorded cases as the rule.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test ends by panicking")]

use std::path::PathBuf;

use insta::assert_snapshot;
use mae_dist::env::Variables;
use mae_dist::{DistError, Environment, NodeLauncher, Role};
use proptest::prelude::*;
use serde_json::Value;

fn variables(pairs: &[(&str, &str)]) -> Variables {
    pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
}

fn resolve(pairs: &[(&str, &str)]) -> Result<Environment, DistError> {
    Environment::resolve(&variables(pairs), Some(4))
}

fn error(pairs: &[(&str, &str)]) -> String {
    resolve(pairs).unwrap_err().to_string()
}

const WORKER: [(&str, &str); 5] = [
    ("LOCAL_RANK", "1"),
    ("RANK", "5"),
    ("WORLD_SIZE", "8"),
    ("MASTER_ADDR", "node-0"),
    ("MASTER_PORT", "29500"),
];

#[test]
fn without_variables_a_process_is_alone() {
    for pairs in [&[][..], &[("WORLD_SIZE", "")], &[("LOCAL_RANK", " "), ("MASTER_PORT", "1")]] {
        assert_eq!(resolve(pairs).unwrap(), Environment { role: Role::Alone, warnings: vec![] });
    }
    let warned = resolve(&[("NODE_RANK", "1")]).unwrap();
    assert_eq!((warned.role, warned.warnings.len()), (Role::Alone, 1));
    let warned = resolve(&[("SLURM_NTASKS", "4"), ("OMPI_COMM_WORLD_SIZE", "1")]).unwrap();
    assert_eq!((warned.role, warned.warnings.len()), (Role::Alone, 1));
}

#[test]
fn torchrun_makes_a_worker() {
    let Role::Worker(worker) = resolve(&WORKER).unwrap().role else { panic!() };
    assert_eq!((worker.rank, worker.local_rank, worker.world_size), (5, 1, 8));
    assert_eq!((&*worker.master_addr, worker.master_port), ("node-0", 29500));
    assert_eq!((worker.agent_store, worker.local_world_size, worker.restart_count), (false, None, 0));
    assert!(worker.interfaces.is_empty());

    let mut more = WORKER.to_vec();
    more.extend([
        ("LOCAL_WORLD_SIZE", "2"),
        ("TORCHELASTIC_USE_AGENT_STORE", "True"),
        ("TORCHELASTIC_RESTART_COUNT", "3"),
        ("GLOO_SOCKET_IFNAME", "eth0, eth1,"),
        // TAO's variables mean nothing to a worker.
        ("NODE_RANK", "9"),
        ("NUM_GPU_PER_NODE", "none"),
    ]);
    let Role::Worker(worker) = resolve(&more).unwrap().role else { panic!() };
    assert_eq!((worker.agent_store, worker.local_world_size, worker.restart_count), (true, Some(2), 3));
    assert_eq!(worker.interfaces, ["eth0", "eth1"]);
}

#[test]
fn tao_makes_a_node_launcher() {
    let two = [("WORLD_SIZE", "2"), ("NODE_RANK", "1"), ("MASTER_ADDR", "node-0"), ("MASTER_PORT", "29511")];
    let launcher =
        NodeLauncher { node_rank: 1, nodes: 2, gpus_per_node: None, master: Some(("node-0".into(), 29511)) };
    assert_eq!(resolve(&two).unwrap().role, Role::NodeLauncher(launcher));

    let one = resolve(&[("WORLD_SIZE", "1"), ("NUM_GPU_PER_NODE", "3"), ("MASTER_PORT", "29511")]).unwrap();
    let launcher = NodeLauncher { node_rank: 0, nodes: 1, gpus_per_node: Some(3), master: None };
    assert_eq!(one.role, Role::NodeLauncher(launcher));
    assert_eq!(
        one.warnings,
        ["Multinode training is not enabled through num_nodes, ignoring master address, port, and node rank"]
    );
}

#[test]
fn processes_on_the_cpu_are_not_bounded_by_devices() {
    let pairs = variables(&[("WORLD_SIZE", "1"), ("NUM_GPU_PER_NODE", "6")]);
    assert!(Environment::resolve(&pairs, Some(4)).is_err());
    assert!(Environment::resolve(&pairs, None).is_ok());
}

#[test]
fn messages() {
    let with = |change: &[(&'static str, &'static str)]| {
        let mut pairs = WORKER.to_vec();
        pairs.extend(change);
        error(&pairs)
    };
    let messages = [
        error(&[("WORLD_SIZE", "two")]),
        error(&[("WORLD_SIZE", "0")]),
        error(&[("WORLD_SIZE", "2"), ("NODE_RANK", "2")]),
        error(&[("WORLD_SIZE", "2"), ("NUM_GPU_PER_NODE", "9")]),
        error(&[("WORLD_SIZE", "2"), ("MASTER_PORT", "80")]),
        error(&[("WORLD_SIZE", "2"), ("MASTER_ADDR", "a"), ("MASTER_PORT", "29500"), ("RANK", "1")]),
        error(&[("LOCAL_RANK", "0"), ("RANK", "0")]),
        with(&[("RANK", "8")]),
        with(&[("LOCAL_WORLD_SIZE", "1")]),
        with(&[("MASTER_PORT", "http")]),
    ];
    assert_snapshot!(messages.join("\n"));
}

#[test]
fn the_network_is_checked() {
    let launcher = |node_rank, address: &str, port| NodeLauncher {
        node_rank,
        nodes: 2,
        gpus_per_node: None,
        master: Some((address.into(), port)),
    };
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port();
    let error = launcher(0, "127.0.0.1", port).check_network().unwrap_err();
    assert!(error.to_string().starts_with(&format!("Port {port} is already in use (")), "{error}");
    launcher(1, "127.0.0.1", port).check_network().unwrap();
    drop(taken);
    launcher(0, "127.0.0.1", port).check_network().unwrap();
    let error = launcher(1, "no-such-host.invalid", port).check_network().unwrap_err();
    assert!(error.to_string().starts_with("Invalid master address: no-such-host.invalid ("), "{error}");
    NodeLauncher { nodes: 1, master: None, ..launcher(0, "", 0) }.check_network().unwrap();
}

/// Upstream's recorded runs: the same decision and the same words in each.
#[test]
fn upstream_cases() {
    let root = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("..");
    let full = std::env::var_os("MAE_GOLDENS").map_or_else(|| root.join("../shared/goldens"), PathBuf::from);
    // The repository's own copy holds what this test reads.
    let text = std::fs::read_to_string(full.join("config/cli_cases.json"))
        .or_else(|_| std::fs::read_to_string(root.join("tests/goldens/config/cli_cases.json")))
        .unwrap();
    let cases: Value = serde_json::from_str(&text).unwrap();
    let cases: Vec<_> =
        cases["cases"].as_array().unwrap().iter().filter(|case| case["category"] == "multinode").collect();
    assert!(!cases.is_empty());
    for case in cases {
        let id = case["id"].as_str().unwrap();
        let variables: Variables = case["env"]
            .as_object()
            .unwrap()
            .iter()
            .map(|(name, value)| (name.clone(), value.as_str().unwrap().to_owned()))
            .collect();
        let gpus = case["gpus_on_machine"].as_u64().unwrap() as usize;
        let _taken = case["port_already_bound"]
            .as_u64()
            .map(|port| std::net::TcpListener::bind(("127.0.0.1", port as u16)).unwrap());
        let found = Environment::resolve(&variables, Some(gpus)).and_then(|environment| {
            let Role::NodeLauncher(launcher) = environment.role else { panic!("{id}") };
            launcher.check_network().map(|()| launcher)
        });
        let expected = case["expect"]["log"].as_array().unwrap().iter().find_map(|line| {
            line.as_str().unwrap().strip_prefix("WARNING: [Multinode] Error overriding configs: ")
        });
        match (found, expected) {
            (Ok(launcher), None) => {
                assert_eq!(launcher.nodes.to_string(), variables["WORLD_SIZE"], "{id}");
                let gpus = variables.get("NUM_GPU_PER_NODE").map(|gpus| gpus.parse().unwrap());
                assert_eq!(launcher.gpus_per_node, gpus, "{id}");
            }
            (Err(error), Some(message)) => {
                assert!(error.to_string().starts_with(message), "{id}: {message:?} against {error}");
            }
            (found, expected) => panic!("{id}: expected {expected:?}, found {found:?}"),
        }
    }
}

#[test]
fn a_role_says_which_variable_decided() {
    let said = |pairs: &[(&str, &str)]| resolve(pairs).unwrap().role.to_string();
    assert_eq!(
        said(&[]),
        "neither LOCAL_RANK nor WORLD_SIZE is set: this process starts as many as the spec asks for"
    );
    assert_eq!(
        said(&WORKER),
        "LOCAL_RANK is set: a worker, rank 5 of 8, 1 on this machine; they meet at node-0:29500, which rank 0 serves"
    );
    let node = [("WORLD_SIZE", "2"), ("NODE_RANK", "1"), ("MASTER_ADDR", "node-0"), ("MASTER_PORT", "29500")];
    assert_eq!(
        said(&node),
        "WORLD_SIZE is set and LOCAL_RANK is not: node 1 of 2, which starts a process for each device; they meet at \
         node-0:29500"
    );
}

proptest! {
    #[test]
    fn any_text_is_a_role_or_an_error(values in prop::collection::vec(prop::option::of("[-+0-9a-z ]{0,6}"), 8)) {
        const NAMES: [&str; 8] = [
            "WORLD_SIZE", "NODE_RANK", "MASTER_ADDR", "MASTER_PORT", "NUM_GPU_PER_NODE", "RANK", "LOCAL_RANK",
            "LOCAL_WORLD_SIZE",
        ];
        let variables: Variables =
            NAMES.iter().zip(values).filter_map(|(name, value)| Some(((*name).to_owned(), value?))).collect();
        match Environment::resolve(&variables, None).map(|environment| environment.role) {
            Ok(Role::Worker(worker)) => {
                prop_assert!(worker.rank < worker.world_size && worker.local_rank < worker.world_size);
            }
            Ok(Role::NodeLauncher(launcher)) => {
                prop_assert!(launcher.node_rank < launcher.nodes);
                prop_assert_eq!(launcher.master.is_some(), launcher.nodes > 1);
            }
            Ok(Role::Alone) | Err(_) => {}
        }
    }
}

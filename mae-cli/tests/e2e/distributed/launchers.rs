//! Who starts the processes: TAO's orchestrator, torchrun; and a network between two nodes that is slow, or cut.

use std::net::TcpListener;
use std::process::Command;

use super::{assert_same, latest};
use crate::common::python;
use crate::common::{Run, Sandbox};

const TRAIN: &str = "train -e finetune.yaml dataset.batch_size=4";

/// Makes a command that of one node among several, as TAO's orchestrator does.
pub(super) fn node(command: &mut Command, node: usize, nodes: usize, address: &str, port: u16) {
    command
        .env("WORLD_SIZE", nodes.to_string())
        .env("NODE_RANK", node.to_string())
        .env("MASTER_ADDR", address)
        .env("MASTER_PORT", port.to_string())
        .env("NUM_GPU_PER_NODE", "1");
}

fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

fn words(text: &str) -> Vec<&str> {
    text.split_whitespace().collect()
}

#[test]
fn two_nodes_equal_two_processes_of_one() {
    let sandbox = Sandbox::new().with_specs().with_images(4, 1);
    sandbox.mae(&format!("{TRAIN} results_dir=one train.num_gpus=2")).passed();
    let port = free_port();
    let mut nodes: Vec<_> = (0..2)
        .map(|rank| {
            let mut command = sandbox.command(&words(&format!("{TRAIN} results_dir=two")));
            node(&mut command, rank, 2, "127.0.0.1", port);
            sandbox.start_command(&format!("node{rank}"), command)
        })
        .collect();
    for (rank, node) in nodes.iter_mut().enumerate() {
        assert_eq!(node.wait().code(), Some(0), "{}", node.log());
        assert!(node.log().contains(&format!("Starting 1 processes of node {rank} of 2")), "{}", node.log());
    }
    assert_same(&latest(&sandbox, "one"), &latest(&sandbox, "two"));
}

/// The rules and words of TAO's validator, where TAO warns and goes on with something else.
#[test]
fn broken_variables_are_refused() {
    let sandbox = Sandbox::new().with_specs().with_images(1, 1);
    let refused = |variables: &[(&str, &str)], message: &str| {
        let mut command = sandbox.command(&words(TRAIN));
        command.envs(variables.iter().copied());
        let output = command.output().unwrap();
        let said = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(1), "{said}");
        assert!(said.contains(message), "{message}: {said}");
    };
    refused(&[("WORLD_SIZE", "two")], "invalid literal for int() with base 10: 'two'");
    refused(&[("WORLD_SIZE", "0")], "Number of nodes must be greater than 0");
    refused(
        &[("WORLD_SIZE", "2"), ("MASTER_ADDR", "localhost"), ("MASTER_PORT", "29511")],
        "Master address, port, and node rank must be specified for multinode training",
    );
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port().to_string();
    refused(
        &[("WORLD_SIZE", "2"), ("NODE_RANK", "0"), ("MASTER_ADDR", "127.0.0.1"), ("MASTER_PORT", &port)],
        &format!("Port {port} is already in use"),
    );
    let run = sandbox.mae(&format!("{TRAIN} train.num_nodes=2"));
    assert_eq!(run.code, Some(1), "{}", run.stderr);
    assert!(run.stderr.contains("set train.num_nodes=1"), "{}", run.stderr);
    assert!(!sandbox.path("results").exists());
}

/// A torchrun that starts `mae`, with a number of processes on this node.
fn torchrun(sandbox: &Sandbox, arguments: &str, train: &str) -> Option<Command> {
    let python = python()?;
    let mae = sandbox.command(&words(train));
    let mut command = Command::new(python);
    command.args(["-m", "torch.distributed.run", "--no-python"]).args(words(arguments));
    command.arg(mae.get_program()).args(mae.get_args());
    command.current_dir(sandbox.path(""));
    for (name, value) in mae.get_envs() {
        match value {
            Some(value) => command.env(name, value),
            None => command.env_remove(name),
        };
    }
    Some(command)
}

#[test]
fn torchrun_on_one_node() {
    let sandbox = Sandbox::new().with_specs().with_images(4, 1);
    let train = format!("{TRAIN} results_dir=torchrun");
    let Some(command) = torchrun(&sandbox, "--standalone --nproc-per-node 2", &train) else { return };
    let mut run = sandbox.start_command("torchrun", command);
    assert_eq!(run.wait().code(), Some(0), "{}", run.log());
    assert_eq!(run.log().matches("Execution status: PASS").count(), 1, "{}", run.log());
    let Run { .. } = sandbox.mae(&format!("{TRAIN} results_dir=own train.num_gpus=2")).passed();
    assert_same(&latest(&sandbox, "own"), &latest(&sandbox, "torchrun"));
}

#[test]
fn torchrun_on_two_nodes() {
    let sandbox = Sandbox::new().with_specs().with_images(4, 1);
    let port = free_port();
    let mut nodes = Vec::new();
    for node in 0..2 {
        let arguments = format!(
            "--nnodes 2 --node-rank {node} --nproc-per-node 1 --master-addr 127.0.0.1 --master-port {port}"
        );
        let train = format!("{TRAIN} results_dir=torchrun");
        let Some(command) = torchrun(&sandbox, &arguments, &train) else { return };
        nodes.push(sandbox.start_command(&format!("node{node}"), command));
    }
    for node in &mut nodes {
        assert_eq!(node.wait().code(), Some(0), "{}", node.log());
    }
    sandbox.mae(&format!("{TRAIN} results_dir=own train.num_gpus=2")).passed();
    assert_same(&latest(&sandbox, "own"), &latest(&sandbox, "torchrun"));
}

/// torchrun's own restart goes on from the last checkpoint, to the same bits.
#[test]
fn torchrun_restarts_a_lost_rank() {
    let sandbox = Sandbox::new().with_specs().with_images(8, 1);
    let steps = "train.checkpoint_interval_unit=step train.checkpoint_interval=3";
    let train = format!("{TRAIN} {steps} results_dir=torchrun");
    let Some(mut command) = torchrun(&sandbox, "--standalone --nproc-per-node 2 --max-restarts 1", &train)
    else {
        return;
    };
    command.env("MAE_FAULT", "kill@1:22");
    let mut run = sandbox.start_command("torchrun", command);
    assert_eq!(run.wait().code(), Some(0), "{}", run.log());
    assert!(run.log().contains("Resuming from "), "{}", run.log());
    sandbox.mae(&format!("{TRAIN} {steps} results_dir=own train.num_gpus=2")).passed();
    assert_same(&latest(&sandbox, "own"), &latest(&sandbox, "torchrun"));
}

/// Two machines: network namespaces of this one, joined by a cable. Dropped, they are gone.
struct Machines {
    names: [String; 2],
}

impl Machines {
    /// `None` where this user may not make namespaces.
    fn new() -> Option<Self> {
        let names = ["a", "b"].map(|end| format!("mae-{end}-{}", std::process::id()));
        let machines = Self { names };
        let [a, b] = &machines.names;
        let cables = ["va", "vb"].map(|end| format!("{end}{}", std::process::id()));
        let [va, vb] = &cables;
        let made = [
            format!("netns add {a}"),
            format!("netns add {b}"),
            format!("link add {va} type veth peer name {vb}"),
            format!("link set {va} netns {a} name cable"),
            format!("link set {vb} netns {b} name cable"),
            format!("-n {a} addr add 10.213.0.1/24 dev cable"),
            format!("-n {b} addr add 10.213.0.2/24 dev cable"),
            format!("-n {a} link set lo up"),
            format!("-n {b} link set lo up"),
            format!("-n {a} link set cable up"),
            format!("-n {b} link set cable up"),
        ]
        .iter()
        .all(|step| ip(step));
        if !made {
            eprintln!("skipped: this user may not make network namespaces (or iproute2 is missing)");
            return None;
        }
        Some(machines)
    }

    /// Delay and loss on the cable, where the kernel has them.
    fn slow_down(&self) {
        let [a, _] = &self.names;
        let netem = format!("-n {a} qdisc add dev cable root netem delay 3ms loss 1%");
        if !Command::new("tc").args(words(&netem)).output().is_ok_and(|output| output.status.success()) {
            eprintln!("without delay and loss: this kernel has no netem");
        }
    }

    fn cut(&self) {
        assert!(ip(&format!("-n {} link set cable down", self.names[1])));
    }

    /// Starts a training on both, one process each.
    fn train(&self, sandbox: &Sandbox, train: &str) -> Vec<crate::common::Started> {
        let start = |rank: usize| {
            let mae = {
                let mut mae = sandbox.command(&words(train));
                node(&mut mae, rank, 2, "10.213.0.1", 29511);
                mae
            };
            let mut command = Command::new("ip");
            command.args(["netns", "exec", &self.names[rank]]).arg(mae.get_program()).args(mae.get_args());
            command.current_dir(sandbox.path(""));
            for (name, value) in mae.get_envs() {
                match value {
                    Some(value) => command.env(name, value),
                    None => command.env_remove(name),
                };
            }
            sandbox.start_command(&format!("machine{rank}"), command)
        };
        vec![start(0), start(1)]
    }
}

impl Drop for Machines {
    fn drop(&mut self) {
        for name in &self.names {
            ip(&format!("netns del {name}"));
        }
    }
}

fn ip(arguments: &str) -> bool {
    Command::new("ip").args(words(arguments)).output().is_ok_and(|output| output.status.success())
}

#[test]
fn two_machines_over_a_slow_cable_and_a_cut_one() {
    let Some(machines) = Machines::new() else { return };
    let sandbox = Sandbox::new().with_specs().with_images(4, 1);
    sandbox.mae(&format!("{TRAIN} results_dir=one train.num_gpus=2")).passed();
    machines.slow_down();
    for run in &mut machines.train(&sandbox, &format!("{TRAIN} results_dir=slow")) {
        assert_eq!(run.wait().code(), Some(0), "{}", run.log());
    }
    assert_same(&latest(&sandbox, "one"), &latest(&sandbox, "slow"));

    let long = format!("{TRAIN} results_dir=cut train.num_epochs=200 train.comm_timeout=10");
    let mut runs = machines.train(&sandbox, &long);
    let status = sandbox.path("cut/train/status.json");
    runs[0].wait_until("the end of an epoch", || {
        std::fs::read_to_string(&status).is_ok_and(|text| text.contains("Train metrics generated."))
    });
    machines.cut();
    for run in &mut runs {
        assert_eq!(run.wait().code(), Some(2), "{}", run.log());
        assert!(run.log().contains(" failed: ") && run.log().contains("  at epoch "), "{}", run.log());
    }
    assert!(runs[0].log().contains("from rank 1 on "), "{}", runs[0].log());
    assert!(
        runs[1].log().contains("does not answer: look first at the process that serves it"),
        "{}",
        runs[1].log()
    );
}

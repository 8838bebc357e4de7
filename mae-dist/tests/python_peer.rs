//! A rank in Rust and a rank in Python form one gloo group: `MAE_PYTHON` names a python with torch (`scripts/python-env`
//! makes one). Without it the test is left out, except where CI=true.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a test ends by panicking"
)]

use std::net::TcpListener;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::Duration;

use mae_dist::c10d::{GlooOptions, ProcessGroup, ReduceOp, Reducer, Store, StoreRole, TcpStoreOptions};
use tch::{Device, Kind, Tensor};

/// The other rank. Its numbers are read from its output.
const PEER: &str = r#"
import datetime, torch, torch.distributed as dist
torch.set_num_threads(1)
dist.init_process_group("gloo", timeout=datetime.timedelta(seconds=600))
total = torch.arange(4, dtype=torch.float32) + 10
dist.all_reduce(total)
print("sum", total.tolist())
gathered = torch.zeros(2)
dist.all_gather_into_tensor(gathered, torch.tensor([101.0]))
print("gathered", gathered.tolist())
model = torch.nn.Sequential(torch.nn.Linear(32, 64), torch.nn.Tanh(), torch.nn.Linear(64, 16))
ddp = torch.nn.parallel.DistributedDataParallel(
    model, find_unused_parameters=True, gradient_as_bucket_view=True)
for step in range(3):
    for parameter in model.parameters():
        parameter.grad = None
    images = (torch.arange(256, dtype=torch.float32).reshape(8, 32) * 0.02 + step).cos()
    ddp(images).square().mean().backward()
    print("bits", [int(p.grad.view(torch.int32).long().sum()) for p in model.parameters()])
dist.barrier()
print("done")
"#;

fn python() -> Option<PathBuf> {
    match std::env::var_os("MAE_PYTHON") {
        Some(python) => Some(PathBuf::from(python)),
        None if std::env::var("CI").as_deref() == Ok("true") => {
            panic!("CI=true, and MAE_PYTHON is not set: MAE_PYTHON=$(scripts/python-env)")
        }
        None => {
            eprintln!("skipped: MAE_PYTHON is not set (MAE_PYTHON=$(scripts/python-env))");
            None
        }
    }
}

fn options(port: u16, role: StoreRole) -> TcpStoreOptions {
    TcpStoreOptions {
        host: "127.0.0.1".into(),
        port,
        role,
        world_size: None,
        wait_for_workers: false,
        timeout: Duration::from_secs(600),
        rank: Some(0),
    }
}

/// The parameters of the peer's model, in its order, with values of their own.
fn parameters() -> Vec<Tensor> {
    [(vec![64, 32], 0.1), (vec![64], 0.2), (vec![16, 64], 0.3), (vec![16], 0.4)]
        .into_iter()
        .map(|(shape, step): (Vec<i64>, f64)| {
            let count = shape.iter().product::<i64>();
            let values = Tensor::arange(count, (Kind::Float, Device::Cpu)).reshape(&shape) * step;
            (values.sin() * 0.1).set_requires_grad(true)
        })
        .collect()
}

#[test]
fn python_and_rust_train_in_one_group() {
    let Some(python) = python() else { return };
    tch::set_num_threads(1);
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let server = Store::serve(listener, &options(0, StoreRole::Server)).unwrap();
    let port = server.port().unwrap();
    let mut peer = Command::new(python)
        .args(["-c", PEER])
        .envs([("RANK", "1"), ("LOCAL_RANK", "1"), ("WORLD_SIZE", "2"), ("MASTER_ADDR", "127.0.0.1")])
        .envs([("TORCHELASTIC_USE_AGENT_STORE", "True"), ("TORCHELASTIC_RESTART_COUNT", "0")])
        .env("MASTER_PORT", port.to_string())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();

    let store = Store::tcp(&options(port, StoreRole::Client)).unwrap();
    let group = ProcessGroup::gloo(
        &store,
        &GlooOptions {
            rank: 0,
            world_size: 2,
            timeout: Duration::from_secs(600),
            interfaces: Vec::new(),
            address: Some("127.0.0.1".into()),
            threads: 2,
        },
    )
    .unwrap();
    let ours = Tensor::arange(4, (Kind::Float, Device::Cpu));
    let sum = group.all_reduce(ours, ReduceOp::Sum).unwrap().wait().unwrap();
    let gathered = group.all_gather_into_tensor(Tensor::from_slice(&[100f32])).unwrap().wait().unwrap();
    let mut said = format!("sum {}\n", list(&sum)) + &format!("gathered {}\n", list(&gathered));

    let mut parameters = parameters();
    let reducer = Reducer::new(&group, &mut parameters, 25 << 20).unwrap();
    // As Python's wrapper does: rank 0's weights are everybody's.
    let mut weights: Vec<Tensor> = parameters.iter().map(Tensor::detach).collect();
    group.broadcast_coalesced(&mut weights, 250 << 20, 0).unwrap();
    for step in 0..3 {
        for parameter in &parameters {
            let mut gradient = parameter.grad();
            if gradient.defined() {
                let _ = gradient.zero_();
            }
        }
        let images = (Tensor::arange(256, (Kind::Float, Device::Cpu)).reshape([8, 32]) * 0.01 + step).cos();
        let hidden = images.linear(&parameters[0], Some(&parameters[1])).tanh();
        let loss = hidden.linear(&parameters[2], Some(&parameters[3])).square().mean(Kind::Float);
        reducer.backward(&loss).unwrap();
        let bits: Vec<i64> = parameters
            .iter()
            .map(|parameter| parameter.grad().view_dtype(Kind::Int).sum(Kind::Int64).int64_value(&[]))
            .collect();
        said.push_str(&format!("bits {bits:?}\n"));
    }
    group.barrier().unwrap();
    said.push_str("done\n");

    let output = peer.stdout.take().map(std::io::read_to_string).unwrap().unwrap();
    assert!(peer.wait().unwrap().success());
    assert_eq!(output, said);
}

/// As Python prints it.
fn list(tensor: &Tensor) -> String {
    format!("{:?}", Vec::<f32>::try_from(tensor).unwrap())
}

//! Groups of real processes: each test starts this same test binary once a rank, and each rank runs
//! the part of [`rank_main`] that the test names.
#![allow(clippy::unwrap_used, clippy::panic, clippy::print_stdout, reason = "a test ends by panicking")]

mod common;

use std::time::Duration;

use common::{Rank, Ranks, tensor_bits};
use mae_core::engine::Collective;
use mae_dist::c10d::{GlooOptions, ProcessGroup, ReduceOp, Store, StoreRole, TcpStoreOptions};
use mae_dist::{DistError, Environment, Failure, GlooCollective, GlooCollectiveOptions, Role};
use tch::{Device, Kind, Tensor};

fn main_options() -> GlooCollectiveOptions {
    GlooCollectiveOptions {
        rendezvous_timeout: Duration::from_secs(60),
        timeout: Duration::from_secs(60),
        report_timeout: Duration::from_secs(2),
        // Small, so that a few tensors need several buckets.
        bucket_bytes: 4096,
        cuda: None,
    }
}

fn connect(options: &GlooCollectiveOptions) -> GlooCollective {
    tch::set_num_threads(1);
    let Role::Worker(worker) = Environment::resolve(&Environment::variables(), None).unwrap().role else {
        panic!("a rank must be a worker");
    };
    GlooCollective::connect(&worker, options).unwrap()
}

#[test]
#[ignore = "the body of one rank, which the other tests start"]
fn rank_main() {
    match std::env::var("MAE_TEST_CASE").unwrap_or_default().as_str() {
        "operations" => operations(&connect(&main_options())),
        "average" => average_of_random_tensors(&connect(&main_options())),
        "different" => different_tensors(&connect(&main_options())),
        "loop" => average_until_it_fails(&main_options()),
        "loop-2s" => {
            average_until_it_fails(&GlooCollectiveOptions {
                timeout: Duration::from_secs(2),
                ..main_options()
            });
        }
        "low-level" => low_level(),
        case => panic!("no such case: {case:?}"),
    }
}

// ---- what each rank does

fn operations(group: &GlooCollective) {
    let (rank, size) = (group.rank() as f64, group.world_size() as f64);
    let mean = |value: f64| value + (size - 1.0) / 2.0;

    let strided = Tensor::arange(6, (Kind::Float, Device::Cpu)).view([2, 3]).tr() + rank;
    let mut tensors = [
        strided,
        Tensor::full([2000], 1.0 + rank, (Kind::Float, Device::Cpu)),
        Tensor::from_slice(&[0.5f64 + rank]),
        Tensor::zeros([0, 4], (Kind::Float, Device::Cpu)),
        Tensor::full([3], 2.0 + rank, (Kind::BFloat16, Device::Cpu)),
        Tensor::from(7.0f32 + rank as f32),
        // A leaf of the autograd graph: averaging it is not part of any graph.
        Tensor::full([2], 3.0 + rank, (Kind::Float, Device::Cpu)).set_requires_grad(true),
    ];
    group.average(&mut tensors).unwrap();
    assert_eq!(tensors[0].size(), [3, 2]);
    assert_eq!(tensors[0].stride(), [1, 3]);
    assert_eq!(tensors[0].double_value(&[2, 1]), mean(5.0));
    assert_eq!(tensors[1].min().double_value(&[]), mean(1.0));
    assert_eq!(tensors[1].max().double_value(&[]), mean(1.0));
    assert_eq!(tensors[2].double_value(&[0]), mean(0.5));
    assert_eq!((tensors[4].kind(), tensors[4].double_value(&[2])), (Kind::BFloat16, mean(2.0)));
    assert_eq!(tensors[5].double_value(&[]), mean(7.0));
    assert_eq!((tensors[6].requires_grad(), tensors[6].double_value(&[1])), (true, mean(3.0)));
    group.average(&mut []).unwrap();

    let mut sums = [1e-300, rank, 1.0 / 3.0, 2f64.powi(60)];
    group.sum(&mut sums).unwrap();
    assert_eq!(sums, [1e-300 * size, size * (size - 1.0) / 2.0, size / 3.0, size * 2f64.powi(60)]);
    group.sum(&mut []).unwrap();

    let mut tensors = [
        Tensor::full([3, 700], rank + 1.0, (Kind::Float, Device::Cpu)),
        Tensor::from_slice(&[rank as i64 + 40, 2]),
        Tensor::from_slice(&[rank == 0.0, false]),
        (Tensor::arange(4, (Kind::Half, Device::Cpu)) + rank).view([2, 2]).tr(),
    ];
    group.broadcast(&mut tensors).unwrap();
    assert_eq!(tensors[0].mean(Kind::Double).double_value(&[]), 1.0);
    assert_eq!(Vec::<i64>::try_from(&tensors[1]).unwrap(), [40, 2]);
    assert_eq!(Vec::<bool>::try_from(&tensors[2]).unwrap(), [true, false]);
    assert_eq!((tensors[3].stride(), tensors[3].double_value(&[0, 1])), (vec![1, 2], 2.0));

    // Rank r gives r bytes, so that rank 0 gives none.
    let mine = vec![b'a' + group.rank() as u8; group.rank()];
    let gathered = group.gather_bytes(&mine).unwrap();
    let expected: Vec<_> = (0..group.world_size()).map(|rank| vec![b'a' + rank as u8; rank]).collect();
    assert_eq!(gathered, expected);
    assert_eq!(group.gather_bytes(b"").unwrap(), vec![Vec::<u8>::new(); group.world_size()]);

    group.barrier().unwrap();
    group.monitored_barrier(Duration::from_secs(30)).unwrap();
    group.set_timeout(Duration::from_secs(30)).unwrap();

    // Refused before anything is sent: the group goes on.
    let error = group.average(&mut [Tensor::from_slice(&[1i64])]).unwrap_err();
    assert!(error.reason.contains("tensor 0: expected a floating tensor"), "{error}");
    group.barrier().unwrap();
}

/// The tensors of a rank: values of very different sizes, so that the order of a sum would show.
fn random_tensors(rank: usize) -> Vec<Tensor> {
    let shapes: [&[i64]; 6] = [&[17], &[33, 31], &[1], &[5, 4, 3], &[1500], &[]];
    tch::manual_seed(7 + rank as i64);
    shapes
        .iter()
        .map(|shape| {
            let options = (Kind::Float, Device::Cpu);
            Tensor::randn(*shape, options) * (Tensor::randn(*shape, options) * 8.0).exp()
        })
        .collect()
}

fn average_of_random_tensors(group: &GlooCollective) {
    let mut tensors = random_tensors(group.rank());
    // Twice: the second time the buckets' buffers are used again.
    let mut again = random_tensors(group.rank());
    group.average(&mut tensors).unwrap();
    group.average(&mut again).unwrap();
    let everyone: Vec<_> = (0..group.world_size()).map(random_tensors).collect();
    for (index, (tensor, again)) in tensors.iter().zip(&again).enumerate() {
        let all: Vec<_> = everyone.iter().map(|tensors| tensors[index].to_kind(Kind::Double)).collect();
        let exact = Tensor::stack(&all, 0).mean_dim(0, false, Kind::Double);
        let scale = Tensor::stack(&all, 0).abs().amax(0, false);
        let error = ((tensor - exact) / scale).abs().max().double_value(&[]);
        assert!(error < 4.0 * f64::from(f32::EPSILON), "tensor {index}: {error}");
        assert_eq!(tensor_bits(tensor), tensor_bits(again), "tensor {index}");
    }
    let bits: Vec<_> = tensors.iter().flat_map(tensor_bits).collect();
    println!("\nbits {}", bits.iter().fold(0u64, |hash, bit| hash.rotate_left(5) ^ u64::from(*bit)));
}

fn different_tensors(group: &GlooCollective) {
    let columns = if group.rank() == 1 { 5 } else { 4 };
    let mut tensors = [3, columns].map(|n| Tensor::zeros([2, n], (Kind::Float, Device::Cpu)));
    let error = group.broadcast(&mut tensors).unwrap_err();
    assert_eq!((error.operation, error.rank), ("broadcast", group.rank()));
    for part in ["ranks 0 and 1", "tensor 1 is Float [2, 4]", "Float [2, 5] on Cpu on rank 1"] {
        assert!(error.reason.contains(part), "{part}: {error}");
    }
    group.barrier().unwrap();
}

fn average_until_it_fails(options: &GlooCollectiveOptions) {
    let group = connect(options);
    // Large ones and a bucket, more than are under way at once.
    let mut tensors = [10, 1 << 19, 20, 1 << 19, 1 << 19, 1 << 19, 1 << 19, 1 << 19]
        .map(|elements| Tensor::ones([elements], (Kind::Float, Device::Cpu)));
    let mut step = 0;
    let error = loop {
        if step == 3 {
            println!("\nready");
        }
        match group.average(&mut tensors) {
            Ok(()) => step += 1,
            Err(error) => break error,
        }
    };
    println!("\nerror {error}");
    let after = group.barrier().unwrap_err();
    assert!(after.reason.contains("closed when an earlier operation failed (all_reduce"), "{after}");
}

fn low_level() {
    let Role::Worker(worker) = Environment::resolve(&Environment::variables(), None).unwrap().role else {
        panic!("a rank must be a worker");
    };
    let store = Store::tcp(&TcpStoreOptions {
        host: worker.master_addr.clone(),
        port: worker.master_port,
        role: StoreRole::Client,
        world_size: Some(worker.world_size),
        wait_for_workers: true,
        timeout: Duration::from_secs(30),
        rank: Some(worker.rank),
    })
    .unwrap();
    let options = GlooOptions {
        rank: worker.rank,
        world_size: worker.world_size,
        timeout: Duration::from_secs(30),
        interfaces: vec!["lo".into()],
        address: None,
        threads: 2,
    };
    let group = ProcessGroup::gloo(&store, &options).unwrap();
    assert_eq!((group.rank(), group.world_size()), (worker.rank, worker.world_size));
    let (rank, last) = (worker.rank as i64, worker.world_size as i64 - 1);

    // Several operations under way, waited for in another order.
    let smallest = group.all_reduce(Tensor::from_slice(&[rank, -rank]), ReduceOp::Min).unwrap();
    let largest = group.all_reduce(Tensor::from_slice(&[rank, -rank]), ReduceOp::Max).unwrap();
    let root = group.broadcast(Tensor::from_slice(&[rank]), worker.world_size - 1).unwrap();
    // Dropped while under way: it is waited for.
    drop(group.all_reduce(Tensor::from_slice(&[rank]), ReduceOp::Sum).unwrap());
    assert_eq!(Vec::<i64>::try_from(root.wait().unwrap()).unwrap(), [last]);
    assert_eq!(Vec::<i64>::try_from(largest.wait().unwrap()).unwrap(), [last, 0]);
    assert_eq!(Vec::<i64>::try_from(smallest.wait().unwrap()).unwrap(), [0, -last]);

    let strided = Tensor::zeros([4, 4], (Kind::Float, Device::Cpu)).slice(1, 0, 4, 2);
    let expanded = Tensor::zeros([1], (Kind::Float, Device::Cpu)).expand([1 << 20], false);
    for tensor in [strided, expanded, Tensor::new()] {
        for refused in [
            group.all_reduce(tensor.shallow_clone(), ReduceOp::Sum),
            group.broadcast(tensor.shallow_clone(), 0),
            group.all_gather_into_tensor(tensor),
        ] {
            assert!(matches!(refused, Err(DistError::Tensor { .. })), "{refused:?}");
        }
    }
    // A barrier waits for what came before it, and would end with its error.
    group.barrier().unwrap();
    let complex = Tensor::zeros([2], (Kind::ComplexFloat, Device::Cpu));
    let error = group.all_reduce(complex, ReduceOp::Max).and_then(|work| work.wait()).unwrap_err();
    assert!(
        matches!(&error, DistError::Operation { operation: "all_reduce", origin, .. }
            if origin.rank == Some(worker.rank)),
        "{error}"
    );
    // Connections are closed when all have said that they need them no more.
    store.set(&format!("done {rank}"), b"").unwrap();
    for other in 0..=last {
        store.get(&format!("done {other}")).unwrap();
    }
    group.abort().unwrap();
}

// ---- the tests

fn all_succeed(case: &str, world_size: usize) -> Vec<Rank> {
    let ranks = Ranks::start(case, world_size).finish();
    for rank in &ranks {
        assert!(rank.succeeded, "rank {}:\n{}", rank.rank, rank.output);
    }
    ranks
}

#[test]
fn operations_on_2_ranks() {
    all_succeed("operations", 2);
}

#[test]
fn operations_on_4_ranks() {
    all_succeed("operations", 4);
}

#[test]
fn operations_on_1_rank() {
    all_succeed("operations", 1);
}

#[test]
fn rank_0_serves_the_store_when_no_launcher_does() {
    for rank in Ranks::start_without_launcher("operations", 2).finish() {
        assert!(rank.succeeded, "rank {}:\n{}", rank.rank, rank.output);
    }
}

#[test]
fn averages_are_exact_and_the_same_bits_on_all_ranks() {
    for world_size in [2, 3, 4] {
        let ranks = all_succeed("average", world_size);
        let first = ranks[0].said("bits ");
        assert!(first.is_some());
        for rank in &ranks {
            assert_eq!(rank.said("bits "), first, "rank {}", rank.rank);
        }
    }
}

#[test]
fn process_group_operations_run_side_by_side() {
    all_succeed("low-level", 3);
}

#[test]
fn different_tensors_are_refused_on_every_rank() {
    all_succeed("different", 2);
}

#[test]
fn a_killed_rank_is_an_error_that_names_it() {
    let mut ranks = Ranks::start("loop", 4);
    ranks.wait_for("ready");
    ranks.kill(2);
    for rank in ranks.finish() {
        assert_eq!(rank.succeeded, rank.rank != 2, "rank {}:\n{}", rank.rank, rank.output);
        if rank.rank != 2 {
            let error = rank.said("error ").unwrap();
            assert!(error.starts_with(&format!("rank {}: all_reduce failed: ", rank.rank)), "{error}");
            assert!(error.contains("no report within 2.0 s of this failure from rank 2 on "), "{error}");
            assert!(!error.contains("rank 0 on") || rank.rank == 0, "only the lost rank is named: {error}");
        }
    }
}

#[test]
fn a_stopped_rank_is_an_error_after_the_timeout() {
    let mut ranks = Ranks::start("loop-2s", 3);
    ranks.wait_for("ready");
    ranks.stop(1);
    for rank in ranks.finish_all_but(1) {
        assert!(rank.succeeded, "rank {}:\n{}", rank.rank, rank.output);
        let error = rank.said("error ").unwrap();
        assert!(error.contains("from rank 1 on "), "{error}");
    }
}

#[test]
fn a_rank_0_that_served_the_store_is_suspected_when_it_is_gone() {
    let mut ranks = Ranks::start_without_launcher("loop", 2);
    ranks.wait_for("ready");
    ranks.kill(0);
    let rank = ranks.finish().pop().unwrap();
    assert!(rank.succeeded, "{}", rank.output);
    let error = rank.said("error ").unwrap();
    assert!(error.contains("does not answer: look first at the process that serves it"), "{error}");
}

#[test]
fn a_rank_0_that_served_the_store_is_suspected_when_it_is_stopped() {
    let mut ranks = Ranks::start_without_launcher("loop-2s", 2);
    ranks.wait_for("ready");
    ranks.stop(0);
    let rank = ranks.finish_all_but(0).pop().unwrap();
    assert!(rank.succeeded, "{}", rank.output);
    let error = rank.said("error ").unwrap();
    assert!(error.contains("does not answer: look first at the process that serves it"), "{error}");
}

#[test]
fn a_rank_that_never_comes_is_an_error() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let options = TcpStoreOptions {
        host: "127.0.0.1".into(),
        port: 0,
        role: StoreRole::Server,
        world_size: None,
        wait_for_workers: false,
        timeout: Duration::from_millis(500),
        rank: Some(0),
    };
    let store = Store::serve(listener, &options).unwrap();
    let error = ProcessGroup::gloo(
        &store,
        &GlooOptions {
            rank: 0,
            world_size: 2,
            timeout: Duration::from_millis(500),
            interfaces: Vec::new(),
            address: Some("127.0.0.1".into()),
            threads: 1,
        },
    )
    .unwrap_err();
    assert!(
        matches!(
            &error,
            DistError::Operation { operation: "init_process_group", failure: Failure::Timeout, .. }
        ),
        "{error:?}"
    );
}

#[test]
fn store_errors_name_the_address() {
    // A port that was free a moment ago, where nobody listens.
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let options = TcpStoreOptions {
        host: "127.0.0.1".into(),
        port,
        role: StoreRole::Client,
        world_size: Some(2),
        wait_for_workers: true,
        timeout: Duration::from_millis(300),
        rank: Some(1),
    };
    let error = Store::tcp(&options).unwrap_err().to_string();
    assert!(error.starts_with("rank 1 on "), "{error}");
    assert!(error.contains(&format!("TCPStore at 127.0.0.1:{port} failed: ")), "{error}");
    assert!(error.contains("MASTER_PORT"), "{error}");
}

#[test]
fn a_store_keeps_values_under_prefixes() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let options = TcpStoreOptions {
        host: "127.0.0.1".into(),
        port: 0,
        role: StoreRole::Server,
        world_size: None,
        wait_for_workers: false,
        timeout: Duration::from_secs(5),
        rank: None,
    };
    let server = Store::serve(listener, &options).unwrap();
    assert_eq!((server.port().unwrap(), server.address()), (port, &*format!("127.0.0.1:{port}")));
    let client = Store::tcp(&TcpStoreOptions { port, role: StoreRole::Client, ..options }).unwrap();
    let (left, right) = (client.prefix("left").unwrap(), server.prefix("right").unwrap());
    left.set("key", b"").unwrap();
    right.set("key", &[0, 255, 10]).unwrap();
    assert_eq!(server.prefix("left").unwrap().get("key").unwrap(), b"");
    assert_eq!(client.prefix("right").unwrap().get("key").unwrap(), [0, 255, 10]);
    assert!(right.share().unwrap().contains("key").unwrap());
    assert!(!client.contains("key").unwrap());
    assert!(client.set("nul\0", b"").is_err());
}

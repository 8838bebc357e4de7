//! What averaging gradients costs: the time of forward and backward of one network with 31.5 M parameters, without
//! communication, with the averages after the backward pass, and during it.
//!
//! Start it with torchrun: `torchrun --no-python --standalone --nproc-per-node 2 target/release/examples/ddp_step`.
//! `scripts/lib/ddp_step.py` is the same in PyTorch. Rank 0 prints one line of JSON.
#![allow(clippy::print_stdout, reason = "its result")]

use std::time::Instant;

use mae_core::engine::Collective;
use mae_dist::{Environment, GlooCollective, GlooCollectiveOptions, Role};
use tch::{Device, Kind, Tensor};

const WIDTH: i64 = 1024;
const HIDDEN: i64 = 2560;
const LAYERS: usize = 6;
const BATCH: i64 = 64;
const ROUNDS: usize = 15;

type Failure = Box<dyn std::error::Error>;

fn main() -> Result<(), Failure> {
    let Role::Worker(worker) = Environment::resolve(&Environment::variables(), None)?.role else {
        return Err("start it with torchrun --no-python".into());
    };
    tch::set_num_threads(1);
    mae_core::sys::keep_freed_memory();
    let group = GlooCollective::connect(&worker, &GlooCollectiveOptions::default())?;
    let mut parameters: Vec<Tensor> = (0..LAYERS)
        .flat_map(|_| [[HIDDEN, WIDTH], [WIDTH, HIDDEN]])
        .map(|shape| (Tensor::randn(shape, (Kind::Float, Device::Cpu)) * 0.02).set_requires_grad(true))
        .collect();
    let images = Tensor::randn([BATCH, WIDTH], (Kind::Float, Device::Cpu));
    let loss = |parameters: &[Tensor]| {
        let mut x = images.shallow_clone();
        for pair in parameters.chunks(2) {
            x = &x + x.linear(&pair[0], None::<&Tensor>).gelu("none").linear(&pair[1], None::<&Tensor>);
        }
        x.square().mean(Kind::Float)
    };
    let clear = |parameters: &mut [Tensor]| parameters.iter_mut().try_for_each(mae_core::sys::clear_grad);

    let alone = median(&group, || {
        clear(&mut parameters)?;
        Ok(loss(&parameters).f_backward()?)
    })?;
    let after = median(&group, || {
        clear(&mut parameters)?;
        loss(&parameters).f_backward()?;
        let mut gradients: Vec<Tensor> = parameters.iter().map(Tensor::grad).collect();
        Ok(group.average(&mut gradients)?)
    })?;
    let during = median(&group, || {
        clear(&mut parameters)?;
        let loss = loss(&parameters);
        Ok(group.backward(&loss, &mut parameters)?)
    })?;
    if group.rank() == 0 {
        println!(
            "{{\"no_communication_ms\": {alone:.1}, \"average_after_ms\": {after:.1}, \"reducer_ms\": {during:.1}}}"
        );
    }
    group.barrier()?;
    Ok(())
}

/// Milliseconds of a round, the median of some after a few to warm up. All ranks begin together.
fn median(group: &GlooCollective, mut round: impl FnMut() -> Result<(), Failure>) -> Result<f64, Failure> {
    let mut times = Vec::with_capacity(ROUNDS);
    for count in 0..ROUNDS + 3 {
        group.barrier()?;
        let start = Instant::now();
        round()?;
        if count >= 3 {
            times.push(start.elapsed().as_secs_f64() * 1e3);
        }
    }
    times.sort_by(f64::total_cmp);
    Ok(times[ROUNDS / 2])
}

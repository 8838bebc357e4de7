//! Our own checkpoints, cut short and with flipped bits: what still loads is what was written.
//!
//! `MAE_TORTURE=full` takes 1,000 places and 10,000 bits, `MAE_TORTURE=short` fewer; without it a few, as a test.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]
#![allow(clippy::print_stdout, reason = "scripts/torture shows the figures")]

use mae_core::checkpoint::lightning::{
    CheckpointContents, LrScheduler, LrSchedulerKind, OptimizerKind, OptimizerState, ParamGroup, ParamState,
};
use mae_core::checkpoint::{Checkpoint, TensorView, Value, parse_bytes, write, write_safetensors};

/// Cuts and flips.
fn counts() -> (usize, usize) {
    match std::env::var("MAE_TORTURE").as_deref() {
        Ok("full") => (1_000, 10_000),
        Ok("short") => (300, 1_500),
        _ => (60, 300),
    }
}

/// Numbers that look random and are always the same.
struct Draw(u64);

impl Draw {
    fn below(&mut self, limit: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        ((z ^ (z >> 31)) % limit as u64) as usize
    }
}

fn weights() -> Vec<(String, TensorView)> {
    let shapes: [&[i64]; 5] = [&[8, 3, 4, 4], &[8], &[1, 1, 1, 8], &[16, 8], &[]];
    let view = |index: usize, shape: &[i64]| {
        let numel: i64 = shape.iter().product();
        let values: Vec<f32> = (0..numel).map(|i| (i as f32 + 0.5) * (index as f32 + 1.0).sin()).collect();
        TensorView::from_f32(shape, &values).unwrap()
    };
    let tensors = (0..12).map(|index| (format!("stages.{index}.weight"), view(index, shapes[index % 5])));
    tensors.collect()
}

/// A training's checkpoint with all of its parts.
fn checkpoint() -> Value {
    let weights = weights();
    let state = weights.iter().enumerate().map(|(index, (_, view))| {
        let moment = |view: &TensorView| view.clone();
        (index as i64, ParamState::Adam { step: 3, exp_avg: moment(view), exp_avg_sq: moment(view) })
    });
    let group = ParamGroup {
        weight_decay: 0.05,
        lr_scale: None,
        lr: 1e-3,
        initial_lr: Some(1e-3),
        kind: OptimizerKind::AdamW { betas: (0.9, 0.95), eps: 1e-8 },
        params: (0..weights.len() as i64).collect(),
    };
    let scheduler = LrScheduler {
        kind: LrSchedulerKind::MultiStep { milestones: vec![(88, 1)], gamma: 0.1 },
        base_lrs: vec![1e-3],
        last_epoch: 1,
        last_lr: vec![1e-3],
    };
    CheckpointContents {
        optimizer: Some(OptimizerState { state: state.collect(), param_groups: vec![group] }),
        lr_schedulers: vec![scheduler],
        extra: Some(Value::dict([("arch", Value::str("convnextv2_atto")), ("seed", Value::Int(11))])),
        epoch: 1,
        global_step: 3,
        ..CheckpointContents::new(weights)
    }
    .to_value()
}

/// The structure, when every tensor in it can be read.
fn load(bytes: &[u8]) -> Option<Value> {
    let checkpoint = parse_bytes(bytes).ok()?;
    checkpoint.verify().ok()?;
    Some(checkpoint.root().clone())
}

fn torture(name: &str, bytes: &[u8]) {
    let original = load(bytes).unwrap();
    let (cuts, flips) = counts();
    let mut draw = Draw(7);
    for _ in 0..cuts {
        let length = draw.below(bytes.len());
        assert!(load(&bytes[..length]).is_none(), "{name}: {length} of {} bytes load", bytes.len());
    }
    let mut harmless = 0;
    for _ in 0..flips {
        let (position, bit) = (draw.below(bytes.len()), draw.below(8));
        let mut damaged = bytes.to_vec();
        damaged[position] ^= 1 << bit;
        if let Some(found) = load(&damaged) {
            assert!(found == original, "{name}: bit {bit} of byte {position} is not noticed");
            harmless += 1;
        }
    }
    println!(
        "{name}: {cuts} cuts refused; {flips} flipped bits, {harmless} of them where nothing is stored, the rest refused"
    );
}

#[test]
fn damaged_checkpoints() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.pth");
    write(&path, &checkpoint()).unwrap();
    let bytes = std::fs::read(&path).unwrap();
    assert!(Checkpoint::open(&path).unwrap().has_digests());
    torture(".pth", &bytes);

    let path = folder.path().join("model.safetensors");
    write_safetensors(&path, &weights()).unwrap();
    assert!(Checkpoint::open(&path).unwrap().has_digests());
    torture(".safetensors", &std::fs::read(&path).unwrap());
}

/// A digest notices what a checksum of 32 bits, made to fit, does not.
#[test]
fn bytes_with_a_forged_checksum() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.pth");
    write(&path, &checkpoint()).unwrap();
    let mut bytes = std::fs::read(&path).unwrap();
    let values: Vec<u8> = weights()[3].1.to_contiguous_bytes().unwrap().into_owned();
    let at = bytes.windows(values.len()).position(|window| window == values).unwrap();
    let before = crc32fast::hash(&values);
    bytes[at] ^= 1;
    let after = crc32fast::hash(&bytes[at..at + values.len()]);
    // Both places that hold the sum, in front of the record and in the directory.
    for position in 0..bytes.len() - 4 {
        if bytes[position..position + 4] == before.to_le_bytes() {
            bytes[position..position + 4].copy_from_slice(&after.to_le_bytes());
        }
    }
    let error = parse_bytes(&bytes).unwrap().verify().unwrap_err().to_string();
    assert!(error.contains("BLAKE3"), "{error}");
}

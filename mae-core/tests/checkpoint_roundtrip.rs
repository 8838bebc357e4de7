//! What is written is what is read, atomically.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

use std::io::Read;

use mae_core::checkpoint::lightning::{
    CheckpointContents, GradScaler, Loops, LrScheduler, LrSchedulerKind, ModelCheckpoint, OptimizerKind,
    OptimizerState, ParamGroup, ParamState,
};
use mae_core::checkpoint::{
    Checkpoint, DType, Error, Kind, Opaque, TensorView, Value, link_target, swap_symlink, write,
    write_safetensors,
};
use proptest::prelude::*;
use tch::Tensor;

fn round_trip(value: &Value) -> Value {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("value.pth");
    write(&path, value).unwrap();
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1, "the temporary file is gone");
    Checkpoint::open(&path).unwrap().root().clone()
}

#[test]
fn values_cross_threads() {
    // A save in the background needs both.
    fn needs<T: Send + Sync>(_: &T) {}
    let value = Value::Tensor(TensorView::deferred(&Tensor::from(1.5_f32)).unwrap());
    needs(&value);
    let read = std::thread::spawn(move || round_trip(&value)).join().unwrap();
    assert_eq!(read.as_f64(), Some(1.5));
}

fn tensors() -> impl Strategy<Value = Value> {
    let dtype = proptest::sample::select(DType::all().collect::<Vec<_>>());
    (dtype, proptest::collection::vec(0_i64..4, 0..4)).prop_flat_map(|(dtype, shape)| {
        let len = shape.iter().product::<i64>() as usize * dtype.size();
        proptest::collection::vec(any::<u8>(), len)
            .prop_map(move |bytes| Value::Tensor(TensorView::from_bytes(dtype, &shape, bytes).unwrap()))
    })
}

/// Dict keys must differ.
fn distinct(pairs: Vec<(Value, Value)>) -> Vec<(Value, Value)> {
    let mut kept: Vec<(Value, Value)> = Vec::new();
    for (key, value) in pairs {
        if kept.iter().all(|(known, _)| *known != key) {
            kept.push((key, value));
        }
    }
    kept
}

fn values() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::None),
        any::<bool>().prop_map(Value::Bool),
        any::<i64>().prop_map(Value::Int),
        (-70000_i64..70000).prop_map(Value::Int),
        proptest::collection::vec(any::<u8>(), 9..300).prop_map(|mut bytes| {
            // No redundant sign byte at the end.
            bytes.push(0x55);
            Value::BigInt(bytes)
        }),
        proptest::num::f64::ANY
            .prop_filter("NaN is not equal to itself", |v| !v.is_nan())
            .prop_map(Value::Float),
        ".{0,20}".prop_map(Value::Str),
        proptest::collection::vec(any::<u8>(), 0..40).prop_map(Value::Bytes),
        proptest::collection::vec(any::<i64>(), 0..4).prop_map(Value::Size),
        proptest::sample::select(DType::all().collect::<Vec<_>>()).prop_map(Value::DType),
        proptest::sample::select(vec!["cpu", "cuda:0", "cuda:7", "meta"])
            .prop_map(|device| Value::Device(device.to_owned())),
        tensors(),
    ];
    let keys = prop_oneof![".{0,12}".prop_map(Value::Str), any::<i64>().prop_map(Value::Int)];
    leaf.prop_recursive(4, 64, 8, move |inner| {
        let pairs = proptest::collection::vec((keys.clone(), inner.clone()), 0..8).prop_map(distinct);
        let items = proptest::collection::vec(inner, 0..8);
        prop_oneof![
            items.clone().prop_map(Value::List),
            items.clone().prop_map(Value::Tuple),
            items.prop_map(Value::Set),
            pairs.clone().prop_map(Value::Dict),
            pairs.clone().prop_map(Value::OrderedDict),
            pairs.prop_map(Value::Counter),
        ]
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn what_is_written_is_read(value in values()) {
        prop_assert_eq!(round_trip(&value), value);
    }
}

#[test]
fn every_length_of_int() {
    let ints = (0..64).flat_map(|bits| {
        let power = 1_i64.checked_shl(bits).unwrap_or(i64::MAX);
        [power, power.wrapping_sub(1), power.wrapping_neg(), power.wrapping_neg().wrapping_sub(1)]
    });
    let value = Value::List(ints.chain([i64::MIN, i64::MAX]).map(Value::Int).collect());
    assert_eq!(round_trip(&value), value);
}

#[test]
fn long_containers_and_not_a_number() {
    let value = Value::dict([
        ("list", Value::List((0..2501).map(Value::Int).collect())),
        ("dict", Value::Dict((0..1001).map(|n| (Value::Int(n), Value::None)).collect())),
        ("nan", Value::Float(f64::NAN)),
    ]);
    let read = round_trip(&value);
    assert_eq!(read.get("list"), value.get("list"));
    assert_eq!(read.get("dict"), value.get("dict"));
    assert!(matches!(read.get("nan"), Some(Value::Float(v)) if v.is_nan()));
}

#[test]
fn records_are_stored_aligned_and_named_as_pytorch_does() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.pth");
    let tensor = |n: i64| Value::Tensor(TensorView::from_f32(&[n], &vec![0.5; n as usize]).unwrap());
    write(&path, &Value::ordered_dict([("a", tensor(3)), ("b", tensor(17)), ("c", tensor(1))])).unwrap();
    let mut archive = zip::ZipArchive::new(std::fs::File::open(&path).unwrap()).unwrap();
    let mut names = Vec::new();
    for index in 0..archive.len() {
        let entry = archive.by_index(index).unwrap();
        assert_eq!(entry.compression(), zip::CompressionMethod::Stored);
        assert_eq!(entry.data_start().unwrap() % 64, 0);
        names.push(entry.name().unwrap().into_owned());
    }
    let expected =
        ["data.pkl", "byteorder", "data/0", "data/1", "data/2", "version", ".data/serialization_id"];
    // PyTorch knows all but the last one, which it skips.
    let expected = expected.into_iter().chain([".data/digests"]);
    assert_eq!(names, expected.map(|name| format!("archive/{name}")).collect::<Vec<_>>());
    let mut id = String::new();
    archive.by_name("archive/.data/serialization_id").unwrap().read_to_string(&mut id).unwrap();
    assert!(id.len() == 40 && id.bytes().all(|byte| byte.is_ascii_digit()), "{id}");
    let mode = std::os::unix::fs::PermissionsExt::mode(&std::fs::metadata(&path).unwrap().permissions());
    assert_eq!(mode & 0o400, 0o400);
}

#[test]
fn shared_storages_stay_shared() {
    let whole = TensorView::from_f32(&[4, 6], &(0..24).map(|n| n as f32).collect::<Vec<_>>()).unwrap();
    let flat = whole.reshape(&[24]).unwrap();
    let read =
        round_trip(&Value::dict([("whole", Value::Tensor(whole.clone())), ("flat", Value::Tensor(flat))]));
    let tensor = |key: &str| read.get(key).unwrap().as_tensor().unwrap();
    assert!(tensor("whole").shares_storage_with(tensor("flat")));
    assert_eq!(tensor("whole"), &whole);
}

#[test]
fn tensors_of_libtorch_copied_and_deferred() {
    for kind in DType::all().map(DType::kind) {
        let mut tensor =
            Tensor::arange(12, (tch::Kind::Float, tch::Device::Cpu)).to_kind(kind).reshape([3, 4]);
        let transposed = tensor.tr();
        let copied = TensorView::from_tensor(&transposed).unwrap();
        let deferred = TensorView::deferred(&tensor).unwrap();
        assert_eq!(copied.shape(), [4, 3]);
        assert_eq!(copied.to_tensor().unwrap(), transposed);
        let _ = tensor.fill_(1.0);
        // The copy is of before, the handle of now.
        assert_ne!(copied.to_tensor().unwrap(), tensor.tr());
        let read = round_trip(&Value::Tensor(deferred));
        assert_eq!(read.as_tensor().unwrap().to_tensor().unwrap(), tensor);
    }
}

#[test]
fn unknown_classes_are_not_written() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.pth");
    std::fs::write(&path, "precious").unwrap();
    let object = Opaque { class: "argparse.Namespace".into(), instance: true, ..Opaque::default() };
    let root = Value::dict([("args", Value::List(vec![Value::Opaque(Box::new(object))]))]);
    let error = write(&path, &root).unwrap_err();
    assert!(matches!(error, Error::NotWritable { .. }));
    insta::assert_snapshot!(error.to_string());
    assert_eq!(std::fs::read_to_string(&path).unwrap(), "precious");
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
}

#[test]
fn a_missing_folder_is_an_error() {
    let error = write(std::path::Path::new("/nonexistent/model.pth"), &Value::None).unwrap_err();
    assert!(error.to_string().contains("/nonexistent"), "{error}");
}

#[test]
fn the_latest_link_is_replaced() {
    let folder = tempfile::tempdir().unwrap();
    let link = folder.path().join("vit_latest.pth");
    assert_eq!(link_target(&link).unwrap(), None);
    for name in ["model_epoch_000_step_00002.pth", "model_epoch_001_step_00004.pth"] {
        write(&folder.path().join(name), &Value::str(name)).unwrap();
        swap_symlink(&link, name).unwrap();
        assert_eq!(std::fs::read_link(&link).unwrap(), std::path::Path::new(name));
        assert_eq!(link_target(&link).unwrap(), Some(folder.path().join(name)));
        assert_eq!(Checkpoint::open(&link).unwrap().root().as_str(), Some(name));
    }
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 3);
}

#[test]
fn safetensors_round_trip() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.safetensors");
    let tensors = vec![
        ("b.weight".to_owned(), TensorView::from_f32(&[2, 2], &[1.0, 2.0, 3.0, 4.0]).unwrap()),
        (
            "a.step".to_owned(),
            TensorView::from_bytes(DType::Int64, &[], 7_i64.to_ne_bytes().to_vec()).unwrap(),
        ),
        ("c.empty".to_owned(), TensorView::from_f32(&[0, 3], &[]).unwrap()),
    ];
    write_safetensors(&path, &tensors).unwrap();
    let checkpoint = Checkpoint::open(&path).unwrap();
    assert_eq!(checkpoint.kind(), Kind::StateDict);
    let mut read = checkpoint.state_dict().unwrap();
    let mut expected = tensors;
    read.sort_by(|a, b| a.0.cmp(&b.0));
    expected.sort_by(|a, b| a.0.cmp(&b.0));
    assert_eq!(read, expected);
}

#[test]
fn contents_of_a_training_round_trip() {
    let tensor = |n: i64| TensorView::from_f32(&[n], &vec![0.25; n as usize]).unwrap();
    let contents = CheckpointContents {
        epoch: 3,
        global_step: 70,
        loops: Loops {
            epochs_started: 4,
            epoch_done: false,
            batches: 70,
            batches_in_epoch: 10,
            optimizer_steps: 70,
            optimizer_steps_in_epoch: 10,
            scheduler_steps: 70,
            scheduler_steps_in_epoch: 10,
            validation_batches: 2,
        },
        callback: Some(ModelCheckpoint {
            every_n_train_steps: 10,
            every_n_epochs: 0,
            dirpath: "/results/train".into(),
            best_model_path: "/results/train/model_epoch_003_step_00070.pth".into(),
            last_model_path: String::new(),
        }),
        optimizer: Some(OptimizerState {
            state: vec![
                (0, ParamState::Adam { step: 70, exp_avg: tensor(2), exp_avg_sq: tensor(2) }),
                (1, ParamState::Sgd { momentum_buffer: Some(tensor(3)) }),
            ],
            param_groups: vec![
                ParamGroup {
                    weight_decay: 0.05,
                    lr_scale: Some(0.75),
                    lr: 1e-4,
                    initial_lr: Some(2e-4),
                    kind: OptimizerKind::AdamW { betas: (0.9, 0.95), eps: 1e-8 },
                    params: vec![0],
                },
                ParamGroup {
                    weight_decay: 0.0,
                    lr_scale: None,
                    lr: 0.1,
                    initial_lr: None,
                    kind: OptimizerKind::Sgd { momentum: 0.9 },
                    params: vec![1],
                },
            ],
        }),
        lr_schedulers: vec![LrScheduler {
            kind: LrSchedulerKind::MultiStep { milestones: vec![(88, 1), (96, 1)], gamma: 0.1 },
            base_lrs: vec![2e-4, 0.1],
            last_epoch: 70,
            last_lr: vec![1e-4, 0.1],
        }],
        scaler: Some(GradScaler { scale: 32768.0, growth_tracker: 12 }),
        extra: Some(Value::dict([("seed", Value::Int(47))])),
        ..CheckpointContents::new(vec![("head.weight".into(), tensor(2)), ("head.bias".into(), tensor(3))])
    };
    let read = round_trip(&contents.to_value());
    assert_eq!(CheckpointContents::from_value(&read).unwrap(), contents);
    let broken = Value::dict([("epoch", Value::str("three")), ("state_dict", Value::Dict(vec![]))]);
    insta::assert_snapshot!(CheckpointContents::from_value(&broken).unwrap_err().to_string());
}

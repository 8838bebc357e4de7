//! Hostile and broken bytes: refused with a message, never a panic, never a wrong load.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

mod checkpoint_common;

use std::io::{Cursor, Write};

use checkpoint_common::goldens;
use mae_core::checkpoint::{Checkpoint, Error, TensorView, Value, parse_bytes, write};
use proptest::prelude::*;
use zip::CompressionMethod;
use zip::write::{SimpleFileOptions, ZipWriter};

/// A zip checkpoint with this pickle and these other records.
fn archive(pickle: &[u8], records: &[(&str, &[u8])], method: CompressionMethod) -> Vec<u8> {
    let mut writer = ZipWriter::new(Cursor::new(Vec::new()));
    let options = SimpleFileOptions::default().compression_method(method);
    for (name, bytes) in [("data.pkl", pickle)].iter().chain(records) {
        writer.start_file(format!("any name/{name}"), options).unwrap();
        writer.write_all(bytes).unwrap();
    }
    writer.finish().unwrap().into_inner()
}

fn refused(pickle: &[u8]) -> String {
    parse_bytes(&archive(pickle, &[], CompressionMethod::Stored)).unwrap_err().to_string()
}

/// A float32 tensor over storage 0, `numel` claimed, with shape and strides as given.
fn tensor_pickle(numel: u8, offset: u8, shape: &[u8], strides: &[u8]) -> Vec<u8> {
    let mut pickle =
        b"\x80\x02ctorch._utils\n_rebuild_tensor_v2\n((X\x07\x00\x00\x00storagectorch\nFloatStorage\n"
            .to_vec();
    pickle.extend_from_slice(b"X\x01\x00\x00\x000X\x03\x00\x00\x00cpu");
    pickle.extend_from_slice(&[b'K', numel, b't', b'Q', b'K', offset]);
    for numbers in [shape, strides] {
        pickle.push(b'(');
        numbers.iter().for_each(|n| pickle.extend_from_slice(&[b'K', *n]));
        pickle.push(b't');
    }
    pickle.extend_from_slice(b"\x89ccollections\nOrderedDict\n)RtR.");
    pickle
}

#[test]
fn messages_for_hostile_pickles() {
    let mut messages = vec![
        refused(b"\x80\x02cposix\nsystem\nX\x04\x00\x00\x00true\x85R."),
        refused(b"\x80\x04\x8c\x08builtins\x8c\x04eval\x93\x8c\x011\x85R."),
        refused(b"(S'true'\nios\nsystem\n."),
        refused(b"(ios\nsystem\n."),
        refused(b"\x80\x02cnumpy\nos.system\n."),
        refused(b"\x80\x02\x82\x01."),
        refused(b"\x80\x02h\x05."),
        refused(b"\x80\x02X\xff\xff\xff\x7fabc"),
        refused(b"\x80\x02]q\x00h\x00a."),
        refused(b"\x80\x02K\x01K\x02\x85R."),
        refused(b"\x80\x02}(X\x01\x00\x00\x00aK\x01X\x01\x00\x00\x00aK\x02u."),
        refused(b"\x80\x02X\x01\x00\x00\x00xQ."),
        refused(b"\x80\x02e."),
        refused(b"."),
        refused(b""),
        refused(&[b"\x80\x02".as_slice(), &[b']'; 1000], &[b'a'; 999], b"."].concat()),
    ];
    messages.push(
        parse_bytes(&archive(&tensor_pickle(4, 0, &[4], &[1]), &[], CompressionMethod::Stored))
            .unwrap_err()
            .to_string(),
    );
    insta::assert_snapshot!(messages.join("\n"));
}

#[test]
fn messages_for_tensors_that_do_not_fit_their_storage() {
    let data = [0_u8; 16];
    let problem = |pickle: Vec<u8>| {
        let bytes = archive(&pickle, &[("data/0", &data)], CompressionMethod::Stored);
        parse_bytes(&bytes).unwrap_err().to_string()
    };
    let messages = [
        problem(tensor_pickle(5, 0, &[4], &[1])),
        problem(tensor_pickle(4, 1, &[4], &[1])),
        problem(tensor_pickle(4, 0, &[2, 2], &[3, 1])),
        problem(tensor_pickle(4, 0, &[255; 9], &[0; 9])),
        problem(tensor_pickle(4, 0, &[255; 4], &[0; 4])),
        problem(tensor_pickle(4, 0, &[2], &[])),
    ];
    insta::assert_snapshot!(messages.join("\n"));
    let fine =
        archive(&tensor_pickle(4, 0, &[2, 2], &[2, 1]), &[("data/0", &data)], CompressionMethod::Stored);
    assert_eq!(parse_bytes(&fine).unwrap().root().as_tensor().unwrap().shape(), [2, 2]);
}

#[test]
fn shared_objects_do_not_explode() {
    // 40 levels, each a tuple with the level before twice: 2^40 values from some 200 bytes.
    let mut pickle = b"\x80\x02)q\x00".to_vec();
    for level in 0..40_u8 {
        pickle.extend_from_slice(&[b'h', level, b'h', level, 0x86, b'q', level + 1]);
    }
    pickle.push(b'.');
    assert!(matches!(
        parse_bytes(&archive(&pickle, &[], CompressionMethod::Stored)),
        Err(Error::Limit { .. })
    ));
    // A long text, referred to very often.
    let mut pickle = b"\x80\x02X\x00\x00\x10\x00".to_vec();
    pickle.extend_from_slice(&vec![b'x'; 1 << 20]);
    pickle.extend_from_slice(b"q\x000](");
    (0..4096).for_each(|_| pickle.extend_from_slice(b"h\x00"));
    pickle.extend_from_slice(b"e.");
    assert!(matches!(
        parse_bytes(&archive(&pickle, &[], CompressionMethod::Stored)),
        Err(Error::Limit { .. })
    ));
}

#[test]
fn compressed_archives_are_read_and_bombs_are_not() {
    let values: Vec<u8> = [1.0_f32, 2.0, 3.0, 4.0].iter().flat_map(|v| v.to_le_bytes()).collect();
    let bytes =
        archive(&tensor_pickle(4, 0, &[4], &[1]), &[("data/0", &values)], CompressionMethod::Deflated);
    let checkpoint = parse_bytes(&bytes).unwrap();
    assert_eq!(checkpoint.root().as_tensor().unwrap().to_f64_vec().unwrap(), [1.0, 2.0, 3.0, 4.0]);
    // The directory claims a terabyte for the record: not believed.
    let position = bytes.windows(4).rposition(|window| window == b"PK\x01\x02").unwrap();
    let mut bomb = bytes;
    bomb[position + 24..position + 28].copy_from_slice(&0x7fff_ffff_u32.to_le_bytes());
    assert!(matches!(parse_bytes(&bomb), Err(Error::Container { .. })));
}

#[test]
fn big_endian_storages() {
    let values: Vec<u8> = [1.0_f32, -2.0, 3.5, 0.25].iter().flat_map(|v| v.to_be_bytes()).collect();
    let records: [(&str, &[u8]); 2] = [("data/0", &values), ("byteorder", b"big")];
    let bytes = archive(&tensor_pickle(4, 0, &[2, 2], &[1, 2]), &records, CompressionMethod::Stored);
    let checkpoint = parse_bytes(&bytes).unwrap();
    let view = checkpoint.root().as_tensor().unwrap();
    assert_eq!(view.to_f64_vec().unwrap(), [1.0, 3.5, -2.0, 0.25]);
    // Written again, the order is the machine's.
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.pth");
    write(&path, checkpoint.root()).unwrap();
    assert_eq!(Checkpoint::open(&path).unwrap().root(), checkpoint.root());
}

#[test]
fn damaged_tensor_bytes_are_noticed() {
    let values = [7_u8; 16];
    let mut bytes =
        archive(&tensor_pickle(4, 0, &[4], &[1]), &[("data/0", &values)], CompressionMethod::Stored);
    let position = bytes.windows(16).position(|window| window == values).unwrap();
    bytes[position + 5] ^= 1;
    let checkpoint = parse_bytes(&bytes).unwrap();
    let error = checkpoint.root().as_tensor().unwrap().to_contiguous_bytes().unwrap_err();
    assert!(matches!(error, Error::Damaged { .. }));
    insta::assert_snapshot!(error.to_string());
}

#[test]
fn other_files_are_named() {
    let torchscript = archive(b"\x80\x02N.", &[("constants.pkl", b"\x80\x02).")], CompressionMethod::Stored);
    let messages = [
        parse_bytes(b"").unwrap_err(),
        parse_bytes(b"<!DOCTYPE html><html>").unwrap_err(),
        parse_bytes(b"\x89PNG\r\n\x1a\n0000").unwrap_err(),
        parse_bytes(b"\x1f\x8b\x08\x00").unwrap_err(),
        parse_bytes(b"\x80\x02}.").unwrap_err(),
        parse_bytes(&torchscript).unwrap_err(),
        parse_bytes(&torchscript[..torchscript.len() - 30]).unwrap_err(),
    ]
    .map(|error| error.to_string());
    insta::assert_snapshot!(messages.join("\n"));
    let open = Checkpoint::open(std::env::temp_dir()).unwrap_err();
    assert!(matches!(open, Error::Io { .. }));
}

#[test]
fn checkpoints_without_weights_say_what_they_hold() {
    let message = |root: Value| {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("model.pth");
        write(&path, &root).unwrap();
        Checkpoint::open(&path).unwrap().state_dict().unwrap_err().to_string()
    };
    let messages = [
        message(Value::dict([("epoch", Value::Int(3)), ("model", Value::Dict(vec![]))])),
        message(Value::dict([("state_dict_encrypted", Value::Bytes(vec![1, 2]))])),
        message(Value::List(vec![])),
    ];
    insta::assert_snapshot!(messages.join("\n"));
}

#[test]
fn the_first_non_empty_state_dict_counts() {
    let tensors = |n: i64| {
        Value::ordered_dict([(
            "w",
            Value::Tensor(TensorView::from_f32(&[n], &vec![0.0; n as usize]).unwrap()),
        )])
    };
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.pth");
    let root = Value::dict([
        ("state_dict", tensors(1)),
        ("model_state", tensors(2)),
        ("model", Value::Dict(vec![])),
    ]);
    write(&path, &root).unwrap();
    assert_eq!(Checkpoint::open(&path).unwrap().state_dict().unwrap()[0].1.shape(), [2]);
    write(&path, &tensors(3)).unwrap();
    assert_eq!(Checkpoint::open(&path).unwrap().state_dict().unwrap()[0].1.shape(), [3]);
}

/// Reads everything a checkpoint promises.
fn exhaust(bytes: &[u8]) -> Option<Vec<(String, Vec<u8>)>> {
    fn visit(value: &Value, found: &mut Vec<(String, Vec<u8>)>) -> bool {
        match value {
            Value::Tensor(view) => match view.to_contiguous_bytes() {
                Ok(bytes) => {
                    found.push((format!("{:?}", view.shape()), bytes.into_owned()));
                    true
                }
                Err(_) => false,
            },
            other => {
                let pairs = other.as_dict().into_iter().flatten();
                let items = other.as_slice().into_iter().flatten();
                pairs.flat_map(|(key, value)| [key, value]).chain(items).all(|value| visit(value, found))
            }
        }
    }
    let checkpoint = parse_bytes(bytes).ok()?;
    let mut found = Vec::new();
    visit(checkpoint.root(), &mut found).then_some(found)
}

fn seeds() -> Vec<Vec<u8>> {
    let folder = goldens().join("checkpoints/foreign");
    let names =
        ["dtypes_and_layouts.pth", "dtypes_and_layouts_legacy.pth", "ordereddict_namespace_numpy.pth"];
    names.iter().map(|name| std::fs::read(folder.join(name)).unwrap()).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn truncations_are_errors(which in 0_usize..3, position in any::<prop::sample::Index>()) {
        let bytes = &seeds()[which];
        prop_assert!(parse_bytes(&bytes[..position.index(bytes.len())]).is_err());
    }

    /// In the zip format, whatever still loads has the same tensors: every byte that counts is under a CRC.
    #[test]
    fn bit_flips_never_load_wrongly(which in 0_usize..3, flips in proptest::collection::vec((any::<prop::sample::Index>(), 0_u8..8), 1..4)) {
        let original = &seeds()[which];
        let mut bytes = original.clone();
        for (position, bit) in flips {
            bytes[position.index(original.len())] ^= 1 << bit;
        }
        let found = exhaust(&bytes);
        if which != 1 && let Some(found) = found {
            prop_assert_eq!(Some(found), exhaust(original));
        }
    }

    #[test]
    fn random_pickles_never_panic(body in proptest::collection::vec(
        prop_oneof![
            any::<u8>().prop_map(|byte| vec![byte]),
            proptest::sample::select(b"()[]{}t.RbQesuaNolid012\x81\x85\x86\x87\x88\x93\x94".to_vec()).prop_map(|byte| vec![byte]),
            any::<u8>().prop_map(|byte| vec![b'K', byte]),
            (0_u8..8).prop_map(|byte| vec![b'q', byte]),
            (0_u8..8).prop_map(|byte| vec![b'h', byte]),
            Just(b"ccollections\nOrderedDict\n".to_vec()),
            Just(b"ctorch._utils\n_rebuild_tensor_v2\n".to_vec()),
            Just(b"ctorch._tensor\n_rebuild_from_type_v2\n".to_vec()),
            Just(b"ctorch\nFloatStorage\n".to_vec()),
            Just(b"ctorch\nSize\n".to_vec()),
            Just(b"cnumpy\ndtype\n".to_vec()),
            Just(b"cnumpy._core.multiarray\n_reconstruct\n".to_vec()),
            Just(b"cnumpy._core.multiarray\nscalar\n".to_vec()),
            Just(b"ccopyreg\n_reconstructor\n".to_vec()),
            Just(b"cfoo\nBar\n".to_vec()),
            Just(b"X\x07\x00\x00\x00storage".to_vec()),
            Just(b"X\x02\x00\x00\x00f4".to_vec()),
        ],
        0..60,
    )) {
        let mut pickle = body.concat();
        pickle.push(b'.');
        let _ = exhaust(&archive(&pickle, &[("data/0", &[0; 16])], CompressionMethod::Stored));
    }
}

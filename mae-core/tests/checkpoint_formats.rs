//! Formats that no golden has, written here byte by byte, and files made to exhaust memory.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

use std::io::{Cursor, Write};

use mae_core::checkpoint::{Error, Format, Value, parse_bytes};
use zip::write::{SimpleFileOptions, ZipWriter};

/// A pickle of protocol 2 around `body`.
fn pickle(body: &[u8]) -> Vec<u8> {
    [b"\x80\x02", body, b"."].concat()
}

fn archive(data: &[u8], records: &[(&str, &[u8])]) -> Vec<u8> {
    let mut writer = ZipWriter::new(Cursor::new(Vec::new()));
    let options = SimpleFileOptions::default().compression_method(zip::CompressionMethod::Stored);
    for (name, bytes) in [("data.pkl", data)].iter().chain(records) {
        writer.start_file(format!("model/{name}"), options).unwrap();
        writer.write_all(bytes).unwrap();
    }
    writer.finish().unwrap().into_inner()
}

fn root(body: &[u8]) -> Value {
    parse_bytes(&archive(&pickle(body), &[])).unwrap().root().clone()
}

fn error(body: &[u8]) -> Error {
    parse_bytes(&archive(&pickle(body), &[])).unwrap_err()
}

fn floats(values: &[f32]) -> Vec<u8> {
    values.iter().flat_map(|value| value.to_le_bytes()).collect()
}

/// `torch.save({"w": ..., "s": ...})` of PyTorch 0.1: two tensors, one of them over a view of the storage.
fn tar_of_pytorch_0_1() -> Vec<u8> {
    let i64s = |values: &[i64]| values.iter().flat_map(|value| value.to_le_bytes()).collect::<Vec<u8>>();
    let storages = [
        pickle(b"K\x01"),
        pickle(b"K\x07X\x03\x00\x00\x00cpuctorch\nFloatStorage\n\x87"),
        i64s(&[4]),
        floats(&[1.0, 2.0, 3.0, 4.0]),
        // (key, root, offset, numel)
        pickle(b"]((K\x08K\x07K\x02K\x02te"),
    ]
    .concat();
    let tensors = [
        pickle(b"K\x02"),
        pickle(b"K\x0bK\x07ctorch\nFloatTensor\n\x87"),
        [2_i32.to_le_bytes(), [0; 4]].concat(),
        i64s(&[2, 2, 1, 2, 0]),
        pickle(b"K\x0cK\x08ctorch\nFloatTensor\n\x87"),
        [1_i32.to_le_bytes(), [0xaa; 4]].concat(),
        i64s(&[2, 1, 0]),
    ]
    .concat();
    let object = pickle(b"}(X\x01\x00\x00\x00wK\x0bQX\x01\x00\x00\x00sK\x0cQu");
    let mut tar = tar::Builder::new(Vec::new());
    for (name, bytes) in
        [("sys_info", pickle(b"}")), ("pickle", object), ("tensors", tensors), ("storages", storages)]
    {
        let mut header = tar::Header::new_ustar();
        header.set_size(bytes.len() as u64);
        header.set_mode(0o644);
        header.set_cksum();
        tar.append_data(&mut header, format!("./{name}"), &*bytes).unwrap();
    }
    tar.into_inner().unwrap()
}

#[test]
fn tar_files_of_pytorch_0_1() {
    let bytes = tar_of_pytorch_0_1();
    let checkpoint = parse_bytes(&bytes).unwrap();
    assert_eq!(checkpoint.format(), &Format::Tar);
    let values = |name: &str| checkpoint.root().get(name).unwrap().as_tensor().unwrap().to_f64_vec().unwrap();
    assert_eq!(values("w"), [1.0, 3.0, 2.0, 4.0]);
    assert_eq!(values("s"), [3.0, 4.0]);
    for length in (0..bytes.len()).step_by(97) {
        // Only the end of the archive is padding.
        if let Ok(checkpoint) = parse_bytes(&bytes[..length]) {
            assert_eq!(checkpoint.root().as_dict().unwrap().len(), 2, "{length}");
        }
    }
    let other = parse_bytes(&{
        let mut tar = tar::Builder::new(Vec::new());
        let mut header = tar::Header::new_ustar();
        header.set_size(1);
        header.set_cksum();
        tar.append_data(&mut header, "image.png", &b"x"[..]).unwrap();
        tar.into_inner().unwrap()
    });
    assert!(other.unwrap_err().to_string().contains("a tar archive without the entry storages"));
}

/// The legacy format under protocol 0, and a class with its source text, which pickled models bring.
#[test]
fn legacy_files_of_any_protocol() {
    let magic = b"L119547037146038801333356L\n.";
    let version = b"I1001\n.";
    let info = b"(dp0\n.";
    let object = b"(dp0\nS'w'\np1\nctorch._utils\n_rebuild_tensor\n((S'storage'\nctorch\nFloatStorage\nS'5'\nS'cpu'\nI2\nNtQI0\n(I2\nt(I1\nttRsVm\\u00e4e\n(S'module'\nctorch.nn\nLinear\nS'linear.py'\nS'class Linear: ...'\ntQs.";
    let keys = b"(lp0\nS'5'\na.";
    let storage = [2_i64.to_le_bytes().to_vec(), floats(&[5.0, -6.0])].concat();
    let bytes = [&magic[..], version, info, object, keys, &storage].concat();
    let checkpoint = parse_bytes(&bytes).unwrap();
    assert_eq!(checkpoint.format(), &Format::Legacy);
    assert_eq!(checkpoint.root().get("w").unwrap().as_tensor().unwrap().to_f64_vec().unwrap(), [5.0, -6.0]);
    let Some(Value::Opaque(class)) = checkpoint.root().get("m\u{e4}e") else { panic!("{checkpoint:?}") };
    assert_eq!((class.class.as_str(), class.instance), ("torch.nn.Linear", false));
}

#[test]
fn large_ints_in_digits() {
    for (digits, expected) in [
        ("1180591620717411303424", 1_i128 << 70),
        ("-1180591620717411303425", -(1_i128 << 70) - 1),
        ("9223372036854775808", 1_i128 << 63),
        ("-9223372036854775808", i128::from(i64::MIN)),
    ] {
        let found = match root(format!("L{digits}L\n").as_bytes()) {
            Value::Int(value) => value.to_string(),
            Value::BigInt(bytes) => mae_core::checkpoint::big_int_to_decimal(&bytes),
            other => panic!("{other:?}"),
        };
        assert_eq!(found, expected.to_string());
    }
}

/// Children that refer to their parents, as OmegaConf's nodes do.
#[test]
fn objects_that_contain_themselves() {
    let body = b"}X\x03\x00\x00\x00cfgcomegaconf.dictconfig\nDictConfig\n)\x81q\x01}(X\x08\x00\x00\x00_contentcomegaconf.nodes\nAnyNode\n)\x81}(X\x07\x00\x00\x00_parenth\x01X\x04\x00\x00\x00_valK\x05ububs";
    let root = root(body);
    let node = root.get_path(&["cfg", "_content"]).unwrap();
    assert_eq!(node.get("_val").unwrap().as_i64(), Some(5));
    let Some(Value::Opaque(parent)) = node.get("_parent") else { panic!("{node:?}") };
    assert_eq!((parent.class.as_str(), parent.instance), ("omegaconf.dictconfig.DictConfig", false));
}

/// Each repeats a few bytes that copy something large.
#[test]
fn copies_are_counted() {
    let tuple = [vec![b'('], b"K\x01".repeat(40_000), b"tq\x00".to_vec()].concat();
    let text = [b"X\x80\x96\x98\x00".to_vec(), vec![b'x'; 10_000_000], b"q\x00".to_vec()].concat();
    let times = |unit: &[u8]| [b"](".to_vec(), unit.repeat(40_000), b"e".to_vec()].concat();
    let bombs = [
        ("arguments of an object", [&tuple[..], b"cfoo\nBar\nq\x01", &times(b"h\x01h\x00R")].concat()),
        ("a set of a tuple", [&tuple[..], b"c__builtin__\nset\nq\x01", &times(b"h\x01h\x00\x85R")].concat()),
        ("a size", [&tuple[..], b"ctorch\nSize\nq\x01", &times(b"h\x01h\x00\x85R")].concat()),
        (
            "bytes of a text",
            [&text[..], b"c_codecs\nencode\nq\x01", &times(b"h\x01h\x00X\x06\x00\x00\x00latin1\x86R")]
                .concat(),
        ),
        ("a dtype", [&text[..], b"cnumpy\ndtype\nq\x01", &times(b"h\x01h\x00\x85R")].concat()),
        ("a device", [&text[..], b"ctorch\ndevice\nq\x01", &times(b"h\x01h\x00\x85R")].concat()),
    ];
    for (what, body) in bombs {
        assert!(matches!(error(&body), Error::Limit { .. }), "{what}");
    }
    // A long name costs its length once for each object.
    let name = vec![b'n'; 4_000];
    let body = [&b"c"[..], &name, b"\n", &name, b"\nq\x01", &times(b"h\x01)R")].concat();
    assert!(matches!(error(&body), Error::Limit { .. }));
}

#[test]
fn arrays_of_protocol_5() {
    let body = [
        &b"cnumpy._core.numeric\n_frombuffer\n(\x96\x08\x00\x00\x00\x00\x00\x00\x00"[..],
        &floats(&[1.5, -2.0]),
        b"cnumpy\ndtype\nX\x02\x00\x00\x00f4\x85RK\x02\x85X\x01\x00\x00\x00CtR",
    ]
    .concat();
    let Value::NumpyArray(view) = root(&body) else { panic!("no array") };
    assert_eq!(view.to_f64_vec().unwrap(), [1.5, -2.0]);
}

/// Quantised tensors are named; the others of the file can be read, in the legacy format too.
#[test]
fn quantised_tensors_are_named() {
    let storage = |class: &str, key: u8, numel: u8| {
        let mut body = b"(X\x07\x00\x00\x00storage".to_vec();
        body.extend_from_slice(format!("ctorch\n{class}\n").as_bytes());
        body.extend_from_slice(&[b'X', 1, 0, 0, 0, key]);
        body.extend_from_slice(b"X\x03\x00\x00\x00cpu");
        body.extend_from_slice(&[b'K', numel, b't', b'Q']);
        body
    };
    let quantised = [
        &b"ctorch._utils\n_rebuild_qtensor\n("[..],
        &storage("QInt8Storage", b'0', 3),
        b"K\x00K\x03\x85K\x01\x85tR",
    ]
    .concat();
    let plain = [
        &b"ctorch._utils\n_rebuild_tensor_v2\n("[..],
        &storage("FloatStorage", b'1', 1),
        b"K\x00K\x01\x85K\x01\x85\x89}tR",
    ]
    .concat();
    let object =
        pickle(&[b"}(X\x01\x00\x00\x00q", &*quantised, b"X\x01\x00\x00\x00w", &*plain, b"u"].concat());
    let zip = archive(&object, &[("data/0", &[1, 2, 3]), ("data/1", &floats(&[7.0]))]);
    let legacy = [
        pickle(b"\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19"),
        pickle(b"M\xe9\x03"),
        pickle(b"}"),
        object,
        pickle(b"](X\x01\x00\x00\x000X\x01\x00\x00\x001e"),
        3_i64.to_le_bytes().to_vec(),
        vec![1, 2, 3],
        1_i64.to_le_bytes().to_vec(),
        floats(&[7.0]),
    ]
    .concat();
    for bytes in [zip, legacy] {
        let checkpoint = parse_bytes(&bytes).unwrap();
        assert_eq!(checkpoint.root().get("w").unwrap().as_tensor().unwrap().to_f64_vec().unwrap(), [7.0]);
        let message = checkpoint.state_dict().unwrap_err().to_string();
        assert!(message.contains("tensor q") && message.contains("quantised"), "{message}");
    }
}

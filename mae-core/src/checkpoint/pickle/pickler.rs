//! [`Value`] → the protocol 2 pickle that `torch.save` writes and `torch.load(weights_only=True)` accepts.

use std::collections::HashMap;
use std::sync::Arc;

use super::super::storage::Storage;
use super::super::{DType, Error, Result, TensorView, Value};
use super::MAX_PICKLE_BYTES;

/// Deeper structures are refused, because reading refuses them too.
const MAX_DEPTH: usize = 100;

/// A pickle and the storages it refers to, in order: record `data/0`, `data/1`, ...
pub(crate) struct Pickled {
    pub(crate) pickle: Vec<u8>,
    /// With the dtype through which the storage is seen, for its byte order.
    pub(crate) storages: Vec<(Arc<Storage>, DType)>,
}

/// Pickles `root`.
pub(crate) fn pickle(root: &Value) -> Result<Pickled> {
    let mut pickler = Pickler::default();
    pickler.out.extend_from_slice(&[0x80, 2]);
    pickler.value(root, 0)?;
    pickler.out.push(b'.');
    if pickler.out.len() > MAX_PICKLE_BYTES {
        return Err(Error::Limit {
            what: format!("the structure without its tensors takes {} bytes", pickler.out.len()),
            limit: format!("{MAX_PICKLE_BYTES} bytes"),
        });
    }
    Ok(Pickled { pickle: pickler.out, storages: pickler.storages })
}

#[derive(Default)]
struct Pickler<'a> {
    out: Vec<u8>,
    /// Keys and globals that were written already, with their memo index.
    strings: HashMap<&'a str, u32>,
    globals: HashMap<(&'static str, &'static str), u32>,
    memo_len: u32,
    storages: Vec<(Arc<Storage>, DType)>,
    storage_keys: HashMap<(*const Storage, DType), usize>,
    /// Keys on the way to the value being written, for messages.
    path: Vec<String>,
}

impl<'a> Pickler<'a> {
    fn value(&mut self, value: &'a Value, depth: usize) -> Result<()> {
        if depth > MAX_DEPTH {
            return Err(Error::Limit {
                what: format!("{}: values are nested too deeply", self.place()),
                limit: format!("{MAX_DEPTH} levels"),
            });
        }
        match value {
            Value::None => self.out.push(b'N'),
            Value::Bool(value) => self.out.push(if *value { 0x88 } else { 0x89 }),
            Value::Int(value) => self.int(*value),
            Value::BigInt(bytes) => self.long(bytes)?,
            Value::Float(value) => {
                self.out.push(b'G');
                self.out.extend_from_slice(&value.to_be_bytes());
            }
            Value::Str(text) => self.str(text),
            Value::Bytes(bytes) => {
                // Protocol 2 has no bytes: Python spells them as a call of this codec.
                let text: String = bytes.iter().map(|byte| char::from(*byte)).collect();
                self.global("_codecs", "encode");
                self.fresh_str(&text);
                self.str("latin1");
                self.out.extend_from_slice(&[0x86, b'R']);
            }
            Value::List(items) => {
                self.out.push(b']');
                self.batched(items, depth, b'e')?;
            }
            Value::Tuple(items) => {
                match items.len() {
                    0 => {}
                    1..=3 => {}
                    _ => self.out.push(b'('),
                }
                for (index, item) in items.iter().enumerate() {
                    self.item(index.to_string(), item, depth)?;
                }
                self.out.push(match items.len() {
                    0 => b')',
                    1 => 0x85,
                    2 => 0x86,
                    3 => 0x87,
                    _ => b't',
                });
            }
            Value::Set(items) => {
                self.global("__builtin__", "set");
                self.out.push(b']');
                self.batched(items, depth, b'e')?;
                self.out.extend_from_slice(&[0x85, b'R']);
            }
            Value::Dict(pairs) => {
                self.out.push(b'}');
                self.pairs(pairs, depth)?;
            }
            Value::OrderedDict(pairs) => {
                self.global("collections", "OrderedDict");
                self.out.extend_from_slice(b")R");
                self.pairs(pairs, depth)?;
            }
            Value::Counter(pairs) => {
                self.global("collections", "Counter");
                self.out.push(b'}');
                self.pairs(pairs, depth)?;
                self.out.extend_from_slice(&[0x85, b'R']);
            }
            Value::Tensor(view) => self.tensor(view),
            Value::Size(sizes) => {
                self.global("torch", "Size");
                self.ints(sizes);
                self.out.extend_from_slice(&[0x85, b'R']);
            }
            Value::DType(dtype) => self.global("torch", dtype.name()),
            Value::Device(device) => {
                self.global("torch", "device");
                match device.split_once(':').and_then(|(kind, index)| Some((kind, index.parse().ok()?))) {
                    Some((kind, index)) => {
                        self.fresh_str(kind);
                        self.int(index);
                        self.out.push(0x86);
                    }
                    None => {
                        self.fresh_str(device);
                        self.out.push(0x85);
                    }
                }
                self.out.push(b'R');
            }
            Value::NumpyArray(_) | Value::NumpyScalar(_) | Value::Opaque(_) => {
                return Err(Error::NotWritable { path: self.place(), class: value.type_name().to_owned() });
            }
        }
        Ok(())
    }

    fn place(&self) -> String {
        if self.path.is_empty() { "the checkpoint".into() } else { self.path.join(".") }
    }

    fn item(&mut self, key: String, value: &'a Value, depth: usize) -> Result<()> {
        self.path.push(key);
        self.value(value, depth + 1)?;
        self.path.pop();
        Ok(())
    }

    /// Elements in batches of 1,000, as Python writes them.
    fn batched(&mut self, items: &'a [Value], depth: usize, end: u8) -> Result<()> {
        for (batch, items) in items.chunks(1000).enumerate() {
            self.out.push(b'(');
            for (index, item) in items.iter().enumerate() {
                self.item((batch * 1000 + index).to_string(), item, depth)?;
            }
            self.out.push(end);
        }
        Ok(())
    }

    fn pairs(&mut self, pairs: &'a [(Value, Value)], depth: usize) -> Result<()> {
        for pairs in pairs.chunks(1000) {
            self.out.push(b'(');
            for (key, value) in pairs {
                let name = key.as_str().map_or_else(|| format!("{key:?}"), str::to_owned);
                self.item(name.clone(), key, depth)?;
                self.item(name, value, depth)?;
            }
            self.out.push(b'u');
        }
        Ok(())
    }

    fn tensor(&mut self, view: &TensorView) {
        let dtype = view.dtype();
        let next = self.storages.len();
        let key = *self.storage_keys.entry((Arc::as_ptr(view.storage()), dtype)).or_insert(next);
        if key == next {
            self.storages.push((view.storage().clone(), dtype));
        }
        self.global("torch._utils", "_rebuild_tensor_v2");
        self.out.extend_from_slice(b"((");
        self.str("storage");
        self.global("torch", dtype.storage_class());
        self.fresh_str(&key.to_string());
        self.str("cpu");
        self.int((view.storage_nbytes() / dtype.size()) as i64);
        self.out.extend_from_slice(b"tQ");
        self.int(view.storage_offset());
        self.ints(view.shape());
        self.ints(view.strides());
        // requires_grad, backward hooks
        self.out.push(0x89);
        self.global("collections", "OrderedDict");
        self.out.extend_from_slice(b")RtR");
    }

    fn ints(&mut self, values: &[i64]) {
        if values.is_empty() {
            self.out.push(b')');
            return;
        }
        self.out.push(b'(');
        for value in values {
            self.int(*value);
        }
        self.out.push(b't');
    }

    fn int(&mut self, value: i64) {
        if let Ok(value) = u8::try_from(value) {
            self.out.extend_from_slice(&[b'K', value]);
        } else if let Ok(value) = u16::try_from(value) {
            self.out.push(b'M');
            self.out.extend_from_slice(&value.to_le_bytes());
        } else if let Ok(value) = i32::try_from(value) {
            self.out.push(b'J');
            self.out.extend_from_slice(&value.to_le_bytes());
        } else {
            let bytes = value.to_le_bytes();
            let sign = if value < 0 { 0xff } else { 0 };
            let mut len = bytes.len();
            while bytes[len - 1] == sign && (bytes[len - 2] & 0x80 != 0) == (value < 0) {
                len -= 1;
            }
            self.out.extend_from_slice(&[0x8a, len as u8]);
            self.out.extend_from_slice(&bytes[..len]);
        }
    }

    fn long(&mut self, bytes: &[u8]) -> Result<()> {
        match u8::try_from(bytes.len()) {
            Ok(len) => self.out.extend_from_slice(&[0x8a, len]),
            Err(_) => {
                self.out.push(0x8b);
                self.out.extend_from_slice(&(bytes.len() as u32).to_le_bytes());
            }
        }
        self.out.extend_from_slice(bytes);
        Ok(())
    }

    /// A string that may occur again.
    fn str(&mut self, text: &'a str) {
        if let Some(index) = self.strings.get(text) {
            let index = *index;
            self.get(index);
            return;
        }
        self.fresh_str(text);
        let index = self.put();
        self.strings.insert(text, index);
    }

    /// A string that is unlikely to occur again.
    fn fresh_str(&mut self, text: &str) {
        self.out.push(b'X');
        self.out.extend_from_slice(&(text.len() as u32).to_le_bytes());
        self.out.extend_from_slice(text.as_bytes());
    }

    fn global(&mut self, module: &'static str, name: &'static str) {
        if let Some(index) = self.globals.get(&(module, name)) {
            let index = *index;
            self.get(index);
            return;
        }
        self.out.push(b'c');
        self.out.extend_from_slice(module.as_bytes());
        self.out.push(b'\n');
        self.out.extend_from_slice(name.as_bytes());
        self.out.push(b'\n');
        let index = self.put();
        self.globals.insert((module, name), index);
    }

    fn put(&mut self) -> u32 {
        let index = self.memo_len;
        self.memo_len += 1;
        match u8::try_from(index) {
            Ok(index) => self.out.extend_from_slice(&[b'q', index]),
            Err(_) => {
                self.out.push(b'r');
                self.out.extend_from_slice(&index.to_le_bytes());
            }
        }
        index
    }

    fn get(&mut self, index: u32) {
        match u8::try_from(index) {
            Ok(index) => self.out.extend_from_slice(&[b'h', index]),
            Err(_) => {
                self.out.push(b'j');
                self.out.extend_from_slice(&index.to_le_bytes());
            }
        }
    }
}

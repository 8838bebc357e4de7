//! The format of `torch.save` in PyTorch 0.1: a tar archive of storages, tensors over them, and a pickle that refers to
//! the tensors by key.
//!
//! `storages`: their number, then for each a pickle (key, location, class), the number of elements (i64) and the
//! elements; then a pickle of the views. `tensors`: their number, then for each a pickle (key, key of the storage,
//! class), the number of dimensions (i32, padded to 8 bytes), sizes, strides and offset (i64). All little-endian.

use std::collections::HashMap;
use std::io::Cursor;
use std::ops::Range;
use std::sync::Arc;

use super::super::mmap::SharedBytes;
use super::super::pickle::{self, NoStorages, Origin, PersistentObject, StorageRequest, Storages, Unpickled};
use super::super::storage::{Checksum, Storage};
use super::super::{DType, Error, Result, TensorView, Value};

/// libtorch's own limit.
const MAX_DIMS: u64 = 64;

/// Whether `bytes` are a tar archive.
pub(crate) fn is_tar(bytes: &[u8]) -> bool {
    bytes.get(257..262) == Some(b"ustar")
}

/// Reads the whole structure; storages stay in the file.
pub(crate) fn read(file: &SharedBytes) -> Result<Unpickled> {
    let entries = entries(file)?;
    let entry = |name: &'static str| -> Result<Reader<'_>> {
        let range = entries.get(name).cloned().ok_or_else(|| Error::NotACheckpoint {
            found: format!("a tar archive without the entry {name}"),
        })?;
        Ok(Reader { file, at: range.start, end: range.end, name })
    };
    let mut objects = Objects::default();
    objects.read_storages(entry("storages")?)?;
    objects.read_tensors(entry("tensors")?)?;
    let mut pickled = entry("pickle")?;
    pickled.unpickle(&mut objects)
}

/// Where the contents of each entry lie in the file.
fn entries(file: &SharedBytes) -> Result<HashMap<String, Range<usize>>> {
    let unreadable = |error: std::io::Error| damaged(error.to_string());
    let mut archive = tar::Archive::new(Cursor::new(file.clone()));
    let mut found = HashMap::new();
    for entry in archive.entries_with_seek().map_err(unreadable)? {
        let entry = entry.map_err(unreadable)?;
        let name = String::from_utf8_lossy(&entry.path_bytes()).trim_start_matches("./").to_owned();
        let start = usize::try_from(entry.raw_file_position()).unwrap_or(usize::MAX);
        let size = usize::try_from(entry.size()).unwrap_or(usize::MAX);
        let end = start.checked_add(size).filter(|end| *end <= file.len());
        let end = end.ok_or_else(|| damaged(format!("the file ends within entry {name}")))?;
        found.insert(name, start..end);
    }
    Ok(found)
}

/// Walks over one entry.
struct Reader<'a> {
    file: &'a SharedBytes,
    at: usize,
    end: usize,
    name: &'static str,
}

impl Reader<'_> {
    fn unpickle(&mut self, storages: &mut dyn Storages) -> Result<Unpickled> {
        let origin = Origin { record: format!("entry {}", self.name), base: self.at };
        let read = pickle::unpickle(&self.file[self.at..self.end], &origin, storages)?;
        self.at += read.len;
        Ok(read)
    }

    fn plain(&mut self) -> Result<Value> {
        Ok(self.unpickle(&mut NoStorages)?.value)
    }

    fn count(&mut self) -> Result<u64> {
        let value = self.plain()?;
        let count = value.as_i64().and_then(|count| u64::try_from(count).ok());
        count.ok_or_else(|| damaged(format!("entry {} does not start with a number", self.name)))
    }

    /// A pickled tuple of three: two keys or texts, and the name of a class.
    fn triple(&mut self) -> Result<(String, String, String)> {
        let value = self.plain()?;
        let text = |value: &Value| match value {
            Value::Int(key) => Some(key.to_string()),
            Value::Str(text) => Some(text.clone()),
            _ => None,
        };
        let found = match value.as_slice() {
            Some([first, second, Value::Opaque(class)]) => {
                text(first).zip(text(second)).map(|(first, second)| (first, second, class.class.clone()))
            }
            _ => None,
        };
        found.ok_or_else(|| damaged(format!("entry {} describes something in another way", self.name)))
    }

    fn skip(&mut self, len: u64) -> Result<Range<usize>> {
        let end = usize::try_from(len).ok().and_then(|len| self.at.checked_add(len));
        let end = end.filter(|end| *end <= self.end);
        let end = end.ok_or_else(|| damaged(format!("entry {} ends early", self.name)))?;
        let range = self.at..end;
        self.at = end;
        Ok(range)
    }

    fn i64(&mut self) -> Result<i64> {
        let mut bytes = [0; 8];
        bytes.copy_from_slice(&self.file[self.skip(8)?]);
        Ok(i64::from_le_bytes(bytes))
    }
}

/// What keys of the pickle refer to.
#[derive(Default)]
struct Objects {
    storages: HashMap<String, (Arc<Storage>, DType)>,
    tensors: HashMap<String, TensorView>,
}

impl Objects {
    fn read_storages(&mut self, mut entry: Reader<'_>) -> Result<()> {
        for _ in 0..entry.count()? {
            let (key, _location, class) = entry.triple()?;
            let dtype = class.rsplit('.').next().and_then(DType::from_storage_class);
            let dtype = dtype.ok_or_else(|| damaged(format!("storage {key} is a {class}")))?;
            let numel = u64::try_from(entry.i64()?).ok();
            let len = numel.and_then(|numel| numel.checked_mul(dtype.size() as u64));
            let len = len.ok_or_else(|| damaged(format!("storage {key} claims an impossible size")))?;
            let range = entry.skip(len)?;
            let storage =
                Storage::mapped(format!("storage {key}"), entry.file.clone(), range, Checksum::None, false);
            self.storages.insert(key, (Arc::new(storage), dtype));
        }
        let views = entry.plain()?;
        for view in views.as_slice().unwrap_or_default() {
            self.add_view(view)?;
        }
        Ok(())
    }

    /// (key of the view, key of its storage, offset, elements): a storage within another one.
    fn add_view(&mut self, view: &Value) -> Result<()> {
        let numbers: Option<Vec<i64>> =
            view.as_slice().and_then(|parts| parts.iter().map(Value::as_i64).collect());
        let view = match numbers.as_deref() {
            Some([key, root, offset, numel]) => {
                self.storages.get(&root.to_string()).and_then(|(storage, dtype)| {
                    let size = dtype.size();
                    let start = usize::try_from(*offset).ok()?.checked_mul(size)?;
                    let len = usize::try_from(*numel).ok()?.checked_mul(size)?;
                    Some((key.to_string(), (Arc::new(storage.part(start, len)?), *dtype)))
                })
            }
            _ => None,
        };
        let (key, storage) = view.ok_or_else(|| damaged("a view of a storage does not fit it"))?;
        self.storages.insert(key, storage);
        Ok(())
    }

    fn read_tensors(&mut self, mut entry: Reader<'_>) -> Result<()> {
        for _ in 0..entry.count()? {
            let (key, storage, _class) = entry.triple()?;
            // The upper half is padding.
            let dims = entry.i64()? as u64 & 0xffff_ffff;
            if dims > MAX_DIMS {
                return Err(damaged(format!("tensor {key} has {dims} dimensions")));
            }
            let mut numbers = |n: u64| (0..n).map(|_| entry.i64()).collect::<Result<Vec<i64>>>();
            let (shape, strides, offset) = (numbers(dims)?, numbers(dims)?, numbers(1)?[0]);
            let Some((storage, dtype)) = self.storages.get(&storage) else {
                return Err(damaged(format!("tensor {key} refers to storage {storage}, which is not there")));
            };
            let view = TensorView::new(*dtype, shape, strides, offset, storage.clone())?;
            self.tensors.insert(key, view);
        }
        Ok(())
    }
}

impl Storages for Objects {
    fn find(&mut self, request: &StorageRequest<'_>) -> Result<Arc<Storage>> {
        Err(damaged(format!("storage {} is referred to as in a later format", request.key)))
    }

    fn object(&mut self, key: &str) -> Result<Option<PersistentObject>> {
        if let Some(view) = self.tensors.get(key) {
            return Ok(Some(PersistentObject::Tensor(view.clone())));
        }
        let storage = self.storages.get(key);
        Ok(storage.map(|(storage, dtype)| PersistentObject::Storage(storage.clone(), *dtype)))
    }
}

fn damaged(problem: impl Into<String>) -> Error {
    Error::Container { container: "PyTorch 0.1 tar", problem: problem.into() }
}

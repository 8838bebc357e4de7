//! The format of `torch.save` before PyTorch 1.6: five pickles, then the storages one after the other.
//!
//! Magic number, protocol version, system information, the object, the list of storage keys; then for every
//! key the number of elements (i64) and the elements, all little-endian whatever wrote them.

use std::collections::HashMap;
use std::sync::Arc;

use super::super::mmap::SharedBytes;
use super::super::pickle::{self, NoStorages, Origin, StorageRequest, Storages, Unpickled};
use super::super::storage::{Checksum, Storage};
use super::super::{Error, Result, Value};

/// 0x1950a86a20f9469cfc6c, least significant byte first.
const MAGIC: [u8; 10] = [0x6c, 0xfc, 0x9c, 0x46, 0xf9, 0x20, 0x6a, 0xa8, 0x50, 0x19];
/// More than the number takes under any protocol.
const MAX_MAGIC_BYTES: usize = 64;
const PROTOCOL_VERSION: i64 = 1001;

/// Whether `bytes` start like this format.
pub(crate) fn is_legacy(bytes: &[u8]) -> bool {
    after_magic(bytes).is_some()
}

/// Offset behind the magic number, which every protocol spells in its own way.
fn after_magic(bytes: &[u8]) -> Option<usize> {
    if !matches!(bytes.first(), Some(0x80 | b'L')) {
        return None;
    }
    let origin = Origin { record: "the magic number".into(), base: 0 };
    let head = &bytes[..bytes.len().min(MAX_MAGIC_BYTES)];
    match pickle::unpickle(head, &origin, &mut NoStorages) {
        Ok(Unpickled { value: Value::BigInt(number), len, .. }) if number == MAGIC => Some(len),
        _ => None,
    }
}

/// Reads the whole structure; storages stay in the file.
pub(crate) fn read(file: &SharedBytes) -> Result<Unpickled> {
    let mut at = after_magic(file).ok_or_else(|| damaged("no magic number"))?;
    let version = small_pickle(file, &mut at, "protocol version")?;
    if version.as_i64() != Some(PROTOCOL_VERSION) {
        return Err(damaged(format!("protocol version {version:?} instead of {PROTOCOL_VERSION}")));
    }
    small_pickle(file, &mut at, "system information")?;

    let object = at;
    let origin = Origin { record: "the object pickle".into(), base: object };
    at += pickle::end_of_pickle(&file[object..], &origin)?;

    let keys = small_pickle(file, &mut at, "list of storage keys")?;
    let keys = keys.as_slice().ok_or_else(|| damaged("the list of storage keys is not a list"))?;
    let mut table = Table { file, at, keys: HashMap::new(), order: Vec::new(), located: HashMap::new() };
    for (index, key) in keys.iter().enumerate() {
        let key = match key {
            Value::Str(key) => key.clone(),
            Value::Int(key) => key.to_string(),
            other => return Err(damaged(format!("a storage key is a {}", other.type_name()))),
        };
        if table.keys.insert(key.clone(), index).is_some() {
            return Err(damaged(format!("storage key {key} is listed twice")));
        }
        table.order.push(key);
    }

    // How long an element is only the object pickle knows, so it is read once for the element sizes and
    // once for the values.
    let mut sizes = ElementSizes { sizes: HashMap::new() };
    pickle::unpickle(&file[object..], &origin, &mut sizes)?;
    table.locate(&sizes.sizes)?;
    pickle::unpickle(&file[object..], &origin, &mut table)
}

fn small_pickle(file: &SharedBytes, at: &mut usize, what: &str) -> Result<Value> {
    let origin = Origin { record: format!("the {what}"), base: *at };
    let read = pickle::unpickle(&file[*at..], &origin, &mut NoStorages)?;
    *at += read.len;
    Ok(read.value)
}

/// First pass: element size and number of every storage.
struct ElementSizes {
    sizes: HashMap<String, (usize, u64)>,
}

impl Storages for ElementSizes {
    fn find(&mut self, request: &StorageRequest<'_>) -> Result<Arc<Storage>> {
        let claim = (request.element_size, request.numel);
        let known = *self.sizes.entry(request.key.to_owned()).or_insert(claim);
        if known != claim {
            return Err(damaged(format!("storage {} is described in two ways", request.key)));
        }
        let len =
            request.numel.checked_mul(request.element_size as u64).and_then(|len| usize::try_from(len).ok());
        let len =
            len.ok_or_else(|| damaged(format!("storage {} claims {} elements", request.key, request.numel)))?;
        Ok(Arc::new(Storage::unread(format!("storage {}", request.key), len)))
    }
}

/// Second pass: the storages in the file.
struct Table<'a> {
    file: &'a SharedBytes,
    /// Offset of the first storage.
    at: usize,
    keys: HashMap<String, usize>,
    order: Vec<String>,
    located: HashMap<String, Arc<Storage>>,
}

impl Table<'_> {
    fn locate(&mut self, sizes: &HashMap<String, (usize, u64)>) -> Result<()> {
        let mut at = self.at;
        for key in &self.order {
            let Some((element_size, claimed)) = sizes.get(key) else {
                return Err(damaged(format!("storage {key} is listed but never used")));
            };
            let header = self.file.get(at..at.saturating_add(8)).ok_or_else(|| self.short(key))?;
            let mut count = [0; 8];
            count.copy_from_slice(header);
            let count = u64::from_le_bytes(count);
            if count != *claimed {
                return Err(damaged(format!(
                    "storage {key} has {count} elements, its tensors say {claimed}"
                )));
            }
            let start = at + 8;
            let end = count
                .checked_mul(*element_size as u64)
                .and_then(|len| usize::try_from(len).ok())
                .and_then(|len| start.checked_add(len))
                .filter(|end| *end <= self.file.len())
                .ok_or_else(|| self.short(key))?;
            let storage = Storage::mapped(
                format!("storage {key}"),
                self.file.clone(),
                start..end,
                Checksum::None,
                false,
            );
            self.located.insert(key.clone(), Arc::new(storage));
            at = end;
        }
        Ok(())
    }

    fn short(&self, key: &str) -> Error {
        damaged(format!("the file ends within storage {key}"))
    }
}

impl Storages for Table<'_> {
    fn find(&mut self, request: &StorageRequest<'_>) -> Result<Arc<Storage>> {
        self.located
            .get(request.key)
            .cloned()
            .ok_or_else(|| damaged(format!("storage {} is used but not stored", request.key)))
    }
}

fn damaged(problem: impl Into<String>) -> Error {
    Error::Container { container: "legacy PyTorch", problem: problem.into() }
}

//! `.safetensors`: a JSON header and the tensors behind it.
//!
//! Read by the `safetensors` crate, which checks the header. Written here, tensor by tensor, so that a large model is
//! never in memory twice.

use std::collections::HashMap;
use std::io::{self, Write};
use std::sync::Arc;

use ::safetensors::tensor::{Dtype, SafeTensors};

use super::super::mmap::SharedBytes;
use super::super::storage::{Checksum, Storage};
use super::super::tensor::contiguous_strides;
use super::super::{DType, Error, Result, TensorView, Value};
use super::digests;
use super::zip_writer::WriteError;

/// Key of the digests in the header's metadata: one of each tensor's bytes, and one of the header's entries.
const DIGESTS: &str = "digests";
const HEADER: &str = "(header)";
/// The header ends at a multiple of this, so that a mapped file can be used in place.
const ALIGNMENT: usize = 8;

/// The header's length comes first, then `{`.
pub(crate) fn is_safetensors(bytes: &[u8]) -> bool {
    bytes.len() > 8 && bytes[8] == b'{' && bytes[6] == 0 && bytes[7] == 0
}

/// All tensors as one dict in the order of the file, and whether it holds digests.
pub(crate) fn read(file: &SharedBytes) -> Result<(Value, bool)> {
    let unreadable = |error: ::safetensors::SafeTensorError| damaged(error.to_string());
    let tensors = SafeTensors::deserialize(file).map_err(unreadable)?;
    let (_, header) = SafeTensors::read_metadata(file).map_err(unreadable)?;
    let digests = match header.metadata().as_ref().and_then(|metadata| metadata.get(DIGESTS)) {
        Some(text) => {
            digests::parse(text.as_bytes()).ok_or_else(|| damaged("its digests are garbled".into()))?
        }
        None => HashMap::new(),
    };
    let base = file.as_ptr() as usize;
    let mut views = Vec::with_capacity(tensors.len());
    for (name, tensor) in tensors.iter() {
        let Some(dtype) = from_safetensors(tensor.dtype()) else {
            return Err(Error::Tensor {
                tensor: name.to_owned(),
                problem: format!("element type {:?} is not supported", tensor.dtype()),
            });
        };
        let start = tensor.data().as_ptr() as usize - base;
        let range = start..start + tensor.data().len();
        let checksum = digests.get(name).map_or(Checksum::None, |digest| Checksum::Blake3(*digest));
        let storage = Storage::mapped(name.to_owned(), file.clone(), range, checksum, false);
        let shape: Vec<i64> = tensor.shape().iter().map(|n| *n as i64).collect();
        let view = TensorView::new(dtype, shape.clone(), contiguous_strides(&shape), 0, Arc::new(storage))?;
        views.push((start, name.to_owned(), view));
    }
    views.sort_by(|a, b| (a.0, &a.1).cmp(&(b.0, &b.1)));
    if let Some(expected) = digests.get(HEADER)
        && header_digest(views.iter().map(|(_, name, view)| (name.as_str(), view))) != *expected
    {
        return Err(damaged("its header is not the one that was written".into()));
    }
    let tensors = views.into_iter().map(|(_, name, view)| (name, Value::Tensor(view)));
    Ok((Value::dict(tensors), !digests.is_empty()))
}

/// Writes a file with `tensors`. Those of wider elements come first, so that all are aligned.
pub(crate) fn write(out: &mut impl Write, tensors: &[(String, TensorView)]) -> Result<(), WriteError> {
    let mut order: Vec<&(String, TensorView)> = tensors.iter().collect();
    order.sort_by_key(|(_, view)| std::cmp::Reverse(view.dtype().size()));

    let mut digests = String::new();
    digests::append(
        &mut digests,
        HEADER,
        &header_digest(order.iter().map(|(name, view)| (name.as_str(), view))),
    );
    for (name, view) in &order {
        digests::append(&mut digests, name, &blake3::hash(&view.to_contiguous_bytes()?));
    }
    let mut entries = serde_json::Map::new();
    entries.insert("__metadata__".into(), serde_json::json!({"format": "pt", DIGESTS: digests}));
    let mut offset = 0;
    for (name, view) in &order {
        let dtype = to_safetensors(view.dtype()).ok_or_else(|| Error::Tensor {
            tensor: name.clone(),
            problem: format!("safetensors cannot hold {}", view.dtype()),
        })?;
        let end = offset + view.nbytes();
        let entry = serde_json::json!({"dtype": dtype, "shape": view.shape(), "data_offsets": [offset, end]});
        entries.insert(name.clone(), entry);
        offset = end;
    }
    let mut header = serde_json::to_vec(&entries).map_err(io::Error::other)?;
    header.resize(header.len().next_multiple_of(ALIGNMENT), b' ');
    out.write_all(&(header.len() as u64).to_le_bytes())?;
    out.write_all(&header)?;
    for (_, view) in order {
        let mut bytes = view.to_contiguous_bytes()?;
        if cfg!(target_endian = "big") && view.dtype().swap_unit() > 1 {
            bytes.to_mut().chunks_exact_mut(view.dtype().swap_unit()).for_each(<[u8]>::reverse);
        }
        out.write_all(&bytes)?;
    }
    Ok(())
}

/// Of names, element types and shapes; the order does not count.
fn header_digest<'a>(entries: impl Iterator<Item = (&'a str, &'a TensorView)>) -> blake3::Hash {
    let mut lines: Vec<String> =
        entries.map(|(name, view)| format!("{name:?} {} {:?}\n", view.dtype(), view.shape())).collect();
    lines.sort_unstable();
    blake3::hash(lines.concat().as_bytes())
}

const DTYPES: [(Dtype, DType); 11] = [
    (Dtype::BOOL, DType::Bool),
    (Dtype::U8, DType::Uint8),
    (Dtype::I8, DType::Int8),
    (Dtype::I16, DType::Int16),
    (Dtype::I32, DType::Int32),
    (Dtype::I64, DType::Int64),
    (Dtype::F16, DType::Float16),
    (Dtype::BF16, DType::BFloat16),
    (Dtype::F32, DType::Float32),
    (Dtype::F64, DType::Float64),
    (Dtype::C64, DType::Complex64),
];

fn from_safetensors(dtype: Dtype) -> Option<DType> {
    DTYPES.iter().find(|pair| pair.0 == dtype).map(|pair| pair.1)
}

fn to_safetensors(dtype: DType) -> Option<Dtype> {
    DTYPES.iter().find(|pair| pair.1 == dtype).map(|pair| pair.0)
}

fn damaged(problem: String) -> Error {
    Error::Container { container: "safetensors", problem }
}

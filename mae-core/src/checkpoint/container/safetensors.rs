//! `.safetensors`: a JSON header and the tensors behind it.

use std::sync::Arc;

use ::safetensors::tensor::{Dtype, SafeTensors};

use super::super::mmap::SharedBytes;
use super::super::storage::Storage;
use super::super::tensor::contiguous_strides;
use super::super::{DType, Error, Result, TensorView, Value};

/// The header's length comes first, then `{`.
pub(crate) fn is_safetensors(bytes: &[u8]) -> bool {
    bytes.len() > 8 && bytes[8] == b'{' && bytes[6] == 0 && bytes[7] == 0
}

/// All tensors as one dict in the order of the file.
pub(crate) fn read(file: &SharedBytes) -> Result<Value> {
    let tensors = SafeTensors::deserialize(file).map_err(|error| damaged(error.to_string()))?;
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
        let storage =
            Storage::mapped(name.to_owned(), file.clone(), start..start + tensor.data().len(), None, false);
        let shape: Vec<i64> = tensor.shape().iter().map(|n| *n as i64).collect();
        let view = TensorView::new(dtype, shape.clone(), contiguous_strides(&shape), 0, Arc::new(storage))?;
        views.push((start, name.to_owned(), view));
    }
    views.sort_by_key(|(start, ..)| *start);
    Ok(Value::dict(views.into_iter().map(|(_, name, view)| (name, Value::Tensor(view)))))
}

/// The bytes of a `.safetensors` file with `tensors`.
pub(crate) fn serialize(tensors: &[(String, TensorView)]) -> Result<Vec<u8>> {
    let mut views = Vec::with_capacity(tensors.len());
    for (name, tensor) in tensors {
        let shape = tensor.shape().iter().map(|n| *n as usize).collect();
        let dtype = to_safetensors(tensor.dtype()).ok_or_else(|| Error::Tensor {
            tensor: name.clone(),
            problem: format!("safetensors cannot hold {}", tensor.dtype()),
        })?;
        views.push((name, Entry { dtype, shape, bytes: tensor.to_contiguous_bytes()? }));
    }
    ::safetensors::serialize(views, None).map_err(|error| damaged(error.to_string()))
}

struct Entry<'a> {
    dtype: Dtype,
    shape: Vec<usize>,
    bytes: std::borrow::Cow<'a, [u8]>,
}

impl ::safetensors::View for Entry<'_> {
    fn dtype(&self) -> Dtype {
        self.dtype
    }

    fn shape(&self) -> &[usize] {
        &self.shape
    }

    fn data(&self) -> std::borrow::Cow<'_, [u8]> {
        std::borrow::Cow::Borrowed(&self.bytes)
    }

    fn data_len(&self) -> usize {
        self.bytes.len()
    }
}

const DTYPES: [(Dtype, DType); 10] = [
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

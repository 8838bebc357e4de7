//! [`TensorView`]: a tensor's metadata and, when asked, its bytes.

use std::borrow::Cow;
use std::sync::Arc;

use tch::Tensor;

use super::storage::Storage;
use super::{DType, Error, Result};

/// libtorch's own limit is 64.
const MAX_DIMS: usize = 64;
/// A view may be larger than its storage (stride 0), but not so much larger that reading it is an attack.
const MAX_EXPANDED_BYTES: u64 = 64 << 20;

/// A tensor in a checkpoint: dtype, shape and strides over a shared storage whose bytes are read on demand.
///
/// Cloning is cheap and shares the storage.
#[derive(Debug, Clone)]
pub struct TensorView {
    dtype: DType,
    shape: Vec<i64>,
    strides: Vec<i64>,
    /// In elements.
    offset: i64,
    storage: Arc<Storage>,
}

impl TensorView {
    /// A contiguous tensor over its own bytes, in native byte order.
    ///
    /// # Errors
    /// [`Error::Tensor`] when the length is not that of the shape.
    pub fn from_bytes(dtype: DType, shape: &[i64], bytes: Vec<u8>) -> Result<Self> {
        let storage = Storage::owned("(memory)", bytes, cfg!(target_endian = "big"));
        let view = Self::new(dtype, shape.to_vec(), contiguous_strides(shape), 0, Arc::new(storage))?;
        if view.nbytes() != view.storage.len {
            return Err(view.error(format!(
                "shape {shape:?} of {dtype} needs {} bytes, {} were given",
                view.nbytes(),
                view.storage.len
            )));
        }
        Ok(view)
    }

    /// A float32 tensor from its values in row-major order.
    ///
    /// # Errors
    /// [`Error::Tensor`] when the length is not that of the shape.
    pub fn from_f32(shape: &[i64], values: &[f32]) -> Result<Self> {
        Self::from_bytes(DType::Float32, shape, bytemuck::cast_slice(values).to_vec())
    }

    /// A 0-dimensional float32 tensor, as PyTorch's AdamW keeps its step count.
    pub fn scalar_f32(value: f32) -> Self {
        let storage = Storage::owned("(memory)", value.to_ne_bytes().to_vec(), cfg!(target_endian = "big"));
        Self { dtype: DType::Float32, shape: vec![], strides: vec![], offset: 0, storage: Arc::new(storage) }
    }

    /// A copy of `tensor` (any device, any strides) as it is now.
    ///
    /// # Errors
    /// [`Error::Tensor`] for a dtype that a checkpoint cannot hold, [`Error::Torch`] when the copy fails.
    pub fn from_tensor(tensor: &Tensor) -> Result<Self> {
        let dtype = DType::from_kind(tensor.f_kind()?)?;
        let mut bytes = vec![0; tensor.numel() * dtype.size()];
        tensor.f_copy_data_u8(&mut bytes, tensor.numel())?;
        Self::from_bytes(dtype, &tensor.size(), bytes)
    }

    /// A handle on `tensor` whose bytes are read when they are written to a file: no copy of all tensors at
    /// once, but whatever changes the tensor until then is seen.
    ///
    /// # Errors
    /// [`Error::Tensor`] for a dtype that a checkpoint cannot hold.
    pub fn deferred(tensor: &Tensor) -> Result<Self> {
        let dtype = DType::from_kind(tensor.f_kind()?)?;
        let shape = tensor.size();
        let storage = Storage::tensor(tensor.shallow_clone(), tensor.numel() * dtype.size());
        Self::new(dtype, shape.clone(), contiguous_strides(&shape), 0, Arc::new(storage))
    }

    /// The same view over a copy of what a libtorch tensor holds now.
    pub(super) fn snapshot(&self) -> Result<Self> {
        let storage = self.storage.snapshot()?.map_or_else(|| self.storage.clone(), Arc::new);
        Ok(Self { storage, ..self.clone() })
    }

    /// Checks the geometry against the storage.
    pub(crate) fn new(
        dtype: DType,
        shape: Vec<i64>,
        strides: Vec<i64>,
        offset: i64,
        storage: Arc<Storage>,
    ) -> Result<Self> {
        let view = Self { dtype, shape, strides, offset, storage };
        match view.geometry_problem() {
            None => Ok(view),
            Some(problem) => Err(view.error(problem)),
        }
    }

    fn geometry_problem(&self) -> Option<String> {
        let Self { shape, strides, offset, dtype, storage } = self;
        if shape.len() > MAX_DIMS || shape.len() != strides.len() {
            return Some(format!("{} dimensions with {} strides", shape.len(), strides.len()));
        }
        if *offset < 0 || shape.iter().chain(strides).any(|n| *n < 0) {
            return Some(format!(
                "negative number in shape {shape:?}, strides {strides:?} or offset {offset}"
            ));
        }
        let numel = shape.iter().try_fold(1_i64, |product, n| product.checked_mul(*n));
        let bytes = numel.and_then(|n| n.checked_mul(dtype.size() as i64));
        let (Some(numel), Some(bytes)) = (numel, bytes) else {
            return Some(format!("shape {shape:?} overflows"));
        };
        if numel == 0 {
            return None;
        }
        let last = shape.iter().zip(strides).try_fold(*offset, |last, (n, stride)| {
            (n - 1).checked_mul(*stride).and_then(|s| last.checked_add(s))
        });
        let available = (storage.len / dtype.size()) as i64;
        if last.is_none_or(|last| last >= available) {
            return Some(format!(
                "shape {shape:?} with strides {strides:?} and offset {offset} reaches beyond its storage of {available} {dtype}"
            ));
        }
        if bytes as u64 > MAX_EXPANDED_BYTES.max(storage.len as u64) {
            return Some(format!("shape {shape:?} repeats {available} stored elements {numel} times"));
        }
        None
    }

    /// Element type.
    pub fn dtype(&self) -> DType {
        self.dtype
    }

    /// Sizes of the dimensions.
    pub fn shape(&self) -> &[i64] {
        &self.shape
    }

    /// Strides in elements.
    pub fn strides(&self) -> &[i64] {
        &self.strides
    }

    /// Offset of the first element in the storage, in elements.
    pub fn storage_offset(&self) -> i64 {
        self.offset
    }

    /// Length of the underlying storage in bytes.
    pub fn storage_nbytes(&self) -> usize {
        self.storage.len
    }

    /// Number of elements.
    pub fn numel(&self) -> usize {
        self.shape.iter().product::<i64>() as usize
    }

    /// Bytes of the elements, without what else the storage holds.
    pub fn nbytes(&self) -> usize {
        self.numel() * self.dtype.size()
    }

    /// A number that views of one storage share, and no others while they live.
    pub fn storage_id(&self) -> usize {
        Arc::as_ptr(&self.storage) as usize
    }

    /// Whether both view the same storage.
    pub fn shares_storage_with(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.storage, &other.storage)
    }

    pub(crate) fn storage(&self) -> &Arc<Storage> {
        &self.storage
    }

    /// The same elements under another shape; copies when the elements are not contiguous.
    ///
    /// # Errors
    /// [`Error::Tensor`] when the number of elements differs.
    pub fn reshape(&self, shape: &[i64]) -> Result<Self> {
        if self.is_contiguous() && shape.iter().product::<i64>() as usize == self.numel() {
            let strides = contiguous_strides(shape);
            return Self::new(self.dtype, shape.to_vec(), strides, self.offset, self.storage.clone());
        }
        Self::from_bytes(self.dtype, shape, self.to_contiguous_bytes()?.into_owned())
    }

    /// Whether the elements lie in row-major order without gaps.
    pub fn is_contiguous(&self) -> bool {
        let mut expected = 1;
        self.numel() == 0
            || self.shape.iter().zip(&self.strides).rev().all(|(n, stride)| {
                let fits = *n == 1 || *stride == expected;
                expected *= n;
                fits
            })
    }

    /// The elements in row-major order and native byte order. Borrowed from the file when they lie so there.
    ///
    /// # Errors
    /// [`Error::Damaged`] when the record's CRC-32 does not fit, [`Error::Container`] when a compressed
    /// record does not decompress, [`Error::Torch`] when a deferred tensor cannot be read.
    pub fn to_contiguous_bytes(&self) -> Result<Cow<'_, [u8]>> {
        let stored = self.storage.bytes()?;
        let size = self.dtype.size();
        let swap = self.storage.big_endian != cfg!(target_endian = "big") && self.dtype.swap_unit() > 1;
        if self.is_contiguous() && !swap {
            let start = self.offset as usize * size;
            let range = if self.numel() == 0 { 0..0 } else { start..start + self.nbytes() };
            return Ok(match stored {
                Cow::Borrowed(bytes) => Cow::Borrowed(&bytes[range]),
                Cow::Owned(mut bytes) => {
                    bytes.truncate(range.end);
                    Cow::Owned(bytes.split_off(range.start))
                }
            });
        }
        let mut bytes = self.gather(&stored);
        if swap {
            bytes.chunks_exact_mut(self.dtype.swap_unit()).for_each(<[u8]>::reverse);
        }
        Ok(Cow::Owned(bytes))
    }

    /// Copies element by element, the last dimension innermost.
    fn gather(&self, stored: &[u8]) -> Vec<u8> {
        let size = self.dtype.size();
        let mut bytes = Vec::with_capacity(self.nbytes());
        let mut index = vec![0_i64; self.shape.len()];
        let mut at = self.offset;
        for _ in 0..self.numel() {
            let start = at as usize * size;
            bytes.extend_from_slice(&stored[start..start + size]);
            for dim in (0..index.len()).rev() {
                index[dim] += 1;
                at += self.strides[dim];
                if index[dim] < self.shape[dim] {
                    break;
                }
                at -= self.strides[dim] * self.shape[dim];
                index[dim] = 0;
            }
        }
        bytes
    }

    /// A contiguous CPU tensor with a copy of the elements.
    ///
    /// # Errors
    /// Those of [`TensorView::to_contiguous_bytes`], and [`Error::Torch`].
    pub fn to_tensor(&self) -> Result<Tensor> {
        Ok(Tensor::f_from_data_size(&self.to_contiguous_bytes()?, &self.shape, self.dtype.kind())?)
    }

    /// The elements as float64 in row-major order (booleans as 0 and 1; of complex numbers the real part).
    ///
    /// # Errors
    /// Those of [`TensorView::to_contiguous_bytes`].
    pub fn to_f64_vec(&self) -> Result<Vec<f64>> {
        let bytes = self.to_contiguous_bytes()?;
        let elements = bytes.chunks_exact(self.dtype.size());
        Ok(elements.map(|element| element_to_f64(self.dtype, element)).collect())
    }

    fn error(&self, problem: String) -> Error {
        Error::Tensor { tensor: format!("in {}", self.storage.record), problem }
    }
}

/// Equal dtype, shape, strides, offset and elements; unequal when either cannot be read.
impl PartialEq for TensorView {
    fn eq(&self, other: &Self) -> bool {
        self.dtype == other.dtype
            && self.shape == other.shape
            && self.strides == other.strides
            && self.offset == other.offset
            && match (self.to_contiguous_bytes(), other.to_contiguous_bytes()) {
                (Ok(a), Ok(b)) => a == b,
                _ => false,
            }
    }
}

/// Row-major strides as PyTorch computes them (an empty dimension counts as one).
pub(crate) fn contiguous_strides(shape: &[i64]) -> Vec<i64> {
    let mut strides = vec![1_i64; shape.len()];
    for dim in (1..shape.len()).rev() {
        strides[dim - 1] = strides[dim].saturating_mul(shape[dim].max(1));
    }
    strides
}

/// `element` has the dtype's size and native byte order.
#[inline]
pub(super) fn element_to_f64(dtype: DType, element: &[u8]) -> f64 {
    macro_rules! number {
        ($type:ty) => {{
            let mut bytes = [0; size_of::<$type>()];
            bytes.copy_from_slice(&element[..size_of::<$type>()]);
            <$type>::from_ne_bytes(bytes)
        }};
    }
    match dtype {
        DType::Uint8 | DType::Bool => f64::from(number!(u8)),
        DType::Int8 => f64::from(number!(i8)),
        DType::Int16 => f64::from(number!(i16)),
        DType::Int32 => f64::from(number!(i32)),
        DType::Int64 => number!(i64) as f64,
        DType::Float16 => number!(half::f16).to_f64(),
        DType::BFloat16 => number!(half::bf16).to_f64(),
        DType::Float32 | DType::Complex64 => f64::from(number!(f32)),
        DType::Float64 | DType::Complex128 => number!(f64),
    }
}

//! Element types of tensors in a checkpoint.

use tch::Kind;

use super::{Error, Result};

/// Element type of a stored tensor.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum DType {
    /// Unsigned 8-bit integer.
    Uint8,
    /// Signed 8-bit integer.
    Int8,
    /// Signed 16-bit integer.
    Int16,
    /// Signed 32-bit integer.
    Int32,
    /// Signed 64-bit integer.
    Int64,
    /// IEEE half precision.
    Float16,
    /// bfloat16.
    BFloat16,
    /// IEEE single precision.
    Float32,
    /// IEEE double precision.
    Float64,
    /// Pair of float32.
    Complex64,
    /// Pair of float64.
    Complex128,
    /// One byte, 0 or 1.
    Bool,
}

/// dtype, PyTorch's name, storage class, libtorch kind, bytes an element, bytes of what a byte swap reverses.
type Row = (DType, &'static str, &'static str, Kind, usize, usize);

const TABLE: [Row; 12] = [
    (DType::Uint8, "uint8", "ByteStorage", Kind::Uint8, 1, 1),
    (DType::Int8, "int8", "CharStorage", Kind::Int8, 1, 1),
    (DType::Int16, "int16", "ShortStorage", Kind::Int16, 2, 2),
    (DType::Int32, "int32", "IntStorage", Kind::Int, 4, 4),
    (DType::Int64, "int64", "LongStorage", Kind::Int64, 8, 8),
    (DType::Float16, "float16", "HalfStorage", Kind::Half, 2, 2),
    (DType::BFloat16, "bfloat16", "BFloat16Storage", Kind::BFloat16, 2, 2),
    (DType::Float32, "float32", "FloatStorage", Kind::Float, 4, 4),
    (DType::Float64, "float64", "DoubleStorage", Kind::Double, 8, 8),
    (DType::Complex64, "complex64", "ComplexFloatStorage", Kind::ComplexFloat, 8, 4),
    (DType::Complex128, "complex128", "ComplexDoubleStorage", Kind::ComplexDouble, 16, 8),
    (DType::Bool, "bool", "BoolStorage", Kind::Bool, 1, 1),
];

impl DType {
    /// All of them.
    pub fn all() -> impl Iterator<Item = DType> {
        TABLE.iter().map(|row| row.0)
    }

    fn row(self) -> &'static Row {
        // The table lists the variants in declaration order; the unit test holds it to that.
        &TABLE[self as usize]
    }

    /// PyTorch's name without `torch.`, for example `float32`.
    pub fn name(self) -> &'static str {
        self.row().1
    }

    /// Name of PyTorch's typed storage class, for example `FloatStorage`.
    pub(crate) fn storage_class(self) -> &'static str {
        self.row().2
    }

    /// libtorch's kind.
    pub fn kind(self) -> Kind {
        self.row().3
    }

    /// Bytes an element.
    pub fn size(self) -> usize {
        self.row().4
    }

    /// Bytes of the unit that a change of byte order reverses (half an element for complex numbers).
    pub(crate) fn swap_unit(self) -> usize {
        self.row().5
    }

    /// By PyTorch's name.
    pub fn from_name(name: &str) -> Option<DType> {
        TABLE.iter().find(|row| row.1 == name).map(|row| row.0)
    }

    /// By PyTorch's storage class.
    pub(crate) fn from_storage_class(class: &str) -> Option<DType> {
        TABLE.iter().find(|row| row.2 == class).map(|row| row.0)
    }

    /// By NumPy's code without byte order, for example `f4`.
    pub(crate) fn from_numpy(code: &str) -> Option<DType> {
        Some(match code {
            "u1" => DType::Uint8,
            "i1" => DType::Int8,
            "i2" => DType::Int16,
            "i4" => DType::Int32,
            "i8" => DType::Int64,
            "f2" => DType::Float16,
            "f4" => DType::Float32,
            "f8" => DType::Float64,
            "c8" => DType::Complex64,
            "c16" => DType::Complex128,
            "b1" => DType::Bool,
            _ => return None,
        })
    }

    /// By libtorch's kind.
    ///
    /// # Errors
    /// [`Error::Tensor`] for quantised and 8-bit float kinds, which a checkpoint cannot hold.
    pub fn from_kind(kind: Kind) -> Result<DType> {
        TABLE.iter().find(|row| row.3 == kind).map(|row| row.0).ok_or_else(|| Error::Tensor {
            tensor: format!("of kind {kind:?}"),
            problem: "this element type cannot be stored in a checkpoint; convert it first".into(),
        })
    }
}

impl std::fmt::Display for DType {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_is_in_declaration_order() {
        for (index, row) in TABLE.iter().enumerate() {
            assert_eq!(row.0 as usize, index, "{}", row.1);
            assert_eq!(row.3.elt_size_in_bytes(), row.4, "{}", row.1);
            assert_eq!(DType::from_name(row.1), Some(row.0));
            assert_eq!(DType::from_storage_class(row.2), Some(row.0));
        }
    }
}

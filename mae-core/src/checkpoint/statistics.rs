//! Figures over the elements of a tensor, in float64.

use super::tensor::element_to_f64;
use super::{DType, Result, TensorView};

/// Figures over all elements of a tensor.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Statistics {
    /// Sum of the elements (of complex numbers, of their real parts).
    pub sum: f64,
    /// Sum of the imaginary parts; 0 for real numbers.
    pub imaginary_sum: f64,
    /// L2 norm.
    pub l2: f64,
    /// Smallest element, NaN left out; infinity when there is none.
    pub min: f64,
    /// Largest element, NaN left out; minus infinity when there is none.
    pub max: f64,
    /// Elements that are NaN or infinite.
    pub non_finite: usize,
}

/// How far two tensors of one shape are apart, in float64.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Distance {
    /// Largest absolute difference of two elements; infinity where only one is finite or NaN.
    pub max: f64,
    /// L2 norm of the difference.
    pub l2: f64,
    /// The same over the L2 norm of the first tensor; 0 when they are equal.
    pub relative: f64,
}

impl TensorView {
    /// Figures over all elements, each of which is read once.
    ///
    /// # Errors
    /// Those of [`TensorView::to_contiguous_bytes`].
    pub fn statistics(&self) -> Result<Statistics> {
        let (mut sum, mut squares, mut imaginary) = (Sum::default(), Sum::default(), Sum::default());
        let (mut min, mut max, mut non_finite) = (f64::INFINITY, f64::NEG_INFINITY, 0);
        let bytes = self.to_contiguous_bytes()?;
        let part = self.component();
        for element in bytes.chunks_exact(self.dtype().size()) {
            let value = element_to_f64(part, &element[..part.size()]);
            sum.add(value);
            squares.add(value * value);
            let mut finite = value.is_finite();
            if part != self.dtype() {
                let other = element_to_f64(part, &element[part.size()..]);
                imaginary.add(other);
                squares.add(other * other);
                finite &= other.is_finite();
            }
            (min, max) = (min.min(value), max.max(value));
            non_finite += usize::from(!finite);
        }
        let (sum, imaginary_sum, l2) = (sum.value(), imaginary.value(), squares.value().sqrt());
        Ok(Statistics { sum, imaginary_sum, l2, min, max, non_finite })
    }

    /// How far `other`, of the same shape, is from this tensor. Elements that are both NaN count as equal.
    ///
    /// # Errors
    /// Those of [`TensorView::to_contiguous_bytes`].
    pub fn distance(&self, other: &TensorView) -> Result<Distance> {
        let (mut max, mut squares, mut own) = (0.0_f64, Sum::default(), Sum::default());
        let (bytes, other_bytes) = (self.to_contiguous_bytes()?, other.to_contiguous_bytes()?);
        let (part, other_part) = (self.component(), other.component());
        for (element, other) in
            bytes.chunks_exact(part.size()).zip(other_bytes.chunks_exact(other_part.size()))
        {
            let (a, b) = (element_to_f64(part, element), element_to_f64(other_part, other));
            let apart = if a == b || (a.is_nan() && b.is_nan()) { 0.0 } else { (a - b).abs() };
            max = max.max(if apart.is_nan() { f64::INFINITY } else { apart });
            squares.add(apart * apart);
            own.add(a * a);
        }
        let (l2, own) = (squares.value().sqrt(), own.value().sqrt());
        let relative = if l2 == 0.0 { 0.0 } else { l2 / own };
        Ok(Distance { max, l2, relative })
    }

    /// The type of half a complex number, or of the number itself.
    fn component(&self) -> DType {
        match self.dtype() {
            DType::Complex64 => DType::Float32,
            DType::Complex128 => DType::Float64,
            real => real,
        }
    }
}

/// A sum whose error does not grow with the number of terms (Neumaier's).
#[derive(Default)]
struct Sum {
    sum: f64,
    lost: f64,
}

impl Sum {
    #[inline]
    fn add(&mut self, value: f64) {
        let sum = self.sum + value;
        self.lost +=
            if self.sum.abs() >= value.abs() { (self.sum - sum) + value } else { (value - sum) + self.sum };
        self.sum = sum;
    }

    fn value(&self) -> f64 {
        // What is lost beside an infinity is no number.
        if self.sum.is_finite() { self.sum + self.lost } else { self.sum }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures() {
        let view = TensorView::from_f32(&[2, 2], &[3.0, -4.0, 0.0, f32::INFINITY]).unwrap();
        let found = view.statistics().unwrap();
        assert_eq!((found.sum, found.l2, found.non_finite), (f64::INFINITY, f64::INFINITY, 1));
        assert_eq!((found.min, found.max), (-4.0, f64::INFINITY));
        let view = TensorView::from_f32(&[3], &[3.0, -4.0, 0.0]).unwrap();
        assert_eq!((view.statistics().unwrap().sum, view.statistics().unwrap().l2), (-1.0, 5.0));
        let complex: Vec<u8> = [3.0_f32, 4.0, -1.0, 2.0].iter().flat_map(|v| v.to_ne_bytes()).collect();
        let view = TensorView::from_bytes(DType::Complex64, &[2], complex).unwrap();
        let found = view.statistics().unwrap();
        assert_eq!((found.sum, found.imaginary_sum, found.l2), (2.0, 6.0, 30.0_f64.sqrt()));
    }

    #[test]
    fn small_terms_are_not_lost() {
        let mut sum = Sum::default();
        [1.0, 1e100, 1.0, -1e100].into_iter().for_each(|value| sum.add(value));
        assert_eq!(sum.value(), 2.0);
    }

    #[test]
    fn distances() {
        let a = TensorView::from_f32(&[3], &[1.0, f32::NAN, 2.0]).unwrap();
        let b = TensorView::from_f32(&[3], &[1.0, f32::NAN, 2.5]).unwrap();
        assert_eq!(a.distance(&a).unwrap().max, 0.0);
        assert_eq!(a.distance(&b).unwrap().max, 0.5);
        let c = TensorView::from_f32(&[3], &[1.0, 0.0, 2.0]).unwrap();
        assert_eq!(c.distance(&a).unwrap().max, f64::INFINITY);
    }
}

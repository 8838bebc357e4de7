//! Averaging many tensors in few operations.

use tch::{Device, Kind, TchError, Tensor, no_grad_guard};

use crate::c10d::{ProcessGroup, ReduceOp, Work};
use crate::error::DistError;

/// Two flat buffers: one is filled while the other is reduced.
#[derive(Debug)]
pub(super) struct Buckets {
    bytes: usize,
    buffers: [Option<Tensor>; 2],
}

/// Consecutive tensors that are reduced together.
#[derive(Debug, PartialEq, Eq)]
struct Bucket {
    /// Which tensors.
    range: std::ops::Range<usize>,
    /// What they are reduced in: float64 if they are, else float32.
    kind: Kind,
    /// How many elements they have together.
    elements: i64,
}

impl Buckets {
    pub(super) fn new(bytes: usize) -> Self {
        Self { bytes, buffers: [None, None] }
    }

    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Averages floating tensors in main memory over all ranks, in place.
    pub(super) fn average(&mut self, group: &ProcessGroup, tensors: &mut [Tensor]) -> Result<(), DistError> {
        let _guard = no_grad_guard();
        let sizes: Vec<_> = tensors.iter().map(|tensor| (tensor.kind(), tensor.numel() as i64)).collect();
        let plan = plan(&sizes, self.bytes);
        let failed = |error: TchError| group.tensor_error("all_reduce", &error);
        let mut under_way: Option<(Work, &Bucket)> = None;
        for (index, bucket) in plan.iter().enumerate() {
            let buffer = self.buffers[index % 2].take();
            let flat = pack(buffer, bucket, &tensors[bucket.range.clone()]).map_err(failed)?;
            let work = group.all_reduce(flat, ReduceOp::Sum)?;
            if let Some((work, before)) = under_way.replace((work, bucket)) {
                let flat = work.wait()?;
                let tensors = &mut tensors[before.range.clone()];
                unpack(&flat, tensors, group.world_size()).map_err(failed)?;
                self.buffers[(index + 1) % 2] = Some(flat);
            }
        }
        if let Some((work, last)) = under_way {
            let flat = work.wait()?;
            unpack(&flat, &mut tensors[last.range.clone()], group.world_size()).map_err(failed)?;
            self.buffers[(plan.len() + 1) % 2] = Some(flat);
        }
        Ok(())
    }
}

/// Cuts a list of tensors into buckets of at most `bytes`, or of one larger tensor. Depends on nothing
/// but its arguments, which are the same on every rank.
fn plan(sizes: &[(Kind, i64)], bytes: usize) -> Vec<Bucket> {
    let mut buckets: Vec<Bucket> = Vec::new();
    for (index, &(kind, elements)) in sizes.iter().enumerate() {
        let (kind, width) = if kind == Kind::Double { (Kind::Double, 8) } else { (Kind::Float, 4) };
        let most = i64::try_from(bytes / width).unwrap_or(i64::MAX);
        match buckets.last_mut() {
            Some(last) if last.kind == kind && last.elements + elements <= most => {
                last.range.end = index + 1;
                last.elements += elements;
            }
            _ => buckets.push(Bucket { range: index..index + 1, kind, elements }),
        }
    }
    buckets.retain(|bucket| bucket.elements > 0);
    buckets
}

/// A flat tensor `[elements]` with the tensors' values one after the other, in `buffer`'s storage if
/// that fits.
fn pack(buffer: Option<Tensor>, bucket: &Bucket, tensors: &[Tensor]) -> Result<Tensor, TchError> {
    let flat = match buffer {
        Some(buffer) if buffer.kind() == bucket.kind && buffer.numel() as i64 == bucket.elements => buffer,
        _ => Tensor::f_empty([bucket.elements], (bucket.kind, Device::Cpu))?,
    };
    for_each_slice(&flat, tensors.iter(), |mut slice, tensor| slice.f_copy_(tensor))?;
    Ok(flat)
}

/// Divides the sums and copies them back.
fn unpack(flat: &Tensor, tensors: &mut [Tensor], world_size: usize) -> Result<(), TchError> {
    let world_size = world_size as f64;
    for_each_slice(flat, tensors.iter_mut(), |slice, tensor| tensor.f_copy_(&slice.f_div_scalar(world_size)?))
}

/// Calls `action` with each tensor and the part of `flat` that is its own, in the tensor's shape.
fn for_each_slice<T: std::borrow::Borrow<Tensor>>(
    flat: &Tensor,
    tensors: impl Iterator<Item = T>,
    mut action: impl FnMut(Tensor, T) -> Result<(), TchError>,
) -> Result<(), TchError> {
    let mut start = 0;
    for tensor in tensors {
        let elements = tensor.borrow().numel() as i64;
        let slice = flat.f_narrow(0, start, elements)?.f_view_as(tensor.borrow())?;
        action(slice, tensor)?;
        start += elements;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn kinds() -> impl Strategy<Value = Kind> {
        prop_oneof![Just(Kind::Float), Just(Kind::Double), Just(Kind::BFloat16), Just(Kind::Half)]
    }

    proptest! {
        #[test]
        fn every_element_is_in_one_bucket(
            sizes in prop::collection::vec((kinds(), 0i64..500), 0..40),
            bytes in 0usize..4000,
        ) {
            let plan = plan(&sizes, bytes);
            let mut seen = vec![0; sizes.len()];
            for bucket in &plan {
                let inside = &sizes[bucket.range.clone()];
                prop_assert_eq!(bucket.elements, inside.iter().map(|(_, n)| n).sum::<i64>());
                let width = if bucket.kind == Kind::Double { 8 } else { 4 };
                let largest = inside.iter().filter(|(_, n)| *n > 0).count() <= 1;
                prop_assert!(bucket.elements as usize * width <= bytes || largest);
                for (kind, _) in inside {
                    prop_assert_eq!(*kind == Kind::Double, bucket.kind == Kind::Double);
                }
                bucket.range.clone().for_each(|index| seen[index] += 1);
            }
            for (count, (_, elements)) in seen.iter().zip(&sizes) {
                prop_assert!(*count == 1 || (*count == 0 && *elements == 0));
            }
        }
    }

    #[test]
    fn packing_and_unpacking_keeps_values_shapes_and_kinds() {
        let mut tensors = [
            Tensor::arange(6, (Kind::Float, Device::Cpu)).view([2, 3]).tr(),
            Tensor::from_slice(&[1.5f32, -8.0]).to_kind(Kind::BFloat16),
            Tensor::from(4.25f32),
        ];
        let bucket = Bucket { range: 0..3, kind: Kind::Float, elements: 9 };
        let flat = pack(None, &bucket, &tensors).unwrap();
        assert_eq!(Vec::<f32>::try_from(&flat).unwrap(), [0.0, 3.0, 1.0, 4.0, 2.0, 5.0, 1.5, -8.0, 4.25]);
        unpack(&flat, &mut tensors, 2).unwrap();
        assert_eq!(tensors[0].size(), [3, 2]);
        assert_eq!(tensors[0].double_value(&[2, 1]), 2.5);
        assert_eq!((tensors[1].kind(), tensors[1].double_value(&[1])), (Kind::BFloat16, -4.0));
        assert_eq!(tensors[2].double_value(&[]), 2.125);
    }
}

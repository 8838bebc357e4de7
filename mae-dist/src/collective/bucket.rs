//! Averaging many tensors in few operations.
//!
//! A large tensor is reduced where it lies. Small ones are copied one after the other into a flat buffer,
//! a bucket, which is reduced in one operation and copied back. Several operations are under way at once.

use std::collections::VecDeque;

use tch::{Kind, TchError, Tensor, no_grad_guard};

use crate::c10d::{ProcessGroup, ReduceOp, Work};
use crate::error::DistError;

/// From this size on, two copies cost more than an operation of one's own.
const LARGE_BYTES: usize = 1 << 20;

/// How many operations are under way at once.
const UNDER_WAY: usize = 4;

/// How to cut tensors into operations, and the buffers of the last call.
#[derive(Debug)]
pub(super) struct Buckets {
    bytes: usize,
    buffers: Vec<Tensor>,
}

/// Tensors that are reduced together.
#[derive(Debug, PartialEq, Eq)]
struct Bucket {
    /// Which tensors.
    indices: Vec<usize>,
    /// What they are reduced in: float64 if they are, else float32.
    kind: Kind,
    /// How many elements they have together.
    elements: usize,
}

impl Buckets {
    pub(super) fn new(bytes: usize) -> Self {
        Self { bytes, buffers: Vec::new() }
    }

    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Averages floating tensors, all on one device, over all ranks, in place.
    pub(super) fn average(&mut self, group: &ProcessGroup, tensors: &mut [Tensor]) -> Result<(), DistError> {
        let _guard = no_grad_guard();
        let sizes: Vec<_> = tensors.iter().map(|tensor| (tensor.kind(), tensor.numel())).collect();
        let failed = |error: TchError| group.tensor_error("all_reduce", &error);
        let mut under_way: VecDeque<(Work, Bucket)> = VecDeque::with_capacity(UNDER_WAY);
        for bucket in plan(&sizes, self.bytes) {
            if under_way.len() == UNDER_WAY
                && let Some((work, bucket)) = under_way.pop_front()
            {
                self.finish(work, &bucket, tensors, group)?;
            }
            let flat = match in_place(&bucket, tensors) {
                Some(tensor) => tensor.f_detach(),
                None => pack(self.buffer(&bucket), &bucket, tensors),
            };
            let work = group.all_reduce(flat.map_err(failed)?, ReduceOp::Sum)?;
            under_way.push_back((work, bucket));
        }
        while let Some((work, bucket)) = under_way.pop_front() {
            self.finish(work, &bucket, tensors, group)?;
        }
        Ok(())
    }

    /// Waits for the sums and turns them into means.
    fn finish(
        &mut self,
        work: Work,
        bucket: &Bucket,
        tensors: &mut [Tensor],
        group: &ProcessGroup,
    ) -> Result<(), DistError> {
        let mut flat = work.wait()?;
        let world_size = group.world_size() as f64;
        let done = if in_place(bucket, tensors).is_some() {
            flat.f_div_scalar_(world_size).map(drop)
        } else {
            let done = unpack(&mut flat, bucket, tensors, world_size);
            self.buffers.truncate(UNDER_WAY - 1);
            self.buffers.insert(0, flat);
            done
        };
        done.map_err(|error| group.tensor_error("all_reduce", &error))
    }

    /// A buffer of an earlier bucket that fits this one.
    fn buffer(&mut self, bucket: &Bucket) -> Option<Tensor> {
        let fits = |buffer: &Tensor| buffer.kind() == bucket.kind && buffer.numel() == bucket.elements;
        self.buffers.iter().position(fits).map(|index| self.buffers.swap_remove(index))
    }
}

/// Cuts a list of tensors, given as kinds and numbers of elements, into buckets of at most `bytes`, or of
/// one large tensor. Depends on nothing that may differ from rank to rank, such as strides.
fn plan(sizes: &[(Kind, usize)], bytes: usize) -> Vec<Bucket> {
    let large = bytes.min(LARGE_BYTES);
    let mut buckets: Vec<Bucket> = Vec::new();
    // The bucket that takes the next small tensor, for float32 and float64.
    let mut open: [Option<usize>; 2] = [None, None];
    for (index, &(kind, elements)) in sizes.iter().enumerate().filter(|(_, (_, elements))| *elements > 0) {
        let double = kind == Kind::Double;
        let (kind, width) = if double { (Kind::Double, 8) } else { (Kind::Float, 4) };
        let open = &mut open[usize::from(double)];
        let fits = |at: &usize| (buckets[*at].elements + elements) * width <= bytes;
        match open.filter(fits) {
            Some(at) if elements * width < large => {
                buckets[at].indices.push(index);
                buckets[at].elements += elements;
            }
            _ => {
                if elements * width < large {
                    *open = Some(buckets.len());
                }
                buckets.push(Bucket { indices: vec![index], kind, elements });
            }
        }
    }
    buckets
}

/// The tensor of a bucket that needs no buffer.
fn in_place<'t>(bucket: &Bucket, tensors: &'t [Tensor]) -> Option<&'t Tensor> {
    let [index] = bucket.indices[..] else { return None };
    let tensor = &tensors[index];
    (tensor.kind() == bucket.kind && tensor.is_contiguous()).then_some(tensor)
}

/// A flat tensor `[elements]` with the tensors' values one after the other.
fn pack(buffer: Option<Tensor>, bucket: &Bucket, tensors: &[Tensor]) -> Result<Tensor, TchError> {
    let flat = match buffer {
        Some(buffer) => buffer,
        None => {
            Tensor::f_empty([bucket.elements as i64], (bucket.kind, tensors[bucket.indices[0]].device()))?
        }
    };
    let mut start = 0;
    for &index in &bucket.indices {
        let tensor = &tensors[index];
        slice(&flat, &mut start, tensor)?.f_copy_(tensor)?;
    }
    Ok(flat)
}

/// Divides the sums and copies them back.
fn unpack(
    flat: &mut Tensor,
    bucket: &Bucket,
    tensors: &mut [Tensor],
    world_size: f64,
) -> Result<(), TchError> {
    let flat = flat.f_div_scalar_(world_size)?;
    let mut start = 0;
    for &index in &bucket.indices {
        let tensor = &mut tensors[index];
        let mean = slice(&flat, &mut start, tensor)?;
        tensor.f_copy_(&mean)?;
    }
    Ok(())
}

/// The part of `flat` from `start` that is `tensor`'s own, in its shape; moves `start` behind it.
fn slice(flat: &Tensor, start: &mut i64, tensor: &Tensor) -> Result<Tensor, TchError> {
    let elements = tensor.numel() as i64;
    let slice = flat.f_narrow(0, *start, elements)?.f_view_as(tensor)?;
    *start += elements;
    Ok(slice)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use tch::Device;

    fn kinds() -> impl Strategy<Value = Kind> {
        prop_oneof![Just(Kind::Float), Just(Kind::Double), Just(Kind::BFloat16), Just(Kind::Half)]
    }

    proptest! {
        #[test]
        fn every_element_is_in_one_bucket(
            sizes in prop::collection::vec((kinds(), 0usize..500), 0..40),
            bytes in 0usize..4000,
        ) {
            let mut seen = vec![0; sizes.len()];
            for bucket in plan(&sizes, bytes) {
                let inside: Vec<_> = bucket.indices.iter().map(|index| sizes[*index]).collect();
                prop_assert_eq!(bucket.elements, inside.iter().map(|(_, n)| n).sum::<usize>());
                let width = if bucket.kind == Kind::Double { 8 } else { 4 };
                prop_assert!(bucket.elements * width <= bytes || inside.len() == 1);
                for (kind, _) in inside {
                    prop_assert_eq!(kind == Kind::Double, bucket.kind == Kind::Double);
                }
                bucket.indices.iter().for_each(|index| seen[*index] += 1);
            }
            for (count, (_, elements)) in seen.iter().zip(&sizes) {
                prop_assert_eq!(*count, usize::from(*elements > 0));
            }
        }
    }

    #[test]
    fn small_tensors_share_a_bucket_and_large_ones_have_their_own() {
        let large = LARGE_BYTES / 4;
        let sizes = [
            (Kind::Float, 10),
            (Kind::Float, large),
            (Kind::BFloat16, 20),
            (Kind::Double, 5),
            (Kind::Half, 1),
        ];
        let found: Vec<_> = plan(&sizes, 25 << 20).into_iter().map(|bucket| bucket.indices).collect();
        assert_eq!(found, [vec![0, 2, 4], vec![1], vec![3]]);
    }

    #[test]
    fn packing_and_unpacking_keeps_values_shapes_and_kinds() {
        let mut tensors = [
            Tensor::arange(6, (Kind::Float, Device::Cpu)).view([2, 3]).tr(),
            Tensor::from_slice(&[1.5f32, -8.0]).to_kind(Kind::BFloat16),
            Tensor::from(100.0f32),
            Tensor::from(4.25f32),
        ];
        let bucket = Bucket { indices: vec![0, 1, 3], kind: Kind::Float, elements: 9 };
        let mut flat = pack(None, &bucket, &tensors).unwrap();
        assert_eq!(Vec::<f32>::try_from(&flat).unwrap(), [0.0, 3.0, 1.0, 4.0, 2.0, 5.0, 1.5, -8.0, 4.25]);
        unpack(&mut flat, &bucket, &mut tensors, 2.0).unwrap();
        assert_eq!((tensors[0].size(), tensors[0].double_value(&[2, 1])), (vec![3, 2], 2.5));
        assert_eq!((tensors[1].kind(), tensors[1].double_value(&[1])), (Kind::BFloat16, -4.0));
        assert_eq!((tensors[2].double_value(&[]), tensors[3].double_value(&[])), (100.0, 2.125));
    }
}

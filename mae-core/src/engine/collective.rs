//! What the engine asks of the other processes of a run, and the answer of a run that has none.

use tch::Tensor;

use crate::error::Error;

/// What the engine needs of a group of processes.
///
/// Every method but [`rank`](Self::rank) and [`world_size`](Self::world_size) is a collective
/// operation: each rank must call the same ones in the same order, with tensors of the same number,
/// shapes and dtypes. It returns when the result is there, or with an error once a peer is known to
/// be lost or the group's timeout has passed; after an error the group is of no more use.
pub trait Collective {
    /// The index of this process, `0 <= rank < world_size`.
    fn rank(&self) -> usize;

    /// How many processes take part, at least 1.
    fn world_size(&self) -> usize;

    /// Runs the backward pass of `loss` (a scalar), after which the gradient of each parameter is its mean over
    /// all ranks, with what earlier backward passes have left in it. `parameters` are the trainable ones, the same
    /// in every call; a group may average some of their gradients while others are still computed.
    ///
    /// # Errors
    /// A lost or late peer, or what libtorch cannot compute.
    fn backward(&self, loss: &Tensor, parameters: &mut [Tensor]) -> Result<(), Error> {
        loss.f_backward()?;
        let mut gradients: Vec<Tensor> =
            parameters.iter().map(Tensor::grad).filter(Tensor::defined).collect();
        self.average(&mut gradients)?;
        Ok(())
    }

    /// Averages each tensor over all ranks, in place.
    ///
    /// Tensors are of any shape and of a floating dtype; the mean is computed in float32 (float64
    /// for float64) and written back in the tensor's own dtype. All ranks get the same bits.
    ///
    /// # Errors
    /// A lost or late peer, or a tensor that cannot be averaged.
    fn average(&self, tensors: &mut [Tensor]) -> Result<(), CollectiveError>;

    /// Sums each value over all ranks, in place, in float64.
    ///
    /// # Errors
    /// A lost or late peer.
    fn sum(&self, values: &mut [f64]) -> Result<(), CollectiveError>;

    /// Copies rank 0's tensors to every rank, in place. Any shape, any dtype.
    ///
    /// # Errors
    /// A lost or late peer.
    fn broadcast(&self, tensors: &mut [Tensor]) -> Result<(), CollectiveError>;

    /// Gathers one byte string of each rank, in rank order. The lengths may differ.
    ///
    /// # Errors
    /// A lost or late peer.
    fn gather_bytes(&self, bytes: &[u8]) -> Result<Vec<Vec<u8>>, CollectiveError>;

    /// Returns when every rank has called it.
    ///
    /// # Errors
    /// A lost or late peer.
    fn barrier(&self) -> Result<(), CollectiveError>;
}

/// A collective operation that did not happen on this rank.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("rank {rank}: {operation} failed: {reason}")]
pub struct CollectiveError {
    /// The operation as the field calls it, such as `all_reduce` or `barrier`.
    pub operation: &'static str,
    /// The rank that reports the error, not necessarily the one that caused it.
    pub rank: usize,
    /// What happened, on which host, and what to do about it.
    pub reason: String,
}

/// The group of a run that is one process: every operation is the identity.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct SingleProcess;

impl Collective for SingleProcess {
    fn rank(&self) -> usize {
        0
    }

    fn world_size(&self) -> usize {
        1
    }

    fn average(&self, _tensors: &mut [Tensor]) -> Result<(), CollectiveError> {
        Ok(())
    }

    fn sum(&self, _values: &mut [f64]) -> Result<(), CollectiveError> {
        Ok(())
    }

    fn broadcast(&self, _tensors: &mut [Tensor]) -> Result<(), CollectiveError> {
        Ok(())
    }

    fn gather_bytes(&self, bytes: &[u8]) -> Result<Vec<Vec<u8>>, CollectiveError> {
        Ok(vec![bytes.to_vec()])
    }

    fn barrier(&self) -> Result<(), CollectiveError> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_single_process_keeps_its_values() {
        let group: &dyn Collective = &SingleProcess;
        assert_eq!((group.rank(), group.world_size()), (0, 1));

        let mut tensors = [Tensor::from_slice(&[1.5f32, -2.0])];
        group.average(&mut tensors).unwrap();
        let mut leaves = [Tensor::from_slice(&[2f32, 5.0]).set_requires_grad(true)];
        group.backward(&leaves[0].dot(&leaves[0]), &mut leaves).unwrap();
        assert_eq!(Vec::<f32>::try_from(&leaves[0].grad()).unwrap(), [4.0, 10.0]);
        group.broadcast(&mut tensors).unwrap();
        assert_eq!(Vec::<f32>::try_from(&tensors[0]).unwrap(), [1.5, -2.0]);

        let mut values = [3.25, -0.0];
        group.sum(&mut values).unwrap();
        assert_eq!(values.map(f64::to_bits), [3.25f64, -0.0].map(f64::to_bits));

        assert_eq!(group.gather_bytes(b"abc").unwrap(), [b"abc".to_vec()]);
        group.barrier().unwrap();
    }

    #[test]
    fn an_error_names_rank_operation_and_reason() {
        let error =
            CollectiveError { operation: "all_reduce", rank: 3, reason: "connection closed by peer".into() };
        assert_eq!(error.to_string(), "rank 3: all_reduce failed: connection closed by peer");
    }
}

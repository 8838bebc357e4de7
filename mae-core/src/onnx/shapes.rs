//! The recorder's work on shapes: reshapes, reductions, and the arithmetic of dimensions.

use tch::{Device, Kind, Tensor};

use super::graph::{Attribute, DataType, TensorId};
use super::recorder::{Recorder, Source, Value};
use crate::error::{Error, Result};

/// The most dimensions that TensorRT gives a tensor.
const RANK_LIMIT: usize = 8;

impl Recorder<'_> {
    /// The tensor behind a value, and the order in which the value has its dimensions.
    pub(super) fn as_stored(&self, x: &Value) -> Result<(TensorId, Vec<usize>)> {
        match &x.source {
            Source::Tensor { id, order } => Ok((*id, order.clone())),
            Source::Constant(_) => Ok((self.tensor(x)?, (0..x.shape.len()).collect())),
        }
    }

    /// Reshaping to `[N, L, C]` after a reordering of more dimensions than runtimes allow: the rows, each of C elements,
    /// are taken in their new order. Nothing if this is no such case.
    pub(super) fn reordered_rows(&self, x: &Value, shape: &[i64]) -> Result<Option<Value>> {
        let Source::Tensor { id, order } = &x.source else { return Ok(None) };
        let (Some(last), [_, rows, _]) = (order.len().checked_sub(1), shape) else { return Ok(None) };
        let kept = |dim: usize, new: usize| order[dim] == dim && x.shape[dim] == shape[new];
        if order.len() <= RANK_LIMIT || !kept(0, 0) || !kept(last, 2) {
            return Ok(None);
        }
        let stored = &self.value(*id).shape[1..last];
        let order: Vec<i64> = order[1..last].iter().map(|&dim| dim as i64 - 1).collect();
        let numbers = Tensor::f_arange(*rows, (Kind::Int64, Device::Cpu))?;
        let numbers = Vec::<i64>::try_from(numbers.f_reshape(stored)?.f_permute(order)?.f_reshape([-1])?)?;
        let input = self.reshaped(*id, shape);
        let attributes = vec![("axis", Attribute::Int(1))];
        let y =
            self.node(&self.place(), "Gather", &[input, self.integers(&numbers)], attributes, shape.to_vec());
        Ok(Some(self.value(y)))
    }

    /// A tensor in another shape, which its elements fit.
    pub(super) fn reshaped(&self, id: TensorId, shape: &[i64]) -> TensorId {
        // What was only reshaped before is reshaped from what it was.
        let id = self.before_reshape(id);
        let from = self.value(id).shape;
        if from == shape {
            return id;
        }
        // 0 keeps the dimension of that place, by which a runtime knows that it is the batch; -1 leaves it to be
        // computed.
        let keeps = |dim: usize, size: i64| size < 0 && from.get(dim) == Some(&-1);
        let target: Vec<i64> =
            shape.iter().enumerate().map(|(dim, &size)| if keeps(dim, size) { 0 } else { size }).collect();
        self.node(&self.place(), "Reshape", &[id, self.integers(&target)], vec![], shape.to_vec())
    }

    /// A reduction whose dimensions disappear.
    pub(super) fn reduce_away(&self, op: &'static str, x: &Value, dims: &[i64]) -> Result<Value> {
        let dims = dims.iter().map(|&dim| self.dim(x, dim)).collect::<Result<Vec<_>>>()?;
        let (input, order) = self.as_stored(x)?;
        let mut axes: Vec<usize> = dims.iter().map(|&dim| order[dim]).collect();
        axes.sort_unstable();
        let stored = self.value(input).shape;
        let shape = (0..stored.len()).filter(|axis| !axes.contains(axis)).map(|axis| stored[axis]).collect();
        let axes: Vec<i64> = axes.iter().map(|&axis| axis as i64).collect();
        let place = self.place();
        // A mean is a sum first, which may be too much for fp16; a maximum is exact in any type.
        let precise = if op == "ReduceMean" { self.cast(&place, input, DataType::Float) } else { input };
        let y = self.reduce(&place, op, precise, &axes, false, shape);
        let y = self.cast(&place, y, self.dtype(input));
        Ok(self.value_in_order(y, without(&order, &dims)))
    }

    pub(super) fn reduce(
        &self,
        place: &str,
        op: &'static str,
        input: TensorId,
        axes: &[i64],
        keep: bool,
        shape: Vec<i64>,
    ) -> TensorId {
        let keep = ("keepdims", Attribute::Int(keep.into()));
        if self.opset.reduces_by_input() {
            return self.node(place, op, &[input, self.integers(axes)], vec![keep], shape);
        }
        self.node(place, op, &[input], vec![("axes", Attribute::Ints(axes.to_vec())), keep], shape)
    }

    /// The shape `[N, rest…]`, N being the open first dimension of `input`.
    pub(super) fn open_shape(&self, input: TensorId, rest: &[i64]) -> TensorId {
        let batch = if self.opset.has_partial_shape() {
            self.integer_node("Shape", &[input], vec![("end", Attribute::Int(1))], vec![1])
        } else {
            let rank = self.value(input).shape.len() as i64;
            let all = self.integer_node("Shape", &[input], vec![], vec![rank]);
            self.integer_node(
                "Gather",
                &[all, self.integers(&[0])],
                vec![("axis", Attribute::Int(0))],
                vec![1],
            )
        };
        let attributes = vec![("axis", Attribute::Int(0))];
        self.integer_node("Concat", &[batch, self.integers(rest)], attributes, vec![1 + rest.len() as i64])
    }

    /// A dimension's number, which may be counted from the end.
    pub(super) fn dim(&self, x: &Value, dim: i64) -> Result<usize> {
        let rank = x.shape.len() as i64;
        let index = if dim < 0 { dim + rank } else { dim };
        if (0..rank).contains(&index) {
            return Ok(index as usize);
        }
        Err(Error::Shape {
            what: format!("ONNX export, {}", self.place()),
            expected: format!("a dimension of {:?}", x.shape),
            found: dim.to_string(),
        })
    }
}

/// `order` after the dimensions `dims` of the value have gone.
pub(super) fn without(order: &[usize], dims: &[usize]) -> Vec<usize> {
    let left: Vec<usize> =
        order.iter().enumerate().filter(|(dim, _)| !dims.contains(dim)).map(|(_, &axis)| axis).collect();
    left.iter().map(|&axis| left.iter().filter(|&&other| other < axis).count()).collect()
}

/// The shape of a sum.
pub(super) fn broadcast(x: &[i64], y: &[i64]) -> Option<Vec<i64>> {
    let rank = x.len().max(y.len());
    let size = |shape: &[i64], dim: usize| (dim + shape.len()).checked_sub(rank).map_or(1, |dim| shape[dim]);
    (0..rank)
        .map(|dim| match (size(x, dim), size(y, dim)) {
            (a, b) if a == b => Some(a),
            (1, b) => Some(b),
            (a, 1) => Some(a),
            _ => None,
        })
        .collect()
}

/// The shape that `to` means for a value of shape `from`: -1 computed, unless it is the open batch. None when the
/// elements do not fit, or the open batch would be joined with or divided into other dimensions.
pub(super) fn resolve(from: &[i64], to: &[i64]) -> Option<Vec<i64>> {
    let known = |shape: &[i64]| shape.iter().filter(|&&size| size >= 0).product::<i64>();
    let open = |shape: &[i64]| shape.iter().filter(|&&size| size < 0).count();
    match (open(from), open(to)) {
        (1, 1) | (0, 0) => (known(from) == known(to)).then(|| to.to_vec()),
        (0, 1) => {
            let (all, rest) = (known(from), known(to));
            (rest > 0 && all % rest == 0)
                .then(|| to.iter().map(|&size| if size < 0 { all / rest } else { size }).collect())
        }
        _ => None,
    }
}

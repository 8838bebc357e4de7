//! The recording interpreter: the operations of a forward pass become nodes.

use std::cell::{Cell, RefCell};
use std::rc::Rc;

use tch::Tensor;

use super::graph::{Attribute, DataType, Graph, TensorId};
use super::opset::Opset;
use crate::error::{Error, Result};
use crate::ops::Eager;
use crate::params::{ParamId, Params};

/// A value of the recorded computation: a tensor of the graph, or a constant that no node has needed yet.
///
/// A reordering of dimensions is kept with the value and written down when a node needs it done. Reorderings that cancel,
/// as those around neighbouring convolutions do, thus never reach the graph.
#[derive(Debug, Clone)]
pub struct Value {
    pub(super) source: Source,
    pub(super) shape: Vec<i64>,
    dtype: DataType,
}

#[derive(Debug, Clone)]
pub(super) enum Source {
    /// Dimension `i` of the value is dimension `order[i]` of the tensor.
    Tensor {
        id: TensorId,
        order: Vec<usize>,
    },
    Constant(Rc<Constant>),
}

/// A constant: a parameter, or what follows from parameters alone.
#[derive(Debug)]
pub(super) struct Constant {
    name: String,
    pub(super) tensor: Tensor,
    recorded: Cell<Option<TensorId>>,
}

impl Value {
    /// The shape; -1 where the batch is open.
    pub fn shape(&self) -> &[i64] {
        &self.shape
    }

    /// The dtype.
    pub fn dtype(&self) -> DataType {
        self.dtype
    }

    /// The value of a constant.
    pub(super) fn constant(&self) -> Option<&Constant> {
        match &self.source {
            Source::Constant(constant) => Some(constant),
            Source::Tensor { .. } => None,
        }
    }
}

/// Records the operations it is asked for as a graph; see the [module](super) for what it makes of each.
#[derive(Debug)]
pub struct Recorder<'a> {
    pub(super) opset: Opset,
    /// The float type that the model computes in.
    float_type: DataType,
    pub(super) eager: Eager<'a>,
    graph: RefCell<Graph>,
    scopes: RefCell<Vec<String>>,
    parameters: RefCell<Vec<Option<Value>>>,
    transposed: RefCell<Vec<Option<TensorId>>>,
}

impl<'a> Recorder<'a> {
    /// An empty graph whose result will be called `output`, to be computed in `float_type`.
    pub(super) fn new(params: &'a Params, opset: Opset, float_type: DataType, output: &str) -> Self {
        Recorder {
            opset,
            float_type,
            eager: Eager::new(params),
            graph: RefCell::new(Graph::new(output)),
            scopes: RefCell::default(),
            parameters: RefCell::new(vec![None; params.len()]),
            transposed: RefCell::new(vec![None; params.len()]),
        }
    }

    /// Adds an input; -1 leaves the batch open.
    pub(super) fn input(&self, name: &str, shape: &[i64], dtype: DataType) -> Value {
        let id = self.graph.borrow_mut().input(name, shape, dtype);
        self.value(id)
    }

    /// Makes `value` the result, in fp32.
    pub(super) fn finish(self, value: &Value) -> Result<(Graph, TensorId)> {
        let id = self.cast("", self.tensor(value)?, DataType::Float);
        // Only what a node computes can be called the output.
        let computed = self.graph.borrow().is_computed(id);
        let id = if computed { id } else { self.node("", "Identity", &[id], vec![], value.shape.clone()) };
        Ok((self.graph.into_inner(), id))
    }

    /// The tensor of the graph that holds `value`, its dimensions in the value's order.
    pub(super) fn tensor(&self, value: &Value) -> Result<TensorId> {
        match &value.source {
            Source::Tensor { id, order } if order.iter().copied().eq(0..order.len()) => Ok(*id),
            Source::Tensor { id, order } => {
                let perm = order.iter().map(|&dim| dim as i64).collect();
                let place = self.place();
                let attributes = vec![("perm", Attribute::Ints(perm))];
                Ok(self.node(&place, "Transpose", &[*id], attributes, value.shape.clone()))
            }
            Source::Constant(constant) => {
                if let Some(id) = constant.recorded.get() {
                    return Ok(id);
                }
                let tensor = constant.tensor.f_detach()?;
                let id = self.graph.borrow_mut().initializer(&constant.name, "", tensor, self.float_type);
                constant.recorded.set(Some(id));
                Ok(id)
            }
        }
    }

    /// `value` with its dimensions in another order, which costs nothing yet.
    pub(super) fn reordered(&self, value: &Value, order: &[usize]) -> Result<Value> {
        let shape = order.iter().map(|&dim| value.shape[dim]).collect();
        match &value.source {
            Source::Tensor { id, order: pending } => {
                let order = order.iter().map(|&dim| pending[dim]).collect();
                Ok(Value { source: Source::Tensor { id: *id, order }, shape, dtype: value.dtype })
            }
            Source::Constant(constant) => {
                let order: Vec<i64> = order.iter().map(|&dim| dim as i64).collect();
                Ok(self.folded(&constant.name, constant.tensor.f_permute(order)?))
            }
        }
    }

    /// A tensor of the graph as a value.
    pub(super) fn value(&self, id: TensorId) -> Value {
        let shape = self.graph.borrow().shape(id).to_vec();
        let order = (0..shape.len()).collect();
        Value { source: Source::Tensor { id, order }, shape, dtype: self.dtype(id) }
    }

    /// The dtype of a tensor of the graph.
    pub(super) fn dtype(&self, id: TensorId) -> DataType {
        self.graph.borrow().dtype(id)
    }

    /// The float type that the model computes in.
    pub(super) fn float_type(&self) -> DataType {
        self.float_type
    }

    /// A tensor as another type; itself where it has that type.
    pub(super) fn cast(&self, place: &str, id: TensorId, dtype: DataType) -> TensorId {
        if self.dtype(id) == dtype {
            return id;
        }
        let shape = self.graph.borrow().shape(id).to_vec();
        let attributes = vec![("to", Attribute::Int(dtype as i64))];
        self.graph.borrow_mut().node(place, "Cast", &[id], attributes, shape, dtype)
    }

    /// A tensor of the graph as a value whose dimension `i` is the tensor's dimension `order[i]`.
    pub(super) fn value_in_order(&self, id: TensorId, order: Vec<usize>) -> Value {
        let shape = {
            let graph = self.graph.borrow();
            order.iter().map(|&dim| graph.shape(id)[dim]).collect()
        };
        Value { source: Source::Tensor { id, order }, shape, dtype: self.dtype(id) }
    }

    /// A parameter as it is.
    pub(super) fn parameter(&self, id: ParamId) -> Value {
        let mut parameters = self.parameters.borrow_mut();
        let entry = &mut parameters[id.index()];
        entry
            .get_or_insert_with(|| {
                let params = self.eager.params();
                self.constant(params.spec(id).name.clone(), params.get(id).shallow_clone())
            })
            .clone()
    }

    /// The tensor of a parameter as it is.
    pub(super) fn parameter_tensor(&self, id: ParamId) -> Result<TensorId> {
        self.tensor(&self.parameter(id))
    }

    /// A linear layer's weight `[out, in]`, stored under its name as `[in, out]`.
    pub(super) fn transposed_parameter(&self, id: ParamId) -> Result<TensorId> {
        if let Some(known) = self.transposed.borrow()[id.index()] {
            return Ok(known);
        }
        let params = self.eager.params();
        let tensor = params.get(id).f_detach()?.f_transpose(0, 1)?;
        let note = "transposed: [in, out], where the state dict has [out, in]";
        let name = &params.spec(id).name;
        let tensor = self.graph.borrow_mut().initializer(name, note, tensor, self.float_type);
        self.transposed.borrow_mut()[id.index()] = Some(tensor);
        Ok(tensor)
    }

    /// A constant computed from the constant `name`, whose name it carries with a mark.
    pub(super) fn folded(&self, name: &str, tensor: Tensor) -> Value {
        self.constant(format!("{}.folded", name.trim_end_matches(".folded")), tensor)
    }

    /// A named fp32 constant that is no parameter.
    pub(super) fn named(&self, name: &str, values: &[f32]) -> Result<TensorId> {
        let tensor = Tensor::f_from_slice(values)?;
        Ok(self.graph.borrow_mut().initializer(name, "", tensor, DataType::Float))
    }

    fn constant(&self, name: String, tensor: Tensor) -> Value {
        let shape = tensor.size();
        let constant = Constant { name, tensor, recorded: Cell::new(None) };
        Value { source: Source::Constant(Rc::new(constant)), shape, dtype: self.float_type }
    }

    /// The list of integers as a tensor.
    pub(super) fn integers(&self, values: &[i64]) -> TensorId {
        self.graph.borrow_mut().integers(values)
    }

    /// The integer as a tensor without dimensions.
    pub(super) fn integer(&self, value: i64) -> TensorId {
        self.graph.borrow_mut().integer(value)
    }

    /// The number as a tensor without dimensions, of the type of `like`.
    pub(super) fn float(&self, value: f64, like: TensorId) -> TensorId {
        let dtype = self.dtype(like);
        self.graph.borrow_mut().float(value as f32, dtype)
    }

    /// Adds a node whose result has the type of its first input.
    pub(super) fn node(
        &self,
        place: &str,
        op: &'static str,
        inputs: &[TensorId],
        attributes: Vec<(&'static str, Attribute)>,
        shape: Vec<i64>,
    ) -> TensorId {
        let dtype = inputs.first().map_or(self.float_type, |&input| self.dtype(input));
        self.graph.borrow_mut().node(place, op, inputs, attributes, shape, dtype)
    }

    /// Adds a node that computes integers.
    pub(super) fn integer_node(
        &self,
        op: &'static str,
        inputs: &[TensorId],
        attributes: Vec<(&'static str, Attribute)>,
        shape: Vec<i64>,
    ) -> TensorId {
        let place = self.place();
        self.graph.borrow_mut().node(&place, op, inputs, attributes, shape, DataType::Int64)
    }

    /// What a tensor is a reshape of, or the tensor itself.
    pub(super) fn before_reshape(&self, id: TensorId) -> TensorId {
        self.graph.borrow().before_reshape(id)
    }

    /// Runs `body` with `name` as the place of its nodes.
    pub(super) fn within(&self, name: &str, body: impl FnOnce() -> Result<Value>) -> Result<Value> {
        self.scopes.borrow_mut().push(name.to_owned());
        let result = body();
        self.scopes.borrow_mut().pop();
        result
    }

    /// The part of the model that is being recorded.
    pub(super) fn place(&self) -> String {
        self.scopes.borrow().last().cloned().unwrap_or_default()
    }

    /// The module that a parameter belongs to.
    pub(super) fn module(&self, id: ParamId) -> String {
        let name = &self.eager.params().spec(id).name;
        name.rsplit_once('.').map_or_else(String::new, |(module, _)| module.to_owned())
    }

    /// Refuses a value that does not have `rank` dimensions.
    pub(super) fn expect_rank(&self, value: &Value, rank: usize, expected: &str, place: &str) -> Result<()> {
        if value.shape.len() == rank { Ok(()) } else { Err(shape_error(place, expected, &value.shape)) }
    }
}

/// A shape that a layer cannot work on.
pub(super) fn shape_error(place: &str, expected: &str, found: &[i64]) -> Error {
    let place = if place.is_empty() { "the model" } else { place };
    Error::Shape {
        what: format!("ONNX export, input of {place} (-1: the batch)"),
        expected: expected.to_owned(),
        found: format!("{found:?}"),
    }
}

impl Constant {
    pub(super) fn name(&self) -> &str {
        &self.name
    }
}

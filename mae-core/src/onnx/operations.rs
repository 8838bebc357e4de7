//! What the recorder makes of each operation.

use super::graph::{Attribute, DataType, TensorId};
use super::recorder::{Recorder, Source, Value, shape_error};
use super::shapes::{broadcast, resolve, without};
use crate::error::Result;
use crate::nn::DropPath;
use crate::nn::position::Resample;
use crate::nn::{Conv2d, GlobalResponseNorm, LayerNorm, Linear};
use crate::ops::Ops;
use crate::params::ParamId;

impl Ops for Recorder<'_> {
    type Value = Value;

    fn shape(&self, x: &Value) -> Vec<i64> {
        x.shape.clone()
    }

    fn scope(&self, name: &str, body: impl FnOnce() -> Result<Value>) -> Result<Value> {
        self.within(name, body)
    }

    fn linear(&self, x: &Value, layer: &Linear) -> Result<Value> {
        let place = self.module(layer.weight);
        let weight = &self.eager.params().spec(layer.weight).shape;
        let mut shape = x.shape.clone();
        match shape.last_mut() {
            Some(last) if *last == weight[1] => *last = weight[0],
            _ => return Err(shape_error(&place, &format!("[…, {}]", weight[1]), &x.shape)),
        }
        let inputs = [self.tensor(x)?, self.transposed_parameter(layer.weight)?];
        let mut y = self.node(&place, "MatMul", &inputs, vec![], shape.clone());
        if let Some(bias) = layer.bias {
            y = self.node(&place, "Add", &[y, self.parameter_tensor(bias)?], vec![], shape);
        }
        Ok(self.value(y))
    }

    fn conv2d(&self, x: &Value, layer: &Conv2d) -> Result<Value> {
        let place = self.module(layer.weight);
        let weight = self.eager.params().spec(layer.weight).shape.clone();
        let (channels, kernel) = (weight[1] * layer.groups, [weight[2], weight[3]]);
        let expected = format!("[N, H, W, {channels}], no smaller than the kernel, {kernel:?}");
        self.expect_rank(x, 4, &expected, &place)?;
        let output = |dim: usize| {
            let padded = x.shape[1 + dim] + 2 * layer.padding;
            (padded - kernel[dim]).div_euclid(layer.stride) + 1
        };
        let shape = vec![x.shape[0], weight[0], output(0), output(1)];
        if x.shape[3] != channels || shape[2] < 1 || shape[3] < 1 {
            return Err(shape_error(&place, &expected, &x.shape));
        }
        // ONNX convolves channels-first. The reordering back stays pending, for the next convolution to cancel.
        let image = self.tensor(&self.reordered(x, &[0, 3, 1, 2])?)?;
        let inputs = [image, self.parameter_tensor(layer.weight)?, self.parameter_tensor(layer.bias)?];
        let attributes = vec![
            ("dilations", Attribute::Ints(vec![1, 1])),
            ("group", Attribute::Int(layer.groups)),
            ("kernel_shape", Attribute::Ints(kernel.to_vec())),
            ("pads", Attribute::Ints(vec![layer.padding; 4])),
            ("strides", Attribute::Ints(vec![layer.stride; 2])),
        ];
        Ok(self.value_in_order(self.node(&place, "Conv", &inputs, attributes, shape), vec![0, 2, 3, 1]))
    }

    fn layer_norm(&self, x: &Value, layer: &LayerNorm) -> Result<Value> {
        let place = self.module(layer.weight);
        let channels = self.eager.params().spec(layer.weight).shape[0];
        if x.shape.last() != Some(&channels) {
            return Err(shape_error(&place, &format!("[…, {channels}]"), &x.shape));
        }
        let input = self.tensor(x)?;
        let (weight, bias) = (self.parameter_tensor(layer.weight)?, self.parameter_tensor(layer.bias)?);
        if self.opset.has_layer_normalization() {
            let attributes =
                vec![("axis", Attribute::Int(-1)), ("epsilon", Attribute::Float(layer.eps as f32))];
            let y =
                self.node(&place, "LayerNormalization", &[input, weight, bias], attributes, x.shape.clone());
            return Ok(self.value(y));
        }
        // The composition that runtimes recognise.
        let last = x.shape.len() - 1;
        let node = |op, inputs: &[TensorId]| self.node(&place, op, inputs, vec![], x.shape.clone());
        let mut one = x.shape.clone();
        one[last] = 1;
        let mean = self.reduce(&place, "ReduceMean", input, &[last as i64], true, one.clone());
        let centred = node("Sub", &[input, mean]);
        let squared = node("Pow", &[centred, self.float(2.0, centred)]);
        let variance = self.reduce(&place, "ReduceMean", squared, &[last as i64], true, one.clone());
        let epsilon = self.float(layer.eps, variance);
        let variance = self.node(&place, "Add", &[variance, epsilon], vec![], one.clone());
        let deviation = self.node(&place, "Sqrt", &[variance], vec![], one);
        let normalised = node("Div", &[centred, deviation]);
        Ok(self.value(node("Add", &[node("Mul", &[normalised, weight]), bias])))
    }

    fn global_response_norm(&self, x: &Value, layer: &GlobalResponseNorm) -> Result<Value> {
        let place = self.module(layer.gamma);
        let channels = self.eager.params().spec(layer.gamma).shape[3];
        let expected = format!("[N, H, W, {channels}]");
        self.expect_rank(x, 4, &expected, &place)?;
        if x.shape[3] != channels {
            return Err(shape_error(&place, &expected, &x.shape));
        }
        let input = self.tensor(x)?;
        let (per_channel, per_image) = (vec![x.shape[0], 1, 1, channels], vec![x.shape[0], 1, 1, 1]);
        let node =
            |op, inputs: &[TensorId], shape: &[i64]| self.node(&place, op, inputs, vec![], shape.to_vec());
        // The squares of a whole image are too much for fp16.
        let precise = self.cast(&place, input, DataType::Float);
        let energy = self.reduce(&place, "ReduceL2", precise, &[1, 2], true, per_channel.clone());
        let mean = self.reduce(&place, "ReduceMean", energy, &[3], true, per_image.clone());
        let response =
            node("Div", &[energy, node("Add", &[mean, self.float(1e-6, mean)], &per_image)], &per_channel);
        let response = self.cast(&place, response, self.dtype(input));
        // γ·x·n + β + x = x·(γ·n + 1) + β: one product over the whole image instead of two.
        let gamma = self.parameter_tensor(layer.gamma)?;
        let factor = node("Mul", &[response, gamma], &per_channel);
        let scale = node("Add", &[factor, self.float(1.0, factor)], &per_channel);
        let scaled = node("Mul", &[input, scale], &x.shape);
        Ok(self.value(node("Add", &[scaled, self.parameter_tensor(layer.beta)?], &x.shape)))
    }

    fn gelu(&self, x: &Value) -> Result<Value> {
        let place = self.place();
        let (input, order) = self.as_stored(x)?;
        let shape = self.value(input).shape;
        let node = |op, inputs: &[TensorId]| self.node(&place, op, inputs, vec![], shape.clone());
        let y = if self.opset.has_gelu() {
            node("Gelu", &[input])
        } else {
            // x/2 · (1 + erf(x/√2)), in the order that runtimes recognise.
            let error = node("Erf", &[node("Div", &[input, self.float(std::f64::consts::SQRT_2, input)])]);
            let sum = node("Add", &[error, self.float(1.0, input)]);
            node("Mul", &[node("Mul", &[input, sum]), self.float(0.5, input)])
        };
        Ok(self.value_in_order(y, order))
    }

    fn attention(&self, q: &Value, k: &Value, v: &Value) -> Result<Value> {
        let place = self.place();
        let rank = q.shape.len();
        let batch_alike =
            |other: &Value| other.shape.len() == rank && other.shape[..rank - 2] == q.shape[..rank - 2];
        if rank < 2 || !batch_alike(k) || !batch_alike(v) || k.shape[rank - 2] != v.shape[rank - 2] {
            let found = [&q.shape[..], &k.shape[..], &v.shape[..]].concat();
            return Err(shape_error(&place, "q, k and v with the same leading dimensions", &found));
        }
        let mut swapped: Vec<usize> = (0..rank).collect();
        swapped.swap(rank - 2, rank - 1);
        let keys = self.reordered(k, &swapped)?;
        let mut scores = q.shape.clone();
        scores[rank - 1] = keys.shape[rank - 1];
        let mut output = q.shape.clone();
        output[rank - 1] = v.shape[rank - 1];
        let node = |op, inputs: &[TensorId], attributes, shape: &[i64]| {
            self.node(&place, op, inputs, attributes, shape.to_vec())
        };
        let (queries, keys) = (self.tensor(q)?, self.tensor(&keys)?);
        let scale = self.float(1.0 / (q.shape[rank - 1] as f64).sqrt(), queries);
        let scaled = if self.dtype(queries) == DataType::Float16 {
            // In this order the products stay within fp16.
            node("MatMul", &[node("Mul", &[queries, scale], vec![], &q.shape), keys], vec![], &scores)
        } else {
            node("Mul", &[node("MatMul", &[queries, keys], vec![], &scores), scale], vec![], &scores)
        };
        let weights = node("Softmax", &[scaled], vec![("axis", Attribute::Int(-1))], &scores);
        Ok(self.value(node("MatMul", &[weights, self.tensor(v)?], vec![], &output)))
    }

    fn add(&self, x: &Value, y: &Value) -> Result<Value> {
        if let (Some(a), Some(b)) = (x.constant(), y.constant()) {
            return Ok(self.folded(a.name(), self.eager.add(&a.tensor, &b.tensor)?));
        }
        let place = self.place();
        if let (Source::Tensor { id: a, order }, Source::Tensor { id: b, order: other }) =
            (&x.source, &y.source)
            && order == other
            && x.shape == y.shape
        {
            let shape = self.value(*a).shape;
            return Ok(self.value_in_order(self.node(&place, "Add", &[*a, *b], vec![], shape), order.clone()));
        }
        let shape = broadcast(&x.shape, &y.shape).ok_or_else(|| {
            shape_error(&place, &format!("a shape that can be added to {:?}", x.shape), &y.shape)
        })?;
        Ok(self.value(self.node(&place, "Add", &[self.tensor(x)?, self.tensor(y)?], vec![], shape)))
    }

    fn drop_path(&self, branch: Value, _: DropPath) -> Result<Value> {
        Ok(branch)
    }

    fn reshape(&self, x: &Value, shape: &[i64]) -> Result<Value> {
        if let Some(constant) = x.constant() {
            return Ok(self.folded(constant.name(), self.eager.reshape(&constant.tensor, shape)?));
        }
        let place = self.place();
        let shape = resolve(&x.shape, shape).ok_or_else(|| {
            shape_error(&place, &format!("as many elements as {shape:?}, the batch by itself"), &x.shape)
        })?;
        if shape == x.shape {
            return Ok(x.clone());
        }
        if let Some(y) = self.reordered_rows(x, &shape)? {
            return Ok(y);
        }
        let input = self.tensor(x)?;
        Ok(self.value(self.reshaped(input, &shape)))
    }

    fn permute(&self, x: &Value, order: &[i64]) -> Result<Value> {
        let order = order.iter().map(|&dim| self.dim(x, dim)).collect::<Result<Vec<_>>>()?;
        self.reordered(x, &order)
    }

    fn narrow(&self, x: &Value, dim: i64, start: i64, length: i64) -> Result<Value> {
        if let Some(constant) = x.constant() {
            return Ok(self.folded(constant.name(), self.eager.narrow(&constant.tensor, dim, start, length)?));
        }
        let dim = self.dim(x, dim)?;
        if start < 0 || length < 1 || start + length > x.shape[dim] {
            let expected = format!("at least {} in dimension {dim}", start + length);
            return Err(shape_error(&self.place(), &expected, &x.shape));
        }
        if length == x.shape[dim] {
            return Ok(x.clone());
        }
        let (input, order) = self.as_stored(x)?;
        let mut shape = self.value(input).shape;
        shape[order[dim]] = length;
        let bounds = [start, start + length, order[dim] as i64].map(|value| self.integers(&[value]));
        let y = self.node(&self.place(), "Slice", &[input, bounds[0], bounds[1], bounds[2]], vec![], shape);
        Ok(self.value_in_order(y, order))
    }

    fn select(&self, x: &Value, dim: i64, index: i64) -> Result<Value> {
        if let Some(constant) = x.constant() {
            return Ok(self.folded(constant.name(), self.eager.select(&constant.tensor, dim, index)?));
        }
        let dim = self.dim(x, dim)?;
        if index < 0 || index >= x.shape[dim] {
            let expected = format!("more than {index} in dimension {dim}");
            return Err(shape_error(&self.place(), &expected, &x.shape));
        }
        let (input, order) = self.as_stored(x)?;
        let mut shape = self.value(input).shape;
        shape.remove(order[dim]);
        let attributes = vec![("axis", Attribute::Int(order[dim] as i64))];
        let y = self.node(&self.place(), "Gather", &[input, self.integer(index)], attributes, shape);
        Ok(self.value_in_order(y, without(&order, &[dim])))
    }

    fn mean(&self, x: &Value, dims: &[i64]) -> Result<Value> {
        self.reduce_away("ReduceMean", x, dims)
    }

    fn amax(&self, x: &Value, dim: i64) -> Result<Value> {
        self.reduce_away("ReduceMax", x, &[dim])
    }

    fn positions(&self, table: ParamId, resample: Option<Resample>) -> Result<Value> {
        if resample.is_none() {
            return Ok(self.parameter(table));
        }
        let name = &self.eager.params().spec(table).name;
        Ok(self.folded(name, self.eager.positions(table, resample)?))
    }

    fn prepend_token(&self, token: ParamId, position: &Value, x: &Value) -> Result<Value> {
        let place = self.place();
        self.expect_rank(x, 3, "[N, L, C]", &place)?;
        let token = self.add(&self.parameter(token), position)?;
        let (batch, length, channels) = (x.shape[0], x.shape[1], x.shape[2]);
        if token.shape != [1, 1, channels] {
            return Err(shape_error(&place, &format!("a token of shape [1, 1, {channels}]"), &token.shape));
        }
        let input = self.tensor(x)?;
        let mut tokens = self.tensor(&token)?;
        if batch != 1 {
            let target = if batch > 0 {
                self.integers(&[batch, 1, channels])
            } else {
                self.open_shape(input, &[1, channels])
            };
            tokens = self.node(&place, "Expand", &[tokens, target], vec![], vec![batch, 1, channels]);
        }
        let attributes = vec![("axis", Attribute::Int(1))];
        Ok(self.value(self.node(
            &place,
            "Concat",
            &[tokens, input],
            attributes,
            vec![batch, 1 + length, channels],
        )))
    }
}

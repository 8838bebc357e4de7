//! The eager interpreter: every operation runs on libtorch at once.

use std::cell::RefCell;

use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use tch::{Kind, Tensor};

use super::Ops;
use crate::error::Result;
use crate::nn::position::{self, Resample};
use crate::nn::{Conv2d, DropPath, GlobalResponseNorm, LayerNorm, Linear};
use crate::params::{ParamId, Params};

/// The arithmetic of matrix products and convolutions; master weights, norms, softmax sums and losses stay fp32, as
/// under PyTorch's autocast.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Precision {
    /// 32-bit throughout.
    #[default]
    Fp32,
    /// bfloat16 products.
    Bf16,
    /// IEEE half products; training needs a loss scale.
    Fp16,
}

impl Precision {
    /// The dtype of the products.
    pub fn kind(self) -> Kind {
        match self {
            Precision::Fp32 => Kind::Float,
            Precision::Bf16 => Kind::BFloat16,
            Precision::Fp16 => Kind::Half,
        }
    }
}

/// The random part of a training forward pass. Absent in evaluation.
#[derive(Debug, Clone)]
pub struct Regularization {
    /// One key a sample, `[N]`: what a sample draws follows from it alone, whatever the batch around it.
    pub sample_keys: Vec<u64>,
}

/// Computes on libtorch, with the parameters of one table.
#[derive(Debug)]
pub struct Eager<'a> {
    params: &'a Params,
    precision: Precision,
    regularization: Option<Regularization>,
    trace: Option<RefCell<Vec<(String, Tensor)>>>,
}

impl<'a> Eager<'a> {
    /// Evaluation in fp32.
    pub fn new(params: &'a Params) -> Self {
        Eager { params, precision: Precision::Fp32, regularization: None, trace: None }
    }

    /// The same with another precision.
    pub fn with_precision(mut self, precision: Precision) -> Self {
        self.precision = precision;
        self
    }

    /// Training: stochastic depth is on.
    pub fn with_regularization(mut self, regularization: Regularization) -> Self {
        self.regularization = Some(regularization);
        self
    }

    /// Keeps each scope's output, for inspection by [`into_trace`](Eager::into_trace).
    pub fn with_trace(mut self) -> Self {
        self.trace = Some(RefCell::default());
        self
    }

    /// The outputs of the scopes, in order of execution; empty unless asked for.
    pub fn into_trace(self) -> Vec<(String, Tensor)> {
        self.trace.map(RefCell::into_inner).unwrap_or_default()
    }

    /// The table this interpreter reads.
    pub fn params(&self) -> &'a Params {
        self.params
    }

    fn cast(&self, x: &Tensor) -> Result<Tensor> {
        Ok(x.f_to_kind(self.precision.kind())?)
    }

    fn param(&self, id: ParamId) -> Result<Tensor> {
        self.cast(self.params.get(id))
    }
}

impl Ops for Eager<'_> {
    type Value = Tensor;

    fn shape(&self, x: &Tensor) -> Vec<i64> {
        x.size()
    }

    fn scope(&self, name: &str, body: impl FnOnce() -> Result<Tensor>) -> Result<Tensor> {
        let output = body()?;
        if let Some(trace) = &self.trace {
            trace.borrow_mut().push((name.to_owned(), output.shallow_clone()));
        }
        Ok(output)
    }

    fn linear(&self, x: &Tensor, layer: &Linear) -> Result<Tensor> {
        let bias = layer.bias.map(|id| self.param(id)).transpose()?;
        Ok(self.cast(x)?.f_linear(&self.param(layer.weight)?, bias.as_ref())?)
    }

    fn conv2d(&self, x: &Tensor, layer: &Conv2d) -> Result<Tensor> {
        let image = self.cast(x)?.f_permute([0, 3, 1, 2])?;
        let bias = Some(self.param(layer.bias)?);
        let weight = self.param(layer.weight)?;
        let (stride, padding) = ([layer.stride; 2], [layer.padding; 2]);
        let y = image.f_conv2d(&weight, bias.as_ref(), stride, padding, [1, 1], layer.groups)?;
        Ok(y.f_permute([0, 2, 3, 1])?)
    }

    fn layer_norm(&self, x: &Tensor, layer: &LayerNorm) -> Result<Tensor> {
        let (weight, bias) = (self.params.get(layer.weight), self.params.get(layer.bias));
        let x = x.f_to_kind(Kind::Float)?;
        Ok(x.f_layer_norm(weight.size(), Some(weight), Some(bias), layer.eps, false)?)
    }

    fn global_response_norm(&self, x: &Tensor, layer: &GlobalResponseNorm) -> Result<Tensor> {
        let (gamma, beta) = (self.params.get(layer.gamma), self.params.get(layer.beta));
        let x = x.f_to_kind(Kind::Float)?;
        let energy = x.f_norm_scalaropt_dim(2, [1, 2].as_slice(), true)?;
        let mean = energy.f_mean_dim([-1].as_slice(), true, None)?;
        let response = energy.f_div(&mean.f_add_scalar(1e-6)?)?;
        // γ·(x·n) + β + x, with the two products over [N, H, W, C] folded into one.
        let scale = response.f_mul(gamma)?.f_add_scalar(1.0)?;
        Ok(beta.f_addcmul(&x, &scale)?)
    }

    fn gelu(&self, x: &Tensor) -> Result<Tensor> {
        Ok(x.f_gelu("none")?)
    }

    fn attention(&self, q: &Tensor, k: &Tensor, v: &Tensor) -> Result<Tensor> {
        let none = None::<&Tensor>;
        Ok(Tensor::f_scaled_dot_product_attention(q, k, v, none, 0.0, false, None, false)?)
    }

    fn add(&self, x: &Tensor, y: &Tensor) -> Result<Tensor> {
        Ok(x.f_add(y)?)
    }

    fn drop_path(&self, branch: Tensor, place: DropPath) -> Result<Tensor> {
        let Some(regularization) = self.regularization.as_ref().filter(|_| place.rate > 0.0) else {
            return Ok(branch);
        };
        let keep = 1.0 - place.rate;
        let scale: Vec<f32> = regularization
            .sample_keys
            .iter()
            .map(|&key| {
                let mut stream = ChaCha8Rng::seed_from_u64(key);
                stream.set_stream(place.site);
                if stream.random::<f64>() < keep { (1.0 / keep) as f32 } else { 0.0 }
            })
            .collect();
        let mut shape = vec![1; branch.dim()];
        shape[0] = scale.len() as i64;
        let scale = Tensor::f_from_slice(&scale)?.f_reshape(&shape)?;
        Ok(branch.f_mul(&scale.f_to_device(branch.device())?.f_to_kind(branch.kind())?)?)
    }

    fn reshape(&self, x: &Tensor, shape: &[i64]) -> Result<Tensor> {
        Ok(x.f_reshape(shape)?)
    }

    fn permute(&self, x: &Tensor, order: &[i64]) -> Result<Tensor> {
        Ok(x.f_permute(order)?)
    }

    fn narrow(&self, x: &Tensor, dim: i64, start: i64, length: i64) -> Result<Tensor> {
        Ok(x.f_narrow(dim, start, length)?)
    }

    fn select(&self, x: &Tensor, dim: i64, index: i64) -> Result<Tensor> {
        Ok(x.f_select(dim, index)?)
    }

    fn mean(&self, x: &Tensor, dims: &[i64]) -> Result<Tensor> {
        Ok(x.f_mean_dim(dims, false, Kind::Float)?)
    }

    fn amax(&self, x: &Tensor, dim: i64) -> Result<Tensor> {
        Ok(x.f_amax([dim].as_slice(), false)?)
    }

    fn positions(&self, table: ParamId, resample: Option<Resample>) -> Result<Tensor> {
        let table = self.params.get(table);
        resample.map_or_else(|| Ok(table.shallow_clone()), |to| position::resample(table, to))
    }

    fn prepend_token(&self, token: ParamId, position: &Tensor, x: &Tensor) -> Result<Tensor> {
        let token = self.params.get(token).f_add(position)?.f_to_kind(x.kind())?;
        let channels = token.size().last().copied().unwrap_or(0);
        let tokens = token.f_expand([x.size()[0], 1, channels], false)?;
        Ok(Tensor::f_cat(&[&tokens, x], 1)?)
    }
}

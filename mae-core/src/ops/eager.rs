//! The eager interpreter: every operation runs on libtorch at once.

use std::cell::{Cell, RefCell};

use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use tch::{Device, Kind, Tensor};

use super::{Ops, Precision, VisiblePatches, composed_block};
use crate::error::Result;
use crate::nn::position::{self, Resample};
use crate::nn::{Conv2d, ConvNeXtV2Block, DropPath, GlobalResponseNorm, LayerNorm, Linear};
use crate::params::{ParamId, Params};
use crate::sys::{self, BlockInput, Kernels};

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
    visible: Option<&'a VisiblePatches>,
    trace: Option<RefCell<Vec<(String, Tensor)>>>,
    flops: Cell<u64>,
}

impl<'a> Eager<'a> {
    /// Evaluation in fp32.
    pub fn new(params: &'a Params) -> Self {
        params.begin_pass();
        Eager {
            params,
            precision: Precision::Fp32,
            regularization: None,
            visible: None,
            trace: None,
            flops: Cell::new(0),
        }
    }

    /// The same with another precision.
    pub fn with_precision(mut self, precision: Precision) -> Self {
        self.precision = precision;
        self
    }

    /// An interpreter of the same kind for a sparse convolutional encoder: its images are stacks of the visible patches.
    pub(crate) fn on_visible<'b>(&self, visible: &'b VisiblePatches) -> Eager<'b>
    where
        'a: 'b,
    {
        Eager {
            params: self.params,
            precision: self.precision,
            regularization: self.regularization.clone(),
            visible: Some(visible),
            trace: self.trace.as_ref().map(|_| RefCell::default()),
            flops: Cell::new(0),
        }
    }

    /// Takes over what another interpreter traced and counted.
    pub(crate) fn absorb(&self, other: Eager<'_>) {
        self.count(other.flops.get());
        if let (Some(ours), Some(theirs)) = (&self.trace, other.trace) {
            ours.borrow_mut().append(&mut theirs.into_inner());
        }
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

    /// Whether the scopes' outputs are kept.
    pub(crate) fn is_traced(&self) -> bool {
        self.trace.is_some()
    }

    /// The table this interpreter reads.
    pub fn params(&self) -> &'a Params {
        self.params
    }

    /// Floating-point operations of all products so far (linear layers, convolutions, attention), a multiplication and an
    /// addition counted as two, forward only.
    pub fn flops(&self) -> u64 {
        self.flops.get()
    }

    fn count(&self, flops: u64) {
        self.flops.set(self.flops.get() + flops);
    }

    /// The dtype in which products on `x`'s device are made.
    fn held(&self, x: &Tensor) -> Kind {
        self.precision.product_kind(x.device())
    }

    /// `x` as an operand of a product.
    fn operand(&self, x: &Tensor) -> Result<Tensor> {
        Ok(x.f_to_kind(self.precision.kind())?.f_to_kind(self.held(x))?)
    }

    /// A parameter as an operand of a product.
    fn param(&self, id: ParamId) -> Result<Tensor> {
        let param = self.params.get(id);
        if self.precision == Precision::Fp32 && param.kind() == Kind::Float {
            return Ok(param.shallow_clone());
        }
        self.params.rounded(id, self.precision.kind(), self.held(param))
    }

    /// The result of a product.
    fn result(&self, y: Tensor) -> Result<Tensor> {
        Ok(y.f_to_kind(self.precision.kind())?)
    }

    /// What stochastic depth multiplies each sample's branch with, `[N]` fp32; `None` where it passes.
    fn path_scale(&self, place: DropPath) -> Result<Option<Tensor>> {
        let Some(regularization) = self.regularization.as_ref().filter(|_| place.rate > 0.0) else {
            return Ok(None);
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
        Ok(Some(Tensor::f_from_slice(&scale)?))
    }

    /// The kernels that compute a ConvNeXt block on `x` in one; `None` where the composition does it.
    fn block_kernels(&self, x: &Tensor) -> Result<Option<Kernels>> {
        let least = match self.precision {
            Precision::Fp32 => Kernels::Avx2,
            Precision::Bf16 => Kernels::Avx512Bf16,
            Precision::Fp16 => return Ok(None),
        };
        let fits = x.device() == Device::Cpu && x.size().last().is_some_and(|channels| channels % 8 == 0);
        Ok(Some(Kernels::chosen()?).filter(|kernels| fits && *kernels >= least))
    }

    /// Attention by its formula, the softmax in fp32. On CPUs libtorch's own is slower than this in 16 bits.
    fn plain_attention(&self, q: &Tensor, k: &Tensor, v: &Tensor) -> Result<Tensor> {
        let scale = 1.0 / (q.size().last().copied().unwrap_or(1) as f64).sqrt();
        let scores =
            self.operand(&q.f_mul_scalar(scale)?)?.f_matmul(&self.operand(k)?.f_transpose(-2, -1)?)?;
        let weights = self.operand(&scores.f_softmax(-1, Kind::Float)?)?;
        self.result(weights.f_matmul(&self.operand(v)?)?)
    }
}

impl Ops for Eager<'_> {
    type Value = Tensor;

    fn shape(&self, x: &Tensor) -> Vec<i64> {
        x.size()
    }

    fn scope(&self, name: &str, body: impl FnOnce() -> Result<Tensor>) -> Result<Tensor> {
        let gathered = self.params.gather(name)?;
        let output = body()?;
        self.params.release(gathered.as_deref(), &output)?;
        if let Some(trace) = &self.trace {
            trace.borrow_mut().push((name.to_owned(), output.shallow_clone()));
        }
        Ok(output)
    }

    fn linear(&self, x: &Tensor, layer: &Linear) -> Result<Tensor> {
        let bias = layer.bias.map(|id| self.param(id)).transpose()?;
        self.count(2 * (x.numel() as i64 * self.params.spec(layer.weight).shape[0]) as u64);
        self.result(self.operand(x)?.f_linear(&self.param(layer.weight)?, bias.as_ref())?)
    }

    fn conv2d(&self, x: &Tensor, layer: &Conv2d) -> Result<Tensor> {
        // Kernels that overlap see neighbours; a stack of visible patches is spread out for them.
        let spread = self.visible.filter(|_| layer.padding > 0);
        let x = match spread {
            Some(visible) => visible.scatter(x, &visible.zeros(x.kind())?)?,
            None => x.shallow_clone(),
        };
        let image = self.operand(&x)?;
        let (weight, bias) = (self.param(layer.weight)?, self.param(layer.bias)?);
        let fits = layer.is_depthwise_7x7() && image.device() == Device::Cpu;
        let y = match Kernels::chosen()?.lanes().filter(|_| fits) {
            Some(lanes) => sys::depthwise_conv(&image, &weight, &bias, lanes)?,
            None => reference_conv2d(&image, &weight, &bias, layer)?,
        };
        let products = weight.size()[1..].iter().product::<i64>() * y.numel() as i64;
        self.count(2 * products as u64);
        let y = self.result(y)?;
        spread.map_or_else(|| Ok(y.shallow_clone()), |visible| visible.gather(&y))
    }

    fn layer_norm(&self, x: &Tensor, layer: &LayerNorm) -> Result<Tensor> {
        let (weight, bias) = (self.params.get(layer.weight), self.params.get(layer.bias));
        // On CPUs libtorch normalises 16-bit numbers with fp32 sums and fp32 parameters; elsewhere dtypes must agree.
        let x = if x.device() == Device::Cpu { x.shallow_clone() } else { x.f_to_kind(Kind::Float)? };
        Ok(x.f_layer_norm(weight.size(), Some(weight), Some(bias), layer.eps, false)?)
    }

    fn global_response_norm(&self, x: &Tensor, layer: &GlobalResponseNorm) -> Result<Tensor> {
        let (gamma, beta) = (self.params.get(layer.gamma), self.params.get(layer.beta));
        let energy = spatial_norm(x)?;
        let mean = energy.f_mean_dim([-1].as_slice(), true, None)?;
        let response = energy.f_div(&mean.f_add_scalar(1e-6)?)?;
        // γ·(x·n) + β + x, with the two products over [N, H, W, C] folded into one.
        let scale = response.f_mul(gamma)?.f_add_scalar(1.0)?.f_to_kind(x.kind())?;
        Ok(beta.f_to_kind(x.kind())?.f_addcmul(x, &scale)?)
    }

    fn gelu(&self, x: &Tensor) -> Result<Tensor> {
        Ok(x.f_gelu("none")?)
    }

    fn attention(&self, q: &Tensor, k: &Tensor, v: &Tensor) -> Result<Tensor> {
        self.count(4 * (q.numel() as i64 * k.size()[k.dim() - 2]) as u64);
        if self.precision != Precision::Fp32 && q.device() == Device::Cpu {
            return self.plain_attention(q, k, v);
        }
        let none = None::<&Tensor>;
        Ok(Tensor::f_scaled_dot_product_attention(q, k, v, none, 0.0, false, None, false)?)
    }

    fn add(&self, x: &Tensor, y: &Tensor) -> Result<Tensor> {
        Ok(x.f_add(y)?)
    }

    fn drop_path(&self, branch: Tensor, place: DropPath) -> Result<Tensor> {
        let Some(scale) = self.path_scale(place)? else { return Ok(branch) };
        let mut shape = vec![1; branch.dim()];
        shape[0] = -1;
        let scale = scale.f_reshape(&shape)?.f_to_device(branch.device())?;
        Ok(branch.f_mul(&scale.f_to_kind(branch.kind())?)?)
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

    fn convnextv2_block(&self, x: &Tensor, block: &ConvNeXtV2Block) -> Result<Tensor> {
        let (Some(kernels), Some(expand_bias), Some(project_bias)) =
            (self.block_kernels(x)?, block.pwconv1.bias, block.pwconv2.bias)
        else {
            return composed_block(self, x, block);
        };
        let places = self.visible.map_or_else(|| x.numel(), |visible| visible.canvas_numel(x));
        let channels = x.size()[3];
        self.count(2 * (49 * places as u64 + 8 * x.numel() as u64 * channels as u64));
        let ids = [
            block.dwconv.weight,
            block.dwconv.bias,
            block.norm.weight,
            block.norm.bias,
            block.pwconv1.weight,
            expand_bias,
            block.grn.gamma,
            block.grn.beta,
            block.pwconv2.weight,
            project_bias,
        ];
        let scale = self.path_scale(block.drop_path)?;
        let input = BlockInput {
            x: &x.f_to_kind(self.precision.kind())?,
            visible: self.visible.map(VisiblePatches::patches),
            scale: scale.as_ref(),
            weights: ids.map(|id| self.params.get(id)),
            eps: block.norm.eps,
        };
        sys::convnext_block(&input, kernels)
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

/// `‖x‖₂` over the places of `[N, H, W, C]`, in fp32: `[N, 1, 1, C]`.
fn spatial_norm(x: &Tensor) -> Result<Tensor> {
    let places = [1, 2].as_slice();
    // libtorch's norm over these dimensions is not vectorised, and its backward pass takes five passes over x. The sum of
    // squares takes one each: the second factor is held constant, and the sum counted twice where its gradient is taken.
    let sum = x.f_mul(&x.f_detach()?)?.f_sum_dim_intlist(places, true, Kind::Float)?;
    let sum = sum.f_mul_scalar(2.0)?.f_sub(&sum.f_detach()?)?;
    // The root of zero has no slope.
    Ok(sum.f_add_scalar(1e-30)?.f_sqrt()?)
}

/// What libtorch makes of a convolution: channels-last in memory, `[N, C, H, W]` by its strides, so that nothing is copied.
fn reference_conv2d(image: &Tensor, weight: &Tensor, bias: &Tensor, layer: &Conv2d) -> Result<Tensor> {
    let (stride, padding) = ([layer.stride; 2], [layer.padding; 2]);
    let image = image.f_permute([0, 3, 1, 2])?;
    let y = image.f_conv2d(weight, Some(bias), stride, padding, [1, 1], layer.groups)?;
    Ok(y.f_permute([0, 2, 3, 1])?)
}

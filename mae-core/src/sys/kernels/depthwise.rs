//! The depthwise 7×7 convolution, `native/kernels/depthwise.cpp`.

use std::ffi::c_int;

use tch::Tensor;
use torch_sys::C_tensor;

use crate::error::Result;
use crate::sys::calls::check;

unsafe extern "C" {
    fn mae_core_depthwise_conv(
        x: *const C_tensor,
        weight: *const C_tensor,
        bias: *const C_tensor,
        lanes: c_int,
        out: *mut *mut C_tensor,
    ) -> c_int;
}

/// How many numbers a vector of the kernel holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Lanes {
    /// AVX2.
    Eight,
    /// AVX-512; on a CPU without it, pairs of AVX2 vectors: slower, and the same bits.
    Sixteen,
}

/// Depthwise 7×7 convolution with stride 1 and padding 3 on the CPU: x `[N, H, W, C]`, weight `[C, 1, 7, 7]`, bias `[C]`, each
/// fp32 or bf16, to `[N, H, W, C]` of x's dtype, with a backward pass. Sums are fp32. The result does not depend on the
/// number of threads, nor on `lanes`.
pub(crate) fn depthwise_conv(x: &Tensor, weight: &Tensor, bias: &Tensor, lanes: Lanes) -> Result<Tensor> {
    let lanes = match lanes {
        Lanes::Eight => 8,
        Lanes::Sixteen => 16,
    };
    let mut out = std::ptr::null_mut();
    // SAFETY: the three pointers are those of live `at::Tensor`s; the shim checks their shapes and device, and the CPU.
    check(unsafe {
        mae_core_depthwise_conv(x.as_ptr(), weight.as_ptr(), bias.as_ptr(), lanes, &raw mut out)
    })?;
    // SAFETY: the call succeeded, so `out` is a new `at::Tensor` that nobody else owns.
    Ok(unsafe { Tensor::from_ptr(out) })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::Kernels;
    use proptest::prelude::*;
    use tch::{Device, Kind};

    /// Result and the gradients of x, weight and bias.
    fn run(shape: [i64; 4], kind: Kind, conv: impl Fn(&Tensor, &Tensor, &Tensor) -> Tensor) -> [Tensor; 4] {
        let channels = shape[3];
        let draw = |shape: &[i64], salt: i64| {
            let count: i64 = shape.iter().product();
            let steps = Tensor::arange(count, (Kind::Double, Device::Cpu)) + salt;
            ((steps * 12.9898).sin() * 43.5453)
                .sin()
                .view(shape)
                .to_kind(Kind::Float)
                .to_kind(kind)
                .set_requires_grad(true)
        };
        let (x, weight, bias) = (draw(&shape, 1), draw(&[channels, 1, 7, 7], 2), draw(&[channels], 3));
        let y = conv(&x, &weight, &bias);
        (&y * draw(&shape, 4).detach()).sum(Kind::Float).backward();
        [y.detach(), x.grad(), weight.grad(), bias.grad()]
    }

    fn reference(shape: [i64; 4]) -> [Tensor; 4] {
        run(shape, Kind::Double, |x, weight, bias| {
            x.permute([0, 3, 1, 2]).conv2d(weight, Some(bias), 1, 3, 1, shape[3]).permute([0, 2, 3, 1])
        })
    }

    /// Distance, as a share of the expected length; of the length that a sum of `terms` random numbers would have, where
    /// the terms happen to cancel.
    fn relative(found: &Tensor, expected: &Tensor, terms: i64) -> f64 {
        let distance = f64::try_from((found.to_kind(Kind::Double) - expected).norm()).unwrap();
        let usual = ((terms * expected.numel() as i64) as f64).sqrt();
        distance / f64::try_from(expected.norm()).unwrap().max(usual)
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(24))]

        #[test]
        fn the_depthwise_kernel_equals_the_convolution_in_fp64(
            images in 1_i64..19, height in 1_i64..18, width in 1_i64..18, channels in 2_i64..35,
        ) {
            if Kernels::detected().lanes().is_none() { return Ok(()); }
            let shape = [images, height, width, channels];
            let expected = reference(shape);
            let mut first: Option<[Tensor; 4]> = None;
            for lanes in [Lanes::Eight, Lanes::Sixteen] {
                let found = run(shape, Kind::Float, |x, w, b| depthwise_conv(x, w, b, lanes).unwrap());
                for ((name, found), expected) in ["y", "dx", "dweight", "dbias"].iter().zip(&found).zip(&expected) {
                    let terms = if name.len() > 2 { images * height * width } else { 1 };
                    let distance = relative(found, expected, terms);
                    prop_assert!(distance < 2e-6, "{name}: {distance:e}");
                }
                if let Some(first) = &first {
                    prop_assert!(found.iter().zip(first).all(|(a, b)| a == b), "lanes change the bits");
                }
                first = Some(found);
            }
        }
    }

    #[test]
    fn bf16_is_rounded_once() {
        let Some(lanes) = Kernels::detected().lanes() else { return };
        let shape = [3, 9, 8, 40];
        let expected = reference(shape);
        let found = run(shape, Kind::BFloat16, |x, w, b| depthwise_conv(x, w, b, lanes).unwrap());
        for (found, expected) in found.iter().zip(&expected) {
            assert_eq!(found.kind(), Kind::BFloat16);
            assert!(relative(found, expected, 1) < 1e-2);
        }
    }

    #[test]
    fn nan_reaches_what_it_touches_and_nothing_else() {
        let Some(lanes) = Kernels::detected().lanes() else { return };
        let x = Tensor::zeros([1, 16, 16, 8], (Kind::Float, Device::Cpu));
        let _ = x.get(0).get(0).get(0).fill_(f64::NAN);
        let (weight, bias) = (
            Tensor::ones([8, 1, 7, 7], (Kind::Float, Device::Cpu)),
            Tensor::zeros([8], (Kind::Float, Device::Cpu)),
        );
        let y = depthwise_conv(&x, &weight, &bias, lanes).unwrap();
        assert_eq!(i64::try_from(y.isnan().sum(Kind::Int64)).unwrap(), 4 * 4 * 8);
    }

    #[test]
    fn a_wrong_shape_is_an_error() {
        let Some(lanes) = Kernels::detected().lanes() else { return };
        let zeros = |shape: &[i64]| Tensor::zeros(shape, (Kind::Float, Device::Cpu));
        let error =
            depthwise_conv(&zeros(&[1, 8, 8, 8]), &zeros(&[8, 1, 5, 5]), &zeros(&[8]), lanes).unwrap_err();
        assert!(error.to_string().contains("[8, 1, 7, 7]"), "{error}");
    }
}

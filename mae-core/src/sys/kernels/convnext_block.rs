//! The ConvNeXt V2 block as one operation, `native/kernels/convnext_block.cpp`.

use std::ffi::c_int;

use tch::Tensor;
use torch_sys::C_tensor;

use super::Kernels;
use crate::error::Result;
use crate::sys::calls::check;

unsafe extern "C" {
    fn mae_core_block_variant() -> c_int;
    fn mae_core_convnext_block(
        x: *const C_tensor,
        visible: *const C_tensor,
        grid_rows: i64,
        grid_columns: i64,
        scale: *const C_tensor,
        weights: *const *const C_tensor,
        count: usize,
        eps: f64,
        variant: c_int,
        out: *mut *mut C_tensor,
    ) -> c_int;
}

/// The number of the fastest variant that this CPU has, as in [`Kernels`].
pub(super) fn variant() -> usize {
    // SAFETY: asks the CPU what it can do.
    usize::try_from(unsafe { mae_core_block_variant() }).unwrap_or(0)
}

/// What a block computes on.
#[derive(Debug)]
pub(crate) struct BlockInput<'a> {
    /// Images `[N, H, W, C]`, or stacks of visible patches `[N, K·s, s, C]`, in fp32 or bf16; C a multiple of 8.
    pub(crate) x: &'a Tensor,
    /// Of stacks: the visible patches `[N, K]` int64, and the grid of patches (rows, columns).
    pub(crate) visible: Option<(&'a Tensor, (i64, i64))>,
    /// The factor of each sample's branch, `[N]` fp32; one where absent.
    pub(crate) scale: Option<&'a Tensor>,
    /// In the order of the state dict: depthwise weight and bias, norm weight and bias, expanding weight and bias, GRN's
    /// gamma and beta, projecting weight and bias.
    pub(crate) weights: [&'a Tensor; 10],
    /// Of the layer norm.
    pub(crate) eps: f64,
}

/// The block of [`Ops::convnextv2_block`](crate::ops::Ops::convnextv2_block) with its backward pass, in `x`'s dtype and shape.
/// With bf16 images the weights of products are rounded to bf16, sums are fp32, and so are the weights' gradients. The result
/// does not depend on the number of threads.
pub(crate) fn convnext_block(input: &BlockInput<'_>, kernels: Kernels) -> Result<Tensor> {
    let weights = input.weights.map(Tensor::as_ptr);
    let pointer = |tensor: Option<&Tensor>| tensor.map_or(std::ptr::null(), |t| t.as_ptr());
    let (visible, grid) = input.visible.unzip();
    let (rows, columns) = grid.unwrap_or_default();
    let mut out = std::ptr::null_mut();
    // SAFETY: all pointers are null where that is allowed, or those of live `at::Tensor`s, `weights` has `weights.len()` of
    // them; the shim checks their shapes, dtypes and devices, and the CPU.
    check(unsafe {
        mae_core_convnext_block(
            input.x.as_ptr(),
            pointer(visible),
            rows,
            columns,
            pointer(input.scale),
            weights.as_ptr(),
            weights.len(),
            input.eps,
            kernels as c_int,
            &raw mut out,
        )
    })?;
    // SAFETY: the call succeeded, so `out` is a new `at::Tensor` that nobody else owns.
    Ok(unsafe { Tensor::from_ptr(out) })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use tch::{Device, Kind};

    const NAMES: [&str; 10] = [
        "dwconv.weight",
        "dwconv.bias",
        "norm.weight",
        "norm.bias",
        "pwconv1.weight",
        "pwconv1.bias",
        "grn.gamma",
        "grn.beta",
        "pwconv2.weight",
        "pwconv2.bias",
    ];

    /// A case: images, the visible patches if it is sparse, and factors of the branch.
    #[derive(Debug, Clone)]
    struct Case {
        images: i64,
        grid: (i64, i64),
        side: i64,
        keep: Option<i64>,
        channels: i64,
        dropped: bool,
    }

    impl Case {
        fn size(&self) -> (i64, i64) {
            (self.grid.0 * self.side, self.grid.1 * self.side)
        }

        /// `[N, K]`, different for every image.
        fn visible(&self) -> Option<Tensor> {
            let keep = self.keep?;
            let all = self.grid.0 * self.grid.1;
            let noise = draw(&[self.images, all], 99, Kind::Double);
            Some(noise.argsort(1, false).narrow(1, 0, keep).contiguous().sort(1, false).0)
        }

        fn scale(&self) -> Option<Tensor> {
            self.dropped
                .then(|| Tensor::arange(self.images, (Kind::Float, Device::Cpu)).remainder(3.0) * 0.625)
        }

        fn weights(&self) -> Vec<Tensor> {
            let (c, d) = (self.channels, 4 * self.channels);
            let shapes: [&[i64]; 10] =
                [&[c, 1, 7, 7], &[c], &[c], &[c], &[d, c], &[d], &[1, 1, 1, d], &[1, 1, 1, d], &[c, d], &[c]];
            let spread =
                [0.15, 0.3, 0.3, 0.3, 1.0 / (c as f64).sqrt(), 0.3, 0.7, 0.3, 1.0 / (d as f64).sqrt(), 0.3];
            (shapes.iter().zip(spread).enumerate())
                .map(|(i, (shape, spread))| {
                    let middle = if i == 2 { 1.0 } else { 0.0 };
                    draw(shape, i as i64 + 1, Kind::Double) * spread + middle
                })
                .collect()
        }
    }

    /// Numbers of about unit variance, the same in every dtype but for rounding to fp32.
    fn draw(shape: &[i64], salt: i64, kind: Kind) -> Tensor {
        let count: i64 = shape.iter().product();
        let steps = Tensor::arange(count, (Kind::Double, Device::Cpu)) + salt * 7919;
        let noise: Tensor = (steps * 12.9898).sin() * 43_758.545_3;
        ((&noise - noise.floor()) * 3.46 - 1.73).view(shape).to_kind(Kind::Float).to_kind(kind)
    }

    /// Output and gradients: of x, then of the weights.
    fn run(case: &Case, kind: Kind, block: impl Fn(&Tensor, &[Tensor]) -> Tensor) -> Vec<Tensor> {
        let (height, width) = match case.keep {
            Some(keep) => (keep * case.side, case.side),
            None => case.size(),
        };
        let x = draw(&[case.images, height, width, case.channels], 50, kind).set_requires_grad(true);
        let master = if kind == Kind::Double { Kind::Double } else { Kind::Float };
        let weights: Vec<Tensor> =
            case.weights().iter().map(|w| w.to_kind(master).set_requires_grad(true)).collect();
        let y = block(&x, &weights);
        (&y * draw(&y.size(), 60, y.kind())).sum(master).backward();
        let mut found = vec![y.detach(), x.grad()];
        found.extend(weights.iter().map(Tensor::grad));
        found
    }

    /// The plain composition of operations, in bf16 as under autocast; sparse stacks on a canvas that is masked before and
    /// after.
    fn composition(case: &Case, kind: Kind) -> Vec<Tensor> {
        let sums = if kind == Kind::Double { Kind::Double } else { Kind::Float };
        run(case, kind, |x, w| {
            let product = |i: usize| w[i].to_kind(kind);
            let (height, width) = case.size();
            let canvas = |stacks: &Tensor| match case.visible() {
                None => stacks.shallow_clone(),
                Some(visible) => {
                    let channels = stacks.size()[3];
                    let (s, keep) = (case.side, case.keep.unwrap());
                    let rows = stacks.view([case.images, keep, s * s * channels]);
                    let index = visible.unsqueeze(-1).expand([-1, -1, s * s * channels], false);
                    let all = case.grid.0 * case.grid.1;
                    Tensor::zeros([case.images, all, s * s * channels], (kind, Device::Cpu))
                        .scatter_add(1, &index, &rows)
                        .view([case.images, case.grid.0, case.grid.1, s, s, channels])
                        .permute([0, 1, 3, 2, 4, 5])
                        .reshape([case.images, height, width, channels])
                }
            };
            let stacks = |image: &Tensor| match case.visible() {
                None => image.shallow_clone(),
                Some(visible) => {
                    let channels = image.size()[3];
                    let (s, keep) = (case.side, case.keep.unwrap());
                    let index = visible.unsqueeze(-1).expand([-1, -1, s * s * channels], false);
                    image
                        .view([case.images, case.grid.0, s, case.grid.1, s, channels])
                        .permute([0, 1, 3, 2, 4, 5])
                        .reshape([case.images, -1, s * s * channels])
                        .gather(1, &index, false)
                        .view([case.images, keep * s, s, channels])
                }
            };
            let image = canvas(x).permute([0, 3, 1, 2]);
            let y = image.conv2d(&product(0), Some(&product(1)), 1, 3, 1, case.channels);
            let y = stacks(&y.permute([0, 2, 3, 1]).contiguous());
            let y = y.layer_norm([case.channels], Some(&w[2]), Some(&w[3]), 1e-6, false);
            let y = y.linear(&product(4), Some(&product(5))).gelu("none");
            let energy = (&y * &y).sum_dim_intlist([1, 2].as_slice(), true, sums).sqrt();
            let response = &energy / (energy.mean_dim([-1].as_slice(), true, sums) + 1e-6);
            let y = (&w[6] * (&y * response) + &w[7] + y).to_kind(kind);
            let y = y.linear(&product(8), Some(&product(9)));
            match case.scale() {
                None => x + y,
                Some(scale) => x + y * scale.view([-1, 1, 1, 1]).to_kind(kind),
            }
        })
    }

    fn kernel(case: &Case, kind: Kind, kernels: Kernels) -> Vec<Tensor> {
        let (visible, scale) = (case.visible(), case.scale());
        run(case, kind, |x, weights| {
            let weights: [&Tensor; 10] = weights.iter().collect::<Vec<_>>().try_into().unwrap();
            let visible = visible.as_ref().map(|visible| (visible, case.grid));
            let input = BlockInput { x, visible, scale: scale.as_ref(), weights, eps: 1e-6 };
            convnext_block(&input, kernels).unwrap()
        })
    }

    fn relative(found: &Tensor, expected: &Tensor) -> f64 {
        let distance = f64::try_from((found.to_kind(Kind::Double) - expected).norm()).unwrap();
        distance / f64::try_from(expected.norm()).unwrap().max(1e-30)
    }

    /// The variants of this CPU that compute in `kind`.
    fn variants(kind: Kind) -> Vec<Kernels> {
        let of_kind = |kernels: &Kernels| match kind {
            Kind::BFloat16 => *kernels == Kernels::Avx512Bf16,
            _ => matches!(kernels, Kernels::Avx2 | Kernels::Avx512),
        };
        Kernels::ALL.into_iter().filter(|k| *k <= Kernels::detected()).filter(of_kind).collect()
    }

    /// Every variant in fp32 and bf16 against fp64. In bf16 and with `few` numbers (four places, eight channels), gradients that are
    /// sums which cancel are off by some hundredths, in the composition too; a wrong place or channel would be off by far more.
    fn compare(case: &Case, few: bool) {
        let expected = composition(case, Kind::Double);
        for kind in [Kind::Float, Kind::BFloat16] {
            let plain = composition(case, kind);
            for kernels in variants(kind) {
                let found = kernel(case, kind, kernels);
                assert_eq!(found[0].kind(), kind);
                for (i, name) in ["y", "x"].iter().chain(&NAMES).enumerate() {
                    let distance = relative(&found[i], &expected[i]);
                    let limit = match kind {
                        Kind::Float => 2e-6,
                        _ if few && i > 0 => (3.0 * relative(&plain[i], &expected[i])).max(8e-2),
                        _ => 1e-2,
                    };
                    assert!(distance < limit, "{kernels:?} {name}: {distance:e} over {limit:e} in {case:?}");
                }
            }
        }
    }

    fn cases() -> impl Strategy<Value = Case> {
        let sparse = (1_i64..4, 1_i64..4, 0_usize..4).prop_flat_map(|(rows, columns, side)| {
            let all = rows * columns;
            (Just((rows, columns)), Just([1, 2, 4, 8][side]), (1..=all).prop_map(Some))
        });
        let dense = ((1_i64..17, 1_i64..17), Just(1_i64), Just(None));
        let place = prop_oneof![dense, sparse];
        (1_i64..7, place, 1_i64..8, any::<bool>()).prop_map(
            |(images, (grid, side, keep), eighths, dropped)| Case {
                images,
                grid,
                side,
                keep,
                channels: 8 * eighths,
                dropped,
            },
        )
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(48))]

        #[test]
        fn the_block_equals_its_composition_in_fp64(case in cases()) {
            compare(&case, true);
        }
    }

    /// Shapes of real models: many places (weights of their own for each image), and few (images handled together).
    #[test]
    fn the_block_equals_its_composition_at_real_sizes() {
        let dense = |images, side, channels| Case {
            images,
            grid: (side, side),
            side: 1,
            keep: None,
            channels,
            dropped: true,
        };
        let mut sparse = dense(4, 7, 80);
        (sparse.side, sparse.keep) = (4, Some(20));
        for case in [dense(2, 28, 40), dense(33, 7, 96), dense(3, 13, 128), sparse] {
            compare(&case, false);
        }
    }

    #[test]
    fn threads_change_no_bit() {
        let case = Case { images: 21, grid: (9, 7), side: 1, keep: None, channels: 24, dropped: true };
        let threads = tch::get_num_threads();
        for kernels in variants(Kind::Float).into_iter().chain(variants(Kind::BFloat16)) {
            let kind = if kernels == Kernels::Avx512Bf16 { Kind::BFloat16 } else { Kind::Float };
            tch::set_num_threads(1);
            let one = kernel(&case, kind, kernels);
            for count in 2..=4 {
                tch::set_num_threads(count);
                let many = kernel(&case, kind, kernels);
                assert!(one.iter().zip(&many).all(|(a, b)| a.equal(b)), "{kernels:?}, {count} threads");
            }
        }
        tch::set_num_threads(threads);
    }

    #[test]
    fn nan_stays_in_its_image() {
        let case = Case { images: 3, grid: (8, 8), side: 1, keep: None, channels: 16, dropped: false };
        for kernels in variants(Kind::Float).into_iter().chain(variants(Kind::BFloat16)) {
            let kind = if kernels == Kernels::Avx512Bf16 { Kind::BFloat16 } else { Kind::Float };
            let x = draw(&[3, 8, 8, 16], 50, kind);
            let _ = x.get(1).get(0).get(0).get(0).fill_(f64::NAN);
            let weights = case.weights();
            let weights: Vec<Tensor> = weights.iter().map(|w| w.to_kind(Kind::Float)).collect();
            let weights: [&Tensor; 10] = weights.iter().collect::<Vec<_>>().try_into().unwrap();
            let input = BlockInput { x: &x, visible: None, scale: None, weights, eps: 1e-6 };
            let y = convnext_block(&input, kernels).unwrap();
            // GRN spreads it over the image's channels and places, and over no other image.
            let count = |image: i64| i64::try_from(y.get(image).isnan().sum(Kind::Int64)).unwrap();
            assert_eq!((count(0), count(1), count(2)), (0, 8 * 8 * 16, 0), "{kernels:?}");
        }
    }

    #[test]
    fn what_does_not_fit_is_an_error() {
        let Some(&kernels) = variants(Kind::Float).first() else { return };
        let case = Case { images: 2, grid: (4, 4), side: 1, keep: None, channels: 8, dropped: false };
        let weights: Vec<Tensor> = case.weights().iter().map(|w| w.to_kind(Kind::Float)).collect();
        let weights: [&Tensor; 10] = weights.iter().collect::<Vec<_>>().try_into().unwrap();
        let call = |x: &Tensor, visible: Option<(&Tensor, (i64, i64))>, scale: Option<&Tensor>| {
            convnext_block(&BlockInput { x, visible, scale, weights, eps: 1e-6 }, kernels)
                .unwrap_err()
                .to_string()
        };
        let zeros = |shape: &[i64]| Tensor::zeros(shape, (Kind::Float, Device::Cpu));
        assert!(call(&zeros(&[1, 4, 4, 12]), None, None).contains("a multiple of 8"));
        assert!(call(&zeros(&[1, 4, 4, 16]), None, None).contains("of 16 channels"));
        assert!(call(&zeros(&[1, 4, 4, 8]), None, Some(&zeros(&[2]))).contains("each of 1 samples"));
        let outside = Tensor::from_slice2(&[[0_i64, 9]]);
        assert!(
            call(&zeros(&[1, 4, 2, 8]), Some((&outside, (3, 3))), None)
                .contains("outside of the grid of 3 × 3")
        );
        assert!(call(&zeros(&[1, 6, 2, 8]), Some((&outside, (3, 3))), None).contains("visible patches"));
        let half = zeros(&[1, 4, 4, 8]).to_kind(Kind::Half);
        assert!(call(&half, None, None).contains("no kernel"));
    }
}

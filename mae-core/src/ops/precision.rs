//! The precision of products, and what the machine can do of it.

use tch::{Device, Kind};

/// The arithmetic of matrix products and convolutions; master weights, gradients, the sums inside norms and softmax, and
/// losses stay fp32, as under PyTorch's autocast.
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
    /// The dtype that operands and results of products are rounded to.
    pub fn kind(self) -> Kind {
        match self {
            Precision::Fp32 => Kind::Float,
            Precision::Bf16 => Kind::BFloat16,
            Precision::Fp16 => Kind::Half,
        }
    }

    /// The dtype in which `device` makes the products: [`kind`](Self::kind) where it has units for it. A CPU without them
    /// multiplies the rounded numbers in fp32, which gives the same results many times faster than libtorch's fallback.
    pub fn product_kind(self, device: Device) -> Kind {
        let has_units = match self {
            Precision::Fp32 => true,
            Precision::Bf16 => device != Device::Cpu || cpu_has_bf16(),
            Precision::Fp16 => device != Device::Cpu || cpu_has_fp16(),
        };
        if has_units { self.kind() } else { Kind::Float }
    }
}

#[cfg(target_arch = "x86_64")]
fn cpu_has_bf16() -> bool {
    std::arch::is_x86_feature_detected!("avx512bf16")
}

#[cfg(target_arch = "x86_64")]
fn cpu_has_fp16() -> bool {
    std::arch::is_x86_feature_detected!("avx512fp16")
}

#[cfg(target_arch = "aarch64")]
fn cpu_has_bf16() -> bool {
    std::arch::is_aarch64_feature_detected!("bf16")
}

#[cfg(target_arch = "aarch64")]
fn cpu_has_fp16() -> bool {
    std::arch::is_aarch64_feature_detected!("fp16")
}

#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
fn cpu_has_bf16() -> bool {
    false
}

#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
fn cpu_has_fp16() -> bool {
    false
}

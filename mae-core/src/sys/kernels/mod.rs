//! Our own CPU kernels, `native/kernels`, and which of them this process uses.

mod convnext_block;
mod depthwise;

use std::sync::OnceLock;

use crate::error::{Error, Result};

pub(crate) use convnext_block::{BlockInput, convnext_block};
pub(crate) use depthwise::{Lanes, depthwise_conv};

/// What the kernels of this process are made of, from the slowest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kernels {
    /// None: libtorch's operations.
    Reference,
    /// AVX2 and FMA, in fp32.
    Avx2,
    /// AVX-512, in fp32.
    Avx512,
    /// AVX-512 with its bf16 products.
    Avx512Bf16,
}

impl Kernels {
    const ALL: [Kernels; 4] = [Kernels::Reference, Kernels::Avx2, Kernels::Avx512, Kernels::Avx512Bf16];

    /// The fastest that this CPU has.
    pub fn detected() -> Self {
        Self::ALL[convnext_block::variant()]
    }

    /// The name that `MAE_KERNELS` knows it by.
    pub fn name(self) -> &'static str {
        match self {
            Kernels::Reference => "reference",
            Kernels::Avx2 => "avx2",
            Kernels::Avx512 => "avx512",
            Kernels::Avx512Bf16 => "avx512_bf16",
        }
    }

    /// What this process uses: [`detected`](Self::detected), or what `MAE_KERNELS` in its environment asks for.
    ///
    /// # Errors
    /// [`Error::Setting`] when `MAE_KERNELS` names none, or one that this CPU cannot run.
    pub fn chosen() -> Result<Self> {
        static CHOICE: OnceLock<std::result::Result<Kernels, String>> = OnceLock::new();
        let choice = CHOICE.get_or_init(|| match std::env::var("MAE_KERNELS") {
            Err(_) => Ok(Self::detected()),
            Ok(name) => Self::by_name(&name, Self::detected()),
        });
        choice.clone().map_err(|problem| Error::Setting {
            key: "MAE_KERNELS in the environment".to_owned(),
            problem,
            remedy: format!("unset it, or set it to one of {}", names(Self::detected())),
        })
    }

    fn by_name(name: &str, detected: Self) -> std::result::Result<Self, String> {
        match Self::ALL.into_iter().find(|kernels| kernels.name() == name) {
            Some(known) if known <= detected => Ok(known),
            Some(_) => Err(format!("this CPU has no {name}")),
            None => Err(format!("there are no kernels '{name}'")),
        }
    }

    /// Vectors of the depthwise kernel.
    pub(crate) fn lanes(self) -> Option<Lanes> {
        match self {
            Kernels::Reference => None,
            Kernels::Avx2 => Some(Lanes::Eight),
            Kernels::Avx512 | Kernels::Avx512Bf16 => Some(Lanes::Sixteen),
        }
    }
}

fn names(detected: Kernels) -> String {
    let names: Vec<_> = Kernels::ALL.into_iter().filter(|k| *k <= detected).map(Kernels::name).collect();
    names.join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kernels_are_chosen_by_name_where_the_cpu_has_them() {
        assert_eq!(Kernels::by_name("reference", Kernels::Avx512), Ok(Kernels::Reference));
        assert_eq!(Kernels::by_name("avx2", Kernels::Avx512), Ok(Kernels::Avx2));
        assert_eq!(
            Kernels::by_name("avx512_bf16", Kernels::Avx512),
            Err("this CPU has no avx512_bf16".into())
        );
        assert_eq!(Kernels::by_name("fast", Kernels::Avx512), Err("there are no kernels 'fast'".into()));
        assert_eq!(names(Kernels::Avx512), "reference, avx2, avx512");
    }
}

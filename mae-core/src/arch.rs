//! The catalogue: which architectures there are, and their numbers. Nothing here runs.
//!
//! Sources: ConvNeXt V2 (arXiv 2301.00808, table of variants), Hiera (arXiv 2306.00989, table 2),
//! MAE/ViT (arXiv 2111.06377 and 2010.11929, table 1). The names are TAO's.

use crate::error::{Error, Result};

/// One architecture of the catalogue.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Arch {
    /// TAO's name, as in `model.arch`.
    pub name: &'static str,
    /// The family, with the numbers that only it has.
    pub family: Family,
}

/// The families, with their variants' numbers.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Family {
    /// ConvNeXt V2.
    ConvNeXtV2(ConvNeXtV2Numbers),
    /// Hiera.
    Hiera(HieraNumbers),
    /// Vision transformer.
    Vit(VitNumbers),
}

/// Numbers of a ConvNeXt V2 variant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ConvNeXtV2Numbers {
    /// Blocks a stage.
    pub depths: [usize; 4],
    /// Channels a stage.
    pub dims: [i64; 4],
}

/// Numbers of a Hiera variant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HieraNumbers {
    /// Channels of the first stage; doubled at each next one.
    pub embed_dim: i64,
    /// Attention heads of the first stage; doubled at each next one.
    pub heads: i64,
    /// Blocks a stage.
    pub stages: [usize; 4],
}

/// Numbers of a ViT variant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct VitNumbers {
    /// Patch side in pixels.
    pub patch: i64,
    /// Channels.
    pub embed_dim: i64,
    /// Blocks.
    pub depth: usize,
    /// Attention heads.
    pub heads: i64,
}

/// Every architecture, small to large within a family.
pub const CATALOGUE: [Arch; 16] = [
    convnextv2("convnextv2_atto", [2, 2, 6, 2], [40, 80, 160, 320]),
    convnextv2("convnextv2_femto", [2, 2, 6, 2], [48, 96, 192, 384]),
    convnextv2("convnextv2_pico", [2, 2, 6, 2], [64, 128, 256, 512]),
    convnextv2("convnextv2_nano", [2, 2, 8, 2], [80, 160, 320, 640]),
    convnextv2("convnextv2_tiny", [3, 3, 9, 3], [96, 192, 384, 768]),
    convnextv2("convnextv2_base", [3, 3, 27, 3], [128, 256, 512, 1024]),
    convnextv2("convnextv2_large", [3, 3, 27, 3], [192, 384, 768, 1536]),
    convnextv2("convnextv2_huge", [3, 3, 27, 3], [352, 704, 1408, 2816]),
    hiera("hiera_tiny_224", 96, 1, [1, 2, 7, 2]),
    hiera("hiera_small_224", 96, 1, [1, 2, 11, 2]),
    hiera("hiera_base_224", 96, 1, [2, 3, 16, 3]),
    hiera("hiera_large_224", 144, 2, [2, 6, 36, 4]),
    hiera("hiera_huge_224", 256, 4, [2, 6, 36, 4]),
    vit("vit_base_patch16", 16, 768, 12, 12),
    vit("vit_large_patch16", 16, 1024, 24, 16),
    vit("vit_huge_patch14", 14, 1280, 32, 16),
];

impl Arch {
    /// Finds an architecture by TAO's name.
    ///
    /// # Errors
    /// [`Error::UnknownArch`] with the nearest name.
    pub fn by_name(name: &str) -> Result<&'static Arch> {
        CATALOGUE.iter().find(|arch| arch.name == name).ok_or_else(|| Error::UnknownArch {
            found: name.to_owned(),
            suggestion: nearest(name, CATALOGUE.iter().map(|arch| arch.name)).map(str::to_owned),
            known: CATALOGUE.iter().map(|arch| arch.name).collect::<Vec<_>>().join(", "),
        })
    }

    /// The side of the square, in pixels, that an image's height and width must be multiples of.
    pub fn size_multiple(&self) -> i64 {
        match self.family {
            Family::ConvNeXtV2(_) | Family::Hiera(_) => 32,
            Family::Vit(numbers) => numbers.patch,
        }
    }

    /// Patches (mask units) of an image, as rows and columns.
    ///
    /// # Errors
    /// [`Error::InputSize`] when the size is no multiple of what the family needs.
    pub fn grid(&self, height: i64, width: i64) -> Result<(i64, i64)> {
        let multiple = self.size_multiple();
        if height > 0 && width > 0 && height % multiple == 0 && width % multiple == 0 {
            return Ok((height / multiple, width / multiple));
        }
        let near = |pixels: i64| {
            let below = (pixels / multiple).max(1) * multiple;
            match below.checked_add(multiple) {
                Some(above) if pixels > below => format!("{below} or {above}"),
                _ => format!("{below}"),
            }
        };
        Err(Error::InputSize {
            arch: self.name.to_owned(),
            height,
            width,
            rule: format!("height and width must be multiples of {multiple}"),
            nearest: if height == width {
                near(height)
            } else {
                format!("height {}, width {}", near(height), near(width))
            },
        })
    }
}

/// The candidate that shares the longest prefix and suffix with `name`, if it shares at least half of it.
pub(crate) fn nearest<'a>(name: &str, candidates: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    let score = |candidate: &str| {
        let prefix = name.bytes().zip(candidate.bytes()).take_while(|(a, b)| a == b).count();
        let suffix = name.bytes().rev().zip(candidate.bytes().rev()).take_while(|(a, b)| a == b).count();
        (prefix + suffix).min(name.len())
    };
    candidates
        .map(|candidate| (score(candidate), candidate))
        .filter(|(score, _)| score * 2 >= name.len())
        .max_by_key(|&(score, candidate)| (score, std::cmp::Reverse(candidate.len())))
        .map(|(_, candidate)| candidate)
}

const fn convnextv2(name: &'static str, depths: [usize; 4], dims: [i64; 4]) -> Arch {
    Arch { name, family: Family::ConvNeXtV2(ConvNeXtV2Numbers { depths, dims }) }
}

const fn hiera(name: &'static str, embed_dim: i64, heads: i64, stages: [usize; 4]) -> Arch {
    Arch { name, family: Family::Hiera(HieraNumbers { embed_dim, heads, stages }) }
}

const fn vit(name: &'static str, patch: i64, embed_dim: i64, depth: usize, heads: i64) -> Arch {
    Arch { name, family: Family::Vit(VitNumbers { patch, embed_dim, depth, heads }) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_misspelt_name_gets_a_suggestion() {
        let message = Arch::by_name("convnextv2_ato").unwrap_err().to_string();
        assert!(message.contains("did you mean 'convnextv2_atto'?"), "{message}");
        assert!(Arch::by_name("resnet50").unwrap_err().to_string().contains("known are: convnextv2_atto"));
    }

    #[test]
    fn an_illegal_size_names_the_legal_ones() {
        let arch = Arch::by_name("convnextv2_atto").unwrap();
        assert_eq!(arch.grid(224, 96).unwrap(), (7, 3));
        let message = arch.grid(240, 240).unwrap_err().to_string();
        assert!(message.ends_with("the nearest legal sizes are 224 or 256"), "{message}");
        assert!(arch.grid(1, 1).unwrap_err().to_string().ends_with("are 32"));
    }
}

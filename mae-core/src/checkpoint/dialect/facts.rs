//! What a checkpoint tells of the model it belongs to.
//!
//! Our own files say it in so many words. In those of other programs it stands in the names and shapes of the tensors:
//! the widths and depths of the catalogue are all different.

use std::collections::BTreeSet;

use super::names;
use crate::arch::{Arch, CATALOGUE, Family};
use crate::checkpoint::{Checkpoint, Value};

/// The stage of training that a model comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    /// A masked autoencoder.
    Pretrain,
    /// A classifier.
    Finetune,
}

impl Stage {
    /// TAO's name of it.
    pub const fn name(self) -> &'static str {
        match self {
            Stage::Pretrain => "pretrain",
            Stage::Finetune => "finetune",
        }
    }
}

/// What is known of a checkpoint's model; `None` where the file does not tell.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Facts {
    /// TAO's name of the architecture.
    pub arch: Option<String>,
    /// The stage of training.
    pub stage: Option<Stage>,
    /// Outputs of the classifier.
    pub num_classes: Option<usize>,
    /// Side of the square input in pixels.
    pub input_size: Option<usize>,
}

impl Facts {
    /// Reads them: what the file says of itself first, then what its tensors show. Never fails: a file that tells
    /// nothing has no facts, and loading it will say what is wrong.
    pub fn of(checkpoint: &Checkpoint) -> Self {
        let tensors = checkpoint.state_dict().unwrap_or_default();
        let shown = Self::of_tensors(tensors.iter().map(|(name, view)| (name.as_str(), view.shape())));
        let told = |field: &str| checkpoint.root().get("mae").and_then(|notes| notes.get(field));
        let text = |field: &str| told(field).and_then(Value::as_str);
        let size = told("input_size").and_then(Value::as_slice).and_then(|sides| match sides {
            [height, width] if height.as_i64() == width.as_i64() => height.as_i64(),
            _ => None,
        });
        let count = |number: Option<i64>| number.and_then(|number| usize::try_from(number).ok());
        Facts {
            arch: text("arch").map(str::to_owned).or(shown.arch),
            stage: match text("stage") {
                Some("pretrain") => Some(Stage::Pretrain),
                Some("finetune") => Some(Stage::Finetune),
                _ => shown.stage,
            },
            num_classes: count(told("num_classes").and_then(Value::as_i64)).or(shown.num_classes),
            input_size: count(size).or(shown.input_size),
        }
    }

    /// What the names and shapes of a state dict show.
    pub fn of_tensors<'t>(tensors: impl Iterator<Item = (&'t str, &'t [i64])>) -> Self {
        let mut seen = Seen::default();
        for (name, shape) in tensors {
            seen.tensor(name, shape);
        }
        seen.facts()
    }
}

/// What is gathered in one pass over the tensors.
#[derive(Default)]
struct Seen {
    stem: Option<i64>,
    patches: Option<(i64, i64)>,
    stage_blocks: BTreeSet<(usize, usize)>,
    blocks: BTreeSet<usize>,
    positions: Option<i64>,
    outputs: Option<i64>,
    autoencoder: bool,
}

impl Seen {
    fn tensor(&mut self, name: &str, shape: &[i64]) {
        let bare = names::bare(name);
        if names::is_pretraining_only(name) {
            self.autoencoder = true;
            return;
        }
        let parts: Vec<&str> = bare.split('.').collect();
        let number = |text: &str| text.parse::<usize>().ok();
        match (parts.as_slice(), shape) {
            (["downsample_layers", "0", "0", "weight"] | ["stem", "0", "weight"], [channels, ..]) => {
                self.stem = Some(*channels);
            }
            (["patch_embed", "proj", "weight"], [channels, _, side, _]) => {
                self.patches = Some((*channels, *side));
            }
            (["pos_embed"], [1, tokens, _]) => self.positions = Some(*tokens),
            (["stages", stage, "blocks", block, ..] | ["stages", stage, block, ..], _) => {
                self.stage_blocks.extend(number(stage).zip(number(block)));
            }
            (["blocks", block, ..], _) => self.blocks.extend(number(block)),
            (
                ["head", "weight"]
                | ["head", "fc" | "projection", "weight"]
                | ["fc" | "classifier", "weight"],
                [outputs, _],
            ) => self.outputs = Some(*outputs),
            _ => {}
        }
    }

    fn facts(&self) -> Facts {
        let arch = CATALOGUE.iter().find(|arch| self.is(arch));
        let stage = match (self.autoencoder, self.outputs) {
            (true, _) => Some(Stage::Pretrain),
            (false, Some(_)) => Some(Stage::Finetune),
            (false, None) => None,
        };
        let outputs = self.outputs.filter(|_| stage == Some(Stage::Finetune));
        Facts {
            arch: arch.map(|arch| arch.name.to_owned()),
            stage,
            num_classes: outputs.and_then(|outputs| usize::try_from(outputs).ok()),
            input_size: arch.and_then(|arch| self.input_size(arch)),
        }
    }

    fn is(&self, arch: &Arch) -> bool {
        match arch.family {
            Family::ConvNeXtV2(numbers) => {
                let depth = |stage| self.stage_blocks.iter().filter(|(at, _)| *at == stage).count();
                self.stem == Some(numbers.dims[0]) && [0, 1, 2, 3].map(depth) == numbers.depths
            }
            Family::Hiera(numbers) => {
                self.patches == Some((numbers.embed_dim, 7))
                    && self.blocks.len() == numbers.stages.iter().sum::<usize>()
            }
            Family::Vit(numbers) => {
                self.patches == Some((numbers.embed_dim, numbers.patch)) && self.blocks.len() == numbers.depth
            }
        }
    }

    /// The size that learned positions are made for; a ConvNeXt has none.
    fn input_size(&self, arch: &Arch) -> Option<usize> {
        let (extra, stride) = match arch.family {
            Family::ConvNeXtV2(_) => return None,
            Family::Hiera(_) => (0, 4),
            Family::Vit(numbers) => (1, numbers.patch),
        };
        let grid = self.positions? - extra;
        let side = (grid.max(0) as f64).sqrt().round() as i64;
        (side > 0 && side * side == grid).then(|| usize::try_from(side * stride).ok())?
    }
}

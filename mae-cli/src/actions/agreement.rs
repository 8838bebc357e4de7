//! All processes of a run must do the same on the same data: they compare notes before the first step.
//!
//! Digests are compared first; only when they differ is more sent, to show the first difference.

use std::hash::{DefaultHasher, Hasher as _};

use mae_core::engine::Collective;
use mae_core::params::Params;
use mae_data::Dataset;
use tch::{Kind, TchError};

use crate::error::{Error, Result};
use crate::spec::Plan;

/// Refuses ranks whose specs differ, the program's version included.
pub(super) fn on_the_spec(plan: &Plan, group: &dyn Collective) -> Result<()> {
    let mut facts = vec![("the version of mae".to_owned(), env!("CARGO_PKG_VERSION").to_owned())];
    facts.extend(plan.settings());
    let help = "start every process with the same command and the same spec file";
    on_the_facts("the same spec", &facts, help, group)
}

/// Refuses ranks that hold different values under one name. `facts` have the same names on all ranks.
pub(super) fn on_the_facts(
    what: &str,
    facts: &[(String, String)],
    help: &str,
    group: &dyn Collective,
) -> Result<()> {
    let lines: Vec<String> = facts.iter().map(|(name, value)| format!("{name} = {value}")).collect();
    let text = lines.join("\n");
    if odd_rank(&group.gather_bytes(&digest(&text))?).is_none() {
        return Ok(());
    }
    let texts = group.gather_bytes(text.as_bytes())?;
    let Some(rank) = odd_rank(&texts) else { return Ok(()) };
    let texts: Vec<_> = texts.iter().map(|text| String::from_utf8_lossy(text)).collect();
    let (first, other): (Vec<_>, Vec<_>) = (texts[0].lines().collect(), texts[rank].lines().collect());
    let at = first.iter().zip(&other).take_while(|(a, b)| a == b).count();
    let line = |lines: &[&str]| lines.get(at).map_or("nothing more".to_owned(), |line| (*line).to_owned());
    Err(Error::Ranks {
        problem: format!(
            "all ranks need {what}: rank 0 has {}, and rank {rank} has {}",
            line(&first),
            line(&other)
        ),
        help: help.to_owned(),
        data: false,
    })
}

/// Ends a training whose ranks hold different weights: a defect, of the machine or of this program, that would
/// otherwise spoil every later step in silence. Compares the sums of the weights' bits.
pub(super) fn on_the_weights(params: &Params, step: u64, group: &dyn Collective) -> Result<()> {
    // Of a model in shares, no two ranks hold the same weights.
    if group.world_size() == 1 || params.is_sharded() {
        return Ok(());
    }
    let sums = params
        .iter()
        .map(|(_, _, tensor)| i64::try_from(tensor.detach().f_view_dtype(Kind::Int)?.f_sum(Kind::Int64)?))
        .collect::<std::result::Result<Vec<i64>, TchError>>()
        .map_err(|error| Error::Core(error.into()))?;
    let mut hasher = DefaultHasher::new();
    sums.iter().for_each(|sum| hasher.write_i64(*sum));
    let Some(rank) = odd_rank(&group.gather_bytes(&hasher.finish().to_le_bytes())?) else { return Ok(()) };
    Err(Error::Ranks {
        problem: format!("rank 0 and rank {rank} hold different weights after optimizer step {step}"),
        help: "check the memory of the machine of that rank; the last checkpoint is good, and the same command goes on \
               from there"
            .to_owned(),
        data: false,
    })
}

/// Refuses ranks that see other images, or the same ones in another order.
pub(super) fn on_the_data(key: &str, dataset: &Dataset, group: &dyn Collective) -> Result<()> {
    let digests = group.gather_bytes(dataset.digest().as_bytes())?;
    let Some(rank) = odd_rank(&digests) else { return Ok(()) };
    let counts = group.gather_bytes(&(dataset.len() as u64).to_le_bytes())?;
    let count = |rank: usize| -> usize {
        counts[rank].as_slice().try_into().map_or(0, |bytes| u64::from_le_bytes(bytes) as usize)
    };
    let (first, other) = (count(0), count(rank));
    let at = first_difference(dataset, first.min(other), rank, group)?;
    let names = group.gather_bytes(name(dataset, at).as_bytes())?;
    let shown = |rank: usize| String::from_utf8_lossy(&names[rank]).into_owned();
    let difference = if shown(0) == shown(rank) {
        "the names are the same, but the size of a file is not".to_owned()
    } else {
        format!("image {at} is {} on rank 0 and {} on rank {rank}", shown(0), shown(rank))
    };
    Err(Error::Ranks {
        problem: format!(
            "all ranks need the same images in {key}: rank 0 sees {first} and rank {rank} sees {other}; {difference}"
        ),
        help: format!("give all machines the same files in {key} ({} here)", dataset.source()),
        data: true,
    })
}

/// The first place below `len` where the names on rank 0 and `rank` differ, by halving: a long list is never sent.
fn first_difference(dataset: &Dataset, len: usize, rank: usize, group: &dyn Collective) -> Result<usize> {
    let (mut same, mut differs) = (0, len);
    while same < differs {
        let middle = same + (differs - same) / 2;
        let mut hasher = DefaultHasher::new();
        (same..=middle).for_each(|place| hasher.write(name(dataset, place).as_bytes()));
        let digests = group.gather_bytes(&hasher.finish().to_le_bytes())?;
        if digests[0] == digests[rank] { same = middle + 1 } else { differs = middle }
    }
    // Where all names that both have are the same, the longer list goes on, or sizes differ.
    Ok(same)
}

fn name(dataset: &Dataset, place: usize) -> &str {
    if place < dataset.len() { dataset.name(place) } else { "none" }
}

fn digest(text: &str) -> [u8; 8] {
    let mut hasher = DefaultHasher::new();
    hasher.write(text.as_bytes());
    hasher.finish().to_le_bytes()
}

/// The first rank whose bytes are not those of rank 0.
fn odd_rank(all: &[Vec<u8>]) -> Option<usize> {
    all.iter().position(|bytes| *bytes != all[0])
}

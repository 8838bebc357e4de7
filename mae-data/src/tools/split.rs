//! A data set divided into parts at random, class by class.

use crate::error::Error;
use crate::rng::{KeyedRng, Purpose};
use crate::source::Dataset;

/// Divides a data set: part `i` gets the share `shares[i]` of each class (of all images without labels), and the last
/// part of the result what is left. The parts depend on the data set, the shares and the seed alone, and hold their
/// images in the data set's order.
///
/// # Errors
/// When a share is not between 0 and 1 or they leave nothing.
pub fn split(dataset: &Dataset, shares: &[f64], seed: u64) -> Result<Vec<Vec<usize>>, Error> {
    let sum: f64 = shares.iter().sum();
    if shares.iter().any(|share| !(*share > 0.0 && *share < 1.0)) || sum >= 1.0 {
        let found = shares.iter().map(f64::to_string).collect::<Vec<_>>().join(" and ");
        return Err(Error::setting(
            "share",
            found,
            "numbers between 0 and 1 that leave something to train on",
        ));
    }
    let mut members = vec![Vec::new(); dataset.classes().len().max(1)];
    for index in 0..dataset.len() {
        members[dataset.label(index).unwrap_or(0)].push(index);
    }
    let mut parts = vec![Vec::new(); shares.len() + 1];
    for (label, mut images) in members.into_iter().enumerate() {
        KeyedRng::new(seed, 0, label as u64, Purpose::Split).shuffle(&mut images);
        let count = images.len() as f64;
        let (mut start, mut until) = (0, 0.0);
        for (part, share) in parts.iter_mut().zip(shares) {
            until += share;
            // Shares add up before they are rounded, so that they never take more than there is.
            let end = (count * until).round() as usize;
            part.extend_from_slice(&images[start..end]);
            start = end;
        }
        if let Some(rest) = parts.last_mut() {
            rest.extend_from_slice(&images[start..]);
        }
    }
    parts.iter_mut().for_each(|part| part.sort_unstable());
    Ok(parts)
}

//! Cross entropies over logits, and counts of right answers.

use tch::{Kind, Reduction, Tensor};

use crate::error::Result;

/// Mean cross entropy of logits `[N, C]` and labels `[N]` int64, with label smoothing (arXiv 1512.00567, section 7).
///
/// # Errors
/// When libtorch fails.
pub fn cross_entropy(logits: &Tensor, labels: &Tensor, smoothing: f64) -> Result<Tensor> {
    let logits = logits.f_to_kind(Kind::Float)?;
    Ok(logits.f_cross_entropy_loss(labels, None::<&Tensor>, Reduction::Mean, -100, smoothing)?)
}

/// Mean cross entropy of logits `[N, C]` and target distributions `[N, C]`, as mixup makes them.
///
/// # Errors
/// When libtorch fails.
pub fn soft_target_cross_entropy(logits: &Tensor, targets: &Tensor) -> Result<Tensor> {
    let log_probabilities = logits.f_to_kind(Kind::Float)?.f_log_softmax(-1, Kind::Float)?;
    let per_sample =
        log_probabilities.f_mul(targets)?.f_sum_dim_intlist([-1].as_slice(), false, Kind::Float)?;
    Ok(per_sample.f_mean(Kind::Float)?.f_neg()?)
}

/// How many of the first `valid` rows of logits `[N, C]` have their label `[N]` among the `k` largest.
///
/// # Errors
/// When libtorch fails.
pub fn correct_top_k(logits: &Tensor, labels: &Tensor, k: i64, valid: i64) -> Result<i64> {
    let k = k.min(logits.size()[1]);
    let (_, best) = logits.f_narrow(0, 0, valid)?.f_topk(k, -1, true, true)?;
    let hits = best.f_eq_tensor(&labels.f_narrow(0, 0, valid)?.f_unsqueeze(-1)?)?;
    Ok(i64::try_from(hits.f_sum(Kind::Int64)?)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn soft_targets_equal_smoothed_labels() {
        let logits = Tensor::from_slice2(&[[1.0f32, -2.0, 0.5], [0.0, 3.0, -1.0]]);
        let labels = Tensor::from_slice(&[2i64, 1]);
        let soft = Tensor::from_slice2(&[
            [0.1f32 / 3.0, 0.1 / 3.0, 0.9 + 0.1 / 3.0],
            [0.1 / 3.0, 0.9 + 0.1 / 3.0, 0.1 / 3.0],
        ]);
        let a = f64::try_from(cross_entropy(&logits, &labels, 0.1).unwrap()).unwrap();
        let b = f64::try_from(soft_target_cross_entropy(&logits, &soft).unwrap()).unwrap();
        assert!((a - b).abs() < 1e-6, "{a} {b}");
    }

    #[test]
    fn padding_rows_are_not_counted() {
        let logits = Tensor::from_slice2(&[[1.0f32, 0.0], [1.0, 0.0], [1.0, 0.0]]);
        let labels = Tensor::from_slice(&[0i64, 1, 0]);
        assert_eq!(correct_top_k(&logits, &labels, 1, 2).unwrap(), 1);
        assert_eq!(correct_top_k(&logits, &labels, 5, 3).unwrap(), 3);
    }
}

//! Classification losses, with timm's conventions, and top-k accuracy.
//!
//! A [`Loss`] compares logits with targets. Custom losses implement the trait; [`WeightedLoss`] adds several losses. Unlike timm, where
//! `--bce-loss --smoothing 0` falls back to plain cross entropy, `--bce-loss` always selects [`BinaryCrossEntropy`].
mod binary;
mod cross_entropy;
mod jsd;
mod target;
mod weighted;

pub use binary::BinaryCrossEntropy;
pub use cross_entropy::CrossEntropy;
pub use jsd::JsdCrossEntropy;
pub use target::mixup_target;
pub use weighted::WeightedLoss;

use fornax_engine::{Result, Tensor};
use std::fmt::Debug;

/// Loss function.
pub trait Loss: Debug + Send + Sync {
    /// Scalar loss of logits `[n, classes]` against class indices `[n]` (i64) or dense targets `[n, classes]`.
    fn forward(&self, logits: &Tensor, target: &Tensor) -> Result<Tensor>;

    /// Converts class indices on the CPU to the form that [`Loss::forward`] accepts without device synchronisation.
    fn prepare(&self, target: &Tensor, _classes: usize) -> Result<Tensor> {
        Ok(target.clone())
    }
}

/// Number of rows of logits `[n, classes]` whose class (i64, `[n]`) is among the `k` largest. `k` is limited to the number of classes;
/// the lower class wins a tie.
pub fn top_k_correct(logits: &Tensor, target: &Tensor, k: usize) -> Result<usize> {
    let classes = target::classes_of(logits)?;
    let (best, target) = (logits.detach().topk(k.min(classes), 1, true)?.1, target.read::<i64>()?);
    let best = best.read::<i64>()?;
    Ok(best.chunks_exact(k.min(classes)).zip(target.iter()).filter(|(best, t)| best.contains(t)).count())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;

    fn logits() -> Tensor {
        Tensor::from_slice(&[0.5f32, -1.0, 2.0, 0.1, 0.2, -0.3], [2, 3]).expect("shape").variable()
    }

    #[test]
    fn weighted_loss_is_sum_of_values_and_gradients() {
        let target = Tensor::from_slice(&[2i64, 0], [2]).expect("shape");
        let (ce, bce) = (CrossEntropy { smoothing: 0.1 }, BinaryCrossEntropy::default());
        let both = WeightedLoss::new(vec![(0.5, Arc::new(ce)), (2.0, Arc::new(bce))]).expect("finite");
        let gradient = |loss: &dyn Loss| {
            let x = logits();
            let value = loss.forward(&x, &target).expect("a loss");
            value.backward().expect("a gradient");
            (value.item().expect("a number"), x.grad().expect("a gradient").to_vec::<f32>().expect("f32"))
        };
        let (a, b, sum) = (gradient(&ce), gradient(&bce), gradient(&both));
        assert!((sum.0 - (0.5 * a.0 + 2.0 * b.0)).abs() < 1e-6);
        for (i, got) in sum.1.iter().enumerate() {
            assert!((got - (0.5 * a.1[i] + 2.0 * b.1[i])).abs() < 1e-6);
        }
        let terms = both.terms(&logits(), &target).expect("terms");
        assert_eq!(terms.len(), 2);
        assert!(
            WeightedLoss::new(vec![]).is_err() && WeightedLoss::new(vec![(f64::NAN, Arc::new(ce))]).is_err()
        );
    }

    #[test]
    fn prepared_target_gives_the_same_loss() {
        let target = Tensor::from_slice(&[2i64, 0], [2]).expect("shape");
        let thresholds = [None, Some(0.2)];
        for target_threshold in thresholds {
            let loss = BinaryCrossEntropy { target_threshold, ..BinaryCrossEntropy::default() };
            let prepared = loss.prepare(&target, 3).expect("rows");
            assert_eq!(prepared.dims(), [2, 3]);
            let of =
                |target: &Tensor| loss.forward(&logits(), target).and_then(|l| l.item()).expect("a loss");
            assert_eq!(of(&target), of(&prepared));
        }
        let plain = CrossEntropy::default();
        assert_eq!(plain.prepare(&target, 3).expect("indices").to_vec::<i64>().expect("i64"), [2, 0]);
    }
}

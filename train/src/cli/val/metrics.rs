//! Precision, recall and F1 score, averaged over the classes as scikit-learn does.
use crate::trainer::Evaluation;
use clap::ValueEnum;
use std::collections::BTreeSet;

/// Average over classes.
#[derive(ValueEnum, Clone, Copy, Debug, PartialEq, Eq)]
pub enum MetricsAverage {
    /// Every class counts the same
    Macro,
    /// Every image counts the same
    Micro,
    /// Every class counts by its images
    Weighted,
}

/// Averages over the classes, in percent.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ClassMetrics {
    pub precision: f64,
    pub recall: f64,
    pub f1: f64,
}

impl ClassMetrics {
    /// Metrics of an evaluation. Only classes that are a target or a prediction count.
    pub fn of(evaluation: &Evaluation, average: MetricsAverage) -> ClassMetrics {
        let (targets, predictions) = (&evaluation.targets, &evaluation.predictions);
        if average == MetricsAverage::Micro {
            // Each image is a true positive, or a false positive and a false negative.
            let right = targets.iter().zip(predictions).filter(|(a, b)| a == b).count();
            let accuracy = 100.0 * right as f64 / targets.len().max(1) as f64;
            return ClassMetrics { precision: accuracy, recall: accuracy, f1: accuracy };
        }
        let (mut sums, mut total) = ([0.0; 3], 0.0);
        for class in targets.iter().chain(predictions).collect::<BTreeSet<_>>() {
            let count = |all: &[u32]| all.iter().filter(|value| *value == class).count() as f64;
            let (is, said) = (count(targets), count(predictions));
            let both =
                targets.iter().zip(predictions).filter(|(a, b)| *a == class && *b == class).count() as f64;
            let ratio = |a: f64, b: f64| if b > 0.0 { a / b } else { 0.0 };
            let weight = if average == MetricsAverage::Weighted { is } else { 1.0 };
            let values = [ratio(both, said), ratio(both, is), ratio(2.0 * both, is + said)];
            sums.iter_mut().zip(values).for_each(|(sum, value)| *sum += weight * value);
            total += weight;
        }
        let [precision, recall, f1] = sums.map(|sum| if total > 0.0 { 100.0 * sum / total } else { 0.0 });
        ClassMetrics { precision, recall, f1 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Expected: `sklearn.metrics.precision_recall_fscore_support` of these labels.
    #[test]
    fn averages_equal_those_of_scikit_learn() {
        let evaluation = Evaluation {
            loss: 0.0,
            top1: 50.0,
            top5: 100.0,
            classes: 5,
            targets: vec![0, 0, 0, 1, 1, 2],
            predictions: vec![0, 0, 1, 1, 3, 0],
            confidences: vec![],
            skipped: vec![],
        };
        for (average, expected) in [
            (MetricsAverage::Macro, [0.291_666_7, 0.291_666_7, 0.291_666_7]),
            (MetricsAverage::Micro, [0.5, 0.5, 0.5]),
            (MetricsAverage::Weighted, [0.5, 0.5, 0.5]),
        ] {
            let ClassMetrics { precision, recall, f1 } = ClassMetrics::of(&evaluation, average);
            for (value, expected) in [precision, recall, f1].iter().zip(expected) {
                assert!((value / 100.0 - expected).abs() < 1e-6, "{average:?}: {value} {expected}");
            }
        }
    }
}

//! Precision, recall and F1 score, averaged over the classes as scikit-learn does.
use crate::report::{ClassMetrics, ConfusionCounts};
use crate::trainer::Evaluation;
use clap::ValueEnum;

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
pub struct ClassAverages {
    pub precision: f64,
    pub recall: f64,
    pub f1: f64,
}

impl ClassAverages {
    /// Averages of an evaluation. Only classes that are a target or a prediction count.
    pub fn of(evaluation: &Evaluation, average: MetricsAverage) -> ClassAverages {
        let Evaluation { top1, targets, predictions, .. } = evaluation;
        if average == MetricsAverage::Micro {
            // Each image is a true positive, or a false positive and a false negative.
            return ClassAverages { precision: *top1, recall: *top1, f1: *top1 };
        }
        let all = ConfusionCounts::new(0, *top1, &[], targets, predictions).class_metrics();
        let counted: Vec<&ClassMetrics> = all.iter().filter(|class| class.f1.is_some()).collect();
        let weight = |class: &ClassMetrics| match average {
            MetricsAverage::Weighted => class.images as f64,
            _ => 1.0,
        };
        let total: f64 = counted.iter().map(|class| weight(class)).sum();
        let mean = |value: fn(&ClassMetrics) -> Option<f64>| {
            let sum: f64 = counted.iter().map(|class| weight(class) * value(class).unwrap_or(0.0)).sum();
            if total > 0.0 { sum / total } else { 0.0 }
        };
        ClassAverages {
            precision: mean(|class| class.precision),
            recall: mean(|class| class.recall),
            f1: mean(|class| class.f1),
        }
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
            top5_classes: vec![],
            skipped: vec![],
        };
        for (average, expected) in [
            (MetricsAverage::Macro, [0.291_666_7, 0.291_666_7, 0.291_666_7]),
            (MetricsAverage::Micro, [0.5, 0.5, 0.5]),
            (MetricsAverage::Weighted, [0.5, 0.5, 0.5]),
        ] {
            let ClassAverages { precision, recall, f1 } = ClassAverages::of(&evaluation, average);
            for (value, expected) in [precision, recall, f1].iter().zip(expected) {
                assert!((value / 100.0 - expected).abs() < 1e-6, "{average:?}: {value} {expected}");
            }
        }
    }
}

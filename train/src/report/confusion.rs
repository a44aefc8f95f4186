//! Confusion counts of an evaluation: the most confused classes and pairs, and their file.
use crate::{Error, Result};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::Path;

/// Confusion matrix of an epoch without its zeros, as in `plots/confusion_matrix.json`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ConfusionCounts {
    /// Epoch, counted from 0.
    pub epoch: u32,
    /// Top-1 accuracy in percent.
    pub top1: f64,
    /// Class names.
    pub classes: Vec<String>,
    /// True class, predicted class and number of samples, ordered by class.
    pub counts: Vec<(u32, u32, u64)>,
}

/// Part of a confusion matrix that is drawn: one row and column per name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfusionTable {
    /// Class names; the last one stands for all other classes if there are too many.
    pub names: Vec<String>,
    /// Samples of the class of the row predicted as the class of the column.
    pub counts: Vec<Vec<u64>>,
}

/// Samples of one class predicted as another one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ConfusedPair {
    /// True class.
    pub target: u32,
    /// Predicted class.
    pub predicted: u32,
    /// Number of samples.
    pub count: u64,
}

/// Precision, recall and F1 score of a class, in percent; `None` without a prediction or an image of the class.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ClassMetrics {
    /// Images of the class.
    pub images: u64,
    /// Correct fraction of the predictions of the class.
    pub precision: Option<f64>,
    /// Correct fraction of the images of the class: its accuracy.
    pub recall: Option<f64>,
    /// Harmonic mean of precision and recall.
    pub f1: Option<f64>,
}

impl ConfusionCounts {
    /// Counts predictions. Logits beyond the class names are named by their number.
    pub fn new(
        epoch: u32,
        top1: f64,
        classes: &[String],
        targets: &[u32],
        predictions: &[u32],
    ) -> ConfusionCounts {
        let mut counts = BTreeMap::new();
        for pair in targets.iter().zip(predictions) {
            *counts.entry(pair).or_insert(0) += 1;
        }
        let highest = targets.iter().chain(predictions).map(|class| *class as usize + 1).max().unwrap_or(0);
        let unnamed = (classes.len()..highest).map(|class| format!("class {class}"));
        ConfusionCounts {
            epoch,
            top1,
            classes: classes.iter().cloned().chain(unnamed).collect(),
            counts: counts
                .into_iter()
                .map(|((target, predicted), count)| (*target, *predicted, count))
                .collect(),
        }
    }

    /// Reads the file of an earlier epoch; `None` if there is none.
    pub fn read(path: &Path) -> Option<ConfusionCounts> {
        serde_json::from_slice(&crate::run_files::regular::read(path).ok()?).ok()
    }

    /// Writes the file.
    pub fn write(&self, path: &Path) -> Result<()> {
        let text = serde_json::to_string(self).map_err(|error| {
            Error::new(crate::error::ErrorKind::Bug, "the confusion matrix has no JSON form").because(error)
        })?;
        super::files::replace(path, format!("{text}\n").as_bytes())
    }

    /// The pairs of different classes with the most samples, most first.
    pub fn confused_pairs(&self, limit: usize) -> Vec<ConfusedPair> {
        let wrong = self.counts.iter().filter(|(target, predicted, _)| target != predicted);
        let mut pairs: Vec<ConfusedPair> = wrong
            .map(|(target, predicted, count)| ConfusedPair {
                target: *target,
                predicted: *predicted,
                count: *count,
            })
            .collect();
        pairs.sort_by_key(|pair| std::cmp::Reverse(pair.count));
        pairs.truncate(limit);
        pairs
    }

    /// Precision, recall and F1 score of each class.
    pub fn class_metrics(&self) -> Vec<ClassMetrics> {
        let mut counts = vec![[0; 3]; self.classes.len()];
        for (target, predicted, count) in &self.counts {
            counts[*target as usize][0] += count;
            counts[*predicted as usize][1] += count;
            counts[*target as usize][2] += if target == predicted { *count } else { 0 };
        }
        let percent = |part: u64, whole: u64| (whole > 0).then(|| 100.0 * part as f64 / whole as f64);
        let metrics = |[images, predictions, correct]: [u64; 3]| ClassMetrics {
            images,
            precision: percent(correct, predictions),
            recall: percent(correct, images),
            f1: percent(2 * correct, images + predictions),
        };
        counts.into_iter().map(metrics).collect()
    }

    /// The whole matrix if it has at most `limit` classes; else that of the classes of the most confused pairs, with the others as one.
    pub fn table(&self, limit: usize) -> ConfusionTable {
        let count = self.classes.len();
        let mut chosen: Vec<usize> = (0..count).collect();
        if count > limit {
            chosen.clear();
            let pairs = self.confused_pairs(usize::MAX);
            let confused =
                pairs.iter().flat_map(|pair| [pair.target, pair.predicted]).map(|class| class as usize);
            for class in confused.chain(0..count) {
                if chosen.len() + 1 < limit && !chosen.contains(&class) {
                    chosen.push(class);
                }
            }
            chosen.sort_unstable();
        }
        let mut names: Vec<String> = chosen.iter().map(|class| self.classes[*class].clone()).collect();
        if count > limit {
            names.push(format!("{} others", super::thousands((count - chosen.len()) as u64)));
        }
        let position = |class: u32| chosen.binary_search(&(class as usize)).unwrap_or(chosen.len());
        let mut counts = vec![vec![0; names.len()]; names.len()];
        for (target, predicted, count) in &self.counts {
            counts[position(*target)][position(*predicted)] += count;
        }
        ConfusionTable { names, counts }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counts(classes: usize, pairs: &[(u32, u32)]) -> ConfusionCounts {
        let names: Vec<String> = (0..classes).map(|class| format!("c{class}")).collect();
        let (targets, predictions): (Vec<u32>, Vec<u32>) = pairs.iter().copied().unzip();
        ConfusionCounts::new(3, 50.0, &names, &targets, &predictions)
    }

    #[test]
    fn counts_have_no_zeros_and_survive_their_file() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("confusion_matrix.json");
        assert_eq!(ConfusionCounts::read(&path), None);
        let counts = counts(2, &[(1, 0), (0, 0), (1, 0), (0, 4)]);
        assert_eq!(counts.counts, [(0, 0, 1), (0, 4, 1), (1, 0, 2)]);
        assert_eq!(counts.classes, ["c0", "c1", "class 2", "class 3", "class 4"]);
        counts.write(&path).expect("writes");
        assert_eq!(ConfusionCounts::read(&path), Some(counts));
    }

    #[test]
    fn metrics_of_a_class_are_those_of_scikit_learn() {
        // precision_recall_fscore_support([0, 0, 0, 1, 1, 2], [0, 0, 1, 1, 0, 0])
        let metrics = counts(4, &[(0, 0), (0, 0), (0, 1), (1, 1), (1, 0), (2, 0)]).class_metrics();
        let rounded = |value: Option<f64>| value.map(|value| (100.0 * value).round() / 100.0);
        let rows: Vec<_> = metrics.iter().map(|m| [m.precision, m.recall, m.f1].map(rounded)).collect();
        assert_eq!(rows[0], [Some(50.0), Some(66.67), Some(57.14)]);
        assert_eq!(rows[1], [Some(50.0), Some(50.0), Some(50.0)]);
        assert_eq!(rows[2], [None, Some(0.0), Some(0.0)]);
        assert_eq!(rows[3], [None, None, None]);
        assert_eq!(metrics.iter().map(|m| m.images).collect::<Vec<_>>(), [3, 2, 1, 0]);
    }

    #[test]
    fn few_classes_are_all_in_the_table() {
        let table = counts(3, &[(0, 0), (1, 2), (1, 2)]).table(3);
        assert_eq!(table.names, ["c0", "c1", "c2"]);
        assert_eq!(table.counts, [[1, 0, 0], [0, 0, 2], [0, 0, 0]]);
    }

    #[test]
    fn many_classes_are_reduced_to_the_most_confused_ones() {
        let mut pairs = vec![(700, 20), (700, 20), (20, 20), (5, 6), (5, 6), (5, 6), (8, 9), (800, 801)];
        pairs.extend((0..1000).map(|class| (class, class)));
        let all = counts(1000, &pairs);
        assert_eq!(all.confused_pairs(2).iter().map(|pair| pair.count).collect::<Vec<_>>(), [3, 2]);
        let table = all.table(5);
        assert_eq!(table.names, ["c5", "c6", "c20", "c700", "996 others"]);
        assert_eq!(table.counts[0], [1, 3, 0, 0, 0]);
        assert_eq!(table.counts[3], [0, 0, 2, 1, 0]);
        assert_eq!(table.counts[4], [0, 0, 0, 0, 998]);
    }
}

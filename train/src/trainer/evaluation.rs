//! Evaluation of a model on a dataset. Loss and accuracy are counted on the device.
use super::bad_images;
use crate::distributed::ProcessGroup;
use crate::loader::{Batch, BatchPreparation, Loader};
use crate::message::count;
use crate::train_step::prepare_images;
use crate::{Error, Result};
use fornax_engine::cuda::PendingRead;
use fornax_engine::{ConvAlgorithm, DType, no_grad};
use fornax_nn::precision::Operation;
use fornax_nn::{Context, Module, Precision};
use std::collections::BTreeSet;

/// Results of an evaluation.
#[derive(Clone, Debug, PartialEq)]
pub struct Evaluation {
    /// Mean cross entropy, without label smoothing.
    pub loss: f64,
    /// Top-1 accuracy in percent.
    pub top1: f64,
    /// Top-5 accuracy in percent.
    pub top5: f64,
    /// Number of classes.
    pub classes: usize,
    /// Class of each sample, in the loader's order.
    pub targets: Vec<u32>,
    /// Predicted class of each sample.
    pub predictions: Vec<u32>,
    /// Probability of each predicted class, by softmax.
    pub confidences: Vec<f32>,
    /// Classes of the highest logits of each sample, at most five, the highest first; empty unless [`Evaluator::keeps_top5`].
    pub top5_classes: Vec<Vec<u32>>,
    /// Dataset indices, ascending, of the samples that were skipped as bad images; the metrics are those of the other samples.
    pub skipped: Vec<u32>,
}

impl Evaluation {
    /// Confusion matrix, row by row: samples of class `row` predicted as class `column`.
    pub fn confusion(&self) -> Vec<Vec<u64>> {
        let mut counts = vec![vec![0; self.classes]; self.classes];
        for (target, predicted) in self.targets.iter().zip(&self.predictions) {
            counts[*target as usize][*predicted as usize] += 1;
        }
        counts
    }

    /// Dataset index of the sample at a position of `targets` and `predictions`.
    pub fn dataset_index(&self, position: usize) -> usize {
        // Every skipped sample before it moves the sample by one.
        self.skipped.iter().fold(position, |index, skipped| index + usize::from(*skipped as usize <= index))
    }

    /// Note about skipped samples, such as ` (3 images skipped)`; empty if there are none.
    pub fn skipped_note(&self) -> String {
        skipped_note(self.skipped.len())
    }
}

/// Note about a number of skipped images; empty for 0.
pub fn skipped_note(images: usize) -> String {
    match images {
        0 => String::new(),
        images => format!(" ({} skipped)", count(images as u64, "image")),
    }
}

/// Precision, convolution algorithm and input of evaluated models.
#[derive(Clone, Copy)]
pub struct Evaluator<'a> {
    /// The samples.
    pub loader: &'a Loader,
    /// Number of classes.
    pub num_classes: usize,
    /// Mixed precision.
    pub precision: Precision,
    /// Algorithm of convolutions on the CPU.
    pub conv_algorithm: ConvAlgorithm,
    /// Normalisation of u8 images.
    pub preparation: Option<&'a BatchPreparation>,
    /// Keeps the five most probable classes of each sample.
    pub keeps_top5: bool,
    /// Ranks that evaluate a part of each batch; every rank gets the result of all samples.
    pub group: Option<&'a ProcessGroup>,
}

impl Evaluator<'_> {
    /// Evaluates a model on the loader's device. An error of `check_interrupt`, which is called for every batch and, in a run of one
    /// process, while waiting for data, ends the evaluation.
    pub fn evaluate(
        &self,
        model: &dyn Module,
        check_interrupt: &dyn Fn() -> Result<()>,
    ) -> Result<Evaluation> {
        let mut source = self.loader.staged_epoch(0, 0, Ok)?;
        let mut totals = EvaluationTotals::default();
        let mut queued = None;
        // Ranks are interrupted after the same batch.
        let check_wait = || self.group.map_or_else(check_interrupt, ProcessGroup::check);
        while let Some(batch) = source.next_batch(&check_wait) {
            let batch = batch?;
            check_interrupt()?;
            totals.batches.push(batch.target.numel());
            totals.skipped.extend(&batch.skipped);
            if batch.target.numel() == 0 {
                continue;
            }
            // As in training, results are read after the next batch is queued.
            if let Some(previous) = queued.replace(self.queue(model, &batch)?) {
                totals.add(previous)?;
            }
        }
        queued.map_or(Ok(()), |last| totals.add(last))?;
        if let (Some(group), Some(record)) = (self.group, &self.loader.options().bad_images) {
            bad_images::gather(group, record)?;
        }
        let all = match self.group {
            Some(group) => EvaluationTotals::merged(&group.all_gather("evaluation", &totals.to_bytes())?),
            None => totals,
        };
        self.check_skipped(&all)?;
        Ok(all.mean(self.num_classes))
    }

    /// Errors, on every rank alike, if more images were skipped than may be, or all of them.
    fn check_skipped(&self, totals: &EvaluationTotals) -> Result<()> {
        let skipped = totals.skipped.len();
        if let Some(bad_images) = &self.loader.options().bad_images {
            bad_images.check_count(skipped)?;
        }
        match totals.targets.is_empty() && skipped > 0 {
            true => Err(Error::data("no validation image can be read")
                .because(format!("all {} are bad and skipped", count(skipped as u64, "image")))
                .remedy("repair the validation images")),
            false => Ok(()),
        }
    }

    /// Evaluates batches of every size without a result: kernels are compiled and convolutions planned. `check_wait` is called while waiting
    /// for data.
    pub fn warm_up(&self, model: &dyn Module, check_wait: &dyn Fn() -> Result<()>) -> Result<()> {
        // Only the last batch may be smaller.
        let Some(last) = self.loader.batches().checked_sub(1) else { return Ok(()) };
        for index in BTreeSet::from([0, last]) {
            if let Some(batch) = self.loader.staged_epoch(0, index, Ok)?.next_batch(check_wait) {
                let batch = batch?;
                if batch.target.numel() > 0 {
                    self.queue(model, &batch)?.loss.wait()?;
                }
            }
        }
        Ok(())
    }

    /// Queues the evaluation of a batch.
    fn queue(&self, model: &dyn Module, batch: &Batch) -> Result<QueuedEvaluation> {
        let mut cx = Context::eval().with_precision(self.precision).with_conv_algorithm(self.conv_algorithm);
        no_grad(|| {
            let images = prepare_images(model.input_operation(), self.preparation, batch, &cx)?;
            let outputs = model.forward(&images, &mut cx)?;
            let logits = batch.predictions(&cx.autocast(Operation::Loss, &outputs)?)?;
            let (loss, counts) = logits.cross_entropy_counted(&batch.target, 0.0, 5)?;
            Ok(QueuedEvaluation {
                loss: loss.to_dtype(DType::F32)?.read_later()?,
                counts: counts.read_later()?,
                predictions: logits.argmax(1)?.read_later()?,
                confidences: logits.softmax(1)?.amax(&[1], false)?.to_dtype(DType::F32)?.read_later()?,
                logits: match self.keeps_top5 {
                    true => Some((logits.dims()[1], logits.to_dtype(DType::F32)?.read_later()?)),
                    false => None,
                },
                target: batch.target.read_later()?,
            })
        })
    }
}

/// Evaluation of one batch whose results are not read yet.
struct QueuedEvaluation {
    loss: PendingRead<f32>,
    /// Top-1 and top-5 correct samples.
    counts: PendingRead<i64>,
    predictions: PendingRead<i64>,
    confidences: PendingRead<f32>,
    /// Number of classes and logits, if the five most probable classes are kept.
    logits: Option<(usize, PendingRead<f32>)>,
    target: PendingRead<i64>,
}

/// Classes of the highest logits, at most five; among equals the lower class first.
fn top5_classes(logits: &[f32]) -> Vec<u32> {
    let mut classes: Vec<u32> = (0..logits.len() as u32).collect();
    classes.sort_by(|a, b| logits[*b as usize].total_cmp(&logits[*a as usize]));
    classes.truncate(5);
    classes
}

/// Sums over evaluated batches.
#[derive(Default)]
struct EvaluationTotals {
    loss_sum: f64,
    counts: [i64; 2],
    /// Samples of each batch.
    batches: Vec<usize>,
    targets: Vec<u32>,
    predictions: Vec<u32>,
    confidences: Vec<f32>,
    /// Empty, or as long as `targets`.
    top5_classes: Vec<Vec<u32>>,
    skipped: Vec<u32>,
}

impl EvaluationTotals {
    /// The totals as numbers, for other ranks.
    fn to_bytes(&self) -> Vec<u8> {
        let [top1, top5] = self.counts;
        let mut numbers = vec![self.loss_sum.to_bits(), top1 as u64, top5 as u64];
        numbers.push(self.skipped.len() as u64);
        numbers.extend(self.skipped.iter().map(|index| u64::from(*index)));
        numbers.push(self.batches.len() as u64);
        numbers.extend(self.batches.iter().map(|n| *n as u64));
        let pairs = self.targets.iter().zip(&self.predictions);
        numbers.extend(pairs.zip(&self.confidences).flat_map(|((target, prediction), confidence)| {
            [u64::from(*target) << 32 | u64::from(*prediction), confidence.to_bits().into()]
        }));
        // In the same order, after the numbers of all samples.
        for classes in &self.top5_classes {
            numbers.push(classes.len() as u64);
            numbers.extend(classes.iter().map(|class| u64::from(*class)));
        }
        numbers.iter().flat_map(|number| number.to_le_bytes()).collect()
    }

    /// The totals of all ranks, in the loader's order: of each batch, a rank has consecutive samples.
    fn merged(ranks: &[Vec<u8>]) -> EvaluationTotals {
        let mut ranks: Vec<_> = ranks
            .iter()
            .map(|bytes| bytes.as_chunks::<8>().0.iter().map(|chunk| u64::from_le_bytes(*chunk)))
            .collect();
        let mut all = EvaluationTotals::default();
        let mut sizes: Vec<Vec<u64>> = vec![];
        for rank in &mut ranks {
            let mut next = || rank.next().unwrap_or_default();
            all.loss_sum += f64::from_bits(next());
            all.counts = [all.counts[0] + next() as i64, all.counts[1] + next() as i64];
            let skipped = next();
            all.skipped.extend((0..skipped).map(|_| next() as u32));
            let batches = next();
            sizes.push((0..batches).map(|_| next()).collect());
        }
        let batches = sizes.iter().map(Vec::len).max().unwrap_or(0);
        let size = &|batch: usize, rank: usize| sizes[rank].get(batch).copied().unwrap_or_default();
        // Rank of each sample.
        let order = (0..batches).flat_map(|batch| {
            (0..sizes.len()).flat_map(move |rank| (0..size(batch, rank)).map(move |_| rank))
        });
        for rank in order.clone() {
            let rank = &mut ranks[rank];
            let (Some(pair), Some(confidence)) = (rank.next(), rank.next()) else { break };
            all.targets.push((pair >> 32) as u32);
            all.predictions.push(pair as u32);
            all.confidences.push(f32::from_bits(confidence as u32));
        }
        for rank in order {
            let rank = &mut ranks[rank];
            let Some(count) = rank.next() else { break };
            all.top5_classes.push(rank.take(count as usize).map(|class| class as u32).collect());
        }
        all
    }

    fn add(&mut self, batch: QueuedEvaluation) -> Result<()> {
        let (counts, target) = (batch.counts.wait()?, batch.target.wait()?);
        self.loss_sum += f64::from(batch.loss.wait()?[0]) * target.len() as f64;
        self.counts = [self.counts[0] + counts[0], self.counts[1] + counts[1]];
        self.predictions.extend(batch.predictions.wait()?.iter().map(|class| *class as u32));
        self.confidences.extend(batch.confidences.wait()?.iter());
        self.targets.extend(target.iter().map(|class| *class as u32));
        if let Some((classes, logits)) = batch.logits {
            self.top5_classes.extend(logits.wait()?.chunks_exact(classes).map(top5_classes));
        }
        Ok(())
    }

    fn mean(mut self, classes: usize) -> Evaluation {
        self.skipped.sort_unstable();
        let samples = self.targets.len() as f64;
        let [top1, top5] = self.counts.map(|count| 100.0 * count as f64 / samples);
        let EvaluationTotals { loss_sum, targets, predictions, confidences, top5_classes, skipped, .. } =
            self;
        let loss = loss_sum / samples;
        Evaluation { loss, top1, top5, classes, targets, predictions, confidences, top5_classes, skipped }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn confusion_matrix_counts_targets_and_positions_map_to_dataset_indices() {
        let evaluation = Evaluation {
            loss: 0.0,
            top1: 0.0,
            top5: 0.0,
            classes: 3,
            targets: vec![0, 0, 2, 1],
            predictions: vec![0, 1, 2, 2],
            confidences: vec![0.5; 4],
            top5_classes: vec![],
            skipped: vec![0, 1, 4],
        };
        assert_eq!(evaluation.confusion(), [[1, 1, 0], [0, 0, 1], [0, 0, 1]]);
        assert_eq!([0, 1, 2, 3].map(|position| evaluation.dataset_index(position)), [2, 3, 5, 6]);
        assert_eq!(evaluation.skipped_note(), " (3 images skipped)");
    }
    #[test]
    fn totals_of_ranks_are_merged_in_the_order_of_the_loader() {
        let totals = |batches: &[usize], samples: &[u32], keeps_top5: bool| EvaluationTotals {
            loss_sum: 1.0,
            counts: [1, 2],
            batches: batches.to_vec(),
            targets: samples.to_vec(),
            predictions: samples.iter().map(|sample| sample + 100).collect(),
            confidences: samples.iter().map(|sample| *sample as f32).collect(),
            top5_classes: match keeps_top5 {
                true => samples.iter().map(|sample| (0..=*sample).collect()).collect(),
                false => vec![],
            },
            skipped: vec![],
        };
        for keeps_top5 in [false, true] {
            // Two batches: 0, 1 | 2 and 3 | 4.
            let ranks = [totals(&[2, 1], &[0, 1, 3], keeps_top5), totals(&[1, 1], &[2, 4], keeps_top5)];
            let all = EvaluationTotals::merged(&ranks.map(|rank| rank.to_bytes()));
            let expected = totals(&[], &[0, 1, 2, 3, 4], keeps_top5);
            assert_eq!((all.loss_sum, all.counts), (2.0, [2, 4]));
            assert_eq!((&all.targets, &all.predictions), (&expected.targets, &expected.predictions));
            assert_eq!((all.confidences, all.top5_classes), (expected.confidences, expected.top5_classes));
        }
    }

    #[test]
    fn top5_classes_are_ordered_by_logit() {
        assert_eq!(top5_classes(&[0.0, 3.0, -1.0, 3.0, 9.0, -5.0, 1.0]), [4, 1, 3, 6, 0]);
        assert_eq!(top5_classes(&[0.0, 3.0]), [1, 0]);
    }
}

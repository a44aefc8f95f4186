//! Recorders of metrics, for programs and tests. Clones share what is recorded: keep one, and add the other to the run. A rollback removes
//! the metrics of the epochs and updates that are trained again.
use super::{
    BatchBegin, Callback, EpochEnd, EvaluatedWeights, Rollback, TestSummary, TrainBegin, TrainSummary,
};
use crate::Result;
use crate::report::EpochMetrics;
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;

/// Metrics of each evaluated epoch.
#[derive(Clone, Debug, Default)]
pub struct History(Rc<RefCell<Vec<EpochMetrics>>>);

impl History {
    /// The metrics so far, with those of the resumed run.
    pub fn rows(&self) -> Vec<EpochMetrics> {
        self.0.borrow().clone()
    }
}

impl Callback for History {
    fn on_train_begin(&mut self, event: &TrainBegin) -> Result<()> {
        *self.0.borrow_mut() = event.state.history.clone();
        Ok(())
    }

    fn on_epoch_end(&mut self, event: &EpochEnd) -> Result<()> {
        *self.0.borrow_mut() = event.state.history.clone();
        Ok(())
    }

    fn on_rollback(&mut self, event: &Rollback) -> Result<()> {
        *self.0.borrow_mut() = event.state.history.clone();
        Ok(())
    }
}

/// Mean training loss of each epoch.
#[derive(Clone, Debug, Default)]
pub struct LossRecorder(Rc<RefCell<Vec<(u32, f64)>>>);

impl LossRecorder {
    /// Epochs, counted from 0, and their losses.
    pub fn losses(&self) -> Vec<(u32, f64)> {
        self.0.borrow().clone()
    }
}

impl Callback for LossRecorder {
    fn on_train_summary(&mut self, summary: &TrainSummary) -> Result<()> {
        self.0.borrow_mut().push((summary.epoch, summary.loss));
        Ok(())
    }

    fn on_rollback(&mut self, event: &Rollback) -> Result<()> {
        self.0.borrow_mut().retain(|row| row.0 < event.state.epoch);
        Ok(())
    }
}

/// Several losses of each epoch by name: `train`, `validation`, and `validation_ema` with an EMA.
#[derive(Clone, Debug, Default)]
pub struct MultiLossRecorder(Rc<RefCell<LossesByName>>);

/// Epochs and losses, by name.
type LossesByName = BTreeMap<&'static str, Vec<(u32, f64)>>;

impl MultiLossRecorder {
    /// Epochs, counted from 0, and their losses, by name.
    pub fn losses(&self) -> BTreeMap<&'static str, Vec<(u32, f64)>> {
        self.0.borrow().clone()
    }

    fn record(&self, name: &'static str, epoch: u32, loss: f64) {
        self.0.borrow_mut().entry(name).or_default().push((epoch, loss));
    }
}

impl Callback for MultiLossRecorder {
    fn on_train_summary(&mut self, summary: &TrainSummary) -> Result<()> {
        self.record("train", summary.epoch, summary.loss);
        Ok(())
    }

    fn on_test_summary(&mut self, summary: &TestSummary) -> Result<()> {
        let name = match summary.weights {
            EvaluatedWeights::Model => "validation",
            EvaluatedWeights::Ema => "validation_ema",
        };
        self.record(name, summary.epoch, summary.evaluation.loss);
        Ok(())
    }

    fn on_rollback(&mut self, event: &Rollback) -> Result<()> {
        self.0.borrow_mut().values_mut().for_each(|rows| rows.retain(|row| row.0 < event.state.epoch));
        Ok(())
    }
}

/// Top-1 and top-5 accuracy in percent of each evaluation of the model, or of its EMA weights.
#[derive(Clone, Debug)]
pub struct AccuracyRecorder {
    weights: EvaluatedWeights,
    rows: Rc<RefCell<Vec<AccuracyRow>>>,
}

/// Epoch, and its top-1 and top-5 accuracy.
type AccuracyRow = (u32, [f64; 2]);

impl AccuracyRecorder {
    /// Creates a recorder of these weights.
    pub fn new(weights: EvaluatedWeights) -> AccuracyRecorder {
        AccuracyRecorder { weights, rows: Rc::default() }
    }

    /// Epochs, counted from 0, and their top-1 and top-5 accuracies.
    pub fn accuracies(&self) -> Vec<(u32, [f64; 2])> {
        self.rows.borrow().clone()
    }
}

impl Callback for AccuracyRecorder {
    fn on_test_summary(&mut self, summary: &TestSummary) -> Result<()> {
        if summary.weights == self.weights {
            let evaluation = summary.evaluation;
            self.rows.borrow_mut().push((summary.epoch, [evaluation.top1, evaluation.top5]));
        }
        Ok(())
    }

    fn on_rollback(&mut self, event: &Rollback) -> Result<()> {
        self.rows.borrow_mut().retain(|row| row.0 < event.state.epoch);
        Ok(())
    }
}

/// Confusion matrix of the best epoch so far.
#[derive(Clone, Debug, Default)]
pub struct ConfusionMatrixRecorder(Rc<RefCell<Vec<Vec<u64>>>>);

impl ConfusionMatrixRecorder {
    /// The matrix, row by row: samples of class `row` predicted as class `column`; empty before the first evaluation.
    pub fn counts(&self) -> Vec<Vec<u64>> {
        self.0.borrow().clone()
    }
}

impl Callback for ConfusionMatrixRecorder {
    fn on_epoch_end(&mut self, event: &EpochEnd) -> Result<()> {
        if let Some(evaluation) = event.evaluation.filter(|_| event.best) {
            *self.0.borrow_mut() = evaluation.confusion();
        }
        Ok(())
    }
}

/// Learning rate of each update.
#[derive(Clone, Debug, Default)]
pub struct LrRecorder(Rc<RefCell<Vec<(u64, f64)>>>);

impl LrRecorder {
    /// Numbers of the updates, counted from 1, and their learning rates.
    pub fn lrs(&self) -> Vec<(u64, f64)> {
        self.0.borrow().clone()
    }
}

impl Callback for LrRecorder {
    fn on_batch_begin(&mut self, event: &BatchBegin) -> Result<()> {
        self.0.borrow_mut().push((event.update, event.lr));
        Ok(())
    }

    fn on_rollback(&mut self, event: &Rollback) -> Result<()> {
        self.0.borrow_mut().retain(|row| row.0 <= event.state.update);
        Ok(())
    }
}

//! The plots of a run, as SVG and PNG.
mod confusion_matrix;
mod figure;
mod line_chart;
mod lr_range_chart;

pub use figure::Figure;
use figure::plotted_name;
pub(super) use figure::{FAINT, INK, plotted_caption, register_fonts};

use super::files::{RateLimit, replace};
use super::{ConfusionCounts, EpochMetrics, thousands};
use crate::Result;
use crate::callbacks::{Callback, EpochEnd, TrainBegin, TrainEnd};
use crate::lr_finder::LrCurve;
use crate::schedule::{Curve, Schedule};
use crate::trainer::{Evaluation, TrainerState};
use confusion_matrix::{ConfusionMatrix, MAX_CLASSES};
use line_chart::{LineChart, Series};
use lr_range_chart::LrRangeChart;
use plotters::style::RGBColor;
use rayon::prelude::*;
use std::path::{Path, PathBuf};

const BLUE: RGBColor = RGBColor(31, 111, 203);
const ORANGE: RGBColor = RGBColor(214, 98, 20);
const GREEN: RGBColor = RGBColor(44, 138, 87);
/// Points of the learning-rate curve; enough for every bend to show.
const LR_POINTS: u64 = 600;

/// Callback that writes `loss`, `accuracy`, `learning_rate` and the `confusion_matrix` of the best epoch into a folder, each as SVG and PNG,
/// the counts of the matrix also as JSON: after epochs, within a twentieth of the time, and at the end.
pub struct PlotWriter {
    folder: PathBuf,
    schedule: Schedule,
    loss: String,
    classes: Vec<String>,
    updates_per_epoch: u64,
    /// Counts of the best epoch that are not drawn yet.
    pending: Option<ConfusionCounts>,
    limit: RateLimit,
}

impl PlotWriter {
    /// Creates the callback. `loss` describes the training loss.
    pub fn new(folder: &Path, schedule: Schedule, loss: &str, classes: &[String]) -> PlotWriter {
        let (loss, classes) = (loss.into(), classes.into());
        let (pending, limit) = (None, RateLimit::default());
        PlotWriter { folder: folder.into(), schedule, loss, classes, updates_per_epoch: 1, pending, limit }
    }

    fn write(&self, name: &str, figure: &Figure) -> Result<()> {
        replace(&self.folder.join(format!("{name}.svg")), figure.svg.as_bytes())?;
        replace(&self.folder.join(format!("{name}.png")), &figure.png)
    }

    fn write_curves(&self, state: &TrainerState) -> Result<()> {
        let by_epoch = |value: fn(&EpochMetrics) -> f64| {
            state.history.iter().map(|r| (f64::from(r.epoch), value(r))).collect::<Vec<_>>()
        };
        let of_model = |value: fn(&EpochMetrics) -> Option<f64>| {
            state.history.iter().filter_map(|r| Some((f64::from(r.epoch), value(r)?))).collect::<Vec<_>>()
        };
        let has_ema = state.history.iter().any(|row| row.model_eval_loss.is_some());
        // With an EMA its weights are evaluated for the epoch's metrics.
        let name = |text: &str| if has_ema { format!("{text} (EMA)") } else { text.to_string() };
        let only_with_ema = |series: [Series; 1]| if has_ema { series.into() } else { vec![] };
        let mut loss = LineChart {
            title: "Loss",
            x_label: "epoch",
            y_label: "mean loss",
            series: vec![
                Series::new(format!("training: {}", self.loss), ORANGE, by_epoch(|r| r.train_loss)),
                Series::new(name("validation: cross entropy"), BLUE, by_epoch(|r| r.eval_loss)),
            ],
        };
        loss.series.extend(only_with_ema([Series::new(
            "validation (model)",
            GREEN,
            of_model(|r| r.model_eval_loss),
        )]));
        let mut accuracy = LineChart {
            title: "Validation accuracy",
            x_label: "epoch",
            y_label: "accuracy (%)",
            series: vec![
                Series::new(name("top-5"), ORANGE, by_epoch(|r| r.eval_top5)),
                Series::new(name("top-1"), BLUE, by_epoch(|r| r.eval_top1)),
            ],
        };
        accuracy.series.extend(only_with_ema([Series::new(
            "top-1 (model)",
            GREEN,
            of_model(|r| r.model_eval_top1),
        )]));
        let learning_rate = lr_chart(lr_history(state, &self.schedule, self.updates_per_epoch));
        let charts = [("loss", loss), ("accuracy", accuracy), ("learning_rate", learning_rate)];
        charts.par_iter().try_for_each(|(name, chart)| self.write(name, &Figure::render(chart)))
    }

    fn write_all(&mut self, state: &TrainerState) -> Result<()> {
        let (mut limit, pending) = (self.limit, self.pending.take());
        let written = limit.measure(|| {
            let confusion = || pending.as_ref().map_or(Ok(()), |counts| self.write_confusion(counts));
            let (curves, confusion) = rayon::join(|| self.write_curves(state), confusion);
            curves.and(confusion)
        });
        self.limit = limit;
        written
    }

    fn write_confusion(&self, counts: &ConfusionCounts) -> Result<()> {
        let names =
            counts.classes.iter().enumerate().map(|(class, name)| plotted_name(name, class)).collect();
        let table = ConfusionCounts { classes: names, ..counts.clone() }.table(MAX_CLASSES);
        let total = counts.classes.len();
        let part = match total > table.names.len() {
            true => format!(
                "; the {} most confused of {} classes",
                table.names.len() - 1,
                thousands(total as u64)
            ),
            false => String::new(),
        };
        let title = format!("Confusion matrix, epoch {}, top-1 {:.2}%{part}", counts.epoch, counts.top1);
        self.write("confusion_matrix", &Figure::render(&ConfusionMatrix { title, table: &table }))?;
        counts.write(&self.folder.join("confusion_matrix.json"))
    }
}

impl Callback for PlotWriter {
    fn on_train_begin(&mut self, event: &TrainBegin) -> Result<()> {
        self.updates_per_epoch = event.updates_per_epoch;
        Ok(())
    }

    fn on_epoch_end(&mut self, event: &EpochEnd) -> Result<()> {
        if let Some(Evaluation { top1, targets, predictions, .. }) = event.evaluation.filter(|_| event.best) {
            self.pending =
                Some(ConfusionCounts::new(event.epoch, *top1, &self.classes, targets, predictions));
        }
        if self.limit.is_due() { self.write_all(event.state) } else { Ok(()) }
    }

    fn on_train_end(&mut self, event: &TrainEnd) -> Result<()> {
        if event.is_in_haste() { Ok(()) } else { self.write_all(event.state) }
    }
}

/// A chart of the learning rate by update.
pub fn lr_figure(points: Vec<(f64, f64)>) -> Figure {
    Figure::render(&lr_chart(points))
}

/// A chart of a learning-rate range test.
pub fn lr_range_figure(curve: &LrCurve) -> Figure {
    Figure::render(&LrRangeChart(curve))
}

fn lr_chart(points: Vec<(f64, f64)>) -> LineChart<'static> {
    let series = vec![Series::new("learning rate", BLUE, points)];
    LineChart { title: "Learning rate", x_label: "update", y_label: "learning rate", series }
}

/// The learning rate at updates spread over the run so far.
fn lr_history(state: &TrainerState, schedule: &Schedule, updates_per_epoch: u64) -> Vec<(f64, f64)> {
    if let Curve::Plateau(_) = schedule.curve {
        // It followed the metric, so only the history has it.
        let ends = |r: &EpochMetrics| {
            [r.epoch, r.epoch + 1].map(|e| (f64::from(e) * updates_per_epoch as f64, r.lr))
        };
        return state.history.iter().flat_map(ends).collect();
    }
    let count = state.update.min(LR_POINTS);
    let at = |i: u64| i * state.update.saturating_sub(1) / count.saturating_sub(1).max(1);
    let lr = |update: u64| schedule.lr_at((update / updates_per_epoch) as u32, update, updates_per_epoch);
    (0..count).map(at).map(|update| (update as f64, lr(update))).collect()
}

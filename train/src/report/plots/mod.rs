//! The plots of a run, as SVG and PNG.
mod confusion_matrix;
mod figure;
mod line_chart;

pub use figure::Figure;

use super::EpochMetrics;
use crate::Result;
use crate::checkpoint::durable;
use crate::schedule::{Curve, Schedule};
use crate::trainer::{Evaluation, TrainerState};
use confusion_matrix::ConfusionMatrix;
use line_chart::{LineChart, Series};
use plotters::style::RGBColor;
use std::path::Path;

const BLUE: RGBColor = RGBColor(31, 111, 203);
const ORANGE: RGBColor = RGBColor(214, 98, 20);
/// Points of the learning-rate curve; enough for every bend to show.
const LR_POINTS: u64 = 600;

/// Writes `loss`, `accuracy`, `learning_rate` and `confusion_matrix` into a folder, each as SVG and PNG. `loss` describes the training
/// loss.
pub fn write_plots(
    folder: &Path,
    state: &TrainerState,
    schedule: &Schedule,
    updates_per_epoch: u64,
    loss: &str,
    classes: &[String],
    evaluation: &Evaluation,
) -> Result<()> {
    let by_epoch = |value: fn(&EpochMetrics) -> f64| {
        state.history.iter().map(|r| (f64::from(r.epoch + 1), value(r))).collect::<Vec<_>>()
    };
    let losses = LineChart {
        title: "Loss",
        x_label: "epoch",
        y_label: "mean loss",
        series: vec![
            Series::new(format!("training: {loss}"), ORANGE, by_epoch(|r| r.train_loss)),
            Series::new("validation: cross entropy", BLUE, by_epoch(|r| r.eval_loss)),
        ],
    };
    let accuracy = LineChart {
        title: "Validation accuracy",
        x_label: "epoch",
        y_label: "accuracy (%)",
        series: vec![
            Series::new("top-5", ORANGE, by_epoch(|r| r.eval_top5)),
            Series::new("top-1", BLUE, by_epoch(|r| r.eval_top1)),
        ],
    };
    let confusion = ConfusionMatrix {
        title: format!("Confusion matrix, top-1 accuracy {:.2}%", evaluation.top1),
        classes,
        counts: &evaluation.confusion,
    };
    for (name, figure) in [
        ("loss", Figure::render(&losses)),
        ("accuracy", Figure::render(&accuracy)),
        ("learning_rate", lr_figure(lr_history(state, schedule, updates_per_epoch))),
        ("confusion_matrix", Figure::render(&confusion)),
    ] {
        durable::write(&folder.join(format!("{name}.svg")), figure.svg.as_bytes())?;
        durable::write(&folder.join(format!("{name}.png")), &figure.png)?;
    }
    Ok(())
}

/// A chart of the learning rate by update.
pub fn lr_figure(points: Vec<(f64, f64)>) -> Figure {
    let series = vec![Series::new("learning rate", BLUE, points)];
    Figure::render(&LineChart { title: "Learning rate", x_label: "update", y_label: "learning rate", series })
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

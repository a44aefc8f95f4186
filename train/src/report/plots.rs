//! The plots of a run, as SVG and PNG.
use super::chart::{Chart, Series, draw};
use super::scene::{Colour, Scene};
use super::{EpochReport, confusion, raster, svg};
use crate::Result;
use crate::checkpoint::durable;
use crate::schedule::{Curve, Schedule};
use crate::trainer::{Evaluation, State};
use std::path::Path;

/// Points of the learning rate's line; enough for every bend to show.
const RATE_POINTS: u64 = 600;

/// Writes `loss`, `accuracy`, `learning_rate` and `confusion_matrix` into a folder, each as SVG and PNG.
pub fn write_plots(
    folder: &Path,
    state: &State,
    schedule: &Schedule,
    updates_per_epoch: u64,
    classes: &[String],
    evaluation: &Evaluation,
) -> Result<()> {
    let rows = || state.history.iter();
    let by_epoch =
        |value: fn(&super::EpochReport) -> f64| rows().map(|r| (f64::from(r.epoch + 1), value(r))).collect();
    let loss = Chart {
        title: "Loss",
        x_label: "epoch",
        y_label: "cross entropy, nats (training with its smoothing)",
        series: vec![
            Series { name: "training", colour: Colour::ORANGE, points: by_epoch(|r| r.train_loss) },
            Series { name: "validation", colour: Colour::BLUE, points: by_epoch(|r| r.eval_loss) },
        ],
    };
    let accuracy = Chart {
        title: "Validation accuracy",
        x_label: "epoch",
        y_label: "percent",
        series: vec![
            Series { name: "top-5", colour: Colour::ORANGE, points: by_epoch(|r| r.eval_top5) },
            Series { name: "top-1", colour: Colour::BLUE, points: by_epoch(|r| r.eval_top1) },
        ],
    };
    let title = format!("Confusion matrix, top-1 {:.2}%", evaluation.top1);
    write(folder, "loss", &draw(&loss))?;
    write(folder, "accuracy", &draw(&accuracy))?;
    write(folder, "learning_rate", &rate_chart(rates(state, schedule, updates_per_epoch)))?;
    write(folder, "confusion_matrix", &confusion::draw(&title, classes, &evaluation.confusion))
}

/// A chart of rates by update, as SVG and as PNG.
pub fn rate_plot(points: Vec<(f64, f64)>) -> (String, Vec<u8>) {
    let scene = rate_chart(points);
    (svg::render(&scene), raster::render(&scene))
}

fn rate_chart(points: Vec<(f64, f64)>) -> Scene {
    let series = vec![Series { name: "rate", colour: Colour::BLUE, points }];
    draw(&Chart { title: "Learning rate", x_label: "update", y_label: "rate", series })
}

/// The rate at updates spread over the run so far.
fn rates(state: &State, schedule: &Schedule, updates_per_epoch: u64) -> Vec<(f64, f64)> {
    if let Curve::Plateau(_) = schedule.curve {
        // What it depended on is the past; the rate of an epoch is in the history.
        let ends =
            |r: &EpochReport| [r.epoch, r.epoch + 1].map(|e| (f64::from(e) * updates_per_epoch as f64, r.lr));
        return state.history.iter().flat_map(ends).collect();
    }
    let count = state.update.min(RATE_POINTS);
    let at = |i: u64| i * state.update.saturating_sub(1) / count.saturating_sub(1).max(1);
    let rate = |update: u64| schedule.at((update / updates_per_epoch) as u32, update, updates_per_epoch);
    (0..count).map(at).map(|update| (update as f64, rate(update))).collect()
}

fn write(folder: &Path, name: &str, scene: &Scene) -> Result<()> {
    durable::write(&folder.join(format!("{name}.svg")), svg::render(scene).as_bytes())?;
    durable::write(&folder.join(format!("{name}.png")), &raster::render(scene))
}

//! Curves of the page, from the events of `metrics.jsonl`.
use serde_json::{Value, json};

/// Points of a curve; more are averaged in groups.
const MAX_POINTS: usize = 1500;

/// A curve of a chart: its name, and the value of an event as a path of keys.
#[derive(Clone, Copy)]
struct Curve {
    name: &'static str,
    path: &'static [&'static str],
    /// Factor to the unit of the chart.
    factor: f64,
}

const fn curve(name: &'static str, path: &'static [&'static str], factor: f64) -> Curve {
    Curve { name, path, factor }
}

const MIB: f64 = 1.0 / 1_048_576.0;
type ChartDefinition = (&'static str, &'static str, &'static [Curve]);
const BY_EPOCH: [ChartDefinition; 3] = [
    ("Loss", "", &[curve("validation", &["eval_loss"], 1.0), curve("training", &["train_loss"], 1.0)]),
    ("Accuracy", "%", &[curve("top-1", &["eval_top1"], 1.0), curve("top-5", &["eval_top5"], 1.0)]),
    ("Time per epoch", " s", &[curve("training and evaluation", &["seconds"], 1.0)]),
];
/// The charts of a run with an EMA: the epoch's metrics are the results of its weights.
const BY_EPOCH_WITH_EMA: [ChartDefinition; 3] = [
    (
        "Loss",
        "",
        &[
            curve("validation (EMA)", &["eval_loss"], 1.0),
            curve("training", &["train_loss"], 1.0),
            curve("validation (model)", &["model_eval_loss"], 1.0),
        ],
    ),
    (
        "Accuracy",
        "%",
        &[
            curve("top-1 (EMA)", &["eval_top1"], 1.0),
            curve("top-5 (EMA)", &["eval_top5"], 1.0),
            curve("top-1 (model)", &["model_eval_top1"], 1.0),
            curve("top-5 (model)", &["model_eval_top5"], 1.0),
        ],
    ),
    BY_EPOCH[2],
];
/// The charts of several runs: one curve of each run.
const COMPARED_BY_EPOCH: [ChartDefinition; 5] = [
    ("Accuracy", "%", &[curve("top-1", &["eval_top1"], 1.0)]),
    ("Validation loss", "", &[curve("validation", &["eval_loss"], 1.0)]),
    ("Training loss", "", &[curve("training", &["train_loss"], 1.0)]),
    ("Learning rate", "", &[curve("learning rate", &["lr"], 1.0)]),
    BY_EPOCH[2],
];
const COMPARED_BY_UPDATE: [ChartDefinition; 1] =
    [("Throughput", " images/s", &[curve("images/s", &["images_per_second"], 1.0)])];
const BY_UPDATE: [ChartDefinition; 7] = [
    ("Training loss, mean of the epoch so far", "", &[curve("loss", &["loss"], 1.0)]),
    ("Learning rate", "", &[curve("learning rate", &["lr"], 1.0)]),
    ("Throughput", " images/s", &[curve("images/s", &["images_per_second"], 1.0)]),
    ("Time spent waiting for data", "%", &[curve("data wait", &["data_wait"], 100.0)]),
    (
        "Memory of the device",
        " MiB",
        &[
            curve("allocated", &["memory", "allocated"], MIB),
            curve("peak", &["memory", "peak_allocated"], MIB),
            curve("reserved", &["memory", "reserved"], MIB),
        ],
    ),
    ("Gradient norm", "", &[curve("gradient norm", &["grad_norm"], 1.0)]),
    ("Loss scale", "", &[curve("loss scale", &["loss_scale"], 1.0)]),
];

/// The charts that have values.
pub fn charts(updates: &[&Value], epochs: &[&Value]) -> Vec<Value> {
    let has_ema = epochs.iter().any(|event| !event["model_eval_loss"].is_null());
    let definitions = if has_ema { &BY_EPOCH_WITH_EMA } else { &BY_EPOCH };
    let by_epoch = definitions.iter().filter_map(|definition| chart(definition, "epoch", epochs));
    by_epoch.chain(BY_UPDATE.iter().filter_map(|definition| chart(definition, "update", updates))).collect()
}

/// Events of a run, with its name.
pub struct RunEvents<'a> {
    /// Name of the run.
    pub name: &'a str,
    /// Events of `metrics.jsonl`.
    pub events: &'a [Value],
}

/// The charts of several runs that have values.
pub fn compared(runs: &[RunEvents]) -> Vec<Value> {
    let of_kind = |kind: &str, definition: &ChartDefinition| {
        let (title, unit, [curve]) = definition else { unreachable!("one curve per run") };
        let series = |run: &RunEvents| {
            let events: Vec<&Value> = run.events.iter().filter(|event| event["event"] == kind).collect();
            let points = points(curve, kind, &events);
            let has_values = points.iter().any(|(_, value)| value.is_some());
            has_values.then(|| json!({ "name": run.name, "points": points }))
        };
        let series: Vec<Value> = runs.iter().filter_map(series).collect();
        (!series.is_empty()).then(|| json!({ "title": title, "unit": unit, "x": kind, "series": series }))
    };
    let by_epoch = COMPARED_BY_EPOCH.iter().filter_map(|definition| of_kind("epoch", definition));
    by_epoch.chain(COMPARED_BY_UPDATE.iter().filter_map(|definition| of_kind("update", definition))).collect()
}

fn chart((title, unit, curves): &ChartDefinition, x: &str, events: &[&Value]) -> Option<Value> {
    let series: Vec<Value> = curves
        .iter()
        .map(|curve| (curve, points(curve, x, events)))
        .filter(|(_, points)| points.iter().any(|(_, value)| value.is_some()))
        .map(|(curve, points)| json!({ "name": curve.name, "points": points }))
        .collect();
    (!series.is_empty()).then(|| json!({ "title": title, "unit": unit, "x": x, "series": series }))
}

/// The points of a curve; values that are not finite are absent.
fn points(curve: &Curve, x: &str, events: &[&Value]) -> Vec<(f64, Option<f64>)> {
    let value = |event: &Value| curve.path.iter().try_fold(event, |value, key| value.get(key))?.as_f64();
    let all: Vec<(f64, Option<f64>)> = events
        .iter()
        .filter_map(|event| Some((event[x].as_f64()?, value(event).map(|value| value * curve.factor))))
        .collect();
    let group = all.len().div_ceil(MAX_POINTS).max(1);
    all.chunks(group).map(mean_point).map(|(x, value)| (x, value.map(rounded))).collect()
}

fn mean_point(points: &[(f64, Option<f64>)]) -> (f64, Option<f64>) {
    let x = points.last().map_or(0.0, |point| point.0);
    let values: Vec<f64> = points.iter().filter_map(|point| point.1).collect();
    (x, (!values.is_empty()).then(|| values.iter().sum::<f64>() / values.len() as f64))
}

/// The value with seven significant digits.
fn rounded(value: f64) -> f64 {
    format!("{value:.6e}").parse().unwrap_or(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_that_are_absent_or_not_finite_leave_gaps() {
        let events = [json!({"epoch": 0, "eval_top1": 50.0}), json!({"epoch": 1, "eval_top1": null})];
        let events: Vec<&Value> = events.iter().collect();
        let charts = charts(&[], &events);
        assert_eq!(charts.len(), 1, "{charts:?}");
        assert_eq!(charts[0]["series"], json!([{"name": "top-1", "points": [[0.0, 50.0], [1.0, null]]}]));
    }

    #[test]
    fn long_curves_are_averaged_in_groups() {
        let events: Vec<Value> =
            (1..=3000).map(|i| json!({"update": i, "lr": 2.0 / 3.0 + f64::from(i % 2)})).collect();
        let points = points(&curve("lr", &["lr"], 1.0), "update", &events.iter().collect::<Vec<_>>());
        assert_eq!((points.len(), points[0], points[1499].0), (1500, (2.0, Some(1.166667)), 3000.0));
    }
}

//! The file of `--results-file`: a row per checkpoint, with the columns of timm's `validate.py`.
use super::evaluate::Validation;
use super::output::best_first;
use crate::text::csv_cell;
use clap::ValueEnum;
use serde_json::{Map, Value, json};
use std::path::Path;

/// Format of the file.
#[derive(ValueEnum, Clone, Copy, Debug, PartialEq, Eq)]
pub enum ResultsFormat {
    /// A header and a row per checkpoint
    Csv,
    /// A list of objects
    Json,
}

/// True for a file that can be written again after every checkpoint: neither a device nor a pipe.
pub fn is_replaced(path: &Path) -> bool {
    path.metadata().map_or(true, |found| found.is_file())
}

/// All checkpoints, the best first.
pub fn text(all: &[Validation], format: ResultsFormat) -> String {
    let rows: Vec<Map<String, Value>> = best_first(all).into_iter().map(row).collect();
    if format == ResultsFormat::Json {
        return format!("{:#}\n", Value::from_iter(rows.into_iter().map(Value::Object)));
    }
    let mut lines = vec![
        rows.first()
            .map_or(String::new(), |row| row.keys().map(String::as_str).collect::<Vec<_>>().join(",")),
    ];
    lines.extend(rows.iter().map(|row| row.values().map(cell).collect::<Vec<_>>().join(",")));
    lines.into_iter().map(|line| line + "\r\n").collect()
}

/// The columns of a checkpoint.
fn row(one: &Validation) -> Map<String, Value> {
    let (evaluation, input) = (&one.evaluation, &one.input);
    // Rounded to four digits, as timm.
    let rounded = |value: f64| json!((value * 1e4).round() / 1e4);
    let mut columns = vec![
        ("model", json!(one.model)),
        ("checkpoint", json!(one.source)),
        ("top1", rounded(evaluation.top1)),
        ("top1_err", rounded(100.0 - evaluation.top1)),
        ("top5", rounded(evaluation.top5)),
        ("top5_err", rounded(100.0 - evaluation.top5)),
        ("loss", json!(evaluation.loss)),
        ("param_count", json!((one.parameters as f64 / 1e4).round() / 1e2)),
        ("img_size", json!(input.size[0])),
        ("crop_pct", json!(input.crop_pct)),
        ("crop_mode", json!(value_name(&input.crop_mode))),
        ("interpolation", json!(value_name(&input.filter))),
    ];
    if let Some(metrics) = &one.averages {
        columns.push(("precision", rounded(metrics.precision)));
        columns.push(("recall", rounded(metrics.recall)));
        columns.push(("f1_score", rounded(metrics.f1)));
    }
    columns.into_iter().map(|(name, value)| (name.to_string(), value)).collect()
}

fn cell(value: &Value) -> String {
    match value {
        Value::String(text) => csv_cell(text),
        other => other.to_string(),
    }
}

/// Name of a value on the command line.
pub fn value_name(value: &impl ValueEnum) -> String {
    value.to_possible_value().map_or(String::new(), |value| value.get_name().to_string())
}

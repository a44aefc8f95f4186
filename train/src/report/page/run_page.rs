//! Data of a run's page, from the files of its folder.
use super::super::samples::{CONFUSED_PAIRS, confused_name, read_tiles};
use super::super::{ConfusedPair, ConfusionCounts, metrics_file, thousands};
use super::{charts, duration, tables};
use crate::run_files::regular;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};
use std::path::Path;

/// The data that the page's script reads.
pub(super) fn data(folder: &Path) -> Value {
    let read = |name: &str| regular::read_to_string(&folder.join(name)).unwrap_or_default();
    let events = metrics_file::events(&read("metrics.jsonl"));
    let of_kind = |kind: &str| events.iter().filter(|event| event["event"] == kind).collect::<Vec<_>>();
    let (updates, epochs) = (of_kind("update"), of_kind("epoch"));
    let confusion = ConfusionCounts::read(&folder.join("plots").join("confusion_matrix.json"));
    let environment: Value = serde_json::from_str(&read("env.json")).unwrap_or_else(|_| json!({}));
    let name = folder.file_name().unwrap_or_default().to_string_lossy();
    let version = environment["fornax"].as_str().map_or(String::new(), |version| format!("Fornax {version}"));
    let started =
        environment["started"].as_str().map_or(String::new(), |time| format!(", started {time} UTC"));
    let tables: Vec<Value> =
        [confusion.as_ref().map(tables::per_class), tables::starts(&events)].into_iter().flatten().collect();
    json!({
        "name": name,
        "subtitle": format!("{version}{started}"),
        "cards": cards(&updates, &epochs, confusion.as_ref()),
        "charts": charts::charts(&updates, &epochs),
        "tables": tables,
        "best": { "epoch": confusion.as_ref().map(|counts| counts.epoch) },
        "confusion": confusion,
        "mosaics": mosaics(folder, confusion.as_ref()),
        "args": read("args.yaml"),
        "environment": environment,
    })
}

/// Figures at the top of the page: name and value.
fn cards(updates: &[&Value], epochs: &[&Value], best: Option<&ConfusionCounts>) -> Vec<[String; 2]> {
    let mut cards = vec![];
    let mut card = |name: &str, value: Option<String>| {
        cards.extend(value.map(|value| [name.to_string(), value]));
    };
    let last = epochs.last();
    let of_last = |key: &str| last.and_then(|event| event[key].as_f64());
    let total = updates.last().and_then(|event| event["epochs"].as_u64());
    card("best top-1", best.map(|counts| format!("{:.2}%", counts.top1)));
    card("best epoch", best.map(|counts| counts.epoch.to_string()));
    card("last top-1", of_last("eval_top1").map(|value| format!("{value:.2}%")));
    card("last top-5", of_last("eval_top5").map(|value| format!("{value:.2}%")));
    card("last validation loss", of_last("eval_loss").map(|value| format!("{value:.4}")));
    card("last training loss", of_last("train_loss").map(|value| format!("{value:.4}")));
    let finished = of_last("epoch").map(|epoch| epoch as u64 + 1);
    card(
        "epochs finished",
        finished.map(|count| match total {
            Some(total) => format!("{count} of {total}"),
            None => count.to_string(),
        }),
    );
    let seconds: Vec<f64> = epochs.iter().filter_map(|event| event["seconds"].as_f64()).collect();
    let total: f64 = seconds.iter().sum();
    card("duration of the epochs", (total > 0.0).then(|| duration(total)));
    card("time per epoch", (total > 0.0).then(|| duration(total / seconds.len() as f64)));
    card(
        "mean training speed",
        mean_speed(updates).map(|speed| format!("{} images/s", thousands(speed as u64))),
    );
    cards
}

/// Mean of the epochs' throughput: that of an epoch is in its last update.
pub(super) fn mean_speed(updates: &[&Value]) -> Option<f64> {
    let is_last =
        |(i, event): &(usize, &&Value)| updates.get(i + 1).is_none_or(|next| next["epoch"] != event["epoch"]);
    let last = updates.iter().enumerate().filter(is_last);
    let speeds: Vec<f64> = last.filter_map(|(_, event)| event["images_per_second"].as_f64()).collect();
    (!speeds.is_empty()).then(|| (speeds.iter().sum::<f64>() / speeds.len() as f64).round())
}

/// Sections of images: their titles and mosaics.
fn mosaics(folder: &Path, counts: Option<&ConfusionCounts>) -> Vec<Value> {
    let sample = |name: &str, caption: &str| image(&folder.join("samples").join(name), caption);
    let pair = |(i, pair): (usize, ConfusedPair)| {
        let classes = &counts?.classes;
        let [target, predicted] = [pair.target, pair.predicted].map(|class| &classes[class as usize]);
        let caption = format!("{target} predicted as {predicted}: {}", thousands(pair.count));
        sample(&confused_name(i), &caption)
    };
    let pairs = counts.map_or(vec![], |counts| counts.confused_pairs(CONFUSED_PAIRS));
    let sections = [
        ("Most confused pairs", pairs.into_iter().enumerate().filter_map(pair).collect::<Vec<_>>()),
        (
            "Most confident mistakes",
            sample(
                "mistakes.png",
                "Validation images of the best epoch: label, and prediction with its probability",
            )
            .into_iter()
            .collect(),
        ),
        (
            "Samples",
            [
                sample("train.png", "Augmented training images of the first update, with their labels"),
                sample("validation.png", "Validation images of the best epoch: label, and prediction"),
            ]
            .into_iter()
            .flatten()
            .collect(),
        ),
    ];
    let of_section = |(title, mosaics): (&str, Vec<Value>)| {
        (!mosaics.is_empty()).then(|| json!({ "title": title, "mosaics": mosaics }))
    };
    sections.into_iter().filter_map(of_section).collect()
}

/// An image file with its caption and tiles; `None` if it is absent.
fn image(path: &Path, caption: &str) -> Option<Value> {
    let png = regular::read(path).ok()?;
    Some(json!({ "caption": caption, "png": STANDARD.encode(png), "tiles": read_tiles(path) }))
}

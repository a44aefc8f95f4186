//! `report.html`: one page about a run that needs no other file and no network.
mod charts;

use super::files::{RateLimit, replace};
use super::samples::{CONFUSED_PAIRS, confused_name};
use super::{ConfusionCounts, metrics_file, thousands};
use crate::Result;
use crate::callbacks::{Callback, EpochEnd, TrainEnd};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};
use std::fs;
use std::path::{Path, PathBuf};

const HTML: &str = include_str!("page.html");
const CSS: &str = include_str!("page.css");
const JS: &str = include_str!("page.js");

/// Callback that writes `report.html` from the other files of the run's folder: after epochs, within a twentieth of the time, and at the
/// end.
pub struct PageWriter {
    folder: PathBuf,
    limit: RateLimit,
}

impl PageWriter {
    /// Creates the callback for a run's folder.
    pub fn new(folder: &Path) -> PageWriter {
        PageWriter { folder: folder.into(), limit: RateLimit::default() }
    }
}

impl Callback for PageWriter {
    fn on_epoch_end(&mut self, _event: &EpochEnd) -> Result<()> {
        if self.limit.is_due() { self.limit.measure(|| write_page(&self.folder)) } else { Ok(()) }
    }

    fn on_train_end(&mut self, _event: &TrainEnd) -> Result<()> {
        write_page(&self.folder)
    }
}

/// Writes `report.html` from the files of a run's folder: `metrics.jsonl`, `args.yaml`, `env.json`, `plots/confusion_matrix.json` and the
/// images in `samples/`. Absent files leave out their part of the page.
pub fn write_page(folder: &Path) -> Result<()> {
    replace(&folder.join("report.html"), page(folder).as_bytes())
}

fn page(folder: &Path) -> String {
    let data = page_data(folder);
    // A tag in a text must not end the script element.
    let json = data.to_string().replace('<', "\\u003c");
    let title = escaped(data["name"].as_str().unwrap_or("run"));
    // The data come last: text in braces within them stays.
    let page = HTML.replacen("{title}", &title, 1).replacen("{css}", CSS, 1).replacen("{js}", JS, 1);
    page.replacen("{data}", &json, 1)
}

/// Text as HTML.
fn escaped(text: &str) -> String {
    let entity = |c: char| match c {
        '<' | '>' | '&' | '"' | '{' | '}' => format!("&#{};", u32::from(c)),
        other => other.to_string(),
    };
    text.chars().map(entity).collect()
}

fn page_data(folder: &Path) -> Value {
    let read = |name: &str| fs::read_to_string(folder.join(name)).unwrap_or_default();
    let events = metrics_file::events(&read("metrics.jsonl"));
    let of_kind = |kind: &str| events.iter().filter(|event| event["event"] == kind).collect::<Vec<_>>();
    let (updates, epochs) = (of_kind("update"), of_kind("epoch"));
    let confusion = ConfusionCounts::read(&folder.join("plots").join("confusion_matrix.json"));
    let environment: Value = serde_json::from_str(&read("env.json")).unwrap_or_else(|_| json!({}));
    let name = folder.file_name().unwrap_or_default().to_string_lossy();
    let version = environment["fornax"].as_str().map_or(String::new(), |version| format!("Fornax {version}"));
    let started =
        environment["started"].as_str().map_or(String::new(), |time| format!(", started {time} UTC"));
    json!({
        "name": name,
        "subtitle": format!("{version}{started}"),
        "cards": cards(&updates, &epochs, confusion.as_ref()),
        "charts": charts::charts(&updates, &epochs),
        "best": { "epoch": confusion.as_ref().map(|counts| counts.epoch) },
        "confusion": confusion,
        "pairs": confusion.as_ref().map_or(vec![], |counts| pairs(folder, counts)),
        "samples": samples(folder),
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
    let speed = updates.last().and_then(|event| event["images_per_second"].as_f64());
    card("images/s", speed.map(|speed| thousands(speed.round() as u64)));
    cards
}

/// The most confused pairs that have an image.
fn pairs(folder: &Path, counts: &ConfusionCounts) -> Vec<Value> {
    let pairs = counts.confused_pairs(CONFUSED_PAIRS).into_iter().enumerate();
    let figure = |(i, pair): (usize, super::ConfusedPair)| {
        let [target, predicted] = [pair.target, pair.predicted].map(|class| &counts.classes[class as usize]);
        let caption = format!("{target} predicted as {predicted}: {}", thousands(pair.count));
        image(&folder.join("samples").join(confused_name(i)), &caption)
    };
    pairs.filter_map(figure).collect()
}

fn samples(folder: &Path) -> Vec<Value> {
    let figures = [
        ("train.png", "Augmented training images of the first update, with their labels"),
        (
            "validation.png",
            "Validation images of the best epoch: label, and prediction in green (correct) or red (wrong)",
        ),
    ];
    figures.iter().filter_map(|(name, caption)| image(&folder.join("samples").join(name), caption)).collect()
}

/// An image file with its caption; `None` if it is absent.
fn image(path: &Path, caption: &str) -> Option<Value> {
    let png = fs::read(path).ok()?;
    Some(json!({ "caption": caption, "png": STANDARD.encode(png) }))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The page's data as its script reads them.
    fn data(page: &str) -> Value {
        let start = page.find("id=\"data\">").expect("a data element") + "id=\"data\">".len();
        let end = start + page[start..].find("</script>").expect("its end");
        serde_json::from_str(&page[start..end]).expect("JSON")
    }

    #[test]
    fn page_has_curves_matrix_images_and_settings() {
        let root = tempfile::tempdir().expect("a folder");
        let folder = root.path().join("a<b> {data}");
        for name in ["plots", "samples"] {
            fs::create_dir_all(folder.join(name)).expect("creates");
        }
        let update = |epoch: u32, update: u32| {
            format!(
                "{{\"event\":\"update\",\"epoch\":{epoch},\"epochs\":4,\"update\":{update},\"loss\":0.5,\"lr\":0.1,\
                 \"images_per_second\":1000.4,\"data_wait\":0.25,\"memory\":{{\"allocated\":1048576}}}}\n"
            )
        };
        let epoch = "{\"event\":\"epoch\",\"epoch\":0,\"train_loss\":0.5,\"eval_loss\":0.25,\"eval_top1\":90.0,\"eval_top5\":99.0,\"lr\":0.1}\n";
        fs::write(folder.join("metrics.jsonl"), [update(0, 5), epoch.into(), update(1, 10)].concat())
            .expect("writes");
        fs::write(folder.join("args.yaml"), "model: \"</script><b>\"\n").expect("writes");
        let classes = ["cat", "dog"].map(String::from);
        let counts = ConfusionCounts::new(0, 90.0, &classes, &[0, 0, 1], &[0, 1, 1]);
        counts.write(&folder.join("plots/confusion_matrix.json")).expect("writes");
        fs::write(folder.join("samples/confused-1.png"), b"png").expect("writes");
        write_page(&folder).expect("writes");
        let page = fs::read_to_string(folder.join("report.html")).expect("reads");
        let data = data(&page);
        assert_eq!(data["name"], "a<b> {data}");
        assert!(page.contains("<title>a&#60;b&#62; &#123;data&#125;</title>"), "{page}");
        assert_eq!(data["args"], "model: \"</script><b>\"\n");
        assert_eq!(page.matches("</script>").count(), 2);
        assert_eq!(data["confusion"]["counts"], json!([[0, 0, 1], [0, 1, 1], [1, 1, 1]]));
        assert_eq!(data["pairs"][0]["caption"], "cat predicted as dog: 1");
        assert_eq!(data["pairs"][0]["png"], "cG5n");
        let titles: Vec<_> =
            data["charts"].as_array().expect("charts").iter().map(|c| c["title"].clone()).collect();
        assert!(
            titles.contains(&json!("Accuracy")) && titles.contains(&json!("Learning rate")),
            "{titles:?}"
        );
        assert!(
            data["cards"].as_array().expect("cards").contains(&json!(["epochs finished", "1 of 4"])),
            "{data}"
        );
    }

    #[test]
    fn page_of_an_empty_folder_has_no_parts() {
        let folder = tempfile::tempdir().expect("a folder");
        let data = data(&page(folder.path()));
        assert_eq!((&data["charts"], &data["pairs"], &data["samples"]), (&json!([]), &json!([]), &json!([])));
        assert!(data["confusion"].is_null());
    }

    #[test]
    fn page_refers_to_nothing_outside() {
        let namespace = "http://www.w3.org/2000/svg";
        for text in [HTML, CSS, &JS.replace(namespace, "").replace("url(#clip-", "")] {
            for reference in ["http:", "https:", "url(", "@import", "import(", "fetch(", "<link", "src=\""] {
                assert!(!text.contains(reference), "{reference}");
            }
        }
    }
}

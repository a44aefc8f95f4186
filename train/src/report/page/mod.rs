//! `report.html`: one page about a run that needs no other file and no network.
mod charts;
mod comparison;
mod run_page;
mod tables;

pub use comparison::{ComparedRun, comparison_page, differing_settings};

use super::files::{RateLimit, replace};
use crate::Result;
use crate::callbacks::{Callback, EpochEnd, TrainEnd};
use serde_json::Value;
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
/// images in `samples/`. The page lacks the parts of absent files.
pub fn write_page(folder: &Path) -> Result<()> {
    replace(&folder.join("report.html"), page(&run_page::data(folder)).as_bytes())
}

/// The page of its data, which its script reads.
fn page(data: &Value) -> String {
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

/// A duration such as `1 h 02 min` or `12.3 s`.
pub(super) fn duration(seconds: f64) -> String {
    match seconds {
        ..60.0 => format!("{seconds:.1} s"),
        60.0..3600.0 => format!("{} min {:02} s", seconds as u64 / 60, seconds as u64 % 60),
        _ => format!("{} h {:02} min", seconds as u64 / 3600, seconds as u64 / 60 % 60),
    }
}

#[cfg(test)]
mod tests {
    use super::super::ConfusionCounts;
    use super::*;
    use serde_json::json;
    use std::fs;

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
        let pairs = &data["mosaics"][0];
        assert_eq!(pairs["title"], "Most confused pairs");
        assert_eq!(pairs["mosaics"][0]["caption"], "cat predicted as dog: 1");
        assert_eq!(
            (&pairs["mosaics"][0]["png"], &pairs["mosaics"][0]["tiles"]),
            (&json!("cG5n"), &json!([]))
        );
        assert_eq!(data["tables"][0]["rows"][0], json!(["cat", 2, 100.0, 50.0, 66.67]));
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
        let data = data(&page(&run_page::data(folder.path())));
        assert_eq!(
            (&data["charts"], &data["mosaics"], &data["tables"]),
            (&json!([]), &json!([]), &json!([]))
        );
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

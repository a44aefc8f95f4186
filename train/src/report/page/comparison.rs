//! One page about several runs: curves of all of them, and tables of what differs in results and settings.
use super::super::metrics_file;
use super::charts::{self, RunEvents};
use super::run_page::mean_speed;
use super::{duration, page};
use crate::run_files::{self, regular};
use crate::{Error, Result};
use serde_json::{Map, Value, json};
use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

/// Results and settings of one run.
#[derive(Clone, Debug)]
pub struct ComparedRun {
    /// Name of the run's folder.
    pub name: String,
    /// Settings of `args.yaml` by name.
    pub settings: Map<String, Value>,
    /// Highest top-1 accuracy in percent, and its epoch.
    pub best: Option<(f64, u64)>,
    /// Metrics of the last epoch: top-1 accuracy in percent, validation loss and training loss.
    pub last: [Option<f64>; 3],
    /// Number of finished epochs.
    pub epochs: usize,
    /// Time of the epochs in seconds, if it was logged.
    pub seconds: Option<f64>,
    /// Mean training throughput in images per second.
    pub images_per_second: Option<f64>,
    events: Vec<Value>,
}

impl ComparedRun {
    /// Reads the files of a run's folder. `settings` are those of its `args.yaml`. Errors if the folder has no metrics.
    pub fn read(folder: &Path, settings: Map<String, Value>) -> Result<ComparedRun> {
        run_files::check(folder)?;
        let path = folder.join("metrics.jsonl");
        let text = regular::read_to_string(&path).map_err(|e| {
            Error::data("the folder is not that of a run")
                .at_path(&path)
                .because(e)
                .remedy("pass the folders of runs, such as output/train/RUN")
        })?;
        let events = metrics_file::events(&text);
        let of_kind = |kind: &str| events.iter().filter(|event| event["event"] == kind).collect::<Vec<_>>();
        let (updates, epochs) = (of_kind("update"), of_kind("epoch"));
        let accuracy = |event: &&Value| Some((event["eval_top1"].as_f64()?, event["epoch"].as_u64()?));
        // Of equal accuracies the earlier one.
        let best = epochs.iter().filter_map(accuracy).rev().max_by(|a, b| a.0.total_cmp(&b.0));
        let of_last = |key: &str| epochs.last().and_then(|event| event[key].as_f64());
        let seconds: Vec<f64> = epochs.iter().filter_map(|event| event["seconds"].as_f64()).collect();
        // The canonical name of `.` is that of the folder.
        let canonical = fs::canonicalize(folder).unwrap_or_else(|_| folder.into());
        Ok(ComparedRun {
            name: canonical.file_name().unwrap_or_default().to_string_lossy().into_owned(),
            settings,
            best,
            last: ["eval_top1", "eval_loss", "train_loss"].map(of_last),
            epochs: of_last("epoch").map_or(0, |epoch| epoch as usize + 1),
            seconds: (!seconds.is_empty()).then(|| seconds.iter().sum()),
            images_per_second: mean_speed(&updates),
            events,
        })
    }

    /// Cells of the table of results, as text.
    pub fn results(&self) -> [(&'static str, String); 8] {
        let number = |value: Option<f64>, digits: usize| {
            value.map_or("–".into(), |value| format!("{value:.digits$}"))
        };
        let [top1, eval_loss, train_loss] = self.last;
        [
            ("best top-1 (%)", number(self.best.map(|best| best.0), 2)),
            ("best epoch", self.best.map_or("–".into(), |best| best.1.to_string())),
            ("last top-1 (%)", number(top1, 2)),
            ("last validation loss", number(eval_loss, 4)),
            ("last training loss", number(train_loss, 4)),
            ("epochs", self.epochs.to_string()),
            ("duration", self.seconds.map_or("–".into(), duration)),
            ("images/s", number(self.images_per_second, 0)),
        ]
    }
}

/// Names and values of the settings in which the runs differ; absent ones are null.
pub fn differing_settings(runs: &[ComparedRun]) -> Vec<(String, Vec<Value>)> {
    let names: BTreeSet<&String> = runs.iter().flat_map(|run| run.settings.keys()).collect();
    let values = |name: &String| -> Vec<Value> {
        runs.iter().map(|run| run.settings.get(name).cloned().unwrap_or_default()).collect()
    };
    let rows = names.into_iter().map(|name| (name.clone(), values(name)));
    rows.filter(|(_, values)| values.iter().any(|value| *value != values[0])).collect()
}

/// The page of several runs.
pub fn comparison_page(runs: &[ComparedRun]) -> String {
    let names: Vec<&str> = runs.iter().map(|run| run.name.as_str()).collect();
    let columns: Vec<&str> = [""].into_iter().chain(names.iter().copied()).collect();
    let all: Vec<_> = runs.iter().map(ComparedRun::results).collect();
    let results = all.first().map_or(vec![], |first| {
        let row = |i: usize| {
            let cells = all.iter().map(|of_run| Value::from(of_run[i].1.clone()));
            [Value::from(first[i].0)].into_iter().chain(cells).collect::<Vec<_>>()
        };
        (0..first.len()).map(row).collect()
    });
    let settings: Vec<Vec<Value>> = differing_settings(runs)
        .into_iter()
        .map(|(name, values)| {
            let cells = values.into_iter().map(|value| match value {
                Value::Null => "–".into(),
                Value::String(text) => text.into(),
                other => other.to_string().into(),
            });
            [Value::from(name)].into_iter().chain(cells).collect()
        })
        .collect();
    let events: Vec<RunEvents> =
        runs.iter().map(|run| RunEvents { name: &run.name, events: &run.events }).collect();
    page(&json!({
        "name": format!("Comparison of {} runs", runs.len()),
        "subtitle": names.join(", "),
        "cards": [],
        "charts": charts::compared(&events),
        "tables": [
            { "title": "Results", "note": "", "columns": columns.clone(), "rows": results },
            { "title": "Settings that differ", "note": "", "columns": columns, "rows": settings },
        ],
        "confusion": null,
        "mosaics": [],
        "args": "",
        "environment": {},
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(root: &Path, name: &str, top1: [f64; 2], lr: f64) -> ComparedRun {
        let folder = root.join(name);
        fs::create_dir_all(&folder).expect("creates");
        let epoch = |epoch: usize| {
            format!(
                "{{\"event\":\"epoch\",\"epoch\":{epoch},\"train_loss\":1.0,\"eval_loss\":0.5,\"eval_top1\":{},\"eval_top5\":99.0,\"lr\":0.1,\
                 \"seconds\":30.0}}\n",
                top1[epoch]
            )
        };
        fs::write(folder.join("metrics.jsonl"), epoch(0) + &epoch(1)).expect("writes");
        let settings = json!({"model": "resnet18", "lr": lr});
        ComparedRun::read(&folder, settings.as_object().expect("a map").clone()).expect("a run")
    }

    #[test]
    fn comparison_has_results_curves_and_differing_settings() {
        let root = tempfile::tempdir().expect("a folder");
        let runs = [run(root.path(), "a", [90.0, 90.0], 0.1), run(root.path(), "b<i>", [80.0, 95.5], 0.2)];
        assert_eq!(differing_settings(&runs), [("lr".to_string(), vec![json!(0.1), json!(0.2)])]);
        let results = runs.each_ref().map(ComparedRun::results);
        assert_eq!(results[0][0].1, "90.00");
        assert_eq!((results[0][1].1.as_str(), results[1][1].1.as_str()), ("0", "1"));
        assert_eq!(results[0][6].1, "1 min 00 s");
        let text = comparison_page(&runs);
        assert!(text.contains("Settings that differ") && text.contains("b\\u003ci>"), "{text}");
        let accuracy =
            charts::compared(&runs.each_ref().map(|run| RunEvents { name: &run.name, events: &run.events }));
        let series = &accuracy.iter().find(|chart| chart["title"] == "Accuracy").expect("a chart")["series"];
        assert_eq!(series[1], json!({"name": "b<i>", "points": [[0.0, 80.0], [1.0, 95.5]]}));
    }

    #[test]
    fn folder_without_metrics_is_rejected() {
        let root = tempfile::tempdir().expect("a folder");
        let error = ComparedRun::read(root.path(), Map::new()).expect_err("no run").to_string();
        assert!(error.contains("metrics.jsonl") && error.contains("pass the folders of runs"), "{error}");
    }
}

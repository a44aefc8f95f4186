//! Reports in a run's folder: plots, samples, TensorBoard events, `report.html`.
mod common;

use common::{run, succeed};
use serde_json::Value;
use std::fs;
use std::path::Path;

const TRAIN: &str =
    "train --train-num-samples 256 --val-num-samples 64 --batch-size 64 --progress none --output out";

fn read(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// The data of a page as its script reads them.
fn page_data(folder: &Path) -> Value {
    let page = read(&folder.join("report.html"));
    let (_, rest) = page.split_once("id=\"data\">").expect("a data element");
    serde_json::from_str(rest.split_once("</script>").expect("its end").0).expect("JSON")
}

/// Records of the event files of a folder, oldest file first, after checks of length and checksums.
fn records(folder: &Path) -> Vec<Vec<Vec<u8>>> {
    let entries = fs::read_dir(folder).expect("lists").map(|entry| entry.expect("an entry").path());
    let mut files: Vec<_> = entries
        .filter(|path| {
            path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("events.out.tfevents."))
        })
        .collect();
    files.sort();
    let masked = |data: &[u8]| crc32c::crc32c(data).rotate_right(15).wrapping_add(0xa282_ead8);
    let read = |path| {
        let bytes = fs::read(path).expect("reads");
        let (mut rest, mut records) = (&bytes[..], vec![]);
        while !rest.is_empty() {
            let u32_at = |at: usize| u32::from_le_bytes(rest[at..at + 4].try_into().expect("4 bytes"));
            let length = u64::from_le_bytes(rest[..8].try_into().expect("8 bytes")) as usize;
            assert_eq!(u32_at(8), masked(&rest[..8]), "checksum of the length");
            let data = &rest[12..12 + length];
            assert_eq!(u32_at(12 + length), masked(data), "checksum of the data");
            records.push(data.to_vec());
            rest = &rest[16 + length..];
        }
        records
    };
    files.into_iter().map(read).collect()
}

fn contains(record: &[u8], text: &str) -> bool {
    record.windows(text.len()).any(|window| window == text.as_bytes())
}

#[test]
fn run_folder_has_plots_samples_events_and_a_page() {
    let folder = tempfile::tempdir().expect("a folder");
    succeed(
        folder.path(),
        &format!("{TRAIN} --experiment a --epochs 2 --log-interval 2 --save-images --mixup 0.4"),
    );
    let run = folder.path().join("out/a");
    for name in ["loss", "accuracy", "learning_rate", "confusion_matrix"] {
        assert!(read(&run.join(format!("plots/{name}.svg"))).contains("</svg>"), "{name}");
        assert!(fs::read(run.join(format!("plots/{name}.png"))).expect("reads").starts_with(b"\x89PNG"));
    }
    for name in ["train", "validation", "train-000002", "train-000008"] {
        let png = fs::read(run.join(format!("samples/{name}.png"))).expect(name);
        let decoder = png::Decoder::new(std::io::Cursor::new(png));
        let reader = decoder.read_info().expect("a PNG file");
        assert_eq!(reader.info().width, 8 * (96 + 8) + 8, "{name}");
    }
    let summary = read(&run.join("summary.csv"));
    let rows: Vec<Vec<f64>> = summary
        .lines()
        .skip(1)
        .map(|line| line.split(',').map(|value| value.parse().expect("a number")).collect())
        .collect();
    assert_eq!(rows.iter().map(|row| row[0]).collect::<Vec<_>>(), [0.0, 1.0]);
    let log = read(&run.join("log.txt"));
    assert!(log.contains("\nepoch 1  loss ") && log.contains("\nepoch 0/1  batch "), "{log}");

    let data = page_data(&run);
    let chart = |title: &str| {
        let charts = data["charts"].as_array().expect("charts");
        charts
            .iter()
            .find(|chart| chart["title"] == title)
            .unwrap_or_else(|| panic!("{title} in {charts:?}"))
            .clone()
    };
    let top1 = &chart("Accuracy")["series"][0]["points"];
    for (point, row) in top1.as_array().expect("points").iter().zip(&rows) {
        let value = point[1].as_f64().expect("a number");
        assert!(point[0] == row[0] && (value - row[3]).abs() < 1e-3, "{point} and {row:?}");
    }
    let best = if rows[1][3] > rows[0][3] { &rows[1] } else { &rows[0] };
    assert_eq!(data["confusion"]["epoch"].as_f64(), Some(best[0]));
    let counts = data["confusion"]["counts"].as_array().expect("counts");
    let total: u64 = counts.iter().map(|count| count[2].as_u64().expect("a count")).sum();
    let correct: u64 = counts
        .iter()
        .filter(|count| count[0] == count[1])
        .map(|count| count[2].as_u64().expect("a count"))
        .sum();
    assert_eq!(total, 64);
    assert!((100.0 * correct as f64 / 64.0 - best[3]).abs() < 1e-9, "{correct} and {best:?}");
    assert!(data["args"].as_str().expect("text").contains("mixup: 0.4"));
    let section = |title: &str| {
        let sections = data["mosaics"].as_array().expect("sections");
        let found =
            sections.iter().find(|section| section["title"] == title).unwrap_or_else(|| panic!("{title}"));
        found["mosaics"].as_array().expect("mosaics").clone()
    };
    assert_eq!(section("Samples").len(), 2);
    let mistakes = section("Most confident mistakes")[0]["tiles"].as_array().expect("tiles").clone();
    let confidence = |tile: &Value| -> u32 {
        let (percent, _) =
            tile["note"].as_str().and_then(|note| note.split_once('%')).expect("a probability");
        percent.parse().expect("a number")
    };
    assert!(
        mistakes.iter().all(|tile| tile["tone"] == "wrong")
            && mistakes.is_sorted_by(|a, b| confidence(a) >= confidence(b))
    );
    let classes = data["tables"][0]["rows"].as_array().expect("rows").clone();
    assert_eq!(classes.iter().filter_map(|row| row[1].as_u64()).sum::<u64>(), 64);

    let records = records(&run);
    assert_eq!(records.len(), 1);
    for tag in [
        "train/loss",
        "train/lr",
        "validation/top1",
        "throughput/images_per_second",
        "memory/allocated",
        "weights/conv1.weight",
        "samples/train",
        "samples/validation",
        "confusion_matrix",
        "args.yaml",
        "_hparams_/session_start_info",
    ] {
        assert!(records[0].iter().any(|record| contains(record, tag)), "{tag}");
    }
}

#[test]
fn resumed_run_adds_an_event_file_and_keeps_earlier_curves() {
    let folder = tempfile::tempdir().expect("a folder");
    succeed(folder.path(), &format!("{TRAIN} --experiment a --epochs 1 --sched constant --log-interval 1"));
    succeed(folder.path(), "train --resume out/a --epochs 2 --progress none --log-interval 1");
    let run = folder.path().join("out/a");
    let records = records(&run);
    assert_eq!(records.len(), 2);
    let of_loss = |file: &[Vec<u8>]| file.iter().filter(|record| contains(record, "train/loss")).count();
    assert_eq!((of_loss(&records[0]), of_loss(&records[1])), (4, 4));
    let updates = page_data(&run)["charts"]
        .as_array()
        .and_then(|charts| charts.iter().find(|chart| chart["title"] == "Learning rate"))
        .map(|chart| chart["series"][0]["points"].as_array().map_or(0, Vec::len));
    assert_eq!(updates, Some(8));
}

#[test]
fn run_that_ends_with_a_non_finite_loss_has_the_reports_of_its_epochs() {
    let folder = tempfile::tempdir().expect("a folder");
    let output = run(
        folder.path(),
        &format!(
            "{TRAIN} --experiment a --epochs 4 --sched lambda --lr 1e-3 --warmup-epochs 0 --no-sched-on-updates --lr-lambda 1e30**epoch"
        ),
    );
    assert_eq!(output.status.code(), Some(5), "{}", common::stderr(&output));
    let run = folder.path().join("out/a");
    assert!(run.join("plots/loss.png").exists() && run.join("plots/confusion_matrix.json").exists());
    let data = page_data(&run);
    assert!(!data["charts"].as_array().expect("charts").is_empty());
    let ended = "the training loss is";
    let starts =
        data["tables"].as_array().and_then(|tables| tables.iter().find(|table| table["title"] == "Starts"));
    let reason = starts.expect("a table")["rows"][0][5].as_str().expect("a reason");
    assert!(reason.contains(ended), "{reason}");
    let last_line = |name: &str| read(&run.join(name)).lines().last().expect("a line").to_string();
    assert!(last_line("log.txt").contains(ended) && last_line("metrics.jsonl").contains(ended));
}

/// Events of a kind in `metrics.jsonl`.
fn events(run: &Path, kind: &str) -> Vec<Value> {
    let text = read(&run.join("metrics.jsonl"));
    let all = text.lines().map(|line| serde_json::from_str::<Value>(line).expect("JSON"));
    all.filter(|event| event["event"] == kind).collect()
}

#[test]
fn every_update_of_a_short_epoch_is_a_point() {
    let folder = tempfile::tempdir().expect("a folder");
    succeed(folder.path(), &format!("{TRAIN} --experiment a --epochs 2"));
    let updates = events(&folder.path().join("out/a"), "update");
    assert_eq!(
        updates.iter().filter_map(|event| event["update"].as_u64()).collect::<Vec<_>>(),
        [1, 2, 3, 4, 5, 6, 7, 8]
    );
}

#[test]
fn starts_and_ends_of_a_resumed_run_are_on_record() {
    let folder = tempfile::tempdir().expect("a folder");
    succeed(folder.path(), &format!("{TRAIN} --experiment a --epochs 1"));
    succeed(folder.path(), "train --resume out/a --epochs 2 --progress none");
    let run = folder.path().join("out/a");
    let (starts, ends) = (events(&run, "start"), events(&run, "end"));
    assert_eq!(starts.iter().map(|event| event["epoch"].as_u64()).collect::<Vec<_>>(), [Some(0), Some(1)]);
    assert!(
        starts
            .iter()
            .all(|event| event["ranks"] == 1 && event["host"].as_str().is_some_and(|host| !host.is_empty()))
    );
    assert!(
        ends.len() == 2
            && ends
                .iter()
                .all(|event| event["reason"] == "all epochs are trained"
                    && event["seconds"].as_f64() > Some(0.0))
    );
    assert!(events(&run, "epoch").iter().all(|event| event["seconds"].as_f64() > Some(0.0)));
    let env: Value = serde_json::from_str(&read(&run.join("env.json"))).expect("JSON");
    let command = |start: &Value| {
        start["command"]
            .as_array()
            .expect("words")
            .iter()
            .filter_map(Value::as_str)
            .collect::<Vec<_>>()
            .join(" ")
    };
    assert!(command(&env).contains("--experiment a") && !command(&env).contains("--resume"), "{env}");
    assert!(command(&env["resumed"][0]).contains("--resume out/a"), "{env}");
    let log = read(&run.join("log.txt"));
    assert!(
        log.contains("started 20")
            && log.contains("resumed 20")
            && log.matches("all epochs are trained").count() == 2,
        "{log}"
    );
}

#[test]
fn metrics_and_curves_have_model_and_ema() {
    let folder = tempfile::tempdir().expect("a folder");
    succeed(folder.path(), &format!("{TRAIN} --experiment a --epochs 2 --model-ema --model-ema-decay 0.5"));
    let run = folder.path().join("out/a");
    let epochs = events(&run, "epoch");
    assert!(
        epochs
            .iter()
            .all(|event| event["model_eval_loss"].is_f64() && event["model_eval_loss"] != event["eval_loss"])
    );
    let header = read(&run.join("summary.csv"));
    assert!(
        header.starts_with(
            "epoch,train_loss,eval_loss,eval_top1,eval_top5,lr,model_eval_loss,model_eval_top1,"
        ),
        "{header}"
    );
    let data = page_data(&run);
    let names: Vec<&str> = data["charts"][0]["series"]
        .as_array()
        .expect("series")
        .iter()
        .filter_map(|s| s["name"].as_str())
        .collect();
    assert_eq!(names, ["validation (EMA)", "training", "validation (model)"]);
    let svg = read(&run.join("plots/accuracy.svg"));
    assert!(svg.contains("top-1 (EMA)") && svg.contains("top-1 (model)"), "{svg}");
}

#[test]
fn compared_runs_are_on_one_page() {
    let folder = tempfile::tempdir().expect("a folder");
    for (name, lr) in [("a", "0.1"), ("b", "0.01")] {
        succeed(folder.path(), &format!("{TRAIN} --experiment {name} --epochs 1 --lr {lr}"));
    }
    let text = succeed(folder.path(), "compare out/a out/b -o both.html");
    let lr = text.lines().find(|line| line.starts_with("lr ")).expect("a row");
    assert_eq!(lr.split_whitespace().collect::<Vec<_>>(), ["lr", "0.1", "0.01"]);
    assert!(text.ends_with("both.html\n") && !text.contains("weight_decay"), "{text}");
    let page = read(&folder.path().join("both.html"));
    assert!(page.contains("Settings that differ") && page.contains("<title>Comparison of 2 runs</title>"));
    let lines = succeed(folder.path(), "compare out/a out/b --json");
    let first: Value = serde_json::from_str(lines.lines().next().expect("a line")).expect("JSON");
    assert_eq!((&first["epochs"], &first["settings"]["lr"]), (&Value::from(1), &Value::from(0.1)));
    let output = run(folder.path(), "compare out/a out");
    assert_eq!(output.status.code(), Some(3), "{}", common::stderr(&output));
}

//! `--trace`: the trace of an update on the emulated device, and refused combinations.
mod common;
#[path = "common/ranks.rs"]
#[allow(dead_code)]
mod ranks;
#[path = "common/small_dataset.rs"]
mod small_dataset;

use common::{run, stderr, succeed};
use ranks::free_port;
use serde_json::Value;
use small_dataset::{SMALL_DATASET, write_small_dataset};
use std::fs;
use std::path::Path;

const EPOCH: &str =
    "train --epochs 1 --warmup-epochs 0 --progress none --print-hash --output out --device emulated";

fn events(folder: &Path) -> Vec<Value> {
    let text = fs::read_to_string(folder.join("trace.json")).expect("reads");
    let trace: Value = serde_json::from_str(&text).expect("JSON");
    trace["traceEvents"].as_array().expect("a list").clone()
}

#[test]
fn trace_has_kernels_uploads_and_waits_of_the_third_update() {
    let folder = tempfile::tempdir().expect("a folder");
    write_small_dataset(folder.path());
    let hash = |more: &str| {
        let out =
            succeed(folder.path(), &format!("{EPOCH} {SMALL_DATASET} --batch-size 4 --workers 0 {more}"));
        out.lines().last().expect("a line").to_string()
    };
    let traced = hash("--experiment traced --trace trace.json");
    let events = events(folder.path());
    let names = |kind: &str| -> Vec<&str> {
        let of_kind = events.iter().filter(|event| event["ph"] == kind);
        of_kind
            .map(|event| event["args"]["name"].as_str().or(event["name"].as_str()).expect("a name"))
            .collect()
    };
    assert_eq!(names("M"), ["update 3", "host", "compute stream", "copy stream"]);
    let intervals = names("X");
    for name in ["wait for batches", "queue the update", "upload"] {
        assert!(intervals.contains(&name), "{name}: {intervals:?}");
    }
    assert!(intervals.iter().any(|name| name.contains("conv")), "{intervals:?}");
    let compute: Vec<(f64, f64)> = events
        .iter()
        .filter(|event| event["ph"] == "X" && event["tid"] == 1)
        .map(|event| (event["ts"].as_f64().expect("a number"), event["dur"].as_f64().expect("a number")))
        .collect();
    assert!(compute.len() > 20, "{}", compute.len());
    for pair in compute.windows(2) {
        let [(start, duration), (next, _)] = pair else { unreachable!("pairs") };
        assert!(*start >= 0.0 && *duration > 0.0 && next + 1e-3 >= start + duration, "{pair:?}");
    }
    assert_eq!(traced, hash("--experiment plain"), "the result does not depend on the trace");
}

#[test]
fn group_of_one_rank_launches_what_a_single_process_launches() {
    let folder = tempfile::tempdir().expect("a folder");
    write_small_dataset(folder.path());
    let kernels = |more: &str| {
        let options = "--batch-size 4 --workers 0 --trace trace.json";
        succeed(folder.path(), &format!("{EPOCH} {SMALL_DATASET} {options} {more}"));
        let on_device =
            events(folder.path()).into_iter().filter(|event| event["ph"] == "X" && event["tid"] != 0);
        on_device.map(|event| event["name"].as_str().expect("a name").to_string()).collect::<Vec<_>>()
    };
    let rank = format!(
        "--rank 0 --world-size 1 --local-rank 0 --master-addr 127.0.0.1 --master-port {}",
        free_port()
    );
    assert_eq!(kernels(&format!("--experiment rank {rank}")), kernels("--experiment single"));
}

#[test]
fn trace_that_cannot_work_is_refused() {
    let folder = tempfile::tempdir().expect("a folder");
    let cases = [
        ("--device cpu --trace a.json", "--trace needs a CUDA device"),
        ("--device emulated --cuda-graph --trace a.json", "--trace does not work with --cuda-graph"),
        ("--device emulated --trace missing/a.json", "the folder of --trace does not exist"),
    ];
    for (arguments, message) in cases {
        let output = run(folder.path(), &format!("train --progress none {arguments}"));
        assert_eq!(output.status.code(), Some(2), "{arguments}: {}", stderr(&output));
        assert!(stderr(&output).contains(message), "{arguments}: {}", stderr(&output));
    }
    assert_eq!(fs::read_dir(folder.path()).expect("lists").count(), 0, "nothing is left behind");
}

//! `--device`: training on the emulated CUDA device, and errors for missing devices.
mod common;
#[path = "common/small_dataset.rs"]
mod small_dataset;

use common::{run, stderr, succeed};
use serde_json::Value;
use small_dataset::{SMALL_DATASET, write_small_dataset};
use std::fs;
use std::path::Path;

const EPOCH: &str = "train --epochs 1 --warmup-epochs 0 --progress none --log-interval 1 --output out";

/// The running mean of the loss within the epoch, after every update of a run.
fn losses(run: &Path) -> Vec<f64> {
    let lines = fs::read_to_string(run.join("metrics.jsonl")).expect("reads");
    let events = lines.lines().map(|line| serde_json::from_str::<Value>(line).expect("JSON"));
    events.filter(|e| e["event"] == "update").map(|e| e["loss"].as_f64().expect("a number")).collect()
}

#[test]
fn emulated_device_matches_cpu_losses() {
    let folder = tempfile::tempdir().expect("a folder");
    succeed(folder.path(), &format!("{EPOCH} --device cpu --experiment cpu"));
    succeed(folder.path(), &format!("{EPOCH} --device emulated --experiment emulated"));
    let [on_cpu, emulated] = ["cpu", "emulated"].map(|name| losses(&folder.path().join("out").join(name)));
    assert_eq!(on_cpu.len(), 44);
    assert_eq!(emulated.len(), 44);
    for (update, (cpu, emulated)) in on_cpu.iter().zip(&emulated).enumerate() {
        // Rounding differs, and training amplifies the difference, strongly once a ReLU input changes its sign.
        let tolerance = if update < 12 { 2e-6 } else { 2e-3 };
        assert!((cpu - emulated).abs() <= tolerance * cpu, "update {update}: {cpu} and {emulated}");
    }
}

#[test]
fn resume_on_device_matches_uninterrupted_run() {
    let folder = tempfile::tempdir().expect("a folder");
    write_small_dataset(folder.path());
    let hash = |arguments: &str| {
        let out = succeed(folder.path(), arguments);
        out.lines().last().expect("a line").to_string()
    };
    let two = EPOCH.replace("--epochs 1", "--epochs 2") + " --device emulated --print-hash " + SMALL_DATASET;
    let whole = hash(&format!("{two} --experiment whole"));
    assert_eq!(whole.len(), 64, "{whole}");
    // As if interrupted after the first of two epochs: with a constant learning rate the first epochs of both runs are equal.
    let constant = format!("{two} --sched constant");
    let expected = hash(&format!("{constant} --experiment constant"));
    let first = constant.replace("--epochs 2", "--epochs 1");
    hash(&format!("{first} --experiment first"));
    let resumed = "train --resume out/first --epochs 2 --device emulated --progress none --print-hash";
    assert_eq!(hash(resumed), expected);
    assert_ne!(whole, expected);
}

#[test]
fn missing_device_is_rejected() {
    let folder = tempfile::tempdir().expect("a folder");
    for device in ["cuda:63", "emulated:65"] {
        let output = run(folder.path(), &format!("train --device {device}"));
        assert_eq!(output.status.code(), Some(9), "{device}");
        let text = stderr(&output);
        assert!(text.contains("--device") && text.contains("fornax doctor"), "{text}");
    }
    let output = run(folder.path(), "train --device gpu");
    assert_eq!(output.status.code(), Some(2));
    assert!(stderr(&output).contains("auto, cpu, cuda"), "{}", stderr(&output));
    assert_eq!(fs::read_dir(folder.path()).expect("lists").count(), 0, "nothing is left behind");
}

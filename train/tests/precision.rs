//! Mixed precision, loss scaling and gradient checkpointing from the command line.
mod common;
#[path = "common/sweep.rs"]
mod sweep;

use common::{run, stderr, succeed};
use serde_json::Value;
use std::fs;
use std::path::Path;
use sweep::is_full_sweep;

const DIGITS: &str = "train --device cpu --progress none --output out --json";

fn top1(folder: &Path, flags: &str) -> f64 {
    let text = succeed(folder, &format!("{DIGITS} --epochs 12 {flags}"));
    let last: Value = serde_json::from_str(text.lines().last().expect("a line")).expect("JSON");
    last["top1"].as_f64().expect("a number")
}

#[test]
fn every_opt_level_trains_digits_about_as_well_as_f32() {
    let folder = tempfile::tempdir().expect("a folder");
    let full = top1(folder.path(), "");
    let all =
        ["--amp", "--opt-level O3", "--amp --amp-dtype bfloat16", "--opt-level O2", "--grad-checkpointing"];
    // The first two have loss scaling in mixed and in pure half precision.
    for flags in &all[..if is_full_sweep() { 5 } else { 2 }] {
        // 359 images: one of them is 0.28 points.
        let got = top1(folder.path(), flags);
        assert!(got >= full - 2.5, "{flags}: {got}, in f32 {full}");
    }
}

#[test]
fn resume_restores_loss_scale_and_matches_uninterrupted_run() {
    let folder = tempfile::tempdir().expect("a folder");
    let digits = "train --device cpu --progress none --output out --batch-size 64 --sched constant --warmup-epochs 0 --print-hash";
    let hash = |flags: &str| succeed(folder.path(), flags).lines().last().expect("a line").to_string();
    for flags in [
        "--amp",
        "--amp --amp-dtype bfloat16 --opt adamw",
        "--opt-level O3 --clip-grad 1 --grad-accum-steps 3",
    ] {
        let whole = hash(&format!("{digits} {flags} --epochs 2 --experiment whole --overwrite"));
        let first = hash(&format!("{digits} {flags} --epochs 1 --experiment first --overwrite"));
        let resumed = hash("train --device cpu --progress none --print-hash --resume out/first --epochs 2");
        assert_eq!(resumed, whole, "{flags}");
        assert_ne!(first, whole);
    }
    // A lost loss scale would restart at its initial value.
    let header = fs::read(folder.path().join("out/whole/checkpoints/last.safetensors")).expect("reads");
    assert!(String::from_utf8_lossy(&header).contains("optimizer/loss_scale"));
}

#[test]
fn metrics_report_loss_scale_and_grad_norm() {
    let folder = tempfile::tempdir().expect("a folder");
    succeed(folder.path(), &format!("{DIGITS} --epochs 1 --amp --log-interval 1 --experiment a"));
    let lines = fs::read_to_string(folder.path().join("out/a/metrics.jsonl")).expect("reads");
    let updates: Vec<Value> = lines
        .lines()
        .map(|line| serde_json::from_str(line).expect("JSON"))
        .filter(|event: &Value| event["event"] == "update")
        .collect();
    assert_eq!(updates.len(), 44);
    for update in &updates {
        let scale = update["loss_scale"].as_f64().expect("a scale");
        assert!((1.0..=65536.0).contains(&scale) && scale.log2().fract() == 0.0, "{update}");
        assert!(update["grad_norm"].as_f64().is_none_or(|norm| norm > 0.0), "{update}");
    }
}

#[test]
fn contradictory_flags_and_impossible_values_are_rejected() {
    let folder = tempfile::tempdir().expect("a folder");
    for (flags, word) in [
        ("--amp --opt-level O0", "--opt-level"),
        ("--no-amp --opt-level O2", "--opt-level"),
        ("--amp --amp-dtype float8", "float16"),
        ("--opt-level O4", "O3"),
        ("--clip-grad 0", "--clip-grad"),
        ("--grad-accum-steps 0", "--grad-accum-steps"),
    ] {
        let output = run(folder.path(), &format!("{DIGITS} --epochs 1 {flags}"));
        assert_eq!(output.status.code(), Some(2), "{flags}");
        assert!(stderr(&output).contains(word), "{flags}: {}", stderr(&output));
    }
    assert_eq!(fs::read_dir(folder.path()).expect("lists").count(), 0, "nothing is left behind");
}

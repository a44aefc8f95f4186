//! Several runs in one command: `--seeds`.
mod common;
#[path = "common/small_dataset.rs"]
mod small_dataset;

use common::{command, run, stderr, succeed};
use serde_json::Value;
use small_dataset::{SMALL_DATASET, write_small_dataset};
use std::fs;
use std::io::{BufRead, BufReader};
use std::process::Stdio;

fn train(more: &str) -> String {
    format!("train {SMALL_DATASET} --epochs 3 --warmup-epochs 0 --threads 1 --output out {more}")
}

fn result(stdout: &str) -> Value {
    serde_json::from_str(stdout.lines().last().expect("a line")).expect("JSON")
}

#[test]
fn runs_of_several_seeds_are_those_of_single_seeds() {
    let folder = tempfile::tempdir().expect("a folder");
    write_small_dataset(folder.path());
    let line = train("--seeds 1,5..7 --experiment all --progress none --json --print-hash");
    let all = result(&succeed(folder.path(), &line));
    assert_eq!(all["seeds"], serde_json::json!([1, 5, 6]));
    let written = fs::read_to_string(folder.path().join("out/all/seeds.json")).expect("reads");
    assert_eq!(serde_json::from_str::<Value>(&written).expect("JSON"), all);
    let best: Vec<f64> = all["best"].as_array().expect("a list").iter().filter_map(Value::as_f64).collect();
    let mean = best.iter().sum::<f64>() / 3.0;
    let std = (best.iter().map(|value| (value - mean).powi(2)).sum::<f64>() / 2.0).sqrt();
    for (key, expected) in [("mean", mean), ("std", std)] {
        assert!((all[key].as_f64().expect("a number") - expected).abs() < 1e-9, "{key}: {all}");
    }
    assert_eq!(all["metric"], "top1");
    let hash = |i: usize| all["runs"][i]["sha256"].as_str().expect("a hash").to_string();
    assert_ne!(hash(0), hash(1));
    let single = succeed(folder.path(), &train("--seed 5 --experiment one --progress none --print-hash"));
    assert_eq!(single.lines().last(), Some(hash(1).as_str()));
    let settings = fs::read_to_string(folder.path().join("out/all/seed-5/args.yaml")).expect("reads");
    assert!(settings.contains("seed: 5\n") && !settings.contains("seeds"), "{settings}");

    let text = succeed(folder.path(), &train("--seeds 5,1 --experiment text --progress none"));
    assert!(text.contains("seed 5\ntop-1 ") && text.contains("best top1 of 2 seeds: mean "), "{text}");
    assert!(text.contains("standard deviation") && text.trim_end().ends_with("out/text"), "{text}");
}

#[test]
fn interrupted_seeds_continue_where_they_stopped() {
    let folder = tempfile::tempdir().expect("a folder");
    write_small_dataset(folder.path());
    let line = |name: &str| {
        train(&format!(
            "--seeds 0..3 --experiment {name} --resume auto --progress plain --log-interval 1 --json --print-hash"
        ))
    };
    let hashes = |result: &Value| -> Vec<Value> {
        result["runs"].as_array().expect("a list").iter().map(|run| run["sha256"].clone()).collect()
    };
    let whole = result(&succeed(folder.path(), &line("whole")));
    let mut child = command(folder.path(), &line("parts"))
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the binary starts");
    let mut lines = BufReader::new(child.stderr.take().expect("piped")).lines().map_while(Result::ok);
    lines.by_ref().find(|line| line.starts_with("seed 1: run 2 of 3")).expect("the second run");
    lines.find(|line| line.contains("  batch ")).expect("its first update");
    child.kill().expect("it is a child");
    child.wait().expect("it is a child");
    let first = folder.path().join("out/parts/seed-0/summary.csv");
    let finished = fs::read(&first).expect("the first run is finished");
    assert!(!folder.path().join("out/parts/seed-2").exists());
    let resumed = result(&succeed(folder.path(), &line("parts")));
    assert_eq!(hashes(&resumed), hashes(&whole));
    assert_eq!(resumed["best"], whole["best"]);
    assert_eq!(fs::read(&first).expect("reads"), finished, "a finished run is not trained again");
}

#[test]
fn seeds_that_contradict_other_options_are_refused() {
    let folder = tempfile::tempdir().expect("a folder");
    write_small_dataset(folder.path());
    for (arguments, parts) in [
        ("--seeds 1,2 --seed 3", ["--seed would have no effect", "use one of the two"]),
        ("--seeds 1,2 --resume out/a", ["--resume PATH does not work with --seeds", "--resume auto"]),
        ("--seeds 1,2 --resume auto", ["needs --experiment", "name the run"]),
        ("--seeds 1,1 --experiment a", ["given twice", "--seeds"]),
        ("--seeds 3..3", ["empty range", "--seeds"]),
        ("--seeds x", ["1,2,3, 0-2 or 0..3", "--seeds"]),
        ("--seeds 1,2 --fast-dev-run 1", ["--fast-dev-run does not work with --seeds", "omit --seeds"]),
    ] {
        let output = run(folder.path(), &train(arguments));
        let text = stderr(&output);
        assert_eq!(output.status.code(), Some(2), "{arguments}: {text}");
        assert!(parts.iter().all(|part| text.contains(part)), "{arguments}: {text}");
    }
    let output = run(folder.path(), &format!("lr-find {SMALL_DATASET} --seeds 1,2"));
    assert!(stderr(&output).contains("--seeds is an option of `fornax train`"), "{}", stderr(&output));
    assert!(!folder.path().join("out").exists(), "nothing was trained");
    // A used folder of a later seed is refused before the first one trains.
    fs::create_dir_all(folder.path().join("out/a/seed-2")).expect("a folder");
    fs::write(folder.path().join("out/a/seed-2/mine"), "mine").expect("writes");
    let output = run(folder.path(), &train("--seeds 1,2 --experiment a"));
    assert!(stderr(&output).contains("not empty"), "{}", stderr(&output));
    assert!(!folder.path().join("out/a/seed-1").exists());
    // The command line's seeds replace the seed of a file.
    fs::write(folder.path().join("c.yaml"), "seed: 7\nepochs: 1\n").expect("writes");
    let plan = succeed(folder.path(), &format!("config show -c c.yaml {SMALL_DATASET} --seeds 0..2"));
    assert!(plan.lines().any(|line| line.starts_with("seeds ") && line.contains("0,1")), "{plan}");
}

//! `--fast-dev-run` and `--overfit-batches`.
mod common;
#[path = "common/small_dataset.rs"]
mod small_dataset;

use common::{run, stderr, succeed};
use serde_json::Value;
use small_dataset::{SMALL_DATASET, write_small_dataset};

fn json(stdout: &str) -> Value {
    serde_json::from_str(stdout.lines().last().expect("a line")).expect("JSON")
}

#[test]
fn fast_dev_run_trains_and_validates_n_batches_and_leaves_no_files() {
    let folder = tempfile::tempdir().expect("a folder");
    let arguments = "train --fast-dev-run 3 --batch-size 16 --validation-batch-size 8 --json --log-interval 1 --progress json";
    let output = run(folder.path(), arguments);
    assert!(output.status.success(), "{}", stderr(&output));
    let updates = stderr(&output).lines().filter(|line| line.contains("\"event\":\"update\"")).count();
    assert_eq!(updates, 3, "{}", stderr(&output));
    let result = json(&String::from_utf8(output.stdout).expect("UTF-8"));
    assert_eq!(result["epochs"], 1);
    assert!(result["output"].is_null());
    // 24 validation images.
    let correct = result["top1"].as_f64().expect("a percentage") * 24.0 / 100.0;
    assert!((correct - correct.round()).abs() < 1e-9, "{result}");
    assert_eq!(std::fs::read_dir(folder.path()).expect("lists").count(), 0);
}

#[test]
fn overfitted_batches_are_learnt_by_heart() {
    let folder = tempfile::tempdir().expect("a folder");
    write_small_dataset(folder.path());
    let arguments = format!(
        "train {SMALL_DATASET} --overfit-batches 1 --epochs 60 --warmup-epochs 0 --no-aug --lr 0.05 --progress none --json --output o --experiment a"
    );
    let result = json(&succeed(folder.path(), &arguments));
    assert_eq!(result["top1"], 100.0, "{result}");
    let settings = std::fs::read_to_string(folder.path().join("o/a/args.yaml")).expect("reads");
    assert!(settings.contains("train_num_samples: 16"), "{settings}");
    // The same command line continues the run, and other images are not trained on by accident.
    let again = arguments.replace("--epochs 60", "--epochs 61") + " --resume auto";
    assert_eq!(json(&succeed(folder.path(), &again))["epochs"], 61);
    let output =
        run(folder.path(), "train --resume o/a --overfit-batches 2 --train-num-samples 32 --epochs 62");
    assert_eq!(output.status.code(), Some(3), "{}", stderr(&output));
    assert!(stderr(&output).contains("the training data have changed"), "{}", stderr(&output));
}

#[test]
fn automatic_batch_size_is_a_power_of_two_that_is_recorded_and_kept() {
    let folder = tempfile::tempdir().expect("a folder");
    let output = run(
        folder.path(),
        "train --batch-size auto --epochs 1 --warmup-epochs 0 --progress plain --output o --experiment a",
    );
    assert!(output.status.success(), "{}", stderr(&output));
    assert!(stderr(&output).contains("--batch-size auto: 256 images"), "{}", stderr(&output));
    let settings = std::fs::read_to_string(folder.path().join("o/a/args.yaml")).expect("reads");
    assert!(settings.contains("batch_size: 256"), "{settings}");
    // A resumed run does not measure again.
    let output = run(folder.path(), "train --resume o/a --batch-size auto --progress none");
    assert!(output.status.success() && !stderr(&output).contains("auto"), "{}", stderr(&output));
    // Never more than the training images.
    write_small_dataset(folder.path());
    let small = SMALL_DATASET.replace("--batch-size 16", "--batch-size auto");
    let output = run(folder.path(), &format!("train {small} --dry-run"));
    assert!(stderr(&output).contains("--batch-size auto: 32 images"), "{}", stderr(&output));
    let output = run(folder.path(), "schedule --batch-size auto");
    assert_eq!(output.status.code(), Some(2));
}

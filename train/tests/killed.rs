//! Runs whose process is killed at a chosen point.
mod common;
#[allow(dead_code)]
#[path = "common/small_dataset.rs"]
mod small_dataset;

use common::{command, succeed};
use fornax::checkpoint;
use fornax::trainer::TrainerState;
use std::fs;
use std::time::{Duration, Instant};

/// A process that is killed while it evaluates has every update of the epoch in `last`, and the resumed run begins with the evaluation.
#[test]
fn run_that_is_killed_within_an_evaluation_resumes_to_the_same_bits() {
    let folder = tempfile::tempdir().expect("a folder");
    // Two updates an epoch; the evaluation takes much longer.
    small_dataset::write_dataset(&folder.path().join("small"), 60_000);
    let settings = "--dataset idx --data-dir small --batch-size 16 --epochs 3 --warmup-epochs 0 --workers 1 --model-ema --model-ema-decay 0.9 --output out --log-interval 1 --progress none --print-hash";
    let whole = succeed(folder.path(), &format!("train {settings} --experiment whole"));
    let again = format!("train {settings} --experiment killed --resume auto");
    let mut child = command(folder.path(), &again).spawn().expect("starts");
    let last = folder.path().join("out/killed/checkpoints/last.safetensors");
    let state = || checkpoint::read(&last).ok().map(|checkpoint| checkpoint.header.state);
    let is_trained = |state: &TrainerState| (state.epoch, state.batch) == (1, 2);
    let started = Instant::now();
    while !state().as_ref().is_some_and(is_trained) {
        assert!(started.elapsed() < Duration::from_secs(120), "no progress");
        std::thread::sleep(Duration::from_millis(5));
    }
    std::thread::sleep(Duration::from_millis(50));
    // SIGKILL.
    child.kill().expect("runs");
    assert_eq!(child.wait().expect("ends").code(), None, "killed");
    let killed = state().expect("a whole checkpoint");
    assert!(is_trained(&killed) && killed.history.len() == 1, "within the evaluation of epoch 1: {killed:?}");
    let resumed = succeed(folder.path(), &again);
    assert_eq!(whole.lines().last(), resumed.lines().last());
    let summary = |run: &str| fs::read_to_string(folder.path().join(format!("out/{run}/summary.csv")));
    assert_eq!(summary("whole").expect("reads"), summary("killed").expect("reads"));
}

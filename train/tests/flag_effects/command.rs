//! Cases of the flags of a run that are not settings: device, output folder, display.
use crate::case::{Case, assert_effects, check, tested};
use crate::common::{run, stderr, succeed};
use crate::files::events;
use serde_json::Value;
use std::fs;
use std::path::Path;

pub const CASES: &[Case] = &[
    tested("config", "own_images.rs", "full_recipe_trains_on_jpegs_and_does_not_depend_on_the_prefetcher"),
    tested("help", "cli.rs", "help_matches_snapshots"),
    tested("help_all", "cli.rs", "help_matches_snapshots"),
    tested("allow_changed_data", "bad_images.rs", "changed_training_data_need_consent_and_the_classes_stay"),
    tested("resume", "cli.rs", "resume_mid_epoch_matches_uninterrupted_run"),
    check("threads", threads_compute_the_same),
    check("device", device_is_in_the_plan),
    tested("devices", "distributed.rs", "devices_flag_starts_one_process_per_device"),
    check("cuda_graph", captured_updates_have_memory_of_their_own),
    tested("dry_run", "cli.rs", "command_line_overrides_files_and_files_override_defaults"),
    tested("fast_dev_run", "trial.rs", "fast_dev_run_trains_and_validates_n_batches_and_leaves_no_files"),
    tested("overfit_batches", "trial.rs", "overfitted_batches_are_learnt_by_heart"),
    tested("output", "cli.rs", "run_writes_documented_files"),
    tested("experiment", "cli.rs", "run_writes_documented_files"),
    check("overwrite", overwrite_replaces_a_run),
    tested("progress", "cli.rs", "progress_goes_to_stderr_in_the_chosen_mode"),
    check("log_interval", log_lines_are_so_many_updates_apart),
    tested("json", "cli.rs", "run_writes_documented_files"),
    tested("trace", "trace.rs", "trace_has_kernels_uploads_and_waits_of_the_third_update"),
    tested("print_hash", "cli.rs", "equal_settings_give_equal_bits"),
];

const TRAIN: &str = "train --train-num-samples 32 --val-num-samples 8 --batch-size 8 --epochs 1 --warmup-epochs 0 --progress none --output out --print-hash";

/// Trains with further flags; the hash of the final state.
fn hash(folder: &Path, flags: &str) -> String {
    let text = succeed(folder, &format!("{TRAIN} {flags}"));
    let hash = text.lines().last().expect("a line").to_string();
    assert_eq!(hash.len(), 64, "{text}");
    hash
}

fn threads_compute_the_same() {
    let folder = tempfile::tempdir().expect("a folder");
    let [one, three] = [1, 3].map(|threads| {
        let hash = hash(folder.path(), &format!("--threads {threads} --experiment {threads}"));
        let text = fs::read_to_string(folder.path().join(format!("out/{threads}/env.json"))).expect("reads");
        let env: Value = serde_json::from_str(&text).expect("JSON");
        assert_eq!(env["threads"], threads);
        hash
    });
    assert_eq!(one, three);
}

fn device_is_in_the_plan() {
    let folder = tempfile::tempdir().expect("a folder");
    for (device, name) in [("cpu", "on cpu"), ("emulated", "on cuda:0")] {
        let plan = succeed(folder.path(), &format!("train --dry-run --device {device}"));
        assert!(plan.lines().any(|line| line.ends_with(name)), "{plan}");
    }
}

fn captured_updates_have_memory_of_their_own() {
    let folder = tempfile::tempdir().expect("a folder");
    let trained = |flag: &str| {
        let hash = hash(
            folder.path(),
            &format!("--device emulated {flag} --log-interval 1 --experiment run --overwrite"),
        );
        let segments = events(&folder.path().join("out/run"), "update")[0]["memory"]["segments"].clone();
        (hash, segments)
    };
    let (captured, eager) = (trained("--cuda-graph"), trained("--no-cuda-graph"));
    assert_eq!(captured.0, eager.0);
    assert!(captured.1.as_u64() > eager.1.as_u64(), "{} and {} segments", captured.1, eager.1);
    assert_eq!(trained(""), captured, "it is the default on a device");
}

fn overwrite_replaces_a_run() {
    let folder = tempfile::tempdir().expect("a folder");
    hash(folder.path(), "--experiment a --seed 1");
    let again = run(folder.path(), &format!("{TRAIN} --experiment a --seed 2"));
    assert_eq!(again.status.code(), Some(2), "{}", stderr(&again));
    assert!(stderr(&again).contains("--overwrite"), "{}", stderr(&again));
    hash(folder.path(), "--experiment a --seed 2 --overwrite");
    let settings = fs::read_to_string(folder.path().join("out/a/args.yaml")).expect("reads");
    assert!(settings.contains("seed: 2"), "{settings}");
}

fn log_lines_are_so_many_updates_apart() {
    let folder = tempfile::tempdir().expect("a folder");
    let updates = |interval: u64| {
        // Curves have at least twenty points an epoch, here of 40 updates.
        let flags = format!("--train-num-samples 320 --log-interval {interval} --experiment run --overwrite");
        hash(folder.path(), &flags);
        let events = events(&folder.path().join("out/run"), "update");
        events.iter().map(|event| event["update"].as_u64().expect("a number")).collect::<Vec<_>>()
    };
    assert_eq!(updates(1), (1..=40).collect::<Vec<_>>());
    let of_two: Vec<u64> = std::iter::once(1).chain((2..=40).step_by(2)).collect();
    assert_eq!(updates(2), of_two, "and the first update");
}

#[test]
fn command_flags_have_their_effects() {
    assert_effects(CASES);
}

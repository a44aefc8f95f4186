//! The `fornax` command: help, output files, determinism, resuming, precedence of settings, progress.
mod common;

use common::{command, run, stderr, succeed};
use serde_json::Value;
use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

const QUICK: &str = "train --epochs 1 --batch-size 256 --warmup-epochs 0 --progress none --output out";

fn json(stdout: &str) -> Value {
    serde_json::from_str(stdout.lines().last().expect("a line")).expect("JSON")
}

fn entries(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).expect("lists");
    let mut names: Vec<String> =
        entries.map(|e| e.expect("an entry").file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    names
}

/// Snapshots of the help texts; read them whole when they change.
#[test]
fn help_matches_snapshots() {
    let folder = tempfile::tempdir().expect("a folder");
    for (arguments, file) in
        [("--help", "help.txt"), ("train --help", "train-help.txt"), ("predict --help", "predict-help.txt")]
    {
        let text = succeed(folder.path(), arguments);
        let snapshot = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/snapshots").join(file);
        let expected = fs::read_to_string(&snapshot).unwrap_or_default();
        assert!(text == expected, "fornax {arguments} differs from {}; it says:\n{text}", snapshot.display());
    }
}

#[test]
fn run_writes_documented_files() {
    let folder = tempfile::tempdir().expect("a folder");
    let result = json(&succeed(folder.path(), &format!("{QUICK} --experiment a --json")));
    for key in ["top1", "top5", "loss", "epochs", "seconds", "images_per_second", "output"] {
        assert!(!result[key].is_null(), "{key} in {result}");
    }
    let run = Path::new(result["output"].as_str().expect("a path")).to_path_buf();
    assert!(run.is_absolute() && run.ends_with("out/a"));
    assert_eq!(
        entries(&run),
        ["args.yaml", "checkpoints", "env.json", "log.txt", "metrics.jsonl", "plots", "summary.csv"]
    );
    assert_eq!(entries(&run.join("checkpoints")), ["best.safetensors", "last.safetensors"]);
    let plots = ["accuracy", "confusion_matrix", "learning_rate", "loss"];
    let plots: Vec<String> = plots.iter().flat_map(|p| [format!("{p}.png"), format!("{p}.svg")]).collect();
    assert_eq!(entries(&run.join("plots")), plots);
    let summary = fs::read_to_string(run.join("summary.csv")).expect("reads");
    assert!(summary.starts_with("epoch,train_loss,eval_loss,eval_top1,eval_top5,lr\r\n0,"), "{summary}");
    assert_eq!(summary.matches("\r\n").count(), 2);
}

/// `args.yaml` reproduces the run bit for bit; the number of threads makes no difference, the seed does.
#[test]
fn equal_settings_give_equal_bits() {
    let folder = tempfile::tempdir().expect("a folder");
    let hash = |arguments: &str| {
        let stdout = succeed(folder.path(), &format!("{arguments} --print-hash"));
        stdout.lines().last().expect("a line").to_string()
    };
    let first = hash(&format!("{QUICK} --experiment a --threads 1 --opt adamw"));
    assert_eq!(first.len(), 64);
    assert_eq!(
        first,
        hash("train -c out/a/args.yaml --threads 3 --progress none --output out --experiment b")
    );
    assert_ne!(first, hash("train -c out/a/args.yaml --seed 1 --progress none --output out --experiment c"));
    let files =
        ["a", "b"].map(|e| fs::read(folder.path().join(format!("out/{e}/checkpoints/last.safetensors"))));
    assert!(
        files[0].as_ref().expect("reads") == files[1].as_ref().expect("reads"),
        "equal states, equal files"
    );
}

/// A run that is interrupted or killed within an epoch and resumed ends with the same bits as an uninterrupted one.
#[cfg(unix)]
#[test]
fn resume_mid_epoch_matches_uninterrupted_run() {
    let folder = tempfile::tempdir().expect("a folder");
    let settings = "--epochs 4 --batch-size 64 --output out --log-interval 1 --print-hash";
    let whole = succeed(folder.path(), &format!("train {settings} --experiment whole --progress none"));
    for (signal, code) in [("INT", Some(130)), ("TERM", Some(143)), ("KILL", None)] {
        let again = format!("train {settings} --experiment {signal} --resume auto --progress none");
        let mut child = command(folder.path(), &again).spawn().expect("starts");
        let metrics = folder.path().join(format!("out/{signal}/metrics.jsonl"));
        let started = Instant::now();
        // Into the second epoch.
        while fs::read_to_string(&metrics).unwrap_or_default().lines().count() < 30 {
            assert!(started.elapsed() < Duration::from_secs(120), "no progress");
            std::thread::sleep(Duration::from_millis(2));
        }
        let id = child.id().to_string();
        let sent =
            std::process::Command::new("kill").args(["-s", signal, &id]).status().expect("kill exists");
        assert!(sent.success());
        assert_eq!(child.wait().expect("ends").code(), code, "{signal}");
        let resumed = succeed(folder.path(), &again);
        assert_eq!(whole.lines().last(), resumed.lines().last(), "{signal}");
        let read = |run: &str, file: &str| fs::read_to_string(folder.path().join("out").join(run).join(file));
        assert_eq!(read("whole", "summary.csv").expect("reads"), read(signal, "summary.csv").expect("reads"));
        let updates = |run: &str| read(run, "metrics.jsonl").expect("reads").lines().count();
        assert_eq!(updates("whole"), updates(signal), "{signal}: each line once");
    }
}

#[test]
fn command_line_overrides_files_and_files_override_defaults() {
    let folder = tempfile::tempdir().expect("a folder");
    fs::write(folder.path().join("a.yaml"), "epochs: 7\nlr: 0.5\nseed: 1\n").expect("writes");
    fs::write(folder.path().join("b.yaml"), "lr: 0.25\n").expect("writes");
    let plan = succeed(folder.path(), "train --dry-run -c a.yaml -c b.yaml --seed 9 --no-warmup_prefix");
    for line in ["epochs: 7", "lr: 0.25", "seed: 9", "momentum: 0.9", "warmup_prefix: false"] {
        assert!(plan.lines().any(|l| l == line), "{line} in {plan}");
    }
    assert_eq!(entries(folder.path()), ["a.yaml", "b.yaml"], "a dry run writes nothing");
}

#[test]
fn progress_goes_to_stderr_in_the_chosen_mode() {
    let folder = tempfile::tempdir().expect("a folder");
    let show = |mode: &str| {
        let output = run(folder.path(), &format!("{} --log-interval 1", QUICK.replace("none", mode)));
        assert_eq!(output.status.code(), Some(0));
        assert!(String::from_utf8_lossy(&output.stdout).starts_with("top-1 "));
        stderr(&output)
    };
    let plain = show("auto");
    assert!(plain.contains("epoch 1/1  batch 5/5  loss ") && !plain.contains('\x1b'), "{plain}");
    let lines = show("json");
    let events: Vec<Value> = lines.lines().map(|l| serde_json::from_str(l).expect("JSON")).collect();
    assert_eq!(events.iter().filter(|e| e["event"] == "update").count(), 5);
    assert_eq!(show("none"), "");
}

#[test]
fn lists_show_models_datasets_libraries_and_kernels() {
    let folder = tempfile::tempdir().expect("a folder");
    assert!(succeed(folder.path(), "models").contains("resnet18"));
    assert!(succeed(folder.path(), "models --num-classes 1000").contains("11,689,512"));
    assert!(succeed(folder.path(), "datasets").contains("fashion-mnist"));
    let doctor = succeed(folder.path(), "doctor");
    for what in ["SIMD", "driver", "NVRTC", "cuBLASLt", "cuDNN"] {
        assert!(doctor.contains(what), "{what} in {doctor}");
    }
    assert!(succeed(folder.path(), "kernels list").contains("batch_norm"));
}

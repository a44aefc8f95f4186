//! `--cudnn-benchmark` and `--deterministic`: plans chosen by timing, their cache on disk, and their restoration from a checkpoint.
mod common;
#[allow(dead_code)]
#[path = "common/ranks.rs"]
mod ranks;
#[path = "common/slow_engines.rs"]
mod slow_engines;
#[path = "common/small_dataset.rs"]
mod small_dataset;

use common::{command, run, stderr, succeed};
use fornax::checkpoint;
use slow_engines::{SLOW, VARIABLE, empty_cache};
use small_dataset::{SMALL_DATASET, write_small_dataset};
use std::fs;
use std::net::TcpStream;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// The command that trains a small dataset in the working folder.
fn train() -> String {
    format!(
        "train {SMALL_DATASET} --batch-size 4 --train-num-samples 8 --val-num-samples 4 --device emulated --progress none --output out --print-hash --sched constant --warmup-epochs 0"
    )
}

/// Runs `fornax` with an empty cache of choices and a slow engine; the last line of stdout.
fn hash(folder: &Path, slow: &str, arguments: &str) -> String {
    let cache = tempfile::tempdir().expect("a folder");
    empty_cache(cache.path());
    hash_with_cache(folder, cache.path(), slow, arguments)
}

fn hash_with_cache(folder: &Path, cache: &Path, slow: &str, arguments: &str) -> String {
    let output = command(folder, arguments)
        .env("XDG_CACHE_HOME", cache)
        .env(VARIABLE, slow)
        .output()
        .expect("the binary starts");
    assert!(output.status.success(), "{arguments}: {}", stderr(&output));
    let text = String::from_utf8(output.stdout).expect("UTF-8");
    text.lines().last().expect("a line").to_string()
}

#[test]
fn resumed_run_uses_the_plans_of_its_checkpoint() {
    let (folder, train) = (tempfile::tempdir().expect("a folder"), train());
    write_small_dataset(folder.path());
    let of_engine_1 = hash(folder.path(), SLOW[0], &format!("{train} --epochs 2 --experiment whole"));
    hash(folder.path(), SLOW[0], &format!("{train} --epochs 1 --experiment first"));
    // Timing would choose engine 0 now, and no choice is on disk.
    let resumed = "train --resume out/first --epochs 2 --device emulated --progress none --print-hash";
    assert_eq!(hash(folder.path(), SLOW[1], resumed), of_engine_1);
}

#[test]
fn choices_are_cached_on_disk() {
    let (folder, cache) = (tempfile::tempdir().expect("a folder"), tempfile::tempdir().expect("a folder"));
    write_small_dataset(folder.path());
    empty_cache(cache.path());
    let train = train();
    let hash = |slow, name: &str| {
        let arguments = format!("{train} --epochs 1 --experiment {name}");
        hash_with_cache(folder.path(), cache.path(), slow, &arguments)
    };
    let first = hash(SLOW[0], "first");
    let choices = cache.path().join("fornax/convolutions");
    let files = || fs::read_dir(&choices).expect("a folder").map(|file| file.expect("a file").path());
    assert!(files().count() > 20, "{} choices", files().count());
    assert_eq!(hash(SLOW[1], "second"), first, "the second run uses the choices of the first");
    files().for_each(|file| fs::write(file, "damaged").expect("it can be written"));
    assert_ne!(
        hash(SLOW[1], "third"),
        first,
        "damaged choices are made again, and the engines' results differ"
    );
    assert!(files().all(|file| fs::read(file).expect("a file") != b"damaged"), "and are rewritten");
}

#[test]
fn no_cudnn_benchmark_ignores_timing() {
    let (folder, train) = (tempfile::tempdir().expect("a folder"), train());
    write_small_dataset(folder.path());
    let [of_slow_0, of_slow_1] = [0, 1].map(|index| {
        let arguments = format!("{train} --no-cudnn-benchmark --epochs 1 --experiment slow-{index}");
        hash(folder.path(), SLOW[index], &arguments)
    });
    assert_eq!(of_slow_0, of_slow_1);
}

#[test]
fn run_whose_convolutions_every_engine_rejects_ends_with_one_warning_each() {
    let (folder, cache) = (tempfile::tempdir().expect("a folder"), tempfile::tempdir().expect("a folder"));
    write_small_dataset(folder.path());
    empty_cache(cache.path());
    // Execution of all engines for strict f32 fails.
    let faults = "0:1:3,1:1:3";
    let output = command(folder.path(), &format!("{} --epochs 2 --experiment run", train()))
        .env("XDG_CACHE_HOME", cache.path())
        .env(VARIABLE, faults)
        .output()
        .expect("the binary starts");
    let text = stderr(&output);
    assert!(output.status.success(), "{text}");
    let mut warnings: Vec<&str> =
        text.lines().filter(|line| line.starts_with("warning: no engine of cuDNN computes this")).collect();
    let count = warnings.len();
    assert!(count > 10 && warnings.iter().all(|line| line.contains("status 5000")), "{text}");
    warnings.sort();
    warnings.dedup();
    assert_eq!(warnings.len(), count, "each problem has one warning");
}

#[test]
fn no_deterministic_allows_nondeterministic_engines() {
    let (folder, train) = (tempfile::tempdir().expect("a folder"), train());
    write_small_dataset(folder.path());
    // The deterministic engines are slow, so that timing chooses engine 25 where it is allowed.
    let slow = format!("{},{}", SLOW[0], SLOW[1]);
    let engines = |flag: &str| {
        let arguments = format!("{train} {flag} --epochs 1 --experiment run --overwrite");
        hash(folder.path(), &slow, &arguments);
        let last = folder.path().join("out/run/checkpoints/last.safetensors");
        let plans = checkpoint::read(&last).expect("reads").header.conv_plans.expect("plans were timed");
        plans.choices.into_values().collect::<Vec<_>>()
    };
    let is_nondeterministic = |choice: &String| choice.starts_with("{\"engine\":25,");
    assert!(!engines("--deterministic").iter().any(is_nondeterministic));
    assert!(engines("--no-deterministic").iter().any(is_nondeterministic));
}

#[test]
fn flags_without_effect_on_the_cpu_are_ignored_with_a_warning() {
    let folder = tempfile::tempdir().expect("a folder");
    for flag in ["--cudnn-benchmark", "--no-deterministic"] {
        let output = run(folder.path(), &format!("train --device cpu {flag} --dry-run"));
        assert_eq!(output.status.code(), Some(0), "{flag}");
        let text = stderr(&output);
        assert!(text.contains(flag) && text.contains("computes on the CPU"), "{text}");
    }
    succeed(folder.path(), "train --device cpu --no-cudnn-benchmark --deterministic --dry-run");
}

/// Ranks over NCCL start anew with its settings in their environment.
#[cfg(target_os = "linux")]
#[test]
fn deterministic_ranks_fix_the_algorithm_of_nccl() {
    let folder = tempfile::tempdir().expect("a folder");
    for (flag, is_fixed) in [("--deterministic", true), ("--no-deterministic", false)] {
        let port = ranks::free_port();
        let mut rank = Command::new(env!("CARGO_BIN_EXE_fornax"))
            .args([
                "train",
                "--device",
                "emulated:2",
                "--rank",
                "0",
                "--world-size",
                "2",
                "--local-rank",
                "0",
                flag,
            ])
            .args(["--master-addr", "127.0.0.1", "--master-port", &port.to_string(), "--progress", "none"])
            .current_dir(folder.path())
            .env_remove("NCCL_ALGO")
            .stderr(Stdio::null())
            .spawn()
            .expect("starts");
        // It waits for rank 1 on its port.
        let deadline = Instant::now() + Duration::from_secs(120);
        while TcpStream::connect(("127.0.0.1", port)).is_err() {
            assert!(Instant::now() < deadline && rank.try_wait().expect("a process").is_none(), "{flag}");
            std::thread::sleep(Duration::from_millis(20));
        }
        let environment = std::fs::read(format!("/proc/{}/environ", rank.id())).expect("a running process");
        rank.kill().and_then(|()| rank.wait()).expect("it ends");
        let text = String::from_utf8_lossy(&environment);
        assert_eq!(text.split('\0').any(|variable| variable == "NCCL_ALGO=Ring,Tree"), is_fixed, "{flag}");
    }
}

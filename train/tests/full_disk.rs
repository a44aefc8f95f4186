//! Runs on a small file system that is full after one or two checkpoints.
#![cfg(target_os = "linux")]
mod common;
#[path = "common/processes.rs"]
mod processes;
#[path = "common/ranks.rs"]
mod ranks;
#[allow(dead_code)]
#[path = "common/small_dataset.rs"]
mod small_dataset;

use common::{command, run, stderr, succeed};
use fornax::checkpoint;
use fornax::settings::EvalMetric;
use processes::Ranks;
use rustix::process::Signal;
use serde_json::Value;
use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::Duration;

/// The reports of a run are small next to the checkpoints of this model.
const TRAIN: &str = "train --dataset idx --data-dir small --batch-size 16 --model resnet18 --epochs 4 --warmup-epochs 0 --lr 0.02 --workers 0 --progress plain --print-hash";

/// File system in memory, unmounted at the end.
struct SmallDisk(PathBuf);

impl SmallDisk {
    /// Mounts a file system of so many bytes on a new folder; `None` without the right to mount.
    fn mount(folder: &Path, bytes: u64) -> Option<SmallDisk> {
        fs::create_dir(folder).expect("a folder");
        let size = format!("size={bytes}");
        let mounted = Command::new("mount").args(["-t", "tmpfs", "-o", &size, "tmpfs"]).arg(folder).output();
        mounted.is_ok_and(|output| output.status.success()).then(|| SmallDisk(folder.into()))
    }

    fn resize(&self, bytes: u64) {
        let options = format!("remount,size={bytes}");
        let status = Command::new("mount").args(["-o", &options]).arg(&self.0).status().expect("starts");
        assert!(status.success());
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        Command::new("umount").arg(&self.0).status().ok();
    }
}

/// The run with a small model, whose checkpoints are about as large as its reports.
fn of_small_model() -> String {
    TRAIN.replace("resnet18", "resnet8")
}

/// Hash of a run without lack of space, and the size of a checkpoint.
fn reference(folder: &Path, train: &str) -> (String, u64) {
    small_dataset::write_small_dataset(folder);
    let text = succeed(folder, &format!("{train} --output whole --experiment a"));
    let last = folder.join("whole/a/checkpoints/last.safetensors");
    (text.lines().last().expect("a hash").to_string(), fs::metadata(last).expect("exists").len())
}

/// Runs with a limit of the wait for space, in seconds.
fn run_with_wait(folder: &Path, arguments: &str, seconds: &str) -> Output {
    command(folder, arguments).env("FORNAX_DISK_WAIT", seconds).output().expect("the binary starts")
}

/// Starts a run of a small model on a disk with space for one checkpoint, and waits until it waits for space.
fn run_that_waits(folder: &Path, options: &str) -> Ranks {
    let arguments = format!("{} --output disk --experiment a {options}", of_small_model());
    let mut ranks = Ranks::start_with(folder, "a", 1, |_, _| {
        let mut command = command(folder, &arguments);
        command.env("FORNAX_DISK_WAIT", "100");
        command
    });
    if options.contains("1000") {
        ranks.wait_until("epoch 1", |ranks| ranks.text(0, "err").contains("epoch 1  loss"));
        ranks.signal(0, Signal::TERM);
    }
    ranks.wait_until("the wait", |ranks| ranks.text(0, "err").contains("trying again every"));
    ranks
}

/// Events of a run's `metrics.jsonl`, in which each line must be whole.
fn events(folder: &Path) -> Vec<Value> {
    let text = fs::read_to_string(folder.join("disk/a/metrics.jsonl")).expect("reads");
    assert!(text.ends_with('\n'), "{text:?}");
    text.lines().map(|line| serde_json::from_str(line).unwrap_or_else(|e| panic!("{line:?}: {e}"))).collect()
}

/// Checks that the metrics have each update and each epoch of the run once.
fn assert_complete(events: &[Value], epochs: u64) {
    let numbers = |kind: &str, key: &str| -> Vec<u64> {
        let of_kind = events.iter().filter(|event| event["event"] == kind);
        of_kind.filter_map(|event| event[key].as_u64()).collect()
    };
    assert_eq!(numbers("update", "update"), (1..=2 * epochs).collect::<Vec<_>>());
    assert_eq!(numbers("epoch", "epoch"), (0..epochs).collect::<Vec<_>>());
}

fn checkpoints(folder: &Path) -> PathBuf {
    folder.join("disk/a/checkpoints")
}

/// The epoch after which the state of a checkpoint was saved, and the best epoch of its history.
fn epochs(folder: &Path, name: &str) -> (u32, u32) {
    let path = checkpoints(folder).join(format!("{name}.safetensors"));
    let state = checkpoint::read(&path).expect("a whole checkpoint").header.state;
    (state.epoch, state.best(EvalMetric::Top1).expect("evaluated").epoch)
}

#[test]
fn full_disk_keeps_the_newest_last_and_best_and_gives_up_ranked_checkpoints() {
    let folder = tempfile::tempdir().expect("a folder");
    let (hash, size) = reference(folder.path(), TRAIN);
    let Some(_disk) = SmallDisk::mount(&folder.path().join("disk"), size * 5 / 2) else {
        eprintln!("skipped: no right to mount a file system");
        return;
    };
    let output = run(folder.path(), &format!("{TRAIN} --output disk --experiment a"));
    let text = stderr(&output);
    assert!(output.status.success(), "{text}");
    assert_eq!(String::from_utf8_lossy(&output.stdout).lines().last(), Some(&*hash), "as with enough space");
    let warnings: Vec<&str> = text.lines().filter(|line| line.contains("the disk is full")).collect();
    assert!(warnings.len() == 1 && warnings[0].contains("--resume"), "{text}");
    assert!(!text.contains("training continues without"), "every state was saved: {text}");
    let (of_last, best) = epochs(folder.path(), "last");
    assert_eq!(of_last, 4);
    assert_eq!(epochs(folder.path(), "best"), (best + 1, best));
    let names: Vec<_> = fs::read_dir(checkpoints(folder.path())).expect("lists").flatten().collect();
    assert!(names.len() < 6, "ranked checkpoints were removed, and no temporary file remains: {names:?}");
}

#[test]
fn run_continues_by_resume_once_a_full_disk_has_space() {
    let folder = tempfile::tempdir().expect("a folder");
    let (hash, size) = reference(folder.path(), TRAIN);
    let Some(disk) = SmallDisk::mount(&folder.path().join("disk"), size * 3 / 2) else {
        eprintln!("skipped: no right to mount a file system");
        return;
    };
    let output = run_with_wait(folder.path(), &format!("{TRAIN} --output disk --experiment a"), "0.2");
    let text = stderr(&output);
    assert_eq!(output.status.code(), Some(7), "{text}");
    assert_eq!(text.matches("trying again every 0.05 s for 0.2 s, Ctrl-C gives up").count(), 1, "{text}");
    assert!(
        text.contains("training continues without this checkpoint") && text.contains("--resume"),
        "{text}"
    );
    assert_eq!(text.matches("training continues without").count(), 1, "reported once: {text}");
    let error = text.rsplit("error: ").next().expect("an error");
    let megabytes = error.split_once("help   free ").and_then(|(_, rest)| rest.split_once(" MB in "));
    let megabytes: u64 = megabytes.expect("the missing space").0.parse().expect("a number");
    assert!(megabytes * 1_000_000 > size / 2 && megabytes * 1_000_000 < 2 * size, "{text}");
    assert!(error.contains("--resume"), "{text}");
    checkpoint::read(&checkpoints(folder.path()).join("last.safetensors")).expect("the earlier one is kept");
    disk.resize(size * 4);
    let resumed = succeed(folder.path(), "train --resume disk/a --print-hash --progress none");
    assert_eq!(resumed.lines().last(), Some(&*hash));
    assert_eq!(epochs(folder.path(), "last").0, 4);
}

#[test]
fn run_waits_for_space_at_its_end_and_loses_no_line_of_its_metrics() {
    let folder = tempfile::tempdir().expect("a folder");
    let (hash, size) = reference(folder.path(), &of_small_model());
    // Next to the first checkpoint there is hardly any space, also for the lines of logs.
    let Some(disk) = SmallDisk::mount(&folder.path().join("disk"), size + (200 << 10)) else {
        eprintln!("skipped: no right to mount a file system");
        return;
    };
    let ranks = run_that_waits(folder.path(), "");
    let text = ranks.text(0, "err");
    assert!(text.contains("MB in ") && text.contains("Ctrl-C gives up"), "{text}");
    let state = checkpoint::read(&checkpoints(folder.path()).join("last.safetensors")).expect("whole");
    assert_eq!(state.header.state.update, 0, "only the first checkpoint has space");
    disk.resize(size * 4);
    assert_eq!(ranks.hash(), hash);
    assert_eq!(epochs(folder.path(), "last").0, 4);
    assert_complete(&events(folder.path()), 4);
    let summary = fs::read_to_string(folder.path().join("disk/a/summary.csv")).expect("reads");
    assert_eq!(summary.lines().count(), 5, "{summary}");
}

#[test]
fn interrupted_run_waits_for_space_and_gives_up_at_the_second_signal() {
    let folder = tempfile::tempdir().expect("a folder");
    let (_, size) = reference(folder.path(), &of_small_model());
    let Some(disk) = SmallDisk::mount(&folder.path().join("disk"), size * 3 / 2) else {
        eprintln!("skipped: no right to mount a file system");
        return;
    };
    let mut ranks = run_that_waits(folder.path(), "--epochs 1000");
    ranks.signal(0, Signal::TERM);
    assert_eq!(ranks.wait(0, Duration::from_secs(20)).code(), Some(143), "{}", ranks.text(0, "err"));
    checkpoint::read(&checkpoints(folder.path()).join("last.safetensors")).expect("the earlier one is kept");
    fs::remove_dir_all(folder.path().join("disk/a")).expect("removes");
    let mut ranks = run_that_waits(folder.path(), "--epochs 1000");
    disk.resize(size * 4);
    assert_eq!(ranks.wait(0, Duration::from_secs(60)).code(), Some(143), "{}", ranks.text(0, "err"));
    assert!(ranks.text(0, "err").contains("checkpoint saved at update"), "{}", ranks.text(0, "err"));
    assert!(epochs(folder.path(), "last").0 >= 2);
}

/// Disks from less than one checkpoint to more than all of them, with recovery checkpoints.
#[test]
fn run_on_a_small_disk_resumes_to_the_same_bits_and_metrics() {
    let folder = tempfile::tempdir().expect("a folder");
    small_dataset::write_small_dataset(folder.path());
    let train = of_small_model() + " --recovery-interval 1 --epochs 6";
    let text = succeed(folder.path(), &format!("{train} --output whole --experiment a"));
    let hash = text.lines().last().expect("a hash");
    let size =
        fs::metadata(folder.path().join("whole/a/checkpoints/last.safetensors")).expect("exists").len();
    for kilobytes in [60, 700, 1000, 1500, 2200, 2700, 4000, 5200] {
        let at = folder.path().join("disk");
        let Some(disk) = SmallDisk::mount(&at, kilobytes << 10) else {
            eprintln!("skipped: no right to mount a file system");
            return;
        };
        let arguments = format!("{train} --output disk --experiment a");
        let output = run_with_wait(folder.path(), &arguments, "0.1");
        let text = stderr(&output);
        let code = output.status.code();
        // Two checkpoints and the reports.
        let expected = if kilobytes << 10 > 2 * size + (900 << 10) { [0, 0] } else { [0, 7] };
        assert!(code.is_some_and(|code| expected.contains(&code)), "{kilobytes} kB: {text}");
        let left = fs::read_dir(at.join("a/checkpoints")).into_iter().flatten().flatten();
        let left: Vec<_> = left.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
        assert!(left.iter().all(|name| !name.ends_with(".tmp")), "{left:?}");
        disk.resize(20 << 20);
        let resumed = succeed(folder.path(), &format!("{arguments} --resume auto"));
        assert_eq!(resumed.lines().last(), Some(hash), "{kilobytes} kB: {text}");
        let events = events(folder.path());
        let updates: BTreeSet<u64> = events
            .iter()
            .filter(|event| event["event"] == "update")
            .filter_map(|event| event["update"].as_u64())
            .collect();
        assert_eq!(updates.len(), 12, "{kilobytes} kB: {text}");
        assert_complete(&events, 6);
        drop(disk);
        fs::remove_dir(&at).expect("removes");
    }
}

/// The initial checkpoint and an older recovery checkpoint make room for the newest state.
#[test]
fn superseded_recovery_checkpoints_make_room_for_the_newest_state() {
    let folder = tempfile::tempdir().expect("a folder");
    let (hash, size) = reference(folder.path(), TRAIN);
    let Some(_disk) = SmallDisk::mount(&folder.path().join("disk"), size * 5 / 2) else {
        eprintln!("skipped: no right to mount a file system");
        return;
    };
    let output = run(folder.path(), &format!("{TRAIN} --recovery-interval 1 --output disk --experiment a"));
    let text = stderr(&output);
    assert!(output.status.success(), "{text}");
    assert_eq!(String::from_utf8_lossy(&output.stdout).lines().last(), Some(&*hash));
    assert!(!text.contains("training continues without"), "every state was saved: {text}");
    assert_eq!(epochs(folder.path(), "last").0, 4);
}

#[test]
fn wait_that_is_no_number_is_an_error_before_anything_is_written() {
    let folder = tempfile::tempdir().expect("a folder");
    let output = command(folder.path(), "train --output out --experiment a")
        .env("FORNAX_DISK_WAIT", "ten")
        .output()
        .expect("the binary starts");
    let text = stderr(&output);
    assert_eq!(output.status.code(), Some(2), "{text}");
    assert!(text.contains("FORNAX_DISK_WAIT=ten") && text.contains("0 for no wait"), "{text}");
    assert!(!folder.path().join("out").exists());
}

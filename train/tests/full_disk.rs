//! Runs on a small file system that is full after one or two checkpoints.
#![cfg(target_os = "linux")]
mod common;
#[allow(dead_code)]
#[path = "common/small_dataset.rs"]
mod small_dataset;

use common::{run, stderr, succeed};
use fornax::checkpoint;
use fornax::settings::EvalMetric;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

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

/// Hash of a run without lack of space, and the size of a checkpoint.
fn reference(folder: &Path) -> (String, u64) {
    small_dataset::write_small_dataset(folder);
    let text = succeed(folder, &format!("{TRAIN} --output whole --experiment a"));
    let last = folder.join("whole/a/checkpoints/last.safetensors");
    (text.lines().last().expect("a hash").to_string(), fs::metadata(last).expect("exists").len())
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
    let (hash, size) = reference(folder.path());
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
    let (hash, size) = reference(folder.path());
    let Some(disk) = SmallDisk::mount(&folder.path().join("disk"), size * 3 / 2) else {
        eprintln!("skipped: no right to mount a file system");
        return;
    };
    let output = run(folder.path(), &format!("{TRAIN} --output disk --experiment a"));
    let text = stderr(&output);
    assert_eq!(output.status.code(), Some(7), "{text}");
    assert!(
        text.contains("training continues without this checkpoint") && text.contains("--resume"),
        "{text}"
    );
    assert_eq!(text.matches("training continues without").count(), 1, "reported once: {text}");
    let error = text.rsplit("error: ").next().expect("an error");
    assert!(error.contains("help   free some space") && error.contains("--resume"), "{text}");
    checkpoint::read(&checkpoints(folder.path()).join("last.safetensors")).expect("the earlier one is kept");
    disk.resize(size * 4);
    let resumed = succeed(folder.path(), "train --resume disk/a --print-hash --progress none");
    assert_eq!(resumed.lines().last(), Some(&*hash));
    assert_eq!(epochs(folder.path(), "last").0, 4);
}

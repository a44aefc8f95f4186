//! Run folders with links, pipes and damaged files, and run folders that are moved or removed while a run trains.
#![cfg(unix)]
mod common;
#[path = "common/processes.rs"]
mod processes;
#[path = "common/ranks.rs"]
mod ranks;
#[path = "common/small_dataset.rs"]
mod small_dataset;

use common::{command, run, stderr, succeed};
use fornax::checkpoint;
use processes::{Ranks, folder};
use rustix::process::Signal;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

const TRAIN: &str = "train --dataset idx --data-dir small --batch-size 16 --model resnet8 --warmup-epochs 0 --lr 0.02 --workers 0 --threads 1 --progress plain --output out";

/// Folder with the small dataset and a finished run of one epoch in `out/a`.
fn folder_with_run() -> (tempfile::TempDir, PathBuf) {
    let folder = folder();
    succeed(folder.path(), &format!("{TRAIN} --experiment a --epochs 1"));
    let path = folder.path().join("out/a");
    (folder, path)
}

/// Runs `fornax`, and fails if it does not end by itself.
#[track_caller]
fn run_in_time(folder: &Path, arguments: &str) -> Output {
    let mut command = command(folder, arguments);
    let mut child =
        command.stdout(Stdio::piped()).stderr(Stdio::piped()).stdin(Stdio::null()).spawn().expect("starts");
    let started = Instant::now();
    while child.try_wait().expect("a child").is_none() {
        if started.elapsed() > Duration::from_secs(60) {
            child.kill().expect("a child");
            child.wait().expect("a child");
            panic!("{arguments}: it hangs");
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    child.wait_with_output().expect("an output")
}

#[track_caller]
fn assert_rejected(folder: &Path, arguments: &str, codes: &[i32], parts: &[&str]) {
    let output = run_in_time(folder, arguments);
    let text = stderr(&output);
    assert!(output.status.code().is_some_and(|code| codes.contains(&code)), "{arguments}: {output:?}");
    for part in parts {
        assert!(text.contains(part), "{arguments}: {part:?} is missing in\n{text}");
    }
}

fn pipe(path: &Path) {
    assert!(Command::new("mkfifo").arg(path).status().expect("mkfifo starts").success());
}

/// Names of the files that every run has, and of others that may be in its folder.
fn names(run: &Path) -> Vec<String> {
    let events = fs::read_dir(run).expect("lists").flatten().map(|entry| entry.file_name());
    let events = events.map(|name| name.to_string_lossy().into_owned());
    let names = [
        ".lock",
        "args.yaml",
        "bad_images.csv",
        "checkpoints/last.safetensors",
        "checkpoints/recovery-3-3.safetensors",
        "env.json",
        "log.txt",
        "metrics.jsonl",
        "plots/loss.png",
        "report.html",
        "samples/train.json",
        "summary.csv",
    ];
    let names = names.into_iter().map(String::from);
    names.chain(events.filter(|name| name.starts_with("events."))).collect()
}

#[test]
fn links_out_of_the_run_folder_are_rejected_and_nothing_outside_is_written() {
    let (folder, run) = folder_with_run();
    let (outside, kept) = (folder.path().join("outside"), folder.path().join("kept"));
    fs::write(&outside, "mine").expect("writes");
    for name in names(&run) {
        let path = run.join(&name);
        let existed = path.exists();
        if existed {
            fs::rename(&path, &kept).expect("moves");
        }
        for target in [outside.as_path(), Path::new("/dev/zero"), &folder.path().join("absent")] {
            symlink(target, &path).expect("links");
            assert_rejected(
                folder.path(),
                "train --resume out/a --epochs 2",
                &[4, 7],
                &[&name, "outside of"],
            );
            assert!(path.is_symlink(), "{name}");
            fs::remove_file(&path).expect("removes");
        }
        if existed {
            fs::rename(&kept, &path).expect("moves");
        }
    }
    for name in ["plots", "samples", "checkpoints"] {
        let path = run.join(name);
        fs::rename(&path, &kept).expect("moves");
        symlink(&kept, &path).expect("links");
        let arguments = format!("{TRAIN} --experiment a --epochs 2 --resume auto");
        assert_rejected(folder.path(), &arguments, &[4, 7], &[name, "outside of the run's folder"]);
        fs::remove_file(&path).expect("removes");
        fs::rename(&kept, &path).expect("moves");
    }
    assert_eq!(fs::read_to_string(&outside).expect("reads"), "mine");
    assert!(!folder.path().join("absent").exists());
    succeed(folder.path(), "train --resume out/a --epochs 2");
}

#[test]
fn pipes_and_folders_in_place_of_files_of_a_run_are_rejected() {
    let (folder, run) = folder_with_run();
    let kept = folder.path().join("kept");
    for name in names(&run) {
        let path = run.join(&name);
        let existed = path.exists();
        if existed {
            fs::rename(&path, &kept).expect("moves");
        }
        pipe(&path);
        assert_rejected(folder.path(), "train --resume out/a --epochs 2", &[4, 7], &[&name, "a named pipe"]);
        fs::remove_file(&path).expect("removes");
        fs::create_dir(&path).expect("creates");
        assert_rejected(folder.path(), "train --resume out/a --epochs 2", &[4, 7], &[&name, "a folder"]);
        fs::remove_dir(&path).expect("removes");
        if existed {
            fs::rename(&kept, &path).expect("moves");
        }
    }
    succeed(folder.path(), "train --resume out/a --epochs 2");
}

#[test]
fn links_within_the_run_folder_are_followed() {
    let (folder, run) = folder_with_run();
    let checkpoints = run.join("checkpoints");
    fs::rename(checkpoints.join("last.safetensors"), checkpoints.join("kept.safetensors")).expect("moves");
    symlink("kept.safetensors", checkpoints.join("last.safetensors")).expect("links");
    fs::rename(run.join("log.txt"), run.join("log-1.txt")).expect("moves");
    symlink("log-1.txt", run.join("log.txt")).expect("links");
    succeed(folder.path(), "train --resume out/a --epochs 2");
    let last = checkpoint::read(&checkpoints.join("kept.safetensors")).expect("a checkpoint");
    assert_eq!(last.header.state.epoch, 2);
    assert_eq!(fs::read_to_string(run.join("log-1.txt")).expect("reads").matches("ended").count(), 2);
}

#[test]
fn pipes_and_devices_are_rejected_as_checkpoints_and_weights() {
    let (folder, run) = folder_with_run();
    pipe(&folder.path().join("pipe.safetensors"));
    symlink("/dev/zero", folder.path().join("zero.safetensors")).expect("links");
    // A sparse file, which would take all memory.
    let last = fs::read(run.join("checkpoints/last.safetensors")).expect("reads");
    fs::write(folder.path().join("sparse.safetensors"), last).expect("writes");
    let sparse = fs::OpenOptions::new().write(true).open(folder.path().join("sparse.safetensors"));
    sparse.and_then(|file| file.set_len(1 << 42)).expect("grows");
    let cases = [
        ("pipe.safetensors", "a named pipe, not a regular file"),
        ("zero.safetensors", "a device, not a regular file"),
        ("sparse.safetensors", "extra bytes follow"),
    ];
    for (name, why) in cases {
        for arguments in [
            format!("train --resume {name}"),
            format!("ckpt info {name}"),
            format!("ckpt verify {name}"),
            format!("val --dataset idx --data-dir small --checkpoint {name}"),
            format!("{TRAIN} --pretrained --pretrained-path {name} --dry-run"),
        ] {
            assert_rejected(folder.path(), &arguments, &[4], &[name, why]);
        }
    }
}

/// Starts a run, stops it within its training, changes its files, and continues it.
fn run_with_change(folder: &Path, wait: &str, change: impl FnOnce(&Path)) -> Ranks {
    let arguments = format!("{TRAIN} --experiment a --epochs 8 --print-hash");
    let mut run = Ranks::start_with(folder, "a", 1, |_, _| {
        let mut command = command(folder, &arguments);
        command.env("FORNAX_DISK_WAIT", wait);
        command
    });
    run.wait_until("epoch 1", |run| run.text(0, "err").contains("epoch 1  loss"));
    run.signal(0, Signal::STOP);
    // The signal is not delivered at once.
    let stat = || fs::read_to_string(format!("/proc/{}/stat", run.pid(0))).unwrap_or_default();
    let started = Instant::now();
    while cfg!(target_os = "linux") && !stat().contains(") T ") && started.elapsed().as_secs() < 10 {
        std::thread::sleep(Duration::from_millis(1));
    }
    change(&folder.join("out/a"));
    run.signal(0, Signal::CONT);
    run
}

fn undisturbed_hash(folder: &Path) -> String {
    let text = succeed(folder, &format!("{TRAIN} --experiment whole --epochs 8 --print-hash"));
    text.lines().last().expect("a hash").to_string()
}

#[test]
fn run_continues_in_a_new_folder_if_its_folder_was_removed() {
    let folder = folder();
    let hash = undisturbed_hash(folder.path());
    let mut run = run_with_change(folder.path(), "0", |path| fs::remove_dir_all(path).expect("removes"));
    let status = run.wait(0, Duration::from_secs(120));
    let text = run.text(0, "err");
    assert!(status.success(), "{text}");
    assert_eq!(text.matches("the run's folder was removed while the run trains").count(), 1, "{text}");
    assert_eq!(run.hash(), hash);
    let path = folder.path().join("out/a");
    let last = checkpoint::read(&path.join("checkpoints/last.safetensors")).expect("a checkpoint");
    assert_eq!((last.header.state.epoch, last.header.state.history.len()), (8, 8));
    for name in ["args.yaml", "env.json", "summary.csv", "report.html", "plots/loss.png"] {
        assert!(path.join(name).exists(), "{name}");
    }
    let log = fs::read_to_string(path.join("log.txt")).expect("reads");
    assert!(log.contains("was removed") && log.contains("all epochs are trained"), "{log}");
    succeed(folder.path(), "train --resume out/a --epochs 9");
}

#[test]
fn run_continues_in_a_new_folder_if_its_folder_was_moved_and_names_the_other() {
    let folder = folder();
    let hash = undisturbed_hash(folder.path());
    let moved = folder.path().join("out/moved");
    let mut run = run_with_change(folder.path(), "0", |path| fs::rename(path, &moved).expect("moves"));
    let status = run.wait(0, Duration::from_secs(120));
    let text = run.text(0, "err");
    assert!(status.success(), "{text}");
    let named = format!("{}\n", moved.canonicalize().expect("exists").display());
    assert!(text.contains("the run's folder was moved while the run trains"), "{text}");
    assert!(cfg!(not(target_os = "linux")) || text.contains(&named), "{text}");
    assert_eq!(run.hash(), hash);
    let epoch = |path: &Path| {
        checkpoint::read(&path.join("checkpoints/last.safetensors")).expect("a checkpoint").header.state.epoch
    };
    assert_eq!(epoch(&folder.path().join("out/a")), 8);
    assert!(epoch(&moved) >= 1);
    // Its log ends where the folder was moved.
    let log = fs::read_to_string(moved.join("log.txt")).expect("reads");
    assert!(!log.contains("all epochs are trained"), "{log}");
}

#[test]
fn run_without_a_place_for_its_folder_ends_with_exit_code_7_and_the_cause() {
    let folder = folder();
    let mut run = run_with_change(folder.path(), "0.2", |path| {
        fs::remove_dir_all(path.parent().expect("a parent")).expect("removes");
    });
    let status = run.wait(0, Duration::from_secs(120));
    let text = run.text(0, "err");
    assert_eq!(status.code(), Some(7), "{text}");
    let error = text.rsplit("error: ").next().expect("an error");
    assert!(error.contains("the run's folder was removed while the run trains"), "{text}");
    assert!(error.contains("out does not exist") && error.contains("help   create "), "{text}");
    assert!(text.contains("not saved yet") && text.contains("trying again every"), "{text}");
    assert!(!text.contains("free some space"), "{text}");
}

#[test]
fn run_waits_at_its_end_for_a_place_for_its_folder() {
    let folder = folder();
    let hash = undisturbed_hash(folder.path());
    let out = folder.path().join("out");
    let mut run = run_with_change(folder.path(), "100", |_| fs::remove_dir_all(&out).expect("removes"));
    run.wait_until("the wait", |run| run.text(0, "err").contains("trying again every"));
    fs::create_dir(&out).expect("creates");
    assert_eq!(run.hash(), hash);
    let last = checkpoint::read(&out.join("a/checkpoints/last.safetensors")).expect("a checkpoint");
    assert_eq!(last.header.state.epoch, 8);
}

/// The checkpoints of a run grow with its history: the last ones are above a limit of files between the sizes of the first and the last.
#[cfg(target_os = "linux")]
#[test]
fn file_size_limit_costs_checkpoints_and_not_the_run() {
    let folder = folder();
    let hash = undisturbed_hash(folder.path());
    let last = |name: &str| folder.path().join("out").join(name).join("checkpoints/last.safetensors");
    let limit = fs::metadata(last("whole")).expect("exists").len() - 200;
    let limited = |arguments: &str| {
        let program = command(folder.path(), arguments);
        let mut limited = Command::new("prlimit");
        limited.arg(format!("--fsize={limit}")).arg(program.get_program()).args(program.get_args());
        limited.current_dir(folder.path()).output().expect("prlimit starts")
    };
    let output = limited(&format!("{TRAIN} --experiment a --epochs 8 --print-hash"));
    let text = stderr(&output);
    assert_eq!(output.status.code(), Some(7), "{text}");
    assert!(text.contains("training continues without this checkpoint"), "{text}");
    let error = text.rsplit("error: ").next().expect("an error");
    assert!(error.contains("File too large") && error.contains("ulimit -f"), "{text}");
    assert!(error.contains("--resume"), "{text}");
    assert!(text.contains("epoch 7  loss"), "every epoch was trained: {text}");
    let saved = checkpoint::read(&last("a")).expect("the earlier one is kept").header.state.epoch;
    assert!((1..8).contains(&saved), "{saved}");
    let resumed = succeed(folder.path(), "train --resume out/a --print-hash --progress none");
    assert_eq!(resumed.lines().last(), Some(&*hash));
    // Each rank ignores the signal, too.
    let launched = TRAIN.replace("--batch-size 16", "--batch-size 8");
    let output = limited(&format!("launch --nproc-per-node 2 {launched} --experiment b --epochs 8"));
    let text = stderr(&output);
    assert_eq!(output.status.code(), Some(7), "{text}");
    assert!(text.contains("training continues without this checkpoint"), "{text}");
}

#[test]
fn run_rejects_its_folder_if_it_is_a_file() {
    let folder = folder();
    fs::create_dir(folder.path().join("out")).expect("creates");
    pipe(&folder.path().join("out/a"));
    let output = run(folder.path(), &format!("{TRAIN} --experiment a --overwrite --epochs 1"));
    assert!(matches!(output.status.code(), Some(2 | 7)), "{}", stderr(&output));
}

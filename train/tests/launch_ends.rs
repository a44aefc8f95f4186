//! How `fornax launch` ends ranks that do not end by themselves.
#![cfg(target_os = "linux")]
mod common;
#[path = "common/processes.rs"]
mod processes;
#[path = "common/ranks.rs"]
mod ranks;
#[path = "common/small_dataset.rs"]
mod small_dataset;

use processes::{Ranks, children, command_without_launcher, folder, last_checkpoint, train};
use rustix::process::{Pid, Signal, kill_process};
use std::path::Path;
use std::time::{Duration, Instant};

/// A launcher whose two ranks have trained an update, and their ids.
fn launcher(folder: &Path, name: &str, timeout: u32) -> (Ranks, Vec<Pid>) {
    let run = train(name, 2).replace("--epochs 4 ", "--epochs 4000 ");
    let command = format!("launch --nproc-per-node 2 {run} --dist-timeout {timeout}");
    let mut launcher = Ranks::start_with(folder, name, 1, |_, _| command_without_launcher(folder, &command));
    launcher.wait_for_updates(1);
    let ranks =
        children(launcher.pid(0)).into_iter().map(|pid| Pid::from_raw(pid as i32).expect("a process"));
    (launcher, ranks.collect())
}

#[test]
fn stopped_rank_ends_with_the_group() {
    let folder = folder();
    let (mut launcher, ranks) = launcher(folder.path(), "stopped", 3);
    kill_process(ranks[1], Signal::STOP).expect("it runs");
    let started = Instant::now();
    let code = launcher.wait(0, Duration::from_secs(30)).code();
    let text = launcher.text(0, "err");
    assert_eq!(code, Some(8), "{text}");
    // The others need 3 s to notice it. SIGTERM would wait until it continues.
    assert!(started.elapsed() < Duration::from_secs(8), "{:?}: {text}", started.elapsed());
    assert!(text.contains("[rank 1] is stopped: it is killed"), "{text}");
}

#[test]
fn second_signal_ends_stopped_ranks_at_once() {
    let folder = folder();
    let (mut launcher, ranks) = launcher(folder.path(), "twice", 600);
    ranks.iter().for_each(|rank| kill_process(*rank, Signal::STOP).expect("it runs"));
    launcher.signal(0, Signal::TERM);
    std::thread::sleep(Duration::from_millis(500));
    let started = Instant::now();
    launcher.signal(0, Signal::TERM);
    let code = launcher.wait(0, Duration::from_secs(30)).code();
    assert_eq!(code, Some(143), "{}", launcher.text(0, "err"));
    assert!(started.elapsed() < Duration::from_secs(5), "{:?}", started.elapsed());
    assert!(children(launcher.pid(0)).is_empty());
}

#[test]
fn hang_up_of_the_launcher_saves_a_checkpoint() {
    let folder = folder();
    let (mut launcher, _) = launcher(folder.path(), "hang-up", 60);
    launcher.signal(0, Signal::HUP);
    let code = launcher.wait(0, Duration::from_secs(60)).code();
    assert_eq!(code, Some(129), "{}", launcher.text(0, "err"));
    assert!(last_checkpoint(folder.path(), "hang-up").exists());
    assert!(processes::state(folder.path(), "hang-up").update >= 1);
}

//! Lost ranks: the others end with exit code 8 and name rank and host, no process is left behind, and the run resumes on another number of
//! ranks. `FORNAX_TEST_SWEEP=reliability` kills and stops every rank at every moment of a run.
mod common;
#[path = "common/processes.rs"]
mod processes;
#[path = "common/ranks.rs"]
mod ranks;
#[path = "common/small_dataset.rs"]
mod small_dataset;
#[path = "common/sweep.rs"]
mod sweep;

use common::succeed;
use processes::{Ranks, children, folder, last_checkpoint, state, torchrun_rank, train};
use rustix::process::Signal;
use small_dataset::{SMALL_DATASET, write_dataset};
use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};
use sweep::is_reliability_sweep;

const WORLD: usize = 4;
/// `--dist-timeout`, in seconds.
const TIMEOUT: u64 = 3;
/// Delay of a rank that starts after the loss of another one.
const DELAY: Duration = Duration::from_millis(1500);

/// Moment of a run at which a rank is lost.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Moment {
    /// A rank is missing still.
    Rendezvous,
    /// The folder of the run was created.
    FirstUpdate,
    MidEpoch,
    /// The last update of an epoch is reported; validation takes longer than an update.
    Validation,
    /// Rank 0 writes a checkpoint.
    Checkpoint,
}

const MOMENTS: [Moment; 5] =
    [Moment::Rendezvous, Moment::FirstUpdate, Moment::MidEpoch, Moment::Validation, Moment::Checkpoint];

impl Moment {
    fn wait(self, ranks: &mut Ranks, folder: &Path, name: &str) {
        match self {
            Moment::Rendezvous => std::thread::sleep(DELAY / 3),
            Moment::FirstUpdate => {
                let run = folder.join("out").join(name);
                ranks.wait_until("the run has a folder", |_| run.exists());
            }
            Moment::MidEpoch => ranks.wait_for_updates(3),
            Moment::Validation => ranks.wait_for_updates(4),
            Moment::Checkpoint => {
                ranks.wait_for_updates(1);
                let checkpoints = folder.join("out").join(name).join("checkpoints");
                let is_temporary =
                    |entry: &fs::DirEntry| entry.path().extension().is_some_and(|e| e == "tmp");
                let is_writing = || {
                    fs::read_dir(&checkpoints)
                        .is_ok_and(|files| files.flatten().any(|file| is_temporary(&file)))
                };
                ranks.wait_until("a checkpoint is written", |_| is_writing());
            }
        }
    }
}

/// The command, started after a delay.
fn delayed(command: &Command, folder: &Path) -> Command {
    let mut shell = Command::new("sh");
    shell.arg("-c").arg(format!("sleep {}; exec \"$@\"", DELAY.as_secs_f64())).arg("sh");
    shell.arg(command.get_program()).args(command.get_args()).current_dir(folder);
    for (name, value) in command.get_envs() {
        match value {
            Some(value) => shell.env(name, value),
            None => shell.env_remove(name),
        };
    }
    shell
}

/// Loses a rank, checks the others, and resumes the run on `resumed_world` ranks if it has a checkpoint, which is returned.
fn lose(
    folder: &Path,
    name: &str,
    signal: Signal,
    lost: usize,
    moment: Moment,
    resumed_world: usize,
) -> bool {
    let case = format!("{signal:?} of rank {lost} at {moment:?}");
    let run = train(name, WORLD)
        .replace("--epochs 4 ", "--epochs 4000 ")
        .replace("--data-dir small", "--data-dir long");
    let run = format!("{run} --validation-batch-size 1 --dist-timeout {TIMEOUT}");
    // Another rank is late; not rank 0, at which the others wait.
    let late = (moment == Moment::Rendezvous).then_some(if lost == 3 { 2 } else { 3 });
    let mut ranks = Ranks::start_with(folder, name, WORLD, |rank, port| {
        let command = torchrun_rank(folder, &run, rank, WORLD, port);
        if late == Some(rank) { delayed(&command, folder) } else { command }
    });
    moment.wait(&mut ranks, folder, name);
    ranks.signal(lost, signal);
    let started = Instant::now();
    for rank in (0..WORLD).filter(|rank| *rank != lost) {
        let status = ranks.wait(rank, Duration::from_secs(TIMEOUT + 30));
        let text = ranks.text(rank, "err");
        assert_eq!(status.code(), Some(8), "{case}, rank {rank}: {text}");
        // A rank that has not joined has an unknown host, and rank 0 the address that was given.
        let has_no_host = ["did not connect within", "rank 0 did not respond within"]
            .iter()
            .any(|part| text.contains(part));
        let name = if moment == Moment::Rendezvous && has_no_host {
            format!("rank {lost} ")
        } else {
            format!("rank {lost} on ")
        };
        assert!(text.contains(&name), "{case}, rank {rank}: {text}");
    }
    let mut limit = Duration::from_secs(TIMEOUT + if is_reliability_sweep() { 2 } else { 12 });
    if late.is_some() {
        limit += DELAY;
    }
    assert!(started.elapsed() < limit, "{case}: {:?}", started.elapsed());
    drop(ranks);
    if !last_checkpoint(folder, name).exists() {
        assert!(matches!(moment, Moment::Rendezvous | Moment::FirstUpdate), "{case}: no checkpoint");
        return false;
    }
    let update = state(folder, name).update;
    let arguments = |_| {
        format!("train --resume out/{name} --epochs {} --threads 1 --validation-batch-size 8", update / 2 + 2)
    };
    Ranks::start(folder, &format!("{name}-resumed"), resumed_world, arguments).hash();
    assert!(state(folder, name).update > update, "{case}");
    true
}

#[test]
fn lost_rank_ends_the_others_with_code_8_and_the_run_resumes_on_other_ranks() {
    let folder = folder();
    write_dataset(&folder.path().join("long"), 1000);
    let mut cases = vec![(Signal::KILL, 1, Moment::MidEpoch), (Signal::STOP, 0, Moment::Validation)];
    if is_reliability_sweep() {
        let of_rank = |signal, rank| MOMENTS.into_iter().map(move |moment| (signal, rank, moment));
        let of_signal = |signal| (0..WORLD).flat_map(move |rank| of_rank(signal, rank));
        cases = [Signal::KILL, Signal::STOP].into_iter().flat_map(of_signal).collect();
    }
    let mut resumed = 0;
    for (number, (signal, lost, moment)) in cases.iter().enumerate() {
        let other_world = [2, 1, 8][number % 3];
        let name = format!("lost-{number}");
        resumed += usize::from(lose(folder.path(), &name, *signal, *lost, *moment, other_world));
    }
    let all = cases.len();
    eprintln!(
        "N1: {all} lost ranks, the others end with code 8 within the timeout and 2 s; {resumed} runs had a checkpoint and are resumed"
    );
    assert!(resumed * 2 >= all, "{resumed} of {all}");
}

#[test]
fn lost_rank_ends_a_run_over_nccl_with_code_8() {
    let folder = folder();
    // The emulated device and its kernels are built before the ranks have a deadline.
    succeed(
        folder.path(),
        &format!("train {SMALL_DATASET} --model resnet8 --device emulated --fast-dev-run 1"),
    );
    let long = |_| {
        let run = train("lost", 2).replace("--epochs 4 ", "--epochs 4000 ");
        format!("{run} --device emulated:2 --dist-timeout 60")
    };
    let mut ranks = Ranks::start(folder.path(), "lost", 2, long);
    ranks.wait_for_updates(3);
    ranks.signal(1, Signal::KILL);
    let status = ranks.wait(0, Duration::from_secs(50));
    let text = ranks.text(0, "err");
    assert_eq!(status.code(), Some(8), "{text}");
    assert!(text.contains("rank 1 on "), "{text}");
    assert!(state(folder.path(), "lost").update >= 2);
}

#[cfg(target_os = "linux")]
fn is_running(pid: u32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(')').is_some_and(|(_, rest)| !rest.trim_start().starts_with('Z'))
}

#[test]
#[cfg(target_os = "linux")]
fn no_process_is_left_behind_by_a_lost_rank_or_a_killed_launcher() {
    let folder = folder();
    let world = 3;
    for (signal, lost, code) in [
        (Signal::KILL, Some(1), Some(8)),
        (Signal::STOP, Some(2), Some(8)),
        // The launcher itself.
        (Signal::KILL, None, None),
    ] {
        let name = format!("left-{signal:?}-{lost:?}").replace(|c: char| !c.is_ascii_alphanumeric(), "-");
        let run = train(&name, 4).replace("--epochs 4 ", "--epochs 4000 ");
        let command = format!("launch --nproc-per-node {world} {run} --dist-timeout {TIMEOUT}");
        let mut launcher =
            Ranks::start_with(folder.path(), &name, 1, |_, _| common::command(folder.path(), &command));
        launcher.wait_for_updates(1);
        let processes = children(launcher.pid(0));
        assert_eq!(processes.len(), world, "{processes:?}");
        match lost {
            Some(rank) => {
                // Started in the order of ranks.
                let mut in_order = processes.clone();
                in_order.sort_unstable();
                let pid = rustix::process::Pid::from_raw(in_order[rank] as i32).expect("a process");
                rustix::process::kill_process(pid, signal).expect("it runs");
            }
            None => launcher.signal(0, signal),
        }
        let status = launcher.wait(0, Duration::from_secs(TIMEOUT + 30));
        if code.is_some() {
            assert_eq!(status.code(), code, "{}", launcher.text(0, "err"));
        }
        let deadline = Instant::now() + Duration::from_secs(20);
        while let Some(pid) = processes.iter().find(|pid| is_running(**pid)) {
            assert!(Instant::now() < deadline, "process {pid} is left: {}", launcher.text(0, "err"));
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

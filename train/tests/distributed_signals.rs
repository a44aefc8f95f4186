//! A signal to one rank stops all ranks after the same update, and the run resumes on the same or on another number of ranks.
//! `FORNAX_TEST_SWEEP=reliability` signals every rank after several updates.
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
use processes::{Ranks, folder, state, train};
use rustix::process::Signal;
use std::time::Duration;
use sweep::{is_full_sweep, is_reliability_sweep};

#[test]
fn signal_to_one_rank_saves_the_same_update_on_all() {
    let folder = folder();
    let (world, epochs) = (4, 12);
    let run = |name: &str| train(name, world).replace("--epochs 4 ", &format!("--epochs {epochs} "));
    let expected =
        Ranks::start(folder.path(), "whole", world, |_| format!("{} --print-hash", run("whole"))).hash();
    // Signal, rank, and number of updates before it.
    let mut cases = vec![(Signal::TERM, 3, 1)];
    if is_full_sweep() {
        cases.extend([(Signal::INT, 0, 1), (Signal::TERM, 1, 1)]);
    }
    if is_reliability_sweep() {
        let of_rank = |rank| {
            [1, 4, 7]
                .into_iter()
                .flat_map(move |update| [(Signal::TERM, rank, update), (Signal::INT, rank, update)])
        };
        cases = (0..world).flat_map(of_rank).collect();
    }
    for (number, (signal, to, updates)) in cases.iter().enumerate() {
        let name = format!("signal-{number}");
        let mut ranks = Ranks::start(folder.path(), &name, world, |_| run(&name));
        ranks.wait_for_updates(*updates);
        ranks.signal(*to, *signal);
        let code = if *signal == Signal::INT { 130 } else { 143 };
        for rank in 0..world {
            let status = ranks.wait(rank, Duration::from_secs(30));
            assert_eq!(status.code(), Some(code), "rank {rank}: {}", ranks.text(rank, "err"));
        }
        let update = state(folder.path(), &name).update;
        assert!((*updates as u64..2 * epochs).contains(&update), "{update}");
        let resumed = Ranks::start(folder.path(), &format!("{name}-resumed"), world, |_| {
            format!("{} --resume auto --print-hash", run(&name))
        });
        assert_eq!(resumed.hash(), expected, "signal {signal:?} to rank {to}");
    }
    eprintln!(
        "S2: {} signals to one rank of {world}: all end, and the resumed runs have equal hashes",
        cases.len()
    );
}

#[test]
fn interrupted_launch_acknowledges_the_signal_and_prints_its_own_command_to_resume() {
    let folder = folder();
    for (signal, code, acknowledged) in [
        (Signal::INT, 130, "finishing this update, then saving; Ctrl-C again ends now"),
        (Signal::HUP, 129, "SIGHUP: finishing this update, then saving; a second signal ends now"),
    ] {
        let name = format!("launched-{code}");
        let run = train(&name, 2).replace("--epochs 4 ", "--epochs 4000 ");
        let command = format!("launch --nproc-per-node 2 {run}");
        let mut launcher = Ranks::start_with(folder.path(), &name, 1, |_, _| {
            processes::command_without_launcher(folder.path(), &command)
        });
        launcher.wait_for_updates(1);
        launcher.signal(0, signal);
        assert_eq!(launcher.wait(0, Duration::from_secs(60)).code(), Some(code));
        let text = launcher.text(0, "err");
        assert_eq!(text.matches(acknowledged).count(), 1, "{text}");
        let path = std::fs::canonicalize(folder.path().join("out").join(&name)).expect("exists");
        let resume = format!("`fornax launch --nproc-per-node 2 train --resume {}`", path.display());
        assert!(text.contains(&resume), "{resume} in {text}");
    }
}

#[test]
fn resume_on_other_numbers_of_ranks_trains_on_every_sample_once() {
    let folder = folder();
    succeed(folder.path(), &train("alone", 1));
    let mut previous = 0;
    for (part, world) in [4usize, 2, 1, 4].into_iter().enumerate() {
        // With the batch norm statistics of all ranks, every number of ranks gives the same run.
        let sync_bn = if world == 1 { "" } else { "--sync-bn" };
        let run = format!("{} {sync_bn} --resume auto", train("other", world));
        let name = format!("part-{part}");
        let mut ranks = Ranks::start(folder.path(), &name, world, |_| run.clone());
        if part < 3 {
            ranks.wait_for_updates(1);
            ranks.signal(world - 1, Signal::TERM);
            for rank in 0..world {
                let code = ranks.wait(rank, Duration::from_secs(30)).code();
                assert!(matches!(code, Some(143 | 0)), "{code:?}: {}", ranks.text(rank, "err"));
            }
        } else {
            ranks.hash();
        }
        let state = state(folder.path(), "other");
        assert!(state.update >= previous, "{} after {previous}", state.update);
        previous = state.update;
    }
    assert_eq!(previous, 8);
    let losses = |name: &str| -> Vec<f64> {
        state(folder.path(), name).history.iter().map(|row| row.train_loss).collect()
    };
    // Another sample in a batch changes the loss by more than 1%.
    for (one, other) in losses("alone").iter().zip(losses("other")) {
        assert!((one - other).abs() < 2e-3 * one.abs(), "{:?} {:?}", losses("alone"), losses("other"));
    }
}

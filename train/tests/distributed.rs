//! Runs of several processes: launchers, lost ranks, mismatches, signals, and resuming on another number of ranks.
//! `FORNAX_TEST_SWEEP=full` runs every launcher on every number of ranks, and `=reliability` loses ranks at many points.
mod common;
#[path = "common/ranks.rs"]
mod ranks;
#[path = "common/small_dataset.rs"]
mod small_dataset;
#[path = "common/sweep.rs"]
mod sweep;

use common::{command, run, stderr, succeed};
use fornax::checkpoint;
use fornax::trainer::TrainerState;
use ranks::free_port;
use small_dataset::{SMALL_DATASET, write_small_dataset};
use std::fs::{self, File};
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};
use sweep::{is_full_sweep, is_reliability_sweep};

/// A run of updates of 16 images over all ranks, two per epoch, with every kind of state.
const RUN: &str = "--dataset idx --data-dir small --model resnet8 --epochs 4 --warmup-epochs 1 --opt adamw --model-ema \
    --model-ema-decay 0.9 --recovery-interval 1 --log-interval 1 --progress plain --output out --threads 1 --workers 1";

fn train(name: &str, world: usize) -> String {
    format!("train {RUN} --batch-size {} --experiment {name}", 16 / world)
}

/// A launcher, by the variables or flags that it sets.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Launcher {
    Flags,
    Torchrun,
    Slurm,
    OpenMpi,
    Pmi,
}

const LAUNCHERS: [Launcher; 5] =
    [Launcher::Flags, Launcher::Torchrun, Launcher::Slurm, Launcher::OpenMpi, Launcher::Pmi];

impl Launcher {
    /// The command of a rank.
    fn rank(self, folder: &Path, arguments: &str, rank: usize, world: usize, port: u16) -> Command {
        let flags = match self {
            Launcher::Flags => {
                format!("--rank {rank} --world-size {world} --master-addr 127.0.0.1 --master-port {port}")
            }
            _ => String::new(),
        };
        let mut command = command(folder, &format!("{arguments} {flags}"));
        for name in
            ["RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT", "SLURM_PROCID", "PMI_RANK"]
        {
            command.env_remove(name);
        }
        let names = match self {
            Launcher::Flags => return command,
            Launcher::Torchrun => ["RANK", "WORLD_SIZE", "LOCAL_RANK"],
            Launcher::Slurm => ["SLURM_PROCID", "SLURM_NTASKS", "SLURM_LOCALID"],
            Launcher::OpenMpi => {
                ["OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_LOCAL_RANK"]
            }
            Launcher::Pmi => ["PMI_RANK", "PMI_SIZE", "MPI_LOCALRANKID"],
        };
        for (name, value) in names.into_iter().zip([rank, world, rank]) {
            command.env(name, value.to_string());
        }
        match self {
            Launcher::Slurm => command.env("SLURM_JOB_ID", "7").env("SLURM_NODELIST", "127.0.0.1"),
            _ => command.env("MASTER_ADDR", "127.0.0.1"),
        };
        command.env("MASTER_PORT", port.to_string());
        command
    }
}

/// Processes of a run.
struct Ranks {
    children: Vec<Child>,
    folder: std::path::PathBuf,
    name: String,
}

impl Ranks {
    fn start(
        launcher: Launcher,
        folder: &Path,
        name: &str,
        world: usize,
        arguments: impl Fn(usize) -> String,
    ) -> Ranks {
        let port = free_port();
        let file = |rank: usize, kind: &str| {
            File::create(folder.join(format!("{name}-{rank}.{kind}"))).expect("a file")
        };
        let start = |rank| {
            let mut command = launcher.rank(folder, &arguments(rank), rank, world, port);
            command.stdout(file(rank, "out")).stderr(file(rank, "err")).stdin(Stdio::null());
            command.spawn().expect("the binary starts")
        };
        Ranks { children: (0..world).map(start).collect(), folder: folder.into(), name: name.into() }
    }

    fn text(&self, rank: usize, kind: &str) -> String {
        fs::read_to_string(self.folder.join(format!("{}-{rank}.{kind}", self.name))).expect("a file")
    }

    /// Waits until rank 0 has reported this many updates.
    fn wait_for_updates(&mut self, updates: usize) {
        let deadline = Instant::now() + Duration::from_secs(60);
        while self.text(0, "err").matches("  batch ").count() < updates {
            assert!(Instant::now() < deadline, "{}", self.text(0, "err"));
            let ended = self.children.iter_mut().any(|child| child.try_wait().expect("a child").is_some());
            assert!(
                !ended,
                "a rank ended: {}",
                (0..self.children.len()).map(|r| self.text(r, "err")).collect::<String>()
            );
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    /// Waits until a rank ends.
    fn wait(&mut self, rank: usize, limit: Duration) -> ExitStatus {
        let deadline = Instant::now() + limit;
        loop {
            if let Some(status) = self.children[rank].try_wait().expect("a child") {
                return status;
            }
            assert!(Instant::now() < deadline, "rank {rank} still runs: {}", self.text(rank, "err"));
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    fn signal(&self, rank: usize, name: &str) {
        let status =
            Command::new("sh").arg("-c").arg(format!("kill -{name} {}", self.children[rank].id())).status();
        assert!(status.expect("a shell").success());
    }

    /// Waits for all ranks, which must succeed, and returns the last line of rank 0: its hash.
    fn hash(mut self) -> String {
        for rank in 0..self.children.len() {
            let status = self.wait(rank, Duration::from_secs(120));
            assert!(status.success(), "rank {rank}: {}", self.text(rank, "err"));
            assert!(rank == 0 || self.text(rank, "out").is_empty(), "results of rank {rank}");
        }
        self.text(0, "out").lines().last().expect("a hash").to_string()
    }
}

impl Drop for Ranks {
    fn drop(&mut self) {
        for child in &mut self.children {
            child.kill().ok();
            child.wait().ok();
        }
    }
}

fn folder() -> tempfile::TempDir {
    let folder = tempfile::tempdir().expect("a folder");
    write_small_dataset(folder.path());
    folder
}

fn state(folder: &Path, name: &str) -> TrainerState {
    checkpoint::read(&folder.join("out").join(name).join("checkpoints/last.safetensors"))
        .expect("loads")
        .header
        .state
}

#[test]
fn every_launcher_gives_the_same_run() {
    let folder = folder();
    let worlds: &[usize] = if is_full_sweep() { &[1, 2, 4] } else { &[2] };
    for world in worlds {
        let launched = succeed(
            folder.path(),
            &format!(
                "launch --nproc-per-node {world} {} --print-hash",
                train(&format!("launch-{world}"), *world)
            ),
        );
        let expected = launched.lines().last().expect("a hash").to_string();
        assert_eq!(expected.len(), 64, "{launched}");
        let launchers = if is_full_sweep() { &LAUNCHERS[..] } else { &LAUNCHERS[..3] };
        for launcher in launchers {
            let name = format!("{launcher:?}-{world}");
            let arguments = |_| format!("{} --print-hash", train(&name, *world));
            let ranks = Ranks::start(*launcher, folder.path(), &name, *world, arguments);
            assert_eq!(ranks.hash(), expected, "{name}");
        }
    }
}

#[test]
fn lost_rank_ends_the_others_with_code_8_and_the_run_resumes_on_other_ranks() {
    let folder = folder();
    let timeout = 3;
    let mut cases = vec![("KILL", 1, 3), ("STOP", 0, 3)];
    if is_reliability_sweep() {
        cases = ["KILL", "STOP"]
            .into_iter()
            .flat_map(|s| (0..3).flat_map(move |r| (1..6).map(move |u| (s, r, u))))
            .collect();
    }
    for (number, (signal, lost, updates)) in cases.into_iter().enumerate() {
        let name = format!("lost-{number}");
        let long = |_| {
            let run = train(&name, 4).replace("--epochs 4 ", "--epochs 4000 ");
            format!("{run} --dist-timeout {timeout}")
        };
        let mut ranks = Ranks::start(Launcher::Torchrun, folder.path(), &name, 4, long);
        ranks.wait_for_updates(updates);
        ranks.signal(lost, signal);
        let started = Instant::now();
        for rank in (0..4).filter(|rank| *rank != lost) {
            let status = ranks.wait(rank, Duration::from_secs(timeout + 12));
            assert_eq!(status.code(), Some(8), "rank {rank}: {}", ranks.text(rank, "err"));
            let text = ranks.text(rank, "err");
            assert!(text.contains(&format!("rank {lost} on ")), "{signal} of rank {lost}: {text}");
        }
        // By default the machine may be busy.
        let limit = timeout + if is_reliability_sweep() { 2 } else { 12 };
        assert!(started.elapsed() < Duration::from_secs(limit), "{signal}: {:?}", started.elapsed());
        drop(ranks);
        // The last checkpoint is whole: two ranks, each with twice the batch, go on.
        let update = state(folder.path(), &name).update;
        // `last` is written after each epoch, of two updates.
        assert!(update + 2 >= updates as u64, "{update}");
        let arguments = |_| format!("train --resume out/{name} --epochs {} --threads 1", update / 2 + 2);
        let resumed =
            Ranks::start(Launcher::Torchrun, folder.path(), &format!("resumed-{number}"), 2, arguments);
        resumed.hash();
        assert!(state(folder.path(), &name).update > update);
    }
}

#[test]
fn emulated_gpus_train_over_nccl_like_cpus_over_tcp() {
    let folder = folder();
    let losses = |name: &str, device: &str| -> (Vec<f64>, String) {
        let arguments =
            format!("launch --nproc-per-node 2 {} --device {device} --print-hash", train(name, 2));
        let out = succeed(folder.path(), &arguments);
        let history = state(folder.path(), name).history;
        let hash = out.lines().last().expect("a hash").to_string();
        (history.iter().map(|epoch| epoch.train_loss).collect(), hash)
    };
    let ((tcp, _), (nccl, hash)) = (losses("tcp", "cpu"), losses("nccl", "emulated:2"));
    assert_eq!((tcp.len(), nccl.len()), (4, 4));
    for (tcp, nccl) in tcp.iter().zip(&nccl) {
        assert!((tcp - nccl).abs() <= 2e-3 * tcp, "{tcp} and {nccl}");
    }
    assert_eq!(losses("again", "emulated:2"), (nccl, hash), "runs repeat bit for bit");
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
    let mut ranks = Ranks::start(Launcher::Torchrun, folder.path(), "lost", 2, long);
    ranks.wait_for_updates(3);
    ranks.signal(1, "KILL");
    let status = ranks.wait(0, Duration::from_secs(50));
    let text = ranks.text(0, "err");
    assert_eq!(status.code(), Some(8), "{text}");
    assert!(text.contains("rank 1 on "), "{text}");
    assert!(state(folder.path(), "lost").update >= 2);
}

#[test]
fn different_options_or_data_end_all_ranks_with_the_difference() {
    let folder = folder();
    fs::create_dir(folder.path().join("other")).expect("a folder");
    for entry in fs::read_dir(folder.path().join("small")).expect("a folder").flatten() {
        let mut bytes = fs::read(entry.path()).expect("a file");
        let last = bytes.len() - 1;
        bytes[last] ^= 1;
        fs::write(folder.path().join("other").join(entry.file_name()), bytes).expect("writes");
    }
    let cases: [(&str, &str, &[&str]); 2] = [
        ("--lr 0.1", "--lr 0.2", &["the ranks differ in their options", "--lr 0.1", "--lr 0.2"]),
        ("", "--data-dir other", &["the ranks differ in their dataset", "CRC32C"]),
    ];
    for (number, (first, second, expected)) in cases.into_iter().enumerate() {
        let name = format!("different-{number}");
        let arguments = |rank| format!("{} {}", train(&name, 2), if rank == 0 { first } else { second });
        let started = Instant::now();
        let mut ranks = Ranks::start(Launcher::Torchrun, folder.path(), &name, 2, arguments);
        for rank in 0..2 {
            assert_eq!(
                ranks.wait(rank, Duration::from_secs(20)).code(),
                Some(2),
                "{}",
                ranks.text(rank, "err")
            );
            let text = ranks.text(rank, "err");
            expected.iter().for_each(|part| assert!(text.contains(part), "{part} is missing in {text}"));
        }
        assert!(started.elapsed() < Duration::from_secs(10), "{:?}", started.elapsed());
        assert!(!folder.path().join("out").join(&name).exists(), "no folder of a run that did not start");
    }
}

#[test]
fn signal_to_one_rank_saves_the_same_update_on_all() {
    let folder = folder();
    let world = 4;
    let expected = Ranks::start(Launcher::Torchrun, folder.path(), "whole", world, |_| {
        format!("{} --print-hash", train("whole", world))
    })
    .hash();
    let signals: &[(&str, usize, i32)] = if is_full_sweep() {
        &[("TERM", 3, 143), ("INT", 0, 130), ("TERM", 1, 143)]
    } else {
        &[("TERM", 3, 143)]
    };
    for (signal, to, code) in signals {
        let name = format!("signal-{signal}-{to}");
        let mut ranks =
            Ranks::start(Launcher::Torchrun, folder.path(), &name, world, |_| train(&name, world));
        ranks.wait_for_updates(1);
        ranks.signal(*to, signal);
        for rank in 0..world {
            let status = ranks.wait(rank, Duration::from_secs(30));
            assert_eq!(status.code(), Some(*code), "rank {rank}: {}", ranks.text(rank, "err"));
        }
        let saved = state(folder.path(), &name);
        assert!((1..8).contains(&saved.update), "{}", saved.update);
        let resumed =
            Ranks::start(Launcher::Torchrun, folder.path(), &format!("{name}-resumed"), world, |_| {
                format!("{} --resume auto --print-hash", train(&name, world))
            });
        assert_eq!(resumed.hash(), expected, "{signal} to rank {to}");
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
        let mut ranks = Ranks::start(Launcher::Torchrun, folder.path(), &name, world, |_| run.clone());
        if part < 3 {
            ranks.wait_for_updates(1);
            ranks.signal(world - 1, "TERM");
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

#[test]
fn nonfinite_policies_act_alike_on_all_ranks() {
    let folder = folder();
    for (policy, expected) in
        [("rollback", "training returns to update"), ("skip", "is skipped"), ("stop", "loss is")]
    {
        let arguments = |_| {
            format!(
                "{} --opt momentum --lr 1e30 --warmup-epochs 0 --on-nonfinite {policy}",
                train(policy, 2).replace("--epochs 4 ", "--epochs 20 ")
            )
        };
        let mut ranks = Ranks::start(Launcher::Torchrun, folder.path(), policy, 2, arguments);
        for rank in 0..2 {
            let status = ranks.wait(rank, Duration::from_secs(60));
            assert_eq!(status.code(), Some(5), "{policy}, rank {rank}: {}", ranks.text(rank, "err"));
        }
        assert!(ranks.text(0, "err").contains(expected), "{policy}: {}", ranks.text(0, "err"));
    }
}

#[test]
fn launch_prefixes_logs_and_ends_with_the_code_of_the_first_failure() {
    let folder = folder();
    let output = run(folder.path(), &format!("launch --nproc-per-node 2 {} --model none", train("bad", 2)));
    assert_eq!(output.status.code(), Some(2), "{}", stderr(&output));
    assert!(stderr(&output).contains("[rank 0] error"), "{}", stderr(&output));
    let missing = run(folder.path(), "launch --nproc-per-node 2");
    assert_eq!(missing.status.code(), Some(2));
    assert!(stderr(&missing).contains("append `train`"), "{}", stderr(&missing));
    let output = run(folder.path(), &format!("launch --nproc-per-node 2 {} --json", train("good", 2)));
    assert!(output.status.success(), "{}", stderr(&output));
    let stdout = String::from_utf8_lossy(&output.stdout).into_owned();
    assert_eq!(stdout.lines().count(), 1, "{stdout}");
    assert!(stdout.starts_with('{') && stdout.contains("\"top1\""), "{stdout}");
}

#[test]
fn options_of_several_ranks_are_rejected_in_a_run_of_one() {
    let folder = folder();
    for (flags, expected) in [
        ("--sync-bn", "--sync-bn would have no effect"),
        ("--dist-bn broadcast", "--dist-bn would have no effect"),
        ("--ddp-compress bf16", "--ddp-compress would have no effect"),
        ("--dist-timeout 5", "--dist-timeout would have no effect"),
        ("--rank 0", "--rank needs --world-size"),
    ] {
        let output = run(folder.path(), &format!("{} {flags}", train("none", 1)));
        assert_eq!(output.status.code(), Some(2), "{flags}: {}", stderr(&output));
        assert!(stderr(&output).contains(expected), "{flags}: {}", stderr(&output));
    }
    // Old launchers append it.
    succeed(folder.path(), &format!("{} --local_rank=0 --dry-run", train("one", 1)));
}

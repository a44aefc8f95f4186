//! Runs of several processes: launchers, mismatches, non-finite values, and rejected options. `FORNAX_TEST_SWEEP=full` and `=reliability` run
//! every launcher on every number of ranks.
mod common;
#[path = "common/processes.rs"]
mod processes;
#[path = "common/ranks.rs"]
mod ranks;
#[path = "common/small_dataset.rs"]
mod small_dataset;
#[path = "common/sweep.rs"]
mod sweep;

use common::{run, stderr, succeed};
use processes::{Ranks, command_without_launcher, folder, state, torchrun_rank, train};
use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};
use sweep::{is_reliability_sweep, is_whole_sweep};

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
        let names = match self {
            Launcher::Flags => return rank_by_flags(folder, arguments, rank, world, port),
            Launcher::Torchrun => return torchrun_rank(folder, arguments, rank, world, port),
            Launcher::Slurm => ["SLURM_PROCID", "SLURM_NTASKS", "SLURM_LOCALID"],
            Launcher::OpenMpi => {
                ["OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_LOCAL_RANK"]
            }
            Launcher::Pmi => ["PMI_RANK", "PMI_SIZE", "MPI_LOCALRANKID"],
        };
        let mut command = command_without_launcher(folder, arguments);
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

/// A rank that flags place in its group.
fn rank_by_flags(folder: &Path, arguments: &str, rank: usize, world: usize, port: u16) -> Command {
    let place = format!("--rank {rank} --world-size {world} --master-addr 127.0.0.1 --master-port {port}");
    command_without_launcher(folder, &format!("{arguments} {place}"))
}

#[test]
fn every_launcher_gives_the_same_run() {
    let folder = folder();
    let worlds: &[usize] = if is_whole_sweep() { &[1, 2, 4] } else { &[2] };
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
        let launchers = if is_whole_sweep() { &LAUNCHERS[..] } else { &LAUNCHERS[..3] };
        for launcher in launchers {
            let name = format!("{launcher:?}-{world}");
            let arguments = format!("{} --print-hash", train(&name, *world));
            let command = |rank, port| launcher.rank(folder.path(), &arguments, rank, *world, port);
            let ranks = Ranks::start_with(folder.path(), &name, *world, command);
            assert_eq!(ranks.hash(), expected, "{name}");
        }
    }
    eprintln!("N4: fornax launch and {LAUNCHERS:?} on {worlds:?} ranks: equal hashes");
}

#[test]
fn devices_flag_starts_one_process_per_device() {
    let folder = folder();
    let plan = |flags: &str| succeed(folder.path(), &format!("{} --dry-run {flags}", train("plan", 2)));
    let hash = |start: &str, name: &str, flags: &str| {
        let line = format!("{start}{} --device emulated:2 --print-hash {flags}", train(name, 2));
        succeed(folder.path(), &line).lines().last().expect("a hash").to_string()
    };
    let launched = hash("launch --nproc-per-node 2 ", "launched", "");
    assert_eq!(launched.len(), 64, "{launched}");
    assert_eq!(hash("", "devices", "--devices 0,1 --dist-timeout 60"), launched);
    for (flags, device) in [
        ("--device emulated:3 --devices 2,1", "on 2 ranks of cuda:2"),
        ("--device emulated:2 --devices 1", "on cuda:1"),
    ] {
        let plan = plan(flags);
        assert!(plan.lines().any(|line| line.ends_with(device)), "{flags}: {plan}");
    }
}

#[test]
fn devices_flag_is_rejected_next_to_other_choices_of_devices_and_ranks() {
    let folder = folder();
    let rejected = |line: &str, variables: &[(&str, &str)], message: &str| {
        let mut command = command_without_launcher(folder.path(), line);
        let output = command.envs(variables.iter().copied()).output().expect("the binary starts");
        assert_eq!(output.status.code(), Some(2), "{line}: {}", stderr(&output));
        assert!(stderr(&output).contains(message), "{line}: {}", stderr(&output));
    };
    let train = train("none", 2);
    for (flags, message) in [
        ("--device cuda:1", "--device does not work with --devices"),
        ("--device cpu", "--device does not work with --devices"),
        ("--device emulated", "emulated device 1 does not exist"),
        ("--rank 0 --world-size 2", "--rank does not work with --devices"),
        ("--local-rank 0", "--local-rank does not work with --devices"),
        ("--master-addr a", "--master-addr does not work with --devices"),
        ("--seeds 1,2 --device emulated:2", "--seeds does not work with several devices"),
    ] {
        rejected(&format!("{train} --devices 0,1 {flags}"), &[], message);
    }
    rejected(&format!("{train} --devices 1,1"), &[], "device 1 is listed twice");
    let torchrun =
        [("RANK", "0"), ("WORLD_SIZE", "2"), ("LOCAL_RANK", "0"), ("MASTER_ADDR", "a"), ("MASTER_PORT", "1")];
    let why = "torchrun has started this process";
    rejected(&format!("{train} --device emulated:2 --devices 0,1"), &torchrun, why);
    let launched = format!("launch --nproc-per-node 2 {train} --device emulated:2 --devices 0,1");
    rejected(&launched, &[], "fornax launch has started this process");
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
fn ranks_that_differ_end_at_once_with_the_difference() {
    let folder = folder();
    fs::create_dir(folder.path().join("other")).expect("a folder");
    for entry in fs::read_dir(folder.path().join("small")).expect("a folder").flatten() {
        let mut bytes = fs::read(entry.path()).expect("a file");
        let last = bytes.len() - 1;
        bytes[last] ^= 1;
        fs::write(folder.path().join("other").join(entry.file_name()), bytes).expect("writes");
    }
    // Rank and number of ranks of each process, options of the last one, and parts of the error of every process.
    type Case = (&'static [(usize, usize)], &'static str, &'static [&'static str]);
    let cases: [Case; 6] = [
        (&[(0, 2), (1, 2)], "--lr 0.2", &["the ranks differ in their options", "--lr 0.1", "--lr 0.2"]),
        (
            &[(0, 2), (1, 2)],
            "--conv-algo direct",
            &["the ranks differ in their options", "--conv-algo unset", "--conv-algo \"direct\""],
        ),
        (&[(0, 2), (1, 2)], "--data-dir other", &["the ranks differ in their dataset", "CRC32C"]),
        (&[(0, 2), (1, 3)], "", &["the ranks differ in the number of processes"]),
        (&[(0, 3), (1, 3), (1, 3)], "", &["two processes have the same rank"]),
        (&[(0, 4), (1, 4), (3, 4), (2, 4)], "--epochs 9", &["--epochs 4", "--epochs 9"]),
    ];
    let mut longest = Duration::ZERO;
    for (number, (places, last_options, expected)) in cases.iter().enumerate() {
        let name = format!("different-{number}");
        let command = |process: usize, port| {
            let (rank, world) = places[process];
            let is_last = process + 1 == places.len();
            let options = if is_last { *last_options } else { "" };
            let lr = if options.contains("--lr") { "" } else { "--lr 0.1" };
            rank_by_flags(folder.path(), &format!("{} {lr} {options}", train(&name, 2)), rank, world, port)
        };
        let started = Instant::now();
        let mut ranks = Ranks::start_with(folder.path(), &name, places.len(), command);
        for process in 0..places.len() {
            let status = ranks.wait(process, Duration::from_secs(20));
            let text = ranks.text(process, "err");
            assert_eq!(status.code(), Some(2), "{text}");
            expected.iter().for_each(|part| assert!(text.contains(part), "{part} is missing in {text}"));
        }
        longest = longest.max(started.elapsed());
        assert!(!folder.path().join("out").join(&name).exists(), "no folder of a run that did not start");
    }
    // By default the machine may be busy.
    let limit = Duration::from_secs(if is_reliability_sweep() { 5 } else { 15 });
    assert!(longest < limit, "{longest:?}");
    eprintln!("N3: {} mismatches are rejected, after {:.1} s at most", cases.len(), longest.as_secs_f64());
}

#[test]
fn nonfinite_policies_act_alike_on_all_ranks() {
    let folder = folder();
    for (policy, expected) in
        [("rollback", "training returns to update"), ("skip", "is skipped"), ("stop", "loss is")]
    {
        let arguments = |_| {
            format!(
                "{} --opt momentum --lr 1000 --weight-decay 1e30 --warmup-epochs 0 --on-nonfinite {policy}",
                train(policy, 2).replace("--epochs 4 ", "--epochs 20 ")
            )
        };
        let mut ranks = Ranks::start(folder.path(), policy, 2, arguments);
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
fn options_of_several_ranks_are_ignored_in_a_run_of_one() {
    let folder = folder();
    let flags = "--sync-bn --ddp-compress bf16 --dist-timeout 5 --dry-run";
    let output = run(folder.path(), &format!("{} {flags}", train("none", 1)));
    let expected = "--sync-bn, --ddp-compress, --dist-timeout (the run has one process)";
    assert!(output.status.success() && stderr(&output).contains(expected), "{}", stderr(&output));
    let output = run(folder.path(), &format!("{} --rank 0", train("none", 1)));
    assert_eq!(output.status.code(), Some(2), "{}", stderr(&output));
    assert!(stderr(&output).contains("--rank needs --world-size"), "{}", stderr(&output));
    // Old launchers append it.
    succeed(folder.path(), &format!("{} --local_rank=0 --dry-run", train("one", 1)));
}

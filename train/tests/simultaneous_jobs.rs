//! Jobs that start at the same time on one machine, as sweeps over options do: each trains with its own ranks, whatever launcher started it.
//! `FORNAX_TEST_SWEEP=reliability` starts 100 pairs.
#[allow(dead_code)]
mod common;
#[path = "common/processes.rs"]
#[allow(dead_code)]
mod processes;
#[path = "common/ranks.rs"]
#[allow(dead_code)]
mod ranks;
#[path = "common/small_dataset.rs"]
#[allow(dead_code)]
mod small_dataset;
#[path = "common/sweep.rs"]
mod sweep;

use processes::{Ranks, command_without_launcher, folder, train};
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};
use sweep::is_reliability_sweep;

/// A way to start the two ranks of a job.
#[derive(Clone, Copy, Debug)]
enum Start {
    /// `mpirun -n 2`, with its own namespace.
    OpenMpi,
    /// `srun -n 2`, as a step of a common job.
    SlurmStep,
    Launch,
}

const STARTS: [Start; 3] = [Start::OpenMpi, Start::SlurmStep, Start::Launch];

impl Start {
    /// Processes of a job.
    fn processes(self) -> usize {
        match self {
            Start::Launch => 1,
            _ => 2,
        }
    }

    /// The command of a process of job `job` (0 or 1) of pair `pair`.
    fn command(self, folder: &Path, arguments: &str, [pair, job]: [usize; 2], rank: usize) -> Command {
        let variables: Vec<(&str, String)> = match self {
            Start::OpenMpi => vec![
                ("OMPI_COMM_WORLD_RANK", rank.to_string()),
                ("OMPI_COMM_WORLD_SIZE", "2".into()),
                ("OMPI_COMM_WORLD_LOCAL_RANK", rank.to_string()),
                ("PMIX_NAMESPACE", format!("{}", 3_141_500_000 + 65_536 * (2 * pair + job))),
            ],
            Start::SlurmStep => vec![
                ("SLURM_PROCID", rank.to_string()),
                ("SLURM_NTASKS", "2".into()),
                ("SLURM_LOCALID", rank.to_string()),
                ("SLURM_JOB_ID", (4000 + pair).to_string()),
                ("SLURM_STEP_ID", job.to_string()),
                ("SLURM_NODELIST", "127.0.0.1".into()),
            ],
            Start::Launch => {
                return command_without_launcher(folder, &format!("launch --nproc-per-node 2 {arguments}"));
            }
        };
        let mut command = command_without_launcher(folder, arguments);
        command.envs(variables);
        command
    }
}

/// Arguments of one of two jobs, whose learning rates differ.
fn arguments(name: &str, job: usize) -> String {
    let run = train(name, 2).replace("--epochs 4 --warmup-epochs 1", "--epochs 1 --warmup-epochs 0");
    format!("{run} --lr {} --dist-timeout 60 --print-hash", [0.01, 0.3][job])
}

#[test]
fn ranks_of_jobs_that_start_at_once_join_their_own_job() {
    let folder = folder();
    let folder = folder.path();
    let alone = [0, 1].map(|job| {
        let name = format!("alone-{job}");
        let command = |_, _| Start::Launch.command(folder, &arguments(&name, job), [0, job], 0);
        Ranks::start_with(folder, &name, 1, command).hash()
    });
    assert_ne!(alone[0], alone[1], "the learning rates have an effect");
    let (pairs, started) = (if is_reliability_sweep() { 100 } else { 6 }, Instant::now());
    for pair in 0..pairs {
        let start = STARTS[pair % STARTS.len()];
        let name = |job: usize| format!("pair-{pair}-{job}");
        // Ranks of both jobs start in turn.
        let mut jobs = [0, 1].map(|job| {
            let arguments = arguments(&name(job), job);
            let command = |rank, _| start.command(folder, &arguments, [pair, job], rank);
            Ranks::start_with(folder, &name(job), start.processes(), command)
        });
        for (job, ranks) in jobs.iter_mut().enumerate() {
            for rank in 0..start.processes() {
                let status = ranks.wait(rank, Duration::from_secs(120));
                let text = ranks.text(rank, "err");
                assert!(status.success(), "{start:?}, pair {pair}, job {job}, rank {rank}: {text}");
            }
        }
        for (ranks, expected) in jobs.into_iter().zip(&alone) {
            assert_eq!(&ranks.hash(), expected, "{start:?}, pair {pair}");
        }
    }
    eprintln!(
        "N2: {pairs} pairs of jobs start at once, each with the result of the job alone, {} s",
        started.elapsed().as_secs()
    );
}

//! Rank, world size and rendezvous address of this process, from flags or from the environment of the launcher that started it.
mod flags;
mod job;
mod slurm;

pub use flags::LaunchFlags;
pub use job::{ID_VARIABLE, Job, port_of_id};

use super::wire::{RendezvousToken, random_text};
pub use super::wire::{TOKEN_FILE_VARIABLE, TOKEN_VARIABLE};
use crate::{Error, Result};
use std::time::Duration;

/// Default of `--dist-timeout`.
pub const DEFAULT_TIMEOUT: Duration = Duration::from_secs(120);
/// Port of rank 0 of a job without an id.
pub const DEFAULT_PORT: u16 = 29500;
const LOCALHOST: &str = "127.0.0.1";

/// Environment, by the name of a variable.
type Environment<'a> = &'a dyn Fn(&str) -> Option<String>;

/// Place of this process in its group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Launch {
    /// Rank, below `world_size`.
    pub rank: usize,
    /// Number of ranks.
    pub world_size: usize,
    /// Rank on this machine.
    pub local_rank: usize,
    /// Number of ranks on this machine, if the launcher has set it.
    pub local_world_size: Option<usize>,
    /// Host of rank 0.
    pub address: String,
    /// Port of rank 0.
    pub port: u16,
    /// Source of the values.
    pub launcher: &'static str,
    /// Job that this rank belongs to.
    pub job: Job,
    /// Secret of the job's ranks.
    pub token: RendezvousToken,
    /// torchrun's agent listens on the port: rank 0 publishes a port of its own there.
    pub agent_store: bool,
    /// Limit of the time without a reply.
    pub timeout: Duration,
}

/// Environment variables of a launcher: rank, world size, local rank.
struct Launcher {
    name: &'static str,
    variables: [&'static str; 3],
}

const LAUNCHERS: [Launcher; 4] = [
    Launcher { name: "torchrun", variables: ["RANK", "WORLD_SIZE", "LOCAL_RANK"] },
    Launcher { name: "Slurm", variables: ["SLURM_PROCID", "SLURM_NTASKS", "SLURM_LOCALID"] },
    Launcher {
        name: "Open MPI",
        variables: ["OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_LOCAL_RANK"],
    },
    Launcher { name: "PMI", variables: ["PMI_RANK", "PMI_SIZE", "MPI_LOCALRANKID"] },
];

impl Launch {
    /// The place of this process, or `None` if it is the only one. The first of flags, torchrun, Slurm, Open MPI and PMI that is set wins.
    /// Errors if some variables of it are missing or wrong.
    pub fn detect(
        flags: &LaunchFlags,
        environment: impl Fn(&str) -> Option<String>,
    ) -> Result<Option<Launch>> {
        let environment = |name: &str| environment(name).filter(|value| !value.is_empty());
        let launch = Launch::find(flags, &environment)?;
        Ok(launch.filter(|launch| launch.world_size > 1))
    }

    fn find(flags: &LaunchFlags, environment: Environment) -> Result<Option<Launch>> {
        let by_flags = [("--rank", flags.rank), ("--world-size", flags.world_size)];
        if by_flags.iter().any(|(_, value)| value.is_some()) {
            let rank = flag(&by_flags, 0)?;
            let world_size = flag(&by_flags, 1)?;
            let local_rank = flags.local_rank.unwrap_or(rank);
            return launch("flags", [rank, world_size, local_rank], flags, environment).map(Some);
        }
        for Launcher { name, variables } in LAUNCHERS {
            let values = variables.map(environment);
            let is_task = match name {
                "Slurm" => slurm::is_task(environment),
                _ => values.iter().any(Option::is_some),
            };
            if !is_task {
                continue;
            }
            let missing: Vec<&str> =
                variables.into_iter().zip(&values).filter(|(_, v)| v.is_none()).map(|(n, _)| n).collect();
            // The local rank may come from `--local_rank`, which old launchers append.
            let missing: Vec<&str> =
                missing.into_iter().filter(|n| *n != variables[2] || flags.local_rank.is_none()).collect();
            if !missing.is_empty() {
                return Err(Error::usage(format!("the variables of {name} are incomplete"))
                    .at("the environment")
                    .because(format!("{} {} missing", missing.join(", "), is_or_are(missing.len())))
                    .remedy("set them, unset the others, or use --rank and --world-size"));
            }
            let mut numbers = [0; 3];
            for ((number, variable), value) in numbers.iter_mut().zip(variables).zip(&values) {
                *number = match value {
                    Some(value) => parse(variable, value)?,
                    None => flags.local_rank.unwrap_or(0),
                };
            }
            if let Some(local_rank) = flags.local_rank {
                numbers[2] = local_rank;
            }
            return launch(name, numbers, flags, environment).map(Some);
        }
        // timm's scripts pass --local_rank 0 to a single process.
        let alone = [
            ("--local-rank", flags.local_rank.is_some_and(|rank| rank > 0)),
            ("--master-addr", flags.master_addr.is_some()),
            ("--master-port", flags.master_port.is_some()),
            ("--rdzv-id", flags.rdzv_id.is_some()),
        ];
        match alone.iter().find(|(_, given)| *given) {
            Some((flag, _)) => {
                Err(Error::usage(format!("{flag} is not enough to join a group of processes"))
                    .because("--rank and --world-size are missing, and no launcher has set them")
                    .remedy("pass them, or start the processes with fornax launch, torchrun, srun or mpirun"))
            }
            None => Ok(None),
        }
    }
}

fn launch(
    launcher: &'static str,
    [rank, world_size, local_rank]: [usize; 3],
    flags: &LaunchFlags,
    environment: Environment,
) -> Result<Launch> {
    if world_size == 0 || rank >= world_size {
        return Err(Error::usage(format!("rank {rank} does not exist in a group of {world_size}"))
            .at(launcher)
            .because("ranks count from 0 to the number of processes, exclusive")
            .remedy("check --rank and --world-size, or the variables of the launcher"));
    }
    let is_slurm = launcher == "Slurm";
    let needs_address = matches!(launcher, "torchrun" | "flags") && world_size > 1;
    let address = match flags.master_addr.clone().or_else(|| environment("MASTER_ADDR")) {
        Some(address) => address,
        None if is_slurm => slurm::first_node(environment).unwrap_or_else(|| LOCALHOST.into()),
        None if needs_address => {
            return Err(Error::usage("the address of rank 0 is missing")
                .at(launcher)
                .because("neither --master-addr nor MASTER_ADDR is set")
                .remedy("pass the host name of the machine of rank 0; 127.0.0.1 if there is one machine"));
        }
        None => LOCALHOST.into(),
    };
    let given_id = flags.rdzv_id.clone().or_else(|| environment(ID_VARIABLE));
    let port = match (flags.master_port, environment("MASTER_PORT")) {
        (Some(port), _) => port,
        (None, Some(text)) => parse("MASTER_PORT", &text)?,
        (None, None) if launcher == "torchrun" => {
            return Err(Error::usage("the variables of torchrun are incomplete")
                .at("the environment")
                .because("MASTER_PORT is missing")
                .remedy("set it, or use --master-port"));
        }
        (None, None) => default_port(given_id.as_deref(), launcher, environment)?,
    };
    let restarts = environment("TORCHELASTIC_RESTART_COUNT").filter(|_| launcher == "torchrun");
    let job = Job {
        id: given_id.or_else(|| job::id_by_launcher(launcher, environment)),
        restarts: restarts.map_or(Ok(0), |text| parse("TORCHELASTIC_RESTART_COUNT", &text))?,
        ..Job::default()
    };
    Ok(Launch {
        rank,
        world_size,
        local_rank,
        local_world_size: local_world_size(environment),
        address,
        port,
        launcher,
        job,
        token: RendezvousToken::from_environment(environment)?,
        agent_store: launcher == "torchrun"
            && flags.master_port.is_none()
            && environment("TORCHELASTIC_USE_AGENT_STORE")
                .is_some_and(|text| text.eq_ignore_ascii_case("true")),
        timeout: flags.timeout(),
    })
}

/// A random token for the ranks of this machine; `None` if the environment has one.
pub fn new_token() -> std::io::Result<Option<String>> {
    let is_set = |name: &str| std::env::var_os(name).is_some_and(|value| !value.is_empty());
    if [TOKEN_VARIABLE, TOKEN_FILE_VARIABLE].into_iter().any(is_set) {
        return Ok(None);
    }
    random_text().map(Some)
}

/// Port of rank 0 by the job: jobs on one machine have different ports.
fn default_port(given_id: Option<&str>, launcher: &str, environment: Environment) -> Result<u16> {
    if let Some(id) = given_id {
        return Ok(port_of_id(id));
    }
    if launcher == "Slurm" {
        let number = |variable: &str, text: Option<String>| text.map_or(Ok(0), |text| parse(variable, &text));
        let job = number("SLURM_JOB_ID", slurm::job(environment))?;
        return Ok(job::port_of_step(job, number("SLURM_STEP_ID", environment("SLURM_STEP_ID"))?));
    }
    Ok(job::id_by_launcher(launcher, environment).map_or(DEFAULT_PORT, |id| port_of_id(&id)))
}

/// Number of ranks on this machine; Slurm's may be a list such as `4(x2)`.
fn local_world_size(environment: Environment) -> Option<usize> {
    let variables =
        ["LOCAL_WORLD_SIZE", "SLURM_STEP_TASKS_PER_NODE", "OMPI_COMM_WORLD_LOCAL_SIZE", "MPI_LOCALNRANKS"];
    let text = variables.into_iter().find_map(environment)?;
    text.split(['(', ',']).next()?.parse().ok().filter(|size| *size > 0)
}

fn flag(by_flags: &[(&str, Option<usize>); 2], index: usize) -> Result<usize> {
    let (name, value) = by_flags[index];
    value.ok_or_else(|| {
        Error::usage(format!("{} needs {name}", by_flags[1 - index].0))
            .because("rank and world size belong together")
            .remedy(format!("pass {name} too, or omit both"))
    })
}

fn parse<T: std::str::FromStr>(variable: &str, text: &str) -> Result<T> {
    text.parse().map_err(|_| {
        Error::usage(format!("{text:?} is not a valid number"))
            .at(format!("the environment variable {variable}"))
            .remedy("set it to a whole number, or unset the launcher's variables")
    })
}

fn is_or_are(count: usize) -> &'static str {
    if count == 1 { "is" } else { "are" }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;

    fn detect(flags: LaunchFlags, variables: &[(&str, &str)]) -> Result<Option<Launch>> {
        let variables: BTreeMap<&str, &str> = variables.iter().copied().collect();
        Launch::detect(&flags, |name| variables.get(name).map(|value| value.to_string()))
    }

    fn found(flags: LaunchFlags, variables: &[(&str, &str)]) -> Launch {
        detect(flags, variables).expect("valid").expect("several processes")
    }

    fn id(launch: &Launch) -> &str {
        launch.job.id.as_deref().expect("an id")
    }

    const TORCHRUN: [(&str, &str); 7] = [
        ("RANK", "5"),
        ("WORLD_SIZE", "8"),
        ("LOCAL_RANK", "1"),
        ("MASTER_ADDR", "node1"),
        ("MASTER_PORT", "29400"),
        ("TORCHELASTIC_RUN_ID", "job7"),
        ("TORCHELASTIC_RESTART_COUNT", "2"),
    ];

    #[test]
    fn every_launcher_is_recognised() {
        let torchrun = found(LaunchFlags::default(), &TORCHRUN);
        assert_eq!((torchrun.rank, torchrun.world_size, torchrun.local_rank), (5, 8, 1));
        assert_eq!((torchrun.address.as_str(), torchrun.port), ("node1", 29400));
        assert_eq!((id(&torchrun), torchrun.job.restarts, torchrun.agent_store), ("job7", 2, false));
        let slurm = found(
            LaunchFlags::default(),
            &[
                ("SLURM_PROCID", "3"),
                ("SLURM_NTASKS", "4"),
                ("SLURM_LOCALID", "1"),
                ("SLURM_NODELIST", "node[07-09,12],login1"),
                ("SLURM_JOB_ID", "47123"),
            ],
        );
        assert_eq!((slurm.rank, slurm.world_size, slurm.local_rank), (3, 4, 1));
        assert_eq!((slurm.address.as_str(), id(&slurm)), ("node07", "47123"));
        let mpi = found(
            LaunchFlags::default(),
            &[
                ("OMPI_COMM_WORLD_RANK", "1"),
                ("OMPI_COMM_WORLD_SIZE", "2"),
                ("OMPI_COMM_WORLD_LOCAL_RANK", "1"),
            ],
        );
        assert_eq!((mpi.rank, mpi.world_size, mpi.address.as_str(), mpi.port), (1, 2, "127.0.0.1", 29500));
        let pmi = [("PMI_RANK", "0"), ("PMI_SIZE", "3"), ("MPI_LOCALRANKID", "0"), ("MASTER_ADDR", "h")];
        let pmi = found(LaunchFlags::default(), &pmi);
        assert_eq!((pmi.rank, pmi.world_size, pmi.address.as_str()), (0, 3, "h"));
    }

    #[test]
    fn jobs_of_a_launcher_have_their_own_ids_and_ports() {
        let slurm = |step| {
            let variables = [
                ("SLURM_PROCID", "1"),
                ("SLURM_NTASKS", "2"),
                ("SLURM_LOCALID", "1"),
                ("SLURM_JOB_ID", "47123"),
                ("SLURM_STEP_ID", step),
            ];
            found(LaunchFlags::default(), &variables)
        };
        let mpi = |namespace| {
            let variables = [
                ("OMPI_COMM_WORLD_RANK", "1"),
                ("OMPI_COMM_WORLD_SIZE", "2"),
                ("OMPI_COMM_WORLD_LOCAL_RANK", "1"),
                ("PMIX_NAMESPACE", namespace),
            ];
            found(LaunchFlags::default(), &variables)
        };
        let pmi = |name| {
            let variables =
                [("PMI_RANK", "1"), ("PMI_SIZE", "2"), ("MPI_LOCALRANKID", "1"), ("PMI_KVSNAME", name)];
            found(LaunchFlags::default(), &variables)
        };
        let flags = |id: &str| {
            let place = LaunchFlags { rank: Some(0), world_size: Some(2), ..LaunchFlags::default() };
            let place = LaunchFlags { master_addr: Some("a".into()), rdzv_id: Some(id.into()), ..place };
            found(place, &[])
        };
        assert_eq!((id(&slurm("4")), id(&mpi("x@1")), id(&flags("y"))), ("47123.4", "x@1", "y"));
        for [one, other] in [
            [slurm("0"), slurm("1")],
            [mpi("x@1"), mpi("x@2")],
            [pmi("kvs_1"), pmi("kvs_2")],
            [flags("y"), flags("z")],
        ] {
            assert_ne!(one.job, other.job);
            assert_ne!(one.port, other.port);
            assert!([one.port, other.port].iter().all(|port| (15_000..30_000).contains(port)));
        }
        let by_variable = [("MASTER_PORT", "29600"), (ID_VARIABLE, "sweep"), ("PMIX_NAMESPACE", "x@1")];
        let variables = [("PMI_RANK", "1"), ("PMI_SIZE", "2"), ("MPI_LOCALRANKID", "1")];
        let sweep = found(LaunchFlags::default(), &[&by_variable[..], &variables].concat());
        assert_eq!((id(&sweep), sweep.port), ("sweep", 29_600));
        let none = found(LaunchFlags::default(), &variables);
        assert_eq!((none.job.id, none.port), (None, DEFAULT_PORT));
    }

    #[test]
    fn flags_win_over_the_environment() {
        let flags = LaunchFlags {
            rank: Some(0),
            world_size: Some(2),
            master_addr: Some("a".into()),
            dist_timeout: Some(7.5),
            ..LaunchFlags::default()
        };
        let launch = found(flags, &TORCHRUN);
        assert_eq!((launch.rank, launch.world_size, launch.address.as_str()), (0, 2, "a"));
        assert_eq!((launch.launcher, launch.timeout), ("flags", Duration::from_millis(7500)));
    }

    #[test]
    fn incomplete_groups_are_errors_that_name_the_missing_part() {
        let flags = LaunchFlags { rank: Some(0), ..LaunchFlags::default() };
        let error = detect(flags, &[]).expect_err("no world size").to_string();
        assert!(error.contains("--rank needs --world-size"), "{error}");
        for missing in ["RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT"] {
            let some: Vec<_> = TORCHRUN.into_iter().filter(|(name, _)| *name != missing).collect();
            let error = detect(LaunchFlags::default(), &some).expect_err(missing).to_string();
            assert!(error.contains(missing), "{error}");
        }
        let alone = LaunchFlags { master_addr: Some("a".into()), ..LaunchFlags::default() };
        let error = detect(alone, &[]).expect_err("no rank").to_string();
        assert!(error.contains("--rank and --world-size are missing"), "{error}");
        let beyond = [("RANK", "8")];
        let all: Vec<_> = TORCHRUN.into_iter().filter(|(n, _)| *n != "RANK").chain(beyond).collect();
        let error = detect(LaunchFlags::default(), &all).expect_err("too large").to_string();
        assert!(error.contains("rank 8 does not exist in a group of 8"), "{error}");
    }

    #[test]
    fn one_process_is_no_group() {
        assert_eq!(detect(LaunchFlags::default(), &[]).expect("valid"), None);
        let old_launcher = LaunchFlags { local_rank: Some(0), ..LaunchFlags::default() };
        assert_eq!(detect(old_launcher, &[]).expect("valid"), None);
        let tasks = ("SLURM_NTASKS", "4");
        let sbatch = [("SLURM_PROCID", "0"), tasks, ("SLURM_LOCALID", "0"), ("ENVIRONMENT", "BATCH")];
        assert_eq!(detect(LaunchFlags::default(), &sbatch).expect("valid"), None);
        assert_eq!(detect(LaunchFlags::default(), &[tasks]).expect("valid"), None, "salloc");
        let timeout = LaunchFlags { dist_timeout: Some(5.0), ..LaunchFlags::default() };
        assert_eq!(detect(timeout, &[]).expect("it is ignored"), None);
    }
}

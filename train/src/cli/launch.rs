//! `fornax launch`: starts one process of `fornax train` per device of this machine, as torchrun does.
use super::local_ranks::LocalRanks;
use crate::distributed::LaunchFlags;
use crate::distributed::launcher::{DEFAULT_PORT, ID_VARIABLE, port_of_id};
use crate::{Error, Result};
use fornax_engine::cuda;
use std::ffi::OsString;
use std::str::FromStr;
use std::time::Duration;

const NAME: &str = "fornax launch";

/// Arguments of `fornax launch`; those of `train` follow.
#[derive(clap::Args)]
#[command(override_usage = "fornax launch [OPTIONS] train [DIR] [TRAIN OPTIONS]", after_help = NOTES)]
pub struct LaunchArgs {
    /// Processes on this machine: a number, or auto for one per CUDA device (one process without a CUDA device)
    #[arg(long, value_name = "N", default_value = "auto")]
    nproc_per_node: Processes,
    /// Number of machines
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..))]
    nnodes: u16,
    /// Number of this machine, from 0
    #[arg(long, value_name = "N", default_value_t = 0, requires = "master_addr")]
    node_rank: u16,
    /// Host of machine 0
    #[arg(long, value_name = "HOST")]
    master_addr: Option<String>,
    /// TCP port of rank 0 [default: a free port on one machine; on several the port of --rdzv-id, else 29500]
    #[arg(long, value_name = "PORT")]
    master_port: Option<u16>,
    /// Name of the job, equal on all machines and of no other job: processes of another job are ignored [env: FORNAX_RDZV_ID]
    #[arg(long, value_name = "ID")]
    rdzv_id: Option<String>,
}

const NOTES: &str = "\
The processes get torchrun's variables (RANK, WORLD_SIZE, LOCAL_RANK, MASTER_ADDR, MASTER_PORT). \
On one machine they share a random secret; on several, set FORNAX_RENDEZVOUS_TOKEN to the same secret on each. \
Their stderr is prefixed by the rank; results of rank 0 go to stdout. The first failure ends the group with its exit code.";

/// Number of processes on this machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Processes {
    PerDevice,
    Number(usize),
}

impl FromStr for Processes {
    type Err = String;

    fn from_str(text: &str) -> std::result::Result<Processes, String> {
        match (text, text.parse()) {
            ("auto" | "gpu", _) => Ok(Processes::PerDevice),
            (_, Ok(number @ 1..=1024)) => Ok(Processes::Number(number)),
            _ => Err("must be auto or a number from 1 to 1024".into()),
        }
    }
}

/// Splits the command that `fornax launch` starts from the arguments: `train` and all that follows.
pub fn split_command(arguments: &mut Vec<OsString>) -> Vec<OsString> {
    if arguments.get(1).is_none_or(|command| command != "launch") {
        return vec![];
    }
    match arguments.iter().skip(2).position(|argument| argument == "train") {
        Some(position) => arguments.split_off(position + 2),
        None => vec![],
    }
}

/// Runs `fornax launch`. Exits with the code of the first process that fails.
pub fn execute(args: &LaunchArgs, command: &[OsString]) -> Result<()> {
    if command.is_empty() {
        return Err(Error::usage("the command is missing").at(NAME).remedy(
            "append `train` and its options: fornax launch --nproc-per-node 2 train DIR --model resnet50",
        ));
    }
    let count = match args.nproc_per_node {
        Processes::Number(number) => number,
        Processes::PerDevice => cuda::devices().map_or(1, |devices| devices.len().max(1)),
    };
    let nodes = usize::from(args.nnodes);
    if usize::from(args.node_rank) >= nodes {
        return Err(Error::usage(format!("machine {} does not exist", args.node_rank))
            .at("--node-rank")
            .because(format!("there are {nodes} machines, which count from 0")));
    }
    if nodes > 1 && args.master_addr.is_none() {
        return Err(Error::usage("--nnodes needs --master-addr")
            .because("the machines meet at machine 0")
            .remedy("pass the host name of machine 0"));
    }
    let address = args.master_addr.clone().unwrap_or_else(|| "127.0.0.1".into());
    let job = args.rdzv_id.clone().or_else(|| std::env::var(ID_VARIABLE).ok().filter(|id| !id.is_empty()));
    let default_port = || (nodes > 1).then(|| job.as_deref().map_or(DEFAULT_PORT, port_of_id));
    let port = args.master_port.or_else(default_port);
    let node_rank = args.node_rank.into();
    let timeout = timeout(command);
    LocalRanks { launcher: NAME, count, nodes, node_rank, address, port, job, timeout }.run(command)
}

/// `--dist-timeout` of the command. The processes report a value that is no number.
fn timeout(command: &[OsString]) -> Duration {
    let mut flags = LaunchFlags::default();
    let mut words = command.iter().filter_map(|word| word.to_str());
    while let Some(word) = words.next() {
        let (name, value) = word.split_once('=').map_or((word, None), |(name, value)| (name, Some(value)));
        if name.replace('_', "-") == "--dist-timeout" {
            let seconds = value.or_else(|| words.next()).and_then(|value| value.parse().ok());
            flags.dist_timeout = seconds.filter(|seconds| (0.0..1e9).contains(seconds));
        }
    }
    flags.timeout()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn command_is_split_at_train() {
        let words = |text: &str| text.split(' ').map(OsString::from).collect::<Vec<_>>();
        let mut arguments = words("fornax launch --nproc-per-node 2 train d --lr 0.1");
        assert_eq!(split_command(&mut arguments), words("train d --lr 0.1"));
        assert_eq!(arguments, words("fornax launch --nproc-per-node 2"));
        let mut arguments = words("fornax train launch");
        assert!(split_command(&mut arguments).is_empty());
        assert_eq!(arguments.len(), 3);
    }

    #[test]
    fn timeout_of_the_command_is_found() {
        let of = |text: &str| timeout(&text.split(' ').map(OsString::from).collect::<Vec<_>>()).as_secs_f64();
        assert_eq!(of("train d --dist-timeout 7.5 --lr 1"), 7.5);
        assert_eq!(of("train d --dist-timeout 7 --dist_timeout=8"), 8.0);
        assert_eq!(
            (of("train d"), of("train --dist-timeout x"), of("train --dist-timeout -1")),
            (120.0, 120.0, 120.0)
        );
    }

    #[test]
    fn number_of_processes_is_parsed() {
        assert_eq!("auto".parse(), Ok(Processes::PerDevice));
        assert_eq!("8".parse(), Ok(Processes::Number(8)));
        assert!(["0", "-1", "x", "1025"].iter().all(|text| text.parse::<Processes>().is_err()));
    }
}

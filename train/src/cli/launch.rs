//! `fornax launch`: starts one process of `fornax train` per device of this machine, as torchrun does.
use crate::error::ErrorKind;
use crate::{Error, Result};
use fornax_engine::cuda;
use rustix::process::{Pid, Signal, kill_process};
use signal_hook::consts::{SIGINT, SIGTERM, SIGUSR1};
use signal_hook::iterator::Signals;
use std::ffi::OsString;
use std::io::{BufRead, BufReader, Write};
use std::net::TcpListener;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::str::FromStr;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// Set for the started processes: they end with the launcher.
const LAUNCHER_VARIABLE: &str = "FORNAX_LAUNCHER";
/// Time in which the other processes end by themselves after a failure.
const GRACE: Duration = Duration::from_secs(5);
const POLL_INTERVAL: Duration = Duration::from_millis(20);

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
    /// TCP port of rank 0 [default: a free port on one machine, 29500 on several]
    #[arg(long, value_name = "PORT")]
    master_port: Option<u16>,
}

const NOTES: &str = "\
The processes get torchrun's variables (RANK, WORLD_SIZE, LOCAL_RANK, MASTER_ADDR, MASTER_PORT). Their stderr is prefixed by the
rank; results of rank 0 go to stdout. The first failure ends the group with its exit code.";

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

/// Ends this process when the launcher that started it dies, so that none is left behind. Only Linux has such a signal; elsewhere the loss
/// of a peer ends the process.
pub fn end_with_launcher() {
    #[cfg(target_os = "linux")]
    if std::env::var_os(LAUNCHER_VARIABLE).is_some() {
        rustix::process::set_parent_process_death_signal(Some(Signal::KILL)).ok();
    }
}

/// Runs `fornax launch`. Exits with the code of the first process that fails.
pub fn execute(args: &LaunchArgs, command: &[OsString]) -> Result<()> {
    if command.is_empty() {
        return Err(Error::usage("the command is missing").at("fornax launch").remedy(
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
            .remedy("give the host name of machine 0"));
    }
    let mut signals = Signals::new([SIGINT, SIGTERM, SIGUSR1])
        .map_err(|e| Error::new(ErrorKind::Bug, "the signal handlers cannot be installed").because(e))?;
    let mut group = Group::start(args, count, command)?;
    let code = group.wait(&mut signals);
    if code == 0 { Ok(()) } else { std::process::exit(code) }
}

/// The started processes.
struct Group {
    processes: Vec<Process>,
}

struct Process {
    rank: usize,
    child: Child,
    status: Option<ExitStatus>,
    stderr: Option<JoinHandle<()>>,
}

impl Group {
    fn start(args: &LaunchArgs, count: usize, command: &[OsString]) -> Result<Group> {
        let failed = |e: std::io::Error| Error::new(ErrorKind::Bug, "a process cannot be started").because(e);
        let program = std::env::current_exe().map_err(failed)?;
        let nodes = usize::from(args.nnodes);
        let port = match args.master_port {
            Some(port) => port,
            None if nodes > 1 => 29_500,
            None => TcpListener::bind("127.0.0.1:0").and_then(|l| l.local_addr()).map_err(failed)?.port(),
        };
        let address = args.master_addr.clone().unwrap_or_else(|| "127.0.0.1".into());
        let mut group = Group { processes: vec![] };
        for local_rank in 0..count {
            let rank = usize::from(args.node_rank) * count + local_rank;
            let mut child = Command::new(&program)
                .args(command)
                .env("RANK", rank.to_string())
                .env("LOCAL_RANK", local_rank.to_string())
                .env("GROUP_RANK", args.node_rank.to_string())
                .env("WORLD_SIZE", (nodes * count).to_string())
                .env("LOCAL_WORLD_SIZE", count.to_string())
                .env("MASTER_ADDR", &address)
                .env("MASTER_PORT", port.to_string())
                .env_remove("TORCHELASTIC_USE_AGENT_STORE")
                .env(LAUNCHER_VARIABLE, std::process::id().to_string())
                // Ctrl-C reaches the launcher alone, which passes it on once.
                .process_group(0)
                .stdin(Stdio::null())
                .stderr(Stdio::piped())
                .spawn()
                .map_err(failed)?;
            let stderr = child.stderr.take().map(|stderr| {
                std::thread::spawn(move || {
                    for line in BufReader::new(stderr).split(b'\n').map_while(std::result::Result::ok) {
                        let line = String::from_utf8_lossy(&line).into_owned();
                        // A closed terminal is no reason to stop.
                        writeln!(std::io::stderr().lock(), "[rank {rank}] {line}").ok();
                    }
                })
            });
            group.processes.push(Process { rank, child, status: None, stderr });
        }
        Ok(group)
    }

    /// Waits for all processes and forwards signals. After the first failure the others have a moment to end.
    fn wait(&mut self, signals: &mut Signals) -> i32 {
        let mut codes = vec![];
        let mut failed_at: Option<Instant> = None;
        while self.processes.iter().any(|process| process.status.is_none()) {
            for signal in signals.pending() {
                self.forward(signal);
            }
            for process in self.processes.iter_mut().filter(|process| process.status.is_none()) {
                let Ok(Some(status)) = process.child.try_wait() else { continue };
                process.status = Some(status);
                let code = status.code().unwrap_or_else(|| 128 + status.signal().unwrap_or(0));
                codes.push(code);
                if code != 0 {
                    failed_at.get_or_insert_with(Instant::now);
                    if let Some(signal) = status.signal() {
                        eprintln!("[rank {}] ended by signal {signal}", process.rank);
                    }
                }
            }
            if let Some(at) = failed_at {
                if at.elapsed() > 2 * GRACE {
                    self.send(Signal::KILL);
                } else if at.elapsed() > GRACE {
                    self.send(Signal::TERM);
                }
            }
            std::thread::sleep(POLL_INTERVAL);
        }
        self.processes.iter_mut().filter_map(|p| p.stderr.take()).for_each(|thread| drop(thread.join()));
        // Processes that lost another one end with the code of lost ranks: the cause is the other's.
        let lost = i32::from(ErrorKind::Peer.exit_code());
        let failures = || codes.iter().copied().filter(|code| *code != 0);
        failures().find(|code| *code != lost).or_else(|| failures().next()).unwrap_or(0)
    }

    /// Passes a signal on: a request for a checkpoint to one process, as all agree on it.
    fn forward(&self, signal: i32) {
        match signal {
            SIGINT => self.send(Signal::INT),
            SIGTERM => self.send(Signal::TERM),
            _ => {
                if let Some(pid) = self.processes.iter().find_map(Process::running) {
                    kill_process(pid, Signal::USR1).ok();
                }
            }
        }
    }

    fn send(&self, signal: Signal) {
        for pid in self.processes.iter().filter_map(Process::running) {
            kill_process(pid, signal).ok();
        }
    }
}

impl Process {
    fn running(&self) -> Option<Pid> {
        self.status.is_none().then(|| Pid::from_raw(self.child.id() as i32)).flatten()
    }
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
    fn number_of_processes_is_parsed() {
        assert_eq!("auto".parse(), Ok(Processes::PerDevice));
        assert_eq!("8".parse(), Ok(Processes::Number(8)));
        assert!(["0", "-1", "x", "1025"].iter().all(|text| text.parse::<Processes>().is_err()));
    }
}

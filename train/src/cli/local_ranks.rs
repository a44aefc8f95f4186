//! Ranks on this machine, started as processes of this program: they get signals, end together, and end with this process.
use super::signals;
use crate::distributed::free_port;
use crate::error::ErrorKind;
use crate::report::ProgressMode;
use crate::{Error, Result};
use rustix::process::{Pid, Signal, kill_process};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM, SIGUSR1};
use signal_hook::iterator::Signals;
use std::ffi::OsString;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// Set for the started processes to the name of what started them.
const LAUNCHER_VARIABLE: &str = "FORNAX_LAUNCHER";
/// Time in which the other processes end by themselves after a failure.
const GRACE: Duration = Duration::from_secs(5);
const POLL_INTERVAL: Duration = Duration::from_millis(20);

/// Ranks to start on this machine.
pub struct LocalRanks {
    /// Name of the command or flag that starts them.
    pub launcher: &'static str,
    /// Number of ranks on this machine.
    pub count: usize,
    /// Number of machines.
    pub nodes: usize,
    /// Number of this machine.
    pub node_rank: usize,
    /// Host of rank 0.
    pub address: String,
    /// Port of rank 0; `None`: a free one of this machine.
    pub port: Option<u16>,
}

impl LocalRanks {
    /// Starts the ranks with these arguments of `fornax`, and waits for them. Exits with the code of the first one that fails; a rank that was
    /// killed is a lost one.
    pub fn run(&self, arguments: &[OsString]) -> Result<()> {
        let heard =
            [SIGINT, SIGTERM, SIGHUP, SIGUSR1].into_iter().filter(|signal| !signals::is_ignored(*signal));
        let mut signals = Signals::new(heard)
            .map_err(|e| Error::new(ErrorKind::Bug, "the signal handlers cannot be installed").because(e))?;
        let code = Group::start(self, arguments)?.wait(&mut signals);
        if code == 0 { Ok(()) } else { std::process::exit(code) }
    }
}

/// Name of the [`LocalRanks::launcher`] that has started this process, if there is one.
pub fn launcher() -> Option<String> {
    std::env::var(LAUNCHER_VARIABLE).ok()
}

/// Ends this process when the launcher that started it dies, so that none is left behind. Only Linux has such a signal; elsewhere the loss
/// of a peer ends the process.
pub fn end_with_launcher() {
    #[cfg(target_os = "linux")]
    if launcher().is_some() {
        rustix::process::set_parent_process_death_signal(Some(Signal::KILL)).ok();
    }
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
    fn start(ranks: &LocalRanks, command: &[OsString]) -> Result<Group> {
        let failed = |e: std::io::Error| Error::new(ErrorKind::Bug, "a process cannot be started").because(e);
        let program = std::env::current_exe().map_err(failed)?;
        let port = match ranks.port {
            Some(port) => port,
            None => free_port().map_err(failed)?,
        };
        let mut group = Group { processes: vec![] };
        for local_rank in 0..ranks.count {
            let rank = ranks.node_rank * ranks.count + local_rank;
            let mut child = Command::new(&program)
                .args(command)
                .env("RANK", rank.to_string())
                .env("LOCAL_RANK", local_rank.to_string())
                .env("GROUP_RANK", ranks.node_rank.to_string())
                .env("WORLD_SIZE", (ranks.nodes * ranks.count).to_string())
                .env("LOCAL_WORLD_SIZE", ranks.count.to_string())
                .env("MASTER_ADDR", &ranks.address)
                .env("MASTER_PORT", port.to_string())
                .env_remove("TORCHELASTIC_USE_AGENT_STORE")
                .env(LAUNCHER_VARIABLE, ranks.launcher)
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
        let lost = i32::from(ErrorKind::Peer.exit_code());
        let mut codes = vec![];
        let mut failed_at: Option<Instant> = None;
        let mut received: Option<i32> = None;
        while self.processes.iter().any(|process| process.status.is_none()) {
            for signal in signals.pending() {
                if let Some(interrupt) = signals::interrupt(signal).filter(|_| received.is_none()) {
                    // The ranks say nothing: their update may take long.
                    signals::acknowledge(interrupt, ProgressMode::Plain);
                    received = Some(signal);
                }
                self.forward(signal);
            }
            for process in self.processes.iter_mut().filter(|process| process.status.is_none()) {
                let Ok(Some(status)) = process.child.try_wait() else { continue };
                process.status = Some(status);
                // A rank that gets a signal before it listens ends by it; any other signal is the loss of a rank.
                let code = status.code().unwrap_or_else(|| match status.signal() {
                    Some(signal) if received == Some(signal) => 128 + signal,
                    _ => lost,
                });
                // A process that the launcher ends is no failure of its own.
                if failed_at.is_none_or(|at| at.elapsed() <= GRACE) {
                    codes.push(code);
                }
                if code != 0 {
                    failed_at.get_or_insert_with(Instant::now);
                    if let Some(signal) = status.signal() {
                        message!("[rank {}] ended by signal {signal}", process.rank);
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
        let failures = || codes.iter().copied().filter(|code| *code != 0);
        failures().find(|code| *code != lost).or_else(|| failures().next()).unwrap_or(0)
    }

    /// Passes a signal on: a request for a checkpoint to one process, as all agree on it.
    fn forward(&self, signal: i32) {
        match signal {
            SIGINT => self.send(Signal::INT),
            SIGTERM => self.send(Signal::TERM),
            SIGHUP => self.send(Signal::HUP),
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

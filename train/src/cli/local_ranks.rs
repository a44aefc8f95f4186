//! Ranks on this machine, started as processes of this program: they get signals, end together, and end with this process.
use super::signals;
use crate::distributed::free_port;
use crate::distributed::launcher::{ID_VARIABLE, TOKEN_VARIABLE, new_token};
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
/// Time in which the other processes end by themselves after a failure, and after SIGTERM.
const GRACE: Duration = Duration::from_secs(5);
/// The same after a second signal.
const SECOND_SIGNAL_GRACE: Duration = Duration::from_millis(500);
/// Timeouts in which the ranks save a checkpoint after a signal: the group waits as long for a busy rank.
const SAVE_TIMEOUTS: u32 = 5;
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
    /// Name of the job, if it has one.
    pub job: Option<String>,
    /// Time in which the other ranks end when one has ended well.
    pub timeout: Duration,
}

impl LocalRanks {
    /// Starts the ranks with these arguments of `fornax`, and waits for them. Exits with the code of the first one that fails; a rank that was
    /// killed is a lost one.
    pub fn run(&self, arguments: &[OsString]) -> Result<()> {
        let heard =
            [SIGINT, SIGTERM, SIGHUP, SIGUSR1].into_iter().filter(|signal| !signals::is_ignored(*signal));
        let mut signals = Signals::new(heard)
            .map_err(|e| Error::new(ErrorKind::Bug, "the signal handlers cannot be installed").because(e))?;
        let code = Group::start(self, arguments)?.wait(&mut signals, self.timeout);
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
    /// The launcher ends it.
    is_ended: bool,
}

impl Group {
    fn start(ranks: &LocalRanks, command: &[OsString]) -> Result<Group> {
        let failed = |e: std::io::Error| Error::new(ErrorKind::Bug, "a process cannot be started").because(e);
        let program = std::env::current_exe().map_err(failed)?;
        let port = match ranks.port {
            Some(port) => port,
            None => free_port().map_err(failed)?,
        };
        // The processes of one machine need no secret of the user.
        let token = if ranks.nodes == 1 { new_token().map_err(failed)? } else { None };
        let secret = token.as_ref().map(|token| (TOKEN_VARIABLE, token));
        let job = ranks.job.as_ref().map(|job| (ID_VARIABLE, job));
        let mut group = Group { processes: vec![] };
        for local_rank in 0..ranks.count {
            let rank = ranks.node_rank * ranks.count + local_rank;
            let mut child = Command::new(&program)
                .args(command)
                .envs(secret.into_iter().chain(job))
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
            group.processes.push(Process { rank, child, status: None, stderr, is_ended: false });
        }
        Ok(group)
    }

    /// Waits for all processes and forwards signals. After the first failure the others have a moment to end, and after the first good end
    /// the timeout of the group.
    fn wait(&mut self, signals: &mut Signals, timeout: Duration) -> i32 {
        let lost = i32::from(ErrorKind::Peer.exit_code());
        let mut codes = vec![];
        let mut received: Option<i32> = None;
        let mut end = End::default();
        while self.processes.iter().any(|process| process.status.is_none()) {
            for signal in signals.pending() {
                match (signals::interrupt(signal), received) {
                    (None, _) => {}
                    (Some(interrupt), None) => {
                        // The ranks say nothing: their update may take long.
                        signals::acknowledge(interrupt, ProgressMode::Plain);
                        received = Some(signal);
                        end.within(SAVE_TIMEOUTS * timeout, GRACE);
                    }
                    // It ends ranks that run; a stopped one notices no signal but SIGKILL.
                    (Some(_), Some(_)) => end.within(SECOND_SIGNAL_GRACE, Duration::ZERO),
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
                match code {
                    // A process that the launcher ends is lost; after a failure, that is no failure of its own.
                    _ if process.is_ended && end.is_failure => {}
                    _ if process.is_ended => codes.push(received.map_or(lost, |signal| 128 + signal)),
                    code => codes.push(code),
                }
                match code {
                    0 => end.within(timeout, GRACE),
                    _ => {
                        end.is_failure = true;
                        end.within(GRACE, GRACE);
                        if let Some(signal) = status.signal() {
                            message!("[rank {}] ended by signal {signal}", process.rank);
                        }
                    }
                }
            }
            if end.is_failure {
                self.processes
                    .iter_mut()
                    .filter(|process| process.is_stopped())
                    .for_each(Process::kill_stopped);
            }
            if let Some(signal) = end.signal() {
                self.processes.iter_mut().for_each(|process| process.is_ended |= process.status.is_none());
                self.send(signal);
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

/// Time at which the launcher ends the processes that still run.
#[derive(Default)]
struct End {
    /// SIGTERM, and SIGKILL.
    at: Option<[Instant; 2]>,
    /// A process has failed.
    is_failure: bool,
}

impl End {
    /// Ends the processes after this time, unless they end earlier; a process that still runs after a further time is killed.
    fn within(&mut self, limit: Duration, grace: Duration) {
        let now = Instant::now();
        // A timeout of many years is none.
        let (Some(end), Some(kill)) = (now.checked_add(limit), now.checked_add(limit.saturating_add(grace)))
        else {
            return;
        };
        self.at = Some(self.at.map_or([end, kill], |[earlier, killed]| [end.min(earlier), kill.min(killed)]));
    }

    /// Signal for the processes that still run.
    fn signal(&self) -> Option<Signal> {
        let now = Instant::now();
        match self.at? {
            [_, kill] if now >= kill => Some(Signal::KILL),
            [end, _] if now >= end => Some(Signal::TERM),
            _ => None,
        }
    }
}

impl Process {
    /// True if the process is stopped, by SIGSTOP or a debugger. Only Linux shows that in a file.
    fn is_stopped(&self) -> bool {
        if !cfg!(target_os = "linux") || self.status.is_some() {
            return false;
        }
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.child.id())).unwrap_or_default();
        // After the name, which is in parentheses.
        stat.rsplit_once(')').is_some_and(|(_, rest)| rest.trim_start().starts_with(['T', 't']))
    }

    /// Ends a stopped process after a failure of the group: SIGTERM would wait until it continues.
    fn kill_stopped(&mut self) {
        if !self.is_ended {
            message!("[rank {}] is stopped: it is killed", self.rank);
        }
        self.is_ended = true;
        if let Some(pid) = self.running() {
            kill_process(pid, Signal::KILL).ok();
        }
    }

    fn running(&self) -> Option<Pid> {
        self.status.is_none().then(|| Pid::from_raw(self.child.id() as i32)).flatten()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Exit code and seconds of a launcher of these shell commands.
    fn wait(commands: &[&str], timeout: f64) -> (i32, f64) {
        let process = |(rank, command): (usize, &&str)| {
            let child = Command::new("sh").args(["-c", command]).process_group(0).spawn().expect("starts");
            Process { rank, child, status: None, stderr: None, is_ended: false }
        };
        let mut group = Group { processes: commands.iter().enumerate().map(process).collect() };
        let started = Instant::now();
        let mut signals = Signals::new([signal_hook::consts::SIGWINCH]).expect("a handler");
        (group.wait(&mut signals, Duration::from_secs_f64(timeout)), started.elapsed().as_secs_f64())
    }

    #[test]
    fn rank_that_hangs_after_the_others_is_ended_after_the_timeout() {
        let (code, seconds) = wait(&["exit 0", "exec sleep 100"], 0.5);
        assert!(code == 8 && (0.5..4.0).contains(&seconds), "{code} after {seconds} s");
        let (code, seconds) = wait(&["exit 0", "sleep 1; exit 0"], 30.0);
        assert!(code == 0 && seconds < 20.0, "{code} after {seconds} s");
    }

    #[test]
    fn rank_that_ignores_sigterm_is_killed() {
        let (code, seconds) = wait(&["exit 0", "trap '' TERM; while :; do sleep 0.1; done"], 0.2);
        assert!(code == 8 && (5.0..12.0).contains(&seconds), "{code} after {seconds} s");
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn stopped_rank_is_killed_as_soon_as_another_one_fails() {
        let (code, seconds) = wait(&["sleep 1; exit 8", "kill -STOP $$"], 100.0);
        assert!(code == 8 && (1.0..4.0).contains(&seconds), "{code} after {seconds} s");
        let (code, _) = wait(&["sleep 0.5; exit 5", "kill -STOP $$"], 100.0);
        assert_eq!(code, 5);
    }
}

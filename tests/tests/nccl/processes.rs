//! Ranks in two processes, and peers that are killed or stopped.
use super::support::{DEADLINE, PATIENT, SHORT, failure, full, run_ranks, serialize, train, within_deadline};
use fornax_engine::cuda::nccl::{NcclCollective, UniqueId};
use fornax_engine::{Collective, Device, Reduction};
use std::env;
use std::io::{BufRead, BufReader, Lines, Write};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

/// Environment variable with the unique id, for the process of another rank.
const PEER_ID: &str = "FORNAX_TEST_NCCL_PEER";

/// Process of rank 1, which runs the same test; killed when dropped.
struct PeerProcess {
    process: Child,
    /// Lines of its output; it must be able to print until it ends.
    lines: Lines<BufReader<ChildStdout>>,
}

impl PeerProcess {
    /// Starts this test program with one test, and the unique id in its environment.
    fn start(test: &str, id: &UniqueId) -> PeerProcess {
        let id: String = id.as_bytes().iter().map(|byte| format!("{byte:02x}")).collect();
        let program = env::current_exe().expect("the path of this program");
        let mut command = Command::new(program);
        command.args([test, "--exact", "--nocapture", "--test-threads=1"]).env(PEER_ID, id);
        let mut process = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().expect("a process");
        let lines = BufReader::new(process.stdout.take().expect("a pipe")).lines();
        PeerProcess { process, lines }
    }

    /// Waits until it prints a line that contains `text`.
    fn wait_for_line(&mut self, text: &str) {
        assert!(self.lines.any(|line| line.expect("text").contains(text)), "the peer ended without {text}");
    }
}

impl Drop for PeerProcess {
    fn drop(&mut self) {
        // An error means that it has ended.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// The unique id, if this is the process of rank 1.
fn id_from_environment() -> Option<UniqueId> {
    let text = env::var(PEER_ID).ok()?;
    let byte = |i: usize| u8::from_str_radix(&text[2 * i..2 * i + 2], 16).expect("hexadecimal digits");
    Some(UniqueId::from_bytes(std::array::from_fn(byte)))
}

/// Rank of a group of two processes, on the emulated device of its number.
fn join_processes(id: &UniqueId, rank: usize, timeout: Duration) -> NcclCollective {
    NcclCollective::new(&Device::Cuda(rank), id, rank, 2, timeout).expect("the ranks join")
}

#[test]
fn two_processes_have_equal_results() {
    let _guard = serialize();
    Device::emulated(4).expect("the emulated device");
    let hash = |weights: &[f32]| weights.iter().fold(0u64, |h, w| h.rotate_left(5) ^ u64::from(w.to_bits()));
    if let Some(id) = id_from_environment() {
        let group = join_processes(&id, 1, PATIENT);
        let weights = train(&group, &Device::Cuda(1), 3).expect("updates").1;
        println!("weights {:016x} of rank 1", hash(&weights));
        return std::io::stdout().flush().expect("stdout");
    }
    let weights = within_deadline(move || {
        let id = UniqueId::new().expect("an id");
        let mut peer = PeerProcess::start("processes::two_processes_have_equal_results", &id);
        let group = join_processes(&id, 0, PATIENT);
        let weights = train(&group, &Device::Cuda(0), 3).expect("updates").1;
        peer.wait_for_line(&format!("weights {:016x} of rank 1", hash(&weights)));
        weights
    });
    // The same as two threads of one process.
    let threads = run_ranks(2, PATIENT, |group, device| train(&group, &device, 3).expect("updates").1);
    assert_eq!(threads, [weights.clone(), weights]);
}

/// Runs one all-reduce with another process, sends it a signal, and returns the failure of the next one.
#[cfg(unix)]
fn failure_after_signal(
    test: &'static str,
    signal: &'static str,
    timeout: Duration,
) -> Option<(String, Duration)> {
    Device::emulated(4).expect("the emulated device");
    if let Some(id) = id_from_environment() {
        let group = join_processes(&id, 1, PATIENT);
        group.all_reduce(&full(1.0, &Device::Cuda(1)), Reduction::Sum).expect("it is queued");
        group.barrier().expect("a barrier");
        println!("the peer is ready");
        thread::sleep(DEADLINE);
        return None;
    }
    within_deadline(move || {
        let id = UniqueId::new().expect("an id");
        let mut peer = PeerProcess::start(test, &id);
        let (group, x) = (join_processes(&id, 0, timeout), full(1.0, &Device::Cuda(0)));
        group.all_reduce(&x, Reduction::Sum).expect("it is queued");
        group.barrier().expect("a barrier");
        assert_eq!(x.to_vec::<f32>().expect("f32"), vec![2.0; 1000]);
        peer.wait_for_line("the peer is ready");
        let status = Command::new("kill").args([signal, &peer.process.id().to_string()]).status();
        assert!(status.expect("the command kill").success());
        let start = Instant::now();
        Some((failure(group.barrier()).0, start.elapsed()))
    })
}

#[cfg(unix)]
#[test]
fn killed_peer_is_an_error_that_names_it() {
    let _guard = serialize();
    if let Some((why, waited)) =
        failure_after_signal("processes::killed_peer_is_an_error_that_names_it", "-KILL", PATIENT)
    {
        assert!(
            why.contains("remote process exited") && why.contains("rank 1 has closed its connection"),
            "{why}"
        );
        assert!(waited < PATIENT / 4, "{waited:?}");
    }
}

#[cfg(unix)]
#[test]
fn stopped_peer_is_an_error_after_the_timeout() {
    let _guard = serialize();
    let timeout = SHORT * 4;
    if let Some((why, waited)) =
        failure_after_signal("processes::stopped_peer_is_an_error_after_the_timeout", "-STOP", timeout)
    {
        assert!(why.starts_with("barrier did not end within 6 s"), "{why}");
        assert!(waited >= timeout && waited < timeout * 10, "{waited:?}");
    }
}

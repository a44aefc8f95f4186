//! Connections of a rank: frames that are sent, the threads that read them, and what they have brought so far.
use super::super::rendezvous::Member;
use super::super::wire::{Frame, MAX_CONTROL};
use std::collections::HashMap;
use std::net::TcpStream;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard};
use std::time::{Duration, Instant};

/// Kinds of control frames.
pub(super) const HEARTBEAT: u8 = 16;
pub(super) const VALUE: u8 = 17;
pub(super) const ALL_VALUES: u8 = 18;
pub(super) const FAILURE: u8 = 19;
pub(super) const FINISHED: u8 = 20;

/// Most characters of the reason of a failure.
const MAX_REASON: usize = 4000;

/// What the threads of a group share.
pub(super) struct Shared {
    pub rank: usize,
    pub members: Vec<Member>,
    pub timeout: Duration,
    /// Connections for writing: all ranks on rank 0, else rank 0 only.
    pub writers: Vec<(usize, Mutex<TcpStream>)>,
    pub state: Mutex<State>,
    /// Held while the result of an exchange or the reason of a failure is sent: a rank that has it may end at once, and the
    /// others must have it before they learn that.
    pub relay: Mutex<()>,
    pub changed: Condvar,
    pub is_over: AtomicBool,
    /// A reason is being passed on.
    pub is_failing: AtomicBool,
}

/// Exchanges, times of the last frames, and the failure.
#[derive(Default)]
pub(super) struct State {
    /// On rank 0: the values of each exchange so far.
    pub collected: HashMap<u64, Vec<Option<Vec<u8>>>>,
    /// Finished exchanges.
    pub gathered: HashMap<u64, Vec<Vec<u8>>>,
    pub last_seen: HashMap<usize, Instant>,
    pub finished: Vec<usize>,
    pub failure: Option<String>,
    pub on_failure: Vec<Box<dyn Fn() + Send>>,
}

impl Shared {
    pub fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(|e| e.into_inner())
    }

    pub fn describe(&self, rank: usize) -> String {
        format!("rank {rank} on {}", self.members[rank].host)
    }

    /// Sends a frame; a broken connection is noticed by its reader.
    pub fn send(&self, to: usize, kind: u8, payload: &[u8]) {
        if let Some((_, stream)) = self.writers.iter().find(|(rank, _)| *rank == to) {
            let mut stream = stream.lock().unwrap_or_else(|e| e.into_inner());
            Frame::write(&mut *stream, kind, payload).ok();
        }
    }

    /// Reads the frames of a rank until its connection ends.
    pub fn read(&self, from: usize, mut stream: TcpStream) {
        loop {
            let frame = Frame::read(&mut stream, MAX_CONTROL * self.members.len());
            match frame {
                Ok(Frame { kind, payload }) => {
                    self.state().last_seen.insert(from, Instant::now());
                    match kind {
                        VALUE if self.rank == 0 => self.collect(from, &payload),
                        ALL_VALUES if self.rank != 0 => self.store(&payload),
                        FAILURE => self.fail(reason(&payload)),
                        FINISHED => {
                            self.state().finished.push(from);
                            self.changed.notify_all();
                        }
                        _ => {}
                    }
                }
                Err(error) => {
                    if !self.is_over.load(Ordering::Acquire) && !self.state().finished.contains(&from) {
                        let why = match error.kind() {
                            std::io::ErrorKind::InvalidData => format!("sent data that is damaged: {error}"),
                            _ => "ended without notice: it was killed or it crashed".into(),
                        };
                        self.fail(format!("{} {why}", self.describe(from)));
                    }
                    return;
                }
            }
        }
    }
}

/// Reason of a failure; a message has no use for a longer one.
fn reason(payload: &[u8]) -> String {
    let text = String::from_utf8_lossy(payload);
    text.chars().take(MAX_REASON).collect()
}

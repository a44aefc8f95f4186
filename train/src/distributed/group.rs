//! Process group: connections of every rank with rank 0, which carry values of the host, heartbeats, and the reason when a rank fails.
//!
//! A thread per connection reads frames; another sends heartbeats and notices silence. The first failure ends the group: every rank learns
//! the rank and the host that failed, and waiting operations return.
use super::frame::{Frame, MAX_CONTROL};
use super::rendezvous::{Member, Rendezvous};
use crate::error::ErrorKind;
use crate::{Error, Result};
use std::collections::HashMap;
use std::net::{Shutdown, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::time::{Duration, Instant};

/// Kinds of control frames.
const HEARTBEAT: u8 = 16;
const VALUE: u8 = 17;
const ALL_VALUES: u8 = 18;
const FAILURE: u8 = 19;
const FINISHED: u8 = 20;

/// Interval of the checks for silent ranks.
const CHECK_INTERVAL: Duration = Duration::from_millis(200);
/// Longest interval of heartbeats.
const MAX_HEARTBEAT: Duration = Duration::from_secs(5);
/// Time in which the reason for a closed connection may still arrive.
const REASON_DELAY: Duration = Duration::from_millis(500);
/// Time by which operations wait longer than silent ranks are looked for: a rank that waits for another one is not the cause.
const OPERATION_MARGIN: Duration = Duration::from_secs(1);

/// The processes of a run, one per rank.
pub struct ProcessGroup {
    shared: Arc<Shared>,
    rendezvous: Rendezvous,
    /// Number of the next exchange.
    next: Mutex<u64>,
}

/// Exchange of values that may not be finished.
#[must_use = "every rank must finish the exchange"]
pub struct PendingValues {
    number: u64,
    what: &'static str,
}

struct Shared {
    rank: usize,
    members: Vec<Member>,
    timeout: Duration,
    /// Connections for writing: all ranks on rank 0, else rank 0 only.
    writers: Vec<(usize, Mutex<TcpStream>)>,
    state: Mutex<State>,
    changed: Condvar,
    is_over: AtomicBool,
    /// A reason is being passed on.
    is_failing: AtomicBool,
}

#[derive(Default)]
struct State {
    /// On rank 0: the values of each exchange so far.
    collected: HashMap<u64, Vec<Option<Vec<u8>>>>,
    /// Finished exchanges.
    gathered: HashMap<u64, Vec<Vec<u8>>>,
    last_seen: HashMap<usize, Instant>,
    finished: Vec<usize>,
    failure: Option<String>,
    on_failure: Vec<Box<dyn Fn() + Send>>,
}

impl ProcessGroup {
    /// Starts the threads of a group whose ranks have met.
    pub(super) fn new(
        mut rendezvous: Rendezvous,
        connections: Vec<(usize, TcpStream)>,
    ) -> std::io::Result<Arc<ProcessGroup>> {
        let mut writers = vec![];
        for (rank, stream) in &connections {
            stream.set_read_timeout(None)?;
            stream.set_nodelay(true)?;
            stream.set_write_timeout(Some(rendezvous.timeout))?;
            writers.push((*rank, Mutex::new(stream.try_clone()?)));
        }
        let now = Instant::now();
        let shared = Arc::new(Shared {
            rank: rendezvous.rank,
            members: std::mem::take(&mut rendezvous.members),
            timeout: rendezvous.timeout,
            writers,
            state: Mutex::new(State {
                last_seen: connections.iter().map(|(rank, _)| (*rank, now)).collect(),
                ..State::default()
            }),
            changed: Condvar::new(),
            is_over: AtomicBool::new(false),
            is_failing: AtomicBool::new(false),
        });
        for (rank, stream) in connections {
            let shared = shared.clone();
            std::thread::spawn(move || shared.read(rank, stream));
        }
        let watching = shared.clone();
        std::thread::spawn(move || watching.watch());
        Ok(Arc::new(ProcessGroup { shared, rendezvous, next: Mutex::new(0) }))
    }

    /// Rank of this process.
    pub fn rank(&self) -> usize {
        self.shared.rank
    }

    /// Number of ranks.
    pub fn world_size(&self) -> usize {
        self.shared.members.len()
    }

    /// Limit of the time without an answer.
    pub fn timeout(&self) -> Duration {
        self.shared.timeout
    }

    /// Limit of the time for which an operation waits for a rank that is not silent.
    pub(super) fn operation_timeout(&self) -> Duration {
        self.shared.timeout + OPERATION_MARGIN
    }

    /// Rank and host, for messages.
    pub fn describe(&self, rank: usize) -> String {
        self.shared.describe(rank)
    }

    /// The ranks, with their addresses.
    pub(super) fn members(&self) -> &[Member] {
        &self.shared.members
    }

    pub(super) fn rendezvous(&self) -> &Rendezvous {
        &self.rendezvous
    }

    /// The values that every rank passes, by rank. `what` names the exchange; all ranks make the same exchanges in the same order.
    pub fn all_gather(&self, what: &'static str, value: &[u8]) -> Result<Vec<Vec<u8>>> {
        let pending = self.start_all_gather(what, value)?;
        self.finish_all_gather(pending)
    }

    /// Starts an exchange of values.
    pub fn start_all_gather(&self, what: &'static str, value: &[u8]) -> Result<PendingValues> {
        self.check()?;
        let number = {
            let mut next = self.next.lock().unwrap_or_else(|e| e.into_inner());
            *next += 1;
            *next
        };
        let mut payload = number.to_le_bytes().to_vec();
        payload.extend((what.len() as u32).to_le_bytes());
        payload.extend(what.as_bytes());
        payload.extend(value);
        if self.rank() == 0 {
            self.shared.collect(0, &payload);
        } else {
            self.shared.send(0, VALUE, &payload);
        }
        Ok(PendingValues { number, what })
    }

    /// Waits for the values of all ranks.
    pub fn finish_all_gather(&self, pending: PendingValues) -> Result<Vec<Vec<u8>>> {
        let PendingValues { number, what } = pending;
        let deadline = Instant::now() + self.operation_timeout();
        let mut state = self.shared.state();
        loop {
            if let Some(values) = state.gathered.remove(&number) {
                return Ok(values);
            }
            if state.failure.is_some() {
                drop(state);
                return Err(self.failure_error());
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                let missing = state.collected.get(&number).map_or(vec![], |values| {
                    (0..values.len()).filter(|rank| values[*rank].is_none()).collect::<Vec<_>>()
                });
                drop(state);
                let late = match missing.first() {
                    Some(rank) => self.describe(*rank),
                    None => self.describe(0),
                };
                let seconds = self.timeout().as_secs_f64();
                self.fail(&format!("{late} did not join the exchange of {what} within {seconds} s"));
                return Err(self.failure_error());
            }
            state = self.shared.changed.wait_timeout(state, left).unwrap_or_else(|e| e.into_inner()).0;
        }
    }

    /// The value of rank 0. Other ranks pass `None`.
    pub fn broadcast(&self, what: &'static str, value: Option<&[u8]>) -> Result<Vec<u8>> {
        let mut values = self.all_gather(what, value.unwrap_or_default())?;
        Ok(values.swap_remove(0))
    }

    /// Errors on every rank with the differences if a text differs among ranks.
    pub fn check_equal(&self, what: &'static str, text: &str) -> Result<()> {
        let values = self.all_gather(what, text.as_bytes())?;
        let texts: Vec<String> = values.iter().map(|v| String::from_utf8_lossy(v).into_owned()).collect();
        let Some(other) = texts.iter().position(|text| *text != texts[0]) else { return Ok(()) };
        Err(Error::usage(format!("the ranks differ in {what}"))
            .because(format!(
                "{}: {}\n{}: {}",
                self.describe(0),
                texts[0],
                self.describe(other),
                texts[other]
            ))
            .remedy("start every rank with the same program, options and files"))
    }

    /// Waits until every rank calls it.
    pub fn barrier(&self) -> Result<()> {
        self.all_gather("barrier", &[]).map(drop)
    }

    /// Errors if a rank has failed.
    pub fn check(&self) -> Result<()> {
        if self.shared.state().failure.is_some() { Err(self.failure_error()) } else { Ok(()) }
    }

    /// Ends the group: all ranks report this reason.
    pub fn fail(&self, why: &str) {
        self.shared.fail(why.to_string());
    }

    /// Ends the group because this process ends with an error.
    pub fn abort(&self, why: &str) {
        self.fail(&format!("{} failed: {why}", self.describe(self.rank())));
    }

    /// Runs `f` when the group fails, at once if it has failed.
    pub fn on_failure(&self, f: impl Fn() + Send + 'static) {
        let mut state = self.shared.state();
        match state.failure {
            Some(_) => {
                drop(state);
                f();
            }
            None => state.on_failure.push(Box::new(f)),
        }
    }

    /// The error of a lost rank, with the rank and the host. NCCL may notice the loss before the group does.
    pub fn explain(&self, error: Error) -> Error {
        let why = self.failure_after(|| format!("{} failed: {error}", self.describe(self.rank())));
        peer_error(self.rank(), self.world_size(), &why)
    }

    /// Reason of the failure after a connection was closed: that which arrives within a moment, else `otherwise`.
    pub(super) fn failure_after(&self, otherwise: impl FnOnce() -> String) -> String {
        if let Some(why) = self.failure_within(REASON_DELAY) {
            return why;
        }
        let why = otherwise();
        self.fail(&why);
        self.failure_within(REASON_DELAY).unwrap_or(why)
    }

    /// Reason of the failure, if there is one within a time.
    fn failure_within(&self, limit: Duration) -> Option<String> {
        let state = self.shared.state();
        let waited = self.shared.changed.wait_timeout_while(state, limit, |state| state.failure.is_none());
        waited.unwrap_or_else(|e| e.into_inner()).0.failure.clone()
    }

    /// Ends the group in order: after it, closed connections are no failure.
    pub fn finish(&self) -> Result<()> {
        self.barrier()?;
        self.shared.is_over.store(true, Ordering::Release);
        self.shared.writers.iter().for_each(|(rank, _)| self.shared.send(*rank, FINISHED, &[]));
        // Rank 0 ends last, as it relays the frames of the others.
        let deadline = Instant::now() + Duration::from_secs(2);
        let mut state = self.shared.state();
        while state.finished.len() < self.shared.writers.len() && Instant::now() < deadline {
            state = self
                .shared
                .changed
                .wait_timeout(state, Duration::from_millis(50))
                .unwrap_or_else(|e| e.into_inner())
                .0;
        }
        Ok(())
    }

    fn failure_error(&self) -> Error {
        let why = self.failure_within(REASON_DELAY).unwrap_or_default();
        peer_error(self.rank(), self.world_size(), &why)
    }
}

/// Error of a rank whose group has failed.
pub(super) fn peer_error(rank: usize, world: usize, why: &str) -> Error {
    Error::new(ErrorKind::Peer, format!("rank {rank} of {world} ends because a rank was lost"))
        .because(why)
        .remedy(
            "see the error of that rank; --resume continues from the last checkpoint, on any number of ranks",
        )
}

impl Drop for ProcessGroup {
    fn drop(&mut self) {
        self.shared.is_over.store(true, Ordering::Release);
        for (_, stream) in &self.shared.writers {
            stream.lock().unwrap_or_else(|e| e.into_inner()).shutdown(Shutdown::Both).ok();
        }
    }
}

impl std::fmt::Debug for ProcessGroup {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "ProcessGroup(rank {} of {})", self.rank(), self.world_size())
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(|e| e.into_inner())
    }

    fn describe(&self, rank: usize) -> String {
        format!("rank {rank} on {}", self.members[rank].host)
    }

    /// Sends a frame; a broken connection is noticed by its reader.
    fn send(&self, to: usize, kind: u8, payload: &[u8]) {
        if let Some((_, stream)) = self.writers.iter().find(|(rank, _)| *rank == to) {
            let mut stream = stream.lock().unwrap_or_else(|e| e.into_inner());
            Frame::write(&mut *stream, kind, payload).ok();
        }
    }

    /// Reads the frames of a rank until its connection ends.
    fn read(&self, from: usize, mut stream: TcpStream) {
        loop {
            let frame = Frame::read(&mut stream, MAX_CONTROL * self.members.len());
            match frame {
                Ok(Frame { kind, payload }) => {
                    self.state().last_seen.insert(from, Instant::now());
                    match kind {
                        VALUE => self.collect(from, &payload),
                        ALL_VALUES => self.store(&payload),
                        FAILURE => self.fail(String::from_utf8_lossy(&payload).into_owned()),
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

    /// On rank 0: adds a rank's value to an exchange, and answers when it is complete.
    fn collect(&self, from: usize, payload: &[u8]) {
        let world = self.members.len();
        let Some((number, value)) = split_number(payload) else { return };
        let mut state = self.state();
        let values = state.collected.entry(number).or_insert_with(|| vec![None; world]);
        values[from] = Some(value.to_vec());
        if values.iter().any(Option::is_none) {
            return;
        }
        let values: Vec<Vec<u8>> =
            state.collected.remove(&number).into_iter().flatten().map(Option::unwrap_or_default).collect();
        let named: Vec<Option<(&str, &[u8])>> = values.iter().map(|value| split_name(value)).collect();
        let names: Vec<&str> = named.iter().map(|named| named.map_or("", |(name, _)| name)).collect();
        if let Some(other) = names.iter().position(|name| *name != names[0]) {
            let why = format!(
                "{} exchanges {:?}, {} exchanges {:?}: the ranks do not run the same program",
                self.describe(0),
                names[0],
                self.describe(other),
                names[other]
            );
            drop(state);
            return self.fail(why);
        }
        let values: Vec<Vec<u8>> =
            named.into_iter().map(|named| named.map_or(vec![], |(_, value)| value.to_vec())).collect();
        let mut answer = number.to_le_bytes().to_vec();
        for value in &values {
            answer.extend((value.len() as u64).to_le_bytes());
            answer.extend(value);
        }
        drop(state);
        self.writers.iter().for_each(|(rank, _)| self.send(*rank, ALL_VALUES, &answer));
        self.state().gathered.insert(number, values);
        self.changed.notify_all();
    }

    /// Stores the values of a finished exchange.
    fn store(&self, payload: &[u8]) {
        let Some((number, mut rest)) = split_number(payload) else { return };
        let mut values = vec![];
        while let Some((length, after)) = split_number(rest) {
            let Some((value, after)) = after.split_at_checked(length as usize) else { return };
            values.push(value.to_vec());
            rest = after;
        }
        if values.len() == self.members.len() {
            self.state().gathered.insert(number, values);
            self.changed.notify_all();
        }
    }

    /// Passes the first reason on, keeps it, and wakes what waits. Passed on first, as the process may end when it is known.
    fn fail(&self, why: String) {
        if self.is_over.load(Ordering::Acquire) || self.is_failing.swap(true, Ordering::AcqRel) {
            return;
        }
        self.writers.iter().for_each(|(rank, _)| self.send(*rank, FAILURE, why.as_bytes()));
        let actions = {
            let mut state = self.state();
            state.failure = Some(why);
            std::mem::take(&mut state.on_failure)
        };
        self.changed.notify_all();
        actions.iter().for_each(|action| action());
    }

    /// Sends heartbeats and fails when a rank is silent.
    fn watch(&self) {
        let heartbeat = (self.timeout / 4).min(MAX_HEARTBEAT);
        let mut sent: Option<Instant> = None;
        while !self.is_over.load(Ordering::Acquire) && self.state().failure.is_none() {
            if sent.is_none_or(|at| at.elapsed() >= heartbeat) {
                self.writers.iter().for_each(|(rank, _)| self.send(*rank, HEARTBEAT, &[]));
                sent = Some(Instant::now());
            }
            let silent = {
                let state = self.state();
                let is_silent = |(_, at): &(&usize, &Instant)| at.elapsed() > self.timeout;
                state.last_seen.iter().find(is_silent).map(|(rank, _)| *rank)
            };
            if let Some(rank) = silent {
                let seconds = self.timeout.as_secs_f64();
                self.fail(format!(
                    "{} did not answer for {seconds} s: it is stopped, or its network is down",
                    self.describe(rank)
                ));
            }
            std::thread::sleep(CHECK_INTERVAL.min(heartbeat));
        }
    }
}

fn split_number(bytes: &[u8]) -> Option<(u64, &[u8])> {
    let (number, rest) = bytes.split_first_chunk::<8>()?;
    Some((u64::from_le_bytes(*number), rest))
}

/// Name and value of a payload of [`ProcessGroup::start_all_gather`].
fn split_name(bytes: &[u8]) -> Option<(&str, &[u8])> {
    let (length, rest) = bytes.split_first_chunk::<4>()?;
    let (name, value) = rest.split_at_checked(u32::from_le_bytes(*length) as usize)?;
    Some((std::str::from_utf8(name).ok()?, value))
}

//! Failures: the first one ends the group, and every rank learns its reason. Silent ranks are found by heartbeats.
use super::ProcessGroup;
use super::connections::{FAILURE, HEARTBEAT, Shared};
use crate::error::ErrorKind;
use crate::{Error, Result};
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

/// Interval of the checks for silent ranks.
const CHECK_INTERVAL: Duration = Duration::from_millis(200);
/// Longest interval of heartbeats.
const MAX_HEARTBEAT: Duration = Duration::from_secs(5);
/// Time in which the reason for a closed connection may still arrive.
const REASON_DELAY: Duration = Duration::from_millis(500);

impl ProcessGroup {
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
    pub(in crate::distributed) fn failure_after(&self, otherwise: impl FnOnce() -> String) -> String {
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

    pub(super) fn failure_error(&self) -> Error {
        let why = self.failure_within(REASON_DELAY).unwrap_or_default();
        peer_error(self.rank(), self.world_size(), &why)
    }
}

/// Error of a rank whose group has failed.
pub fn peer_error(rank: usize, world: usize, why: &str) -> Error {
    Error::new(ErrorKind::Peer, format!("rank {rank} of {world} ends because a rank was lost"))
        .because(why)
        .remedy(
            "see the error of that rank; --resume continues from the last checkpoint, on any number of ranks",
        )
}

impl Shared {
    /// Passes the first reason on, keeps it, and wakes what waits. Passed on first, as the process may end when it is known.
    pub fn fail(&self, why: String) {
        if self.is_over.load(Ordering::Acquire) || self.is_failing.swap(true, Ordering::AcqRel) {
            return;
        }
        let relay = self.relay.lock().unwrap_or_else(|e| e.into_inner());
        self.writers.iter().for_each(|(rank, _)| self.send(*rank, FAILURE, why.as_bytes()));
        let actions = {
            let mut state = self.state();
            state.failure = Some(why);
            std::mem::take(&mut state.on_failure)
        };
        drop(relay);
        self.changed.notify_all();
        actions.iter().for_each(|action| action());
    }

    /// Sends heartbeats and fails when a rank is silent.
    pub fn watch(&self) {
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
                    "{} did not respond for {seconds} s: it is stopped, or its network is down",
                    self.describe(rank)
                ));
            }
            std::thread::sleep(CHECK_INTERVAL.min(heartbeat));
        }
    }
}

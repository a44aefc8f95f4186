//! Process group: connections of every rank with rank 0, which carry values of the host, heartbeats, and the reason when a rank fails.
//!
//! A thread per connection reads frames; another sends heartbeats and notices silence. The first failure ends the group: every rank learns
//! the rank and the host that failed, and waiting operations return.
mod connections;
mod exchange;
mod failure;

pub use exchange::PendingValues;
pub(super) use failure::peer_error;

use super::rendezvous::{Member, Rendezvous};
use crate::Result;
use connections::{FINISHED, Shared, State};
use exchange::BUSY_FACTOR;
use std::net::{Shutdown, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

/// The processes of a run, one per rank.
pub struct ProcessGroup {
    shared: Arc<Shared>,
    rendezvous: Rendezvous,
    /// Number of the next exchange.
    next: Mutex<u64>,
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
            relay: Mutex::default(),
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

    /// Limit of the time without a reply.
    pub fn timeout(&self) -> Duration {
        self.shared.timeout
    }

    /// Limit of the time for which an operation waits for a rank that is not silent.
    pub fn operation_timeout(&self) -> Duration {
        self.shared.timeout * BUSY_FACTOR
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

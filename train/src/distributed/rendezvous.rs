//! Meeting of the ranks: every rank connects to rank 0, which checks that all of them run the same program with the same options, and answers
//! with the addresses of all.
mod address;
mod meet;
mod visit;

pub use address::free_port;
pub(super) use address::resolve;

use super::group::ProcessGroup;
use super::launcher::Launch;
use crate::error::ErrorKind;
use crate::{Error, Result};
use address::{host_name, is_local};
use meet::meet;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use sha2::{Digest, Sha256};
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use visit::visit;

/// Kinds of frames.
const HELLO: u8 = 1;
const WELCOME: u8 = 2;
const REFUSAL: u8 = 3;

/// Longest payload of these frames.
const MAX_HELLO: usize = 1 << 20;
/// Time for the first frame of a connection.
const HELLO_TIMEOUT: Duration = Duration::from_secs(2);
/// Interval between attempts to connect, and between checks for connections.
const RETRY_INTERVAL: Duration = Duration::from_millis(50);

/// Program and options of a rank, equal on all ranks.
#[derive(Clone, Debug)]
pub struct Identity {
    /// SHA-256 of the executable.
    pub program: String,
    /// The given settings.
    pub settings: Map<String, Value>,
}

/// Rank as others see it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Member {
    /// Name of the machine.
    pub host: String,
    /// IP address that rank 0 sees; `None`: the address of rank 0.
    address: Option<IpAddr>,
    /// Port for connections of other ranks.
    port: u16,
}

/// Result of the rendezvous.
pub(super) struct Rendezvous {
    pub rank: usize,
    pub timeout: Duration,
    pub members: Vec<Member>,
    /// Secret of the group: connections without it are refused.
    pub token: String,
    /// Accepts connections of other ranks.
    pub listener: TcpListener,
    /// Host of rank 0.
    master: String,
    /// Ends the thread that accepts connections on rank 0.
    stop: Arc<AtomicBool>,
}

/// Description that a rank sends to rank 0.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Hello {
    pub run_id: String,
    pub restarts: u64,
    pub rank: usize,
    pub world_size: usize,
    pub host: String,
    pub port: u16,
    pub program: String,
    pub settings: Map<String, Value>,
}

#[derive(Serialize, Deserialize)]
struct Welcome {
    token: String,
    members: Vec<Member>,
}

impl Identity {
    /// The identity of this executable with these settings.
    pub fn of_this_program(settings: Map<String, Value>) -> Result<Identity> {
        let unreadable =
            |e: io::Error| Error::new(ErrorKind::Bug, "the executable cannot be read").because(e);
        let program = std::fs::read(std::env::current_exe().map_err(unreadable)?).map_err(unreadable)?;
        let program = Sha256::digest(program).iter().take(8).map(|byte| format!("{byte:02x}")).collect();
        Ok(Identity { program, settings })
    }
}

/// Joins the group of a launch. Errors if the ranks differ, or if they do not meet in time.
pub fn join(launch: &Launch, identity: &Identity) -> Result<Arc<ProcessGroup>> {
    let unusable = |e: io::Error| Error::new(ErrorKind::Peer, "the network cannot be used").because(e);
    let ip = if is_local(&launch.address) { Ipv4Addr::LOCALHOST } else { Ipv4Addr::UNSPECIFIED };
    let listener = TcpListener::bind((ip, 0)).map_err(unusable)?;
    let hello = Hello {
        run_id: launch.run_id.clone(),
        restarts: launch.restarts,
        rank: launch.rank,
        world_size: launch.world_size,
        host: host_name(),
        port: listener.local_addr().map_err(unusable)?.port(),
        program: identity.program.clone(),
        settings: identity.settings.clone(),
    };
    let deadline = Instant::now() + launch.timeout;
    let stop = Arc::new(AtomicBool::new(false));
    let (Welcome { token, members }, connections) = match launch.rank {
        0 => meet(launch, hello, ip, deadline, &stop)?,
        _ => {
            let (welcome, stream) = visit(launch, &hello, deadline)?;
            (welcome, vec![(0, stream)])
        }
    };
    let (rank, timeout, master) = (launch.rank, launch.timeout, launch.address.clone());
    let rendezvous = Rendezvous { rank, timeout, members, token, listener, master, stop };
    ProcessGroup::new(rendezvous, connections).map_err(unusable)
}

impl Drop for Rendezvous {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Release);
    }
}

impl Rendezvous {
    /// Address of a rank for connections from this one.
    pub fn address(&self, member: &Member) -> io::Result<SocketAddr> {
        match member.address {
            Some(ip) if !ip.is_loopback() => Ok(SocketAddr::new(ip, member.port)),
            _ => resolve(&self.master, member.port),
        }
    }
}

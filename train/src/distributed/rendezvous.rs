//! Meeting of the ranks: every rank connects to rank 0, which checks that all of them run the same program with the same options, and replies
//! with the addresses of all.
mod address;
mod meet;
mod mismatch;
mod visit;

pub use address::free_port;
pub(super) use address::resolve;

use super::group::ProcessGroup;
use super::launcher::{Job, Launch};
use super::wire::{Acceptor, Handshake, RendezvousToken};
use crate::error::ErrorKind;
use crate::{Error, Result};
use address::host_name;
use meet::meet;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use sha2::{Digest, Sha256};
use std::io;
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use visit::visit;

/// Kinds of frames.
const HELLO: u8 = 1;
const WELCOME: u8 = 2;
const REJECTION: u8 = 3;

/// Longest payload of these frames.
const MAX_HELLO: usize = 1 << 20;

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
    /// Accepts connections of other ranks; `None` when they are connected.
    pub listener: Mutex<Option<TcpListener>>,
    /// Secret of the job's ranks.
    token: RendezvousToken,
    /// Random text of this group.
    group: String,
    /// Address of rank 0 as this rank reaches it; `None` on rank 0.
    master: Option<SocketAddr>,
    /// On rank 0: responds to processes that come too late.
    _acceptor: Option<Acceptor>,
}

/// Ranks that have met.
struct Met {
    welcome: Welcome,
    connections: Vec<(usize, TcpStream)>,
    listener: TcpListener,
    master: Option<SocketAddr>,
    acceptor: Option<Acceptor>,
}

/// Description that a rank sends to rank 0.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Hello {
    job: Job,
    rank: usize,
    world_size: usize,
    host: String,
    port: u16,
    program: String,
    settings: Map<String, Value>,
}

/// Reply to the ranks of a complete group.
#[derive(Serialize, Deserialize)]
struct Welcome {
    group: String,
    members: Vec<Member>,
}

/// Reply to a rank that cannot join.
#[derive(Serialize, Deserialize)]
struct Rejection {
    reason: Reason,
    what: String,
    why: String,
}

/// Kind of a [`Rejection`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
enum Reason {
    /// The ranks differ in their program, options or number.
    Mismatch,
    /// Rank 0 belongs to another job.
    OtherJob,
    /// Rank 0 belongs to another start of this job, which may follow or be about to end.
    OtherRestart,
    /// A rank has not come in time.
    Incomplete,
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
    let hello = Hello {
        job: launch.job.clone(),
        rank: launch.rank,
        world_size: launch.world_size,
        host: host_name(),
        // Set when the rank listens.
        port: 0,
        program: identity.program.clone(),
        settings: identity.settings.clone(),
    };
    let deadline = Instant::now() + launch.timeout;
    let Met { welcome, connections, listener, master, acceptor } = match launch.rank {
        0 => meet(launch, hello, deadline)?,
        _ => visit(launch, hello, deadline)?,
    };
    let rendezvous = Rendezvous {
        rank: launch.rank,
        timeout: launch.timeout,
        members: welcome.members,
        listener: Mutex::new(Some(listener)),
        token: launch.token.clone(),
        group: welcome.group,
        master,
        _acceptor: acceptor,
    };
    ProcessGroup::new(rendezvous, connections).map_err(unusable)
}

fn unusable(error: io::Error) -> Error {
    Error::new(ErrorKind::Peer, "the network cannot be used").because(error)
}

impl Rendezvous {
    /// Address of a rank for connections from this one.
    pub fn address(&self, member: &Member) -> io::Result<SocketAddr> {
        let master = self.master.ok_or(io::ErrorKind::AddrNotAvailable)?;
        match member.address {
            // A rank that reaches rank 0 by a loopback address is on its machine.
            Some(ip) if !ip.is_loopback() || master.ip().is_loopback() => {
                Ok(SocketAddr::new(ip, member.port))
            }
            _ => Ok(with_port(master, member.port)),
        }
    }

    /// Handshake of the connections among the ranks.
    pub fn mesh_handshake(&self) -> Handshake {
        Handshake::mesh(&self.token, &self.group)
    }
}

fn with_port(mut address: SocketAddr, port: u16) -> SocketAddr {
    address.set_port(port);
    address
}

//! Meeting of the ranks: every rank connects to rank 0, which checks that all of them run the same program with the same options, and answers
//! with the addresses of all.
use super::agent_store::AgentStore;
use super::frame::Frame;
use super::group::ProcessGroup;
use super::launcher::Launch;
use super::mismatch::{Mismatch, mismatch_error};
use crate::error::ErrorKind;
use crate::{Error, Result};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use sha2::{Digest, Sha256};
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream, ToSocketAddrs};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::time::{Duration, Instant};

/// Kinds of frames.
const HELLO: u8 = 1;
const WELCOME: u8 = 2;
const REFUSAL: u8 = 3;

/// Longest payload of these frames.
const MAX_HELLO: usize = 1 << 20;
/// Time for the first frame of a connection.
const HELLO_TIMEOUT: Duration = Duration::from_secs(2);
/// After a mismatch, time in which further ranks are answered before rank 0 ends.
const ANSWER_TIME: Duration = Duration::from_secs(2);
/// Interval between attempts to connect, and between checks for connections.
const RETRY_INTERVAL: Duration = Duration::from_millis(50);
/// Reported connections of other programs.
const MAX_NOTES: usize = 5;

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

/// On rank 0: waits for the other ranks.
fn meet(
    launch: &Launch,
    own: Hello,
    ip: Ipv4Addr,
    deadline: Instant,
    stop: &Arc<AtomicBool>,
) -> Result<(Welcome, Vec<(usize, TcpStream)>)> {
    let port = if launch.agent_store { 0 } else { launch.port };
    let listener = TcpListener::bind((ip, port)).map_err(|e| {
        Error::usage(format!("rank 0 cannot listen on port {port}"))
            .at(format!("{}:{port}", launch.address))
            .because(e)
            .remedy("choose a free port with --master-port or MASTER_PORT; another run, or another rank 0, may use it")
    })?;
    if launch.agent_store {
        let port = listener.local_addr().map_or(0, |address| address.port());
        let published =
            store_of_agent(launch).and_then(|mut store| store.set(&key(launch), &port.to_string()));
        published.map_err(|e| agent_error(launch, &e))?;
    }
    let (sender, arrivals) = channel();
    let accepting = {
        let stop = stop.clone();
        std::thread::spawn(move || accept(&listener, &sender, &stop))
    };
    match welcome(launch, own, &arrivals, deadline) {
        Ok(met) => {
            std::thread::spawn(move || arrivals.into_iter().for_each(refuse_latecomer));
            Ok(met)
        }
        Err(error) => {
            stop.store(true, Ordering::Release);
            accepting.join().ok();
            Err(error)
        }
    }
}

/// Refuses a process that connects when the group is complete.
fn refuse_latecomer(arrival: Arrival) {
    if let Ok(Hello { rank, host, .. }) = arrival.hello {
        let why = format!("rank {rank} runs already; a second one starts on {host}");
        refuse(&arrival.stream, &format!("two processes have the same rank\n{why}"));
    }
}

/// Accepts connections, each greeted on a thread of its own, so that a silent one delays no other.
fn accept(listener: &TcpListener, arrivals: &Sender<Arrival>, stop: &AtomicBool) {
    listener.set_nonblocking(true).ok();
    while !stop.load(Ordering::Acquire) {
        let Ok((stream, from)) = listener.accept() else {
            std::thread::sleep(RETRY_INTERVAL);
            continue;
        };
        let arrivals = arrivals.clone();
        std::thread::spawn(move || {
            let hello = stream.set_nonblocking(false).and_then(|()| read_hello(&stream));
            arrivals.send(Arrival { from, stream, hello }).ok();
        });
    }
}

/// Connection to rank 0.
struct Arrival {
    from: SocketAddr,
    stream: TcpStream,
    hello: io::Result<Hello>,
}

fn read_hello(mut stream: &TcpStream) -> io::Result<Hello> {
    stream.set_read_timeout(Some(HELLO_TIMEOUT))?;
    stream.set_write_timeout(Some(HELLO_TIMEOUT))?;
    let frame = Frame::read(&mut stream, MAX_HELLO)?;
    match frame.kind {
        HELLO => serde_json::from_slice(&frame.payload).map_err(io::Error::other),
        kind => Err(io::Error::other(format!("frame {kind} is not expected"))),
    }
}

/// Collects the ranks, checks them, and answers them.
fn welcome(
    launch: &Launch,
    own: Hello,
    arrivals: &Receiver<Arrival>,
    deadline: Instant,
) -> Result<(Welcome, Vec<(usize, TcpStream)>)> {
    let world = launch.world_size;
    let mut members: Vec<Option<Hello>> = vec![None; world];
    members[0] = Some(own.clone());
    let mut connections: Vec<(usize, TcpStream)> = vec![];
    let mut rejected: Vec<TcpStream> = vec![];
    let mut mismatch: Option<(Mismatch, Instant)> = None;
    let mut notes = 0;
    // After a mismatch, until all ranks have come, or for a while.
    while members.iter().any(Option::is_none)
        && (mismatch.is_none() || 1 + connections.len() + rejected.len() < world)
    {
        let end = mismatch.as_ref().map_or(deadline, |(_, end)| *end);
        let arrived = arrivals.recv_timeout(end.saturating_duration_since(Instant::now()));
        let Arrival { from, stream, hello } = match arrived {
            Ok(arrival) => arrival,
            Err(RecvTimeoutError::Disconnected | RecvTimeoutError::Timeout) => break,
        };
        let hello = match hello {
            Ok(hello) => hello,
            Err(error) => {
                notes += 1;
                if notes <= MAX_NOTES {
                    eprintln!("note: a connection from {from} is refused: {error}");
                }
                continue;
            }
        };
        if (&hello.run_id, hello.restarts) != (&own.run_id, own.restarts) {
            let why = format!(
                "rank 0 on {} belongs to run {:?}, restart {}; rank {} on {} to run {:?}, restart {}",
                own.host, own.run_id, own.restarts, hello.rank, hello.host, hello.run_id, hello.restarts
            );
            refuse(&stream, &why);
            eprintln!("note: a connection from {from} is refused: {why}");
            continue;
        }
        if let Some(found) = Mismatch::find(&own, &hello, &members) {
            rejected.push(stream);
            mismatch.get_or_insert_with(|| (found, Instant::now() + ANSWER_TIME));
            continue;
        }
        let rank = hello.rank;
        connections.push((rank, stream));
        members[rank] = Some(hello);
    }
    if let Some((Mismatch { what, why }, _)) = mismatch {
        let streams = connections.iter().map(|(_, stream)| stream).chain(&rejected);
        streams.for_each(|stream| refuse(stream, &format!("{what}\n{why}")));
        return Err(mismatch_error(&what, &why));
    }
    let missing: Vec<String> = (0..world).filter(|r| members[*r].is_none()).map(|r| r.to_string()).collect();
    if !missing.is_empty() {
        let why = format!("{} did not connect within {} s", ranks(&missing), launch.timeout.as_secs_f64());
        connections.iter().for_each(|(_, stream)| refuse(stream, &format!("the group is incomplete\n{why}")));
        return Err(Error::new(ErrorKind::Peer, format!("the group of {world} ranks is incomplete"))
            .at(format!("{}:{}", launch.address, launch.port))
            .because(why)
            .remedy("start all ranks, let them reach this address, or raise --dist-timeout"));
    }
    let addresses = |rank: usize| connections.iter().find(|c| c.0 == rank).and_then(|c| c.1.peer_addr().ok());
    let members = members.into_iter().flatten().map(|hello| Member {
        address: addresses(hello.rank).map(|address| address.ip()),
        host: hello.host,
        port: hello.port,
    });
    let welcome = Welcome { token: token(), members: members.collect() };
    let payload = serde_json::to_vec(&welcome).expect("plain values have a JSON form");
    for (rank, stream) in &connections {
        Frame::write(&mut &*stream, WELCOME, &payload).map_err(|e| {
            Error::new(ErrorKind::Peer, format!("rank {rank} was lost at the start"))
                .at(&welcome.members[*rank].host)
                .because(e)
        })?;
    }
    Ok((welcome, connections))
}

/// On other ranks: connects to rank 0 and waits for its answer.
fn visit(launch: &Launch, hello: &Hello, deadline: Instant) -> Result<(Welcome, TcpStream)> {
    let payload = serde_json::to_vec(hello).expect("plain values have a JSON form");
    let mut last = io::Error::from(io::ErrorKind::TimedOut);
    while Instant::now() < deadline {
        match attempt(launch, &payload, deadline) {
            Ok((Frame { kind: WELCOME, payload }, stream)) => {
                let welcome: Welcome = serde_json::from_slice(&payload)
                    .map_err(|e| Error::new(ErrorKind::Bug, "the answer of rank 0 is damaged").because(e))?;
                return Ok((welcome, stream));
            }
            Ok((Frame { kind: REFUSAL, payload }, _)) => {
                let text = String::from_utf8_lossy(&payload).into_owned();
                let (what, why) = text.split_once('\n').unwrap_or(("rank 0 refuses this process", &text));
                return Err(match what {
                    "the group is incomplete" => Error::new(ErrorKind::Peer, what).because(why),
                    _ => mismatch_error(what, why),
                });
            }
            Ok((Frame { kind, .. }, _)) => last = io::Error::other(format!("frame {kind} is not expected")),
            Err(error) if error.kind() == io::ErrorKind::InvalidData => {
                return Err(Error::usage("another program listens at the address of rank 0")
                    .at(format!("{}:{}", launch.address, launch.port))
                    .because(error)
                    .remedy("choose a free port with --master-port or MASTER_PORT"));
            }
            Err(error) => last = error,
        }
        std::thread::sleep(RETRY_INTERVAL);
    }
    let seconds = launch.timeout.as_secs_f64();
    Err(Error::new(ErrorKind::Peer, format!("rank 0 did not answer within {seconds} s"))
        .at(format!("{}:{}", launch.address, launch.port))
        .because(last)
        .remedy("start rank 0, check --master-addr and --master-port, and that no firewall closes the port"))
}

/// One attempt to connect and to be answered.
fn attempt(launch: &Launch, hello: &[u8], deadline: Instant) -> io::Result<(Frame, TcpStream)> {
    let left = || deadline.saturating_duration_since(Instant::now()).max(Duration::from_millis(1));
    let port = match launch.agent_store {
        true => {
            let port = store_of_agent(launch)?.get(&key(launch))?.ok_or(io::ErrorKind::NotFound)?;
            port.parse().map_err(io::Error::other)?
        }
        false => launch.port,
    };
    let address = resolve(&launch.address, port)?;
    let mut stream = TcpStream::connect_timeout(&address, left().min(Duration::from_secs(5)))?;
    // A connection to a port of this machine on which nobody listens can connect to itself.
    if stream.local_addr()? == stream.peer_addr()? {
        return Err(io::ErrorKind::ConnectionRefused.into());
    }
    stream.set_read_timeout(Some(left() + ANSWER_TIME))?;
    Frame::write(&mut stream, HELLO, hello)?;
    let frame = Frame::read(&mut stream, MAX_HELLO)?;
    Ok((frame, stream))
}

fn refuse(mut stream: &TcpStream, why: &str) {
    Frame::write(&mut stream, REFUSAL, why.as_bytes()).ok();
}

fn store_of_agent(launch: &Launch) -> io::Result<AgentStore> {
    let stream = TcpStream::connect_timeout(&resolve(&launch.address, launch.port)?, Duration::from_secs(5))?;
    stream.set_read_timeout(Some(HELLO_TIMEOUT))?;
    AgentStore::new(stream)
}

/// Key of the port of rank 0 in the agent's store.
fn key(launch: &Launch) -> String {
    format!("fornax/{}/{}/port", launch.run_id, launch.restarts)
}

fn agent_error(launch: &Launch, error: &io::Error) -> Error {
    Error::usage("the store of torchrun's agent cannot be used")
        .at(format!("{}:{}", launch.address, launch.port))
        .because(error)
        .remedy("give --master-port, which every rank uses instead")
}

fn resolve(host: &str, port: u16) -> io::Result<SocketAddr> {
    let mut found: Vec<SocketAddr> = (host, port).to_socket_addrs()?.collect();
    // Ranks listen on IPv4.
    found.sort_by_key(SocketAddr::is_ipv6);
    found.into_iter().next().ok_or_else(|| io::ErrorKind::AddrNotAvailable.into())
}

/// True if an address is of this machine alone.
fn is_local(address: &str) -> bool {
    address == "localhost" || address.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

/// Name of this machine.
pub fn host_name() -> String {
    rustix::system::uname().nodename().to_string_lossy().into_owned()
}

/// A value that no other group has.
fn token() -> String {
    let mut hasher = Sha256::new();
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    hasher.update(format!("{} {now:?} {:?}", std::process::id(), std::thread::current().id()));
    hasher.finalize().iter().take(16).map(|byte| format!("{byte:02x}")).collect()
}

fn ranks(missing: &[String]) -> String {
    match missing {
        [one] => format!("rank {one}"),
        _ => format!("ranks {}", missing.join(", ")),
    }
}

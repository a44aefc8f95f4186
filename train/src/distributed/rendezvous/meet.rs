//! Rank 0 at the rendezvous: accepts the other ranks, compares them with itself, and replies to all of them.
use super::super::agent_store;
use super::super::launcher::Launch;
use super::super::wire::{
    Acceptor, Arrival, Frame, Handshake, HandshakeError, TOKEN_FILE_VARIABLE, TOKEN_VARIABLE, Timed,
    random_text, shown,
};
use super::address::{listen, listen_at};
use super::mismatch::{Mismatch, mismatch_error};
use super::{
    HELLO, Hello, MAX_HELLO, Member, Met, REJECTION, Reason, Rejection, WELCOME, Welcome, unusable, with_port,
};
use crate::error::ErrorKind;
use crate::{Error, Result};
use serde::Serialize;
use std::io;
use std::net::{SocketAddr, TcpStream};
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};

/// After a mismatch, time in which further ranks get a reply before rank 0 ends.
const REPLY_TIME: Duration = Duration::from_secs(2);
/// Time to write a reply.
const WRITE_TIME: Duration = Duration::from_secs(2);
/// Reported connections that are ignored, of every kind.
const MAX_NOTES: usize = 5;

/// Waits for the other ranks.
pub fn meet(launch: &Launch, mut own: Hello, deadline: Instant) -> Result<Met> {
    let port = if launch.agent_store { 0 } else { launch.port };
    let master = listen(&launch.address, port).map_err(|e| {
        Error::usage(format!("rank 0 cannot listen on port {port}"))
            .at(format!("{}:{port}", launch.address))
            .because(e)
            .remedy("choose a free port with --master-port or MASTER_PORT; another run, or another rank 0, may use it")
    })?;
    let address = master.local_addr().map_err(unusable)?;
    let listener = listen_at(with_port(address, 0)).map_err(unusable)?;
    own.port = listener.local_addr().map_err(unusable)?.port();
    if launch.token.is_empty() && !address.ip().is_loopback() {
        message!(
            "warning: the rendezvous on {address} is not authenticated: any process that reaches it can join or end this run; set \
             {TOKEN_VARIABLE}, or {TOKEN_FILE_VARIABLE}, to the same secret for all ranks"
        );
    }
    if launch.agent_store {
        agent_store::publish_port(launch, address.port())?;
    }
    let handshake = Handshake::rendezvous(&launch.token);
    let limit = 4 * launch.world_size + 64;
    let (acceptor, arrivals) = Acceptor::start(master, handshake, limit, read_hello).map_err(unusable)?;
    let mut ignored = Ignored::default();
    match welcome(launch, own.clone(), &arrivals, deadline, &mut ignored) {
        Ok((welcome, connections)) => {
            acceptor.complete();
            std::thread::spawn(move || {
                for arrival in arrivals {
                    reject_latecomer(arrival, &own, &mut ignored);
                }
            });
            Ok(Met { welcome, connections, listener, master: None, acceptor: Some(acceptor) })
        }
        Err(error) => {
            acceptor.close();
            Err(error)
        }
    }
}

/// Connections that are ignored.
#[derive(Default)]
struct Ignored {
    all: usize,
    with_other_token: u64,
}

impl Ignored {
    /// Counts a connection whose handshake or greeting failed.
    fn add(&mut self, from: SocketAddr, error: &HandshakeError) {
        self.with_other_token += u64::from(matches!(error, HandshakeError::OtherToken));
        self.note(from, &error.to_string());
    }

    /// Reports a connection, unless there were too many.
    fn note(&mut self, from: SocketAddr, why: &str) {
        self.all += 1;
        if self.all <= MAX_NOTES {
            let last = if self.all == MAX_NOTES { "; further ones are not reported" } else { "" };
            message!("note: a connection from {from} is ignored: {}{last}", shown(why));
        }
    }
}

/// Rejects a process that connects when the group is complete.
fn reject_latecomer(Arrival { from, greeting }: Arrival<Hello>, own: &Hello, ignored: &mut Ignored) {
    match greeting {
        Ok((stream, hello)) if hello.job == own.job => {
            let Hello { rank, host, .. } = hello;
            let why = format!("rank {rank} runs already; a second one starts on {}", shown(&host));
            reject(&stream, Reason::Mismatch, "two processes have the same rank", &why);
        }
        Ok((stream, hello)) => reject_other_job(&stream, from, own, &hello, ignored),
        Err(error) => ignored.add(from, &error),
    }
}

fn reject_other_job(stream: &TcpStream, from: SocketAddr, own: &Hello, other: &Hello, ignored: &mut Ignored) {
    let of = |hello: &Hello| format!("rank {} on {}: {}", hello.rank, shown(&hello.host), hello.job);
    let is_restart = other.job.id == own.job.id && other.job.restarts != own.job.restarts;
    let reason = if is_restart { Reason::OtherRestart } else { Reason::OtherJob };
    let why = format!("{}\n{}", of(own), of(other));
    reject(stream, reason, "rank 0 belongs to another job", &why);
    ignored.note(from, &format!("it belongs to another job: {}", of(other)));
}

fn read_hello(connection: &mut Timed<'_>) -> io::Result<Hello> {
    let frame = Frame::read(connection, MAX_HELLO)?;
    match frame.kind {
        HELLO => serde_json::from_slice(&frame.payload).map_err(io::Error::other),
        kind => Err(io::Error::other(format!("frame {kind} is not expected"))),
    }
}

/// Collects the ranks, checks them, and replies to them.
fn welcome(
    launch: &Launch,
    own: Hello,
    arrivals: &Receiver<Arrival<Hello>>,
    deadline: Instant,
    ignored: &mut Ignored,
) -> Result<(Welcome, Vec<(usize, TcpStream)>)> {
    let world = launch.world_size;
    let mut members: Vec<Option<Hello>> = vec![None; world];
    members[0] = Some(own.clone());
    let mut connections: Vec<(usize, TcpStream)> = vec![];
    let mut rejected: Vec<TcpStream> = vec![];
    let mut mismatch: Option<(Mismatch, Instant)> = None;
    // After a mismatch, until all ranks have come, or for a while.
    while members.iter().any(Option::is_none)
        && (mismatch.is_none() || 1 + connections.len() + rejected.len() < world)
    {
        let end = mismatch.as_ref().map_or(deadline, |(_, end)| *end);
        let left = end.saturating_duration_since(Instant::now());
        // A steady flow of connections does not move the deadline.
        let arrived =
            if left.is_zero() { Err(RecvTimeoutError::Timeout) } else { arrivals.recv_timeout(left) };
        let Ok(Arrival { from, greeting }) = arrived else { break };
        let (stream, hello) = match greeting {
            Ok(greeting) => greeting,
            Err(error) => {
                ignored.add(from, &error);
                continue;
            }
        };
        if hello.job != own.job {
            reject_other_job(&stream, from, &own, &hello, ignored);
            continue;
        }
        if let Some(found) = Mismatch::find(&own, &hello, &members) {
            rejected.push(stream);
            mismatch.get_or_insert_with(|| (found, Instant::now() + REPLY_TIME));
            continue;
        }
        let rank = hello.rank;
        connections.push((rank, stream));
        members[rank] = Some(hello);
    }
    if let Some((Mismatch { what, why }, _)) = mismatch {
        let streams = connections.iter().map(|(_, stream)| stream).chain(&rejected);
        streams.for_each(|stream| reject(stream, Reason::Mismatch, &what, &why));
        return Err(mismatch_error(&what, &why));
    }
    let missing: Vec<String> = (0..world).filter(|r| members[*r].is_none()).map(|r| r.to_string()).collect();
    if !missing.is_empty() {
        let mut why =
            format!("{} did not connect within {} s", ranks(&missing), launch.timeout.as_secs_f64());
        if ignored.with_other_token > 0 {
            let number = ignored.with_other_token;
            why += &format!("\nignored connections with another token, or none: {number} ({TOKEN_VARIABLE})");
        }
        let streams = connections.iter().map(|(_, stream)| stream);
        streams.for_each(|stream| reject(stream, Reason::Incomplete, "the group is incomplete", &why));
        return Err(Error::new(ErrorKind::Peer, format!("the group of {world} ranks is incomplete"))
            .at(format!("{}:{}", launch.address, launch.port))
            .because(why)
            .remedy("start all ranks, let them reach this address, or raise --dist-timeout"));
    }
    let addresses = |rank: usize| connections.iter().find(|c| c.0 == rank).and_then(|c| c.1.peer_addr().ok());
    let members = members.into_iter().flatten().map(|hello| Member {
        address: addresses(hello.rank).map(|address| address.ip().to_canonical()),
        host: shown(&hello.host),
        port: hello.port,
    });
    let welcome = Welcome { group: random_text().map_err(unusable)?, members: members.collect() };
    // A rank that is lost meanwhile is noticed by the group, which reports its rank and host to all others.
    connections.iter().for_each(|(_, stream)| reply(stream, WELCOME, &welcome));
    Ok((welcome, connections))
}

fn reject(stream: &TcpStream, reason: Reason, what: &str, why: &str) {
    reply(stream, REJECTION, &Rejection { reason, what: what.into(), why: why.into() });
}

/// Replies; a process that does not read the reply is not waited for.
fn reply(stream: &TcpStream, kind: u8, value: &impl Serialize) {
    let payload = serde_json::to_vec(value).expect("plain values have a JSON form");
    Frame::write(&mut Timed::new(stream, WRITE_TIME), kind, &payload).ok();
}

fn ranks(missing: &[String]) -> String {
    match missing {
        [one] => format!("rank {one}"),
        _ => format!("ranks {}", missing.join(", ")),
    }
}

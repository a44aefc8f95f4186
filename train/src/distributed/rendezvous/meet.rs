//! Rank 0 at the rendezvous: accepts the other ranks, compares them with itself, and answers all of them.
use super::super::agent_store;
use super::super::launcher::Launch;
use super::super::mismatch::{Mismatch, mismatch_error};
use super::{HELLO, HELLO_TIMEOUT, Hello, MAX_HELLO, Member, REFUSAL, RETRY_INTERVAL, WELCOME, Welcome};
use crate::distributed::Frame;
use crate::error::ErrorKind;
use crate::{Error, Result};
use sha2::{Digest, Sha256};
use std::io;
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::time::{Duration, Instant};

/// After a mismatch, time in which further ranks are answered before rank 0 ends.
const ANSWER_TIME: Duration = Duration::from_secs(2);
/// Reported connections of other programs.
const MAX_NOTES: usize = 5;

/// Waits for the other ranks.
pub fn meet(
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
        agent_store::publish_port(launch, listener.local_addr().map_or(0, |address| address.port()))?;
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
                    message!("note: a connection from {from} is refused: {error}");
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
            message!("note: a connection from {from} is refused: {why}");
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
    // A rank that is lost meanwhile is noticed by the group, which reports its rank and host to all others.
    connections.iter().for_each(|(_, stream)| drop(Frame::write(&mut &*stream, WELCOME, &payload)));
    Ok((welcome, connections))
}

fn refuse(mut stream: &TcpStream, why: &str) {
    Frame::write(&mut stream, REFUSAL, why.as_bytes()).ok();
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

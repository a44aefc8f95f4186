//! Connections of one rank with all others: it connects to the ranks below it and accepts those above it, all at the same time, within the
//! timeout of the group.
use super::super::group::ProcessGroup;
use super::super::wire::{Acceptor, Arrival, Frame, Handshake, HandshakeError, Timed};
use std::io;
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::mpsc::channel;
use std::time::{Duration, Instant};

/// Kinds of the frames after the handshake: the rank that connects, and the reply.
const GREETING: u8 = 33;
const GREETED: u8 = 34;
/// Interval of the checks whether the group has failed.
const CHECK_INTERVAL: Duration = Duration::from_millis(50);
/// Interval between attempts to connect.
const RETRY_INTERVAL: Duration = Duration::from_millis(50);
/// Time of one attempt.
const ATTEMPT_TIME: Duration = Duration::from_secs(10);

/// Connections with all other ranks, by rank; `None` for this rank.
pub fn connect(group: &Arc<ProcessGroup>) -> io::Result<Vec<Option<TcpStream>>> {
    let (rank, world) = (group.rank(), group.world_size());
    let rendezvous = group.rendezvous();
    let deadline = Instant::now() + group.timeout();
    let handshake = rendezvous.mesh_handshake();
    let listener = rendezvous.listener.lock().unwrap_or_else(|e| e.into_inner()).take();
    let listener = listener.ok_or_else(|| io::Error::other("the ranks are connected already"))?;
    let (acceptor, arrivals) = Acceptor::start(listener, handshake.clone(), 4 * world + 64, read_greeting)?;
    let (sender, connected) = channel();
    for peer in 0..rank {
        let address = rendezvous.address(&group.members()[peer])?;
        let (handshake, sender) = (handshake.clone(), sender.clone());
        let connecting = move || {
            sender.send((peer, connect_to(address, rank, &handshake, deadline))).ok();
        };
        std::thread::Builder::new().spawn(connecting)?;
    }
    let mut streams: Vec<Option<TcpStream>> = (0..world).map(|_| None).collect();
    while streams.iter().enumerate().any(|(peer, stream)| peer != rank && stream.is_none()) {
        if group.check().is_err() {
            return Err(io::ErrorKind::ConnectionAborted.into());
        }
        if Instant::now() >= deadline {
            return Err(io::ErrorKind::TimedOut.into());
        }
        for (peer, stream) in connected.try_iter() {
            streams[peer] = Some(stream?);
        }
        // A connection of another program is ignored.
        if let Ok(Arrival { greeting: Ok((stream, from)), .. }) = arrivals.recv_timeout(CHECK_INTERVAL)
            && from > rank
            && from < world
        {
            streams[from] = Some(stream);
        }
    }
    acceptor.close();
    Ok(streams)
}

/// Connects to a rank. Attempts that the other side or strangers end are repeated.
fn connect_to(
    address: SocketAddr,
    rank: usize,
    handshake: &Handshake,
    deadline: Instant,
) -> io::Result<TcpStream> {
    loop {
        let error = match attempt(address, rank, handshake, deadline) {
            Ok(stream) => return Ok(stream),
            Err(HandshakeError::Connection(error)) => error,
            Err(error @ HandshakeError::OtherToken) => io::Error::other(error),
        };
        if deadline.saturating_duration_since(Instant::now()) < RETRY_INTERVAL {
            return Err(error);
        }
        std::thread::sleep(RETRY_INTERVAL);
    }
}

fn attempt(
    address: SocketAddr,
    rank: usize,
    handshake: &Handshake,
    deadline: Instant,
) -> Result<TcpStream, HandshakeError> {
    let left = deadline.saturating_duration_since(Instant::now()).max(Duration::from_millis(1));
    let limit = left.min(ATTEMPT_TIME);
    let stream = TcpStream::connect_timeout(&address, limit)?;
    let mut timed = Timed::new(&stream, limit);
    handshake.connect(&mut timed)?;
    Frame::write(&mut timed, GREETING, &(rank as u64).to_le_bytes())?;
    match Frame::read(&mut timed, 0)?.kind {
        GREETED => Ok(stream),
        kind => Err(unexpected(kind).into()),
    }
}

/// Rank of the other side, which gets a reply.
fn read_greeting(connection: &mut Timed<'_>) -> io::Result<usize> {
    let frame = Frame::read(connection, size_of::<u64>())?;
    match (frame.kind, frame.payload.try_into()) {
        (GREETING, Ok(rank)) => {
            Frame::write(connection, GREETED, &[])?;
            Ok(usize::try_from(u64::from_le_bytes(rank)).unwrap_or(usize::MAX))
        }
        (kind, _) => Err(unexpected(kind)),
    }
}

fn unexpected(kind: u8) -> io::Error {
    io::Error::other(format!("frame {kind} is not expected"))
}

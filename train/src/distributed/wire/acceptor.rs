//! Acceptor of a listener: greets every connection on a thread of its own, within a total time, and keeps a limited number of them.
use super::{Handshake, HandshakeError, Timed};
use std::collections::VecDeque;
use std::io;
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread::{Builder, JoinHandle};
use std::time::Duration;

/// Time for handshake and greeting of a connection, all together.
const GREETING_TIME: Duration = Duration::from_secs(5);
/// The same for a connection to a complete group, which delays the next one.
const LATE_GREETING_TIME: Duration = Duration::from_secs(1);
/// Intervals between checks for connections: to a group that forms, and to a complete one.
const POLL_INTERVAL: Duration = Duration::from_millis(2);
const LATE_POLL_INTERVAL: Duration = Duration::from_millis(50);

/// Thread that accepts and greets connections until it is dropped.
pub struct Acceptor {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

/// Connection after its greeting, or the reason why it is ignored.
pub struct Arrival<T> {
    pub from: SocketAddr,
    pub greeting: Result<(TcpStream, T), HandshakeError>,
}

/// Reads what follows the handshake.
type ReadGreeting<T> = fn(&mut Timed<'_>) -> io::Result<T>;

#[derive(Default)]
struct Shared {
    stop: AtomicBool,
    is_complete: AtomicBool,
    pending: Mutex<Pending>,
}

/// Connections that are being greeted.
#[derive(Default)]
struct Pending {
    /// Number of their threads.
    threads: usize,
    /// Connections before the end of their handshake, with their numbers, oldest first.
    streams: VecDeque<(u64, Arc<TcpStream>)>,
    /// Number of the next one.
    next: u64,
}

/// A listener and what its connections need.
struct Greeter<T> {
    handshake: Handshake,
    read: ReadGreeting<T>,
    arrivals: Sender<Arrival<T>>,
    shared: Arc<Shared>,
}

impl Acceptor {
    /// Starts to accept. Beyond `limit` connections that are being greeted, the oldest of them is closed: silent ones keep no other out.
    pub fn start<T: Send + 'static>(
        listener: TcpListener,
        handshake: Handshake,
        limit: usize,
        read: ReadGreeting<T>,
    ) -> io::Result<(Acceptor, Receiver<Arrival<T>>)> {
        listener.set_nonblocking(true)?;
        let shared = Arc::new(Shared::default());
        let (arrivals, receiver) = channel();
        let greeter = Arc::new(Greeter { handshake, read, arrivals, shared: shared.clone() });
        let accept = move || accept(&listener, &greeter, limit);
        let thread = Builder::new().name("fornax-acceptor".into()).spawn(accept)?;
        Ok((Acceptor { shared, thread: Some(thread) }, receiver))
    }

    /// From now on greets one connection at a time: the group is complete.
    pub fn complete(&self) {
        self.shared.is_complete.store(true, Ordering::Release);
    }

    /// Closes the listener and waits until the port is free.
    pub fn close(mut self) {
        self.shared.stop.store(true, Ordering::Release);
        self.thread.take().map(JoinHandle::join);
    }
}

impl Drop for Acceptor {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Release);
    }
}

fn accept<T: Send + 'static>(listener: &TcpListener, greeter: &Arc<Greeter<T>>, limit: usize) {
    let shared = &greeter.shared;
    while !shared.stop.load(Ordering::Acquire) {
        let is_complete = shared.is_complete.load(Ordering::Acquire);
        // An error, such as too many open files, may pass.
        let Ok((stream, from)) = listener.accept() else {
            std::thread::sleep(if is_complete { LATE_POLL_INTERVAL } else { POLL_INTERVAL });
            continue;
        };
        if is_complete {
            let greeting = greeter.greet(&stream, LATE_GREETING_TIME, || true);
            let greeting = greeting.map(|greeting| (stream, greeting));
            greeter.arrivals.send(Arrival { from, greeting }).ok();
            continue;
        }
        let stream = Arc::new(stream);
        let number = shared.add(stream.clone(), limit);
        let thread = {
            let greeter = greeter.clone();
            move || {
                let greeting = greeter.greet(&stream, GREETING_TIME, || greeter.shared.keep(number));
                greeter.shared.remove(number);
                let greeting = greeting.and_then(|greeting| {
                    let stream = Arc::into_inner(stream).ok_or_else(closed)?;
                    Ok((stream, greeting))
                });
                greeter.arrivals.send(Arrival { from, greeting }).ok();
            }
        };
        if Builder::new().spawn(thread).is_err() {
            shared.remove(number);
        }
    }
}

fn closed() -> io::Error {
    io::Error::new(io::ErrorKind::ConnectionAborted, "it is closed for newer connections")
}

impl<T> Greeter<T> {
    /// Handshake and greeting. `keep` is called between them: false if the connection was closed.
    fn greet(
        &self,
        stream: &TcpStream,
        limit: Duration,
        keep: impl FnOnce() -> bool,
    ) -> Result<T, HandshakeError> {
        stream.set_nonblocking(false)?;
        let mut timed = Timed::new(stream, limit);
        self.handshake.accept(&mut timed)?;
        match keep() {
            true => Ok((self.read)(&mut timed)?),
            false => Err(closed().into()),
        }
    }
}

impl Shared {
    fn pending(&self) -> MutexGuard<'_, Pending> {
        self.pending.lock().unwrap_or_else(|e| e.into_inner())
    }

    /// Adds a connection, and returns its number. If there are too many, closes the oldest and waits for the end of its thread.
    fn add(&self, stream: Arc<TcpStream>, limit: usize) -> u64 {
        let number = {
            let mut pending = self.pending();
            pending.next += 1;
            let number = pending.next;
            pending.streams.push_back((number, stream));
            number
        };
        let mut is_room_made = false;
        loop {
            let mut pending = self.pending();
            if pending.threads < limit || self.stop.load(Ordering::Acquire) {
                pending.threads += 1;
                return number;
            }
            // The last one is the new one.
            if !is_room_made
                && pending.streams.len() > 1
                && let Some((_, oldest)) = pending.streams.pop_front()
            {
                oldest.shutdown(Shutdown::Both).ok();
                is_room_made = true;
            }
            drop(pending);
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    /// After its handshake a connection is not closed for a newer one. False if it is closed already.
    fn keep(&self, number: u64) -> bool {
        let mut pending = self.pending();
        let position = pending.streams.iter().position(|(other, _)| *other == number);
        position.and_then(|position| pending.streams.remove(position)).is_some()
    }

    /// The thread of a connection ends.
    fn remove(&self, number: u64) {
        let mut pending = self.pending();
        pending.streams.retain(|(other, _)| *other != number);
        pending.threads -= 1;
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Frame, RendezvousToken};
    use super::*;
    use std::io::Read;

    /// Kind of the first frame that arrives.
    fn next_kind(arrivals: &Receiver<Arrival<u8>>) -> u8 {
        loop {
            let arrival = arrivals.recv_timeout(Duration::from_secs(20)).expect("a connection");
            if let Ok((_, kind)) = arrival.greeting {
                return kind;
            }
        }
    }

    #[test]
    fn silent_connections_keep_no_other_out() {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = listener.local_addr().expect("an address");
        let handshake = Handshake::rendezvous(&RendezvousToken::new("a"));
        let read = |timed: &mut Timed<'_>| Ok(Frame::read(timed, 8)?.kind);
        let (acceptor, arrivals) = Acceptor::start(listener, handshake.clone(), 2, read).expect("starts");
        let connect = || TcpStream::connect(address).expect("connects");
        let greet = |kind| {
            let mut stream = connect();
            handshake.connect(&mut stream).expect("the same token");
            Frame::write(&mut stream, kind, &[]).expect("writes");
            stream
        };
        let mut silent: Vec<TcpStream> = (0..20).map(|_| connect()).collect();
        let _first = greet(7);
        assert_eq!(next_kind(&arrivals), 7);
        // Before the time of a greeting ends.
        silent[0].set_read_timeout(Some(GREETING_TIME / 2)).expect("sets");
        assert_eq!(silent[0].read(&mut [0]).expect("it is closed"), 0);
        acceptor.complete();
        silent.push(connect());
        let _second = greet(8);
        assert_eq!(next_kind(&arrivals), 8);
        acceptor.close();
        assert!(TcpStream::connect(address).is_err(), "the port is free");
    }
}

//! Other ranks at the rendezvous: connect to rank 0 and wait for its answer.
use super::super::agent_store;
use super::super::launcher::Launch;
use super::super::mismatch::mismatch_error;
use super::address::resolve;
use super::{HELLO, Hello, MAX_HELLO, REFUSAL, RETRY_INTERVAL, WELCOME, Welcome};
use crate::distributed::Frame;
use crate::error::ErrorKind;
use crate::{Error, Result};
use std::io;
use std::net::TcpStream;
use std::time::{Duration, Instant};

/// Time after the deadline in which rank 0, which may have started later, can still refuse an incomplete group.
const REFUSAL_TIME: Duration = Duration::from_secs(1);

/// Connects to rank 0 and waits for its answer.
pub fn visit(launch: &Launch, hello: &Hello, deadline: Instant) -> Result<(Welcome, TcpStream)> {
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
    let port = if launch.agent_store { agent_store::published_port(launch)? } else { launch.port };
    let address = resolve(&launch.address, port)?;
    let mut stream = TcpStream::connect_timeout(&address, left().min(Duration::from_secs(5)))?;
    // A connection to a port of this machine on which nobody listens can connect to itself.
    if stream.local_addr()? == stream.peer_addr()? {
        return Err(io::ErrorKind::ConnectionRefused.into());
    }
    stream.set_read_timeout(Some(left() + REFUSAL_TIME))?;
    Frame::write(&mut stream, HELLO, hello)?;
    let frame = Frame::read(&mut stream, MAX_HELLO)?;
    Ok((frame, stream))
}

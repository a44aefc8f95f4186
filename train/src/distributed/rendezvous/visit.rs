//! Other ranks at the rendezvous: connect to rank 0 and wait for its reply.
use super::super::agent_store;
use super::super::launcher::Launch;
use super::super::wire::{
    Frame, Handshake, HandshakeError, TOKEN_FILE_VARIABLE, TOKEN_VARIABLE, Timed, shown,
};
use super::address::{is_local, is_own, listen_at, listen_everywhere, resolve};
use super::mismatch::mismatch_error;
use super::{HELLO, Hello, MAX_HELLO, Met, REJECTION, Reason, Rejection, WELCOME, Welcome, with_port};
use crate::error::ErrorKind;
use crate::{Error, Result};
use std::io;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::time::{Duration, Instant};

/// Interval between attempts to connect, and after one that rank 0 rejected.
const RETRY_INTERVAL: Duration = Duration::from_millis(50);
const DENIED_INTERVAL: Duration = Duration::from_secs(1);
/// Time to connect to an address, and for the handshake.
const CONNECT_TIME: Duration = Duration::from_secs(5);
const HANDSHAKE_TIME: Duration = Duration::from_secs(10);
/// Time after the deadline in which rank 0, which may have started later, can still report an incomplete group.
const REJECTION_TIME: Duration = Duration::from_secs(1);
/// Time without a connection after which its likely cause is reported.
const EARLY: Duration = Duration::from_secs(3);

/// Reason why an attempt to join failed.
enum Setback {
    /// The name of rank 0's machine has no address.
    Unresolved(io::Error),
    /// Nothing listens at an address, or the connection is lost.
    Unreached(SocketAddr, io::Error),
    /// The process at the address has another token.
    OtherToken,
    /// The process at the address is not of this protocol.
    OtherProgram(io::Error),
    /// Rank 0 belongs to another restart of the job.
    OtherRestart(String),
    /// The store of the launcher, or this machine's network, cannot be used.
    Other(io::Error),
    /// Further attempts would fail, too.
    Final(Error),
}

/// Connects to rank 0 and waits for its reply.
pub fn visit(launch: &Launch, mut hello: Hello, deadline: Instant) -> Result<Met> {
    let started = Instant::now();
    let mut last = Setback::Other(io::ErrorKind::TimedOut.into());
    let mut is_reported = false;
    while Instant::now() < deadline {
        last = match attempt(launch, &mut hello, deadline) {
            Ok(met) => return Ok(met),
            Err(Setback::Final(error)) => return Err(error),
            Err(Setback::OtherProgram(error)) => {
                return Err(Error::usage("another program listens at the address of rank 0")
                    .at(place(launch))
                    .because(error)
                    .remedy("choose a free port with --master-port or MASTER_PORT"));
            }
            Err(setback) => setback,
        };
        if !is_reported && started.elapsed() >= EARLY.min(launch.timeout / 2) {
            is_reported = last.report(launch);
        }
        let interval = match last {
            Setback::OtherToken | Setback::OtherRestart(_) => DENIED_INTERVAL,
            _ => RETRY_INTERVAL,
        };
        std::thread::sleep(interval.min(deadline.saturating_duration_since(Instant::now())));
    }
    Err(last.into_error(launch))
}

fn place(launch: &Launch) -> String {
    format!("{}:{}", launch.address, launch.port)
}

/// One attempt to connect and to get a reply.
fn attempt(launch: &Launch, hello: &mut Hello, deadline: Instant) -> std::result::Result<Met, Setback> {
    let port = match launch.agent_store {
        true => agent_store::published_port(launch).map_err(Setback::Other)?,
        false => launch.port,
    };
    let mut last = None;
    for address in resolve(&launch.address, port).map_err(Setback::Unresolved)? {
        match attempt_at(address, launch, hello, deadline) {
            Ok(met) => return Ok(met),
            Err(Setback::Final(error)) => return Err(Setback::Final(error)),
            // That nothing listens says the least.
            Err(setback) if last.is_none() || !matches!(setback, Setback::Unreached(..)) => {
                last = Some(setback)
            }
            Err(_) => {}
        }
    }
    Err(last.unwrap_or_else(|| Setback::Other(io::ErrorKind::AddrNotAvailable.into())))
}

fn attempt_at(
    address: SocketAddr,
    launch: &Launch,
    hello: &mut Hello,
    deadline: Instant,
) -> std::result::Result<Met, Setback> {
    let unreached = |error: io::Error| match error.kind() {
        io::ErrorKind::InvalidData => Setback::OtherProgram(error),
        _ => Setback::Unreached(address, error),
    };
    let left = || deadline.saturating_duration_since(Instant::now()).max(Duration::from_millis(1));
    let stream = TcpStream::connect_timeout(&address, left().min(CONNECT_TIME)).map_err(unreached)?;
    let (own, master) = (stream.local_addr().map_err(unreached)?, stream.peer_addr().map_err(unreached)?);
    // A connection to a port of this machine on which nobody listens can connect to itself.
    if own == master {
        return Err(unreached(io::ErrorKind::ConnectionRefused.into()));
    }
    let mut timed = Timed::new(&stream, left().min(HANDSHAKE_TIME));
    Handshake::rendezvous(&launch.token).connect(&mut timed).map_err(|error| match error {
        HandshakeError::OtherToken => Setback::OtherToken,
        HandshakeError::Connection(error) => unreached(error),
    })?;
    let listener = own_listener(own, launch).map_err(Setback::Other)?;
    hello.port = listener.local_addr().map_err(Setback::Other)?.port();
    let payload = serde_json::to_vec(hello).expect("plain values have a JSON form");
    let mut timed = Timed::new(&stream, left() + REJECTION_TIME);
    Frame::write(&mut timed, HELLO, &payload).map_err(unreached)?;
    let frame = Frame::read(&mut timed, MAX_HELLO).map_err(unreached)?;
    let unusable = |why: String| {
        Setback::Final(
            Error::new(ErrorKind::Peer, "the reply of rank 0 cannot be used").at(place(launch)).because(why),
        )
    };
    match frame.kind {
        WELCOME => {
            let mut welcome: Welcome =
                serde_json::from_slice(&frame.payload).map_err(|e| unusable(e.to_string()))?;
            let (members, world) = (welcome.members.len(), launch.world_size);
            if members != world {
                return Err(unusable(format!("it has {members} ranks instead of {world}")));
            }
            welcome.members.iter_mut().for_each(|member| member.host = shown(&member.host));
            let connections = vec![(0, stream)];
            Ok(Met { welcome, connections, listener, master: Some(master), acceptor: None })
        }
        REJECTION => {
            let rejection: Rejection =
                serde_json::from_slice(&frame.payload).map_err(|e| unusable(e.to_string()))?;
            Err(rejection.into_setback(launch))
        }
        kind => Err(unusable(format!("frame {kind} is not expected"))),
    }
}

/// A listener for the ranks that reach this one: on the interface that reaches rank 0. That is the loopback interface on rank 0's machine,
/// too, which ranks of other machines do not reach.
fn own_listener(own: SocketAddr, launch: &Launch) -> io::Result<TcpListener> {
    match own.ip().is_loopback() && !is_local(&launch.address) {
        true => listen_everywhere(0),
        false => listen_at(with_port(own, 0)),
    }
}

impl Rejection {
    fn into_setback(self, launch: &Launch) -> Setback {
        let Rejection { reason, what, why } = self;
        Setback::Final(match reason {
            Reason::OtherRestart => return Setback::OtherRestart(why),
            Reason::Mismatch => mismatch_error(&what, &why),
            Reason::Incomplete => Error::new(ErrorKind::Peer, what).at(place(launch)).because(why),
            Reason::OtherJob => Error::usage(what).at(place(launch)).because(why).remedy(
                "use another --master-port for each job; ranks of one job pass the same --rdzv-id or --output",
            ),
        })
    }
}

impl Setback {
    /// Prints the likely cause, if it is one that does not pass by waiting for rank 0 to start. True if it was printed.
    fn report(&self, launch: &Launch) -> bool {
        let rank = launch.rank;
        let why = match self {
            Setback::Unresolved(error) => format!("its name cannot be resolved: {error}"),
            Setback::Unreached(address, error)
                if error.kind() == io::ErrorKind::ConnectionRefused && is_own(address.ip()) =>
            {
                format!("{address} is this machine, and nothing listens there")
            }
            Setback::OtherToken => "rank 0 rejects this process's token".into(),
            _ => return false,
        };
        let seconds = launch.timeout.as_secs_f64();
        message!(
            "warning: rank {rank} has not reached rank 0 at {}: {why}; it keeps trying, {seconds} s in all",
            place(launch)
        );
        true
    }

    /// Error at the deadline.
    fn into_error(self, launch: &Launch) -> Error {
        let seconds = launch.timeout.as_secs_f64();
        let silent = Error::new(ErrorKind::Peer, format!("rank 0 did not respond within {seconds} s"))
            .at(place(launch))
            .remedy(
                "start rank 0, check --master-addr and --master-port, and that no firewall closes the port",
            );
        match self {
            Setback::OtherToken => Error::usage("rank 0 rejects this process's token")
                .at(place(launch))
                .because("both sides must have the same token, or none")
                .remedy(format!(
                    "set {TOKEN_VARIABLE}, or {TOKEN_FILE_VARIABLE}, to the same secret for all ranks; srun, torchrun and \
                     mpirun -x pass it on"
                )),
            Setback::OtherRestart(why) => Error::new(ErrorKind::Peer, "rank 0 belongs to another restart of the job")
                .at(place(launch))
                .because(why),
            Setback::Unresolved(error) => silent.because(format!("its name cannot be resolved: {error}")),
            Setback::Unreached(address, error) => silent.because(format!("{address}: {error}")),
            Setback::OtherProgram(error) | Setback::Other(error) => silent.because(error),
            Setback::Final(error) => error,
        }
    }
}

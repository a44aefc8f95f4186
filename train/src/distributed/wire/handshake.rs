//! Handshake at the start of a connection: both sides prove that they have the same key, without sending it, before either reads anything
//! else.
//!
//! 1. connecting side: `NONCE`, 32 random bytes;
//! 2. listener: `NONCE`, 32 random bytes;
//! 3. connecting side: `PROOF`, HMAC-SHA256 of role, purpose and both nonces;
//! 4. listener: `PROOF` with its own role, or `DENIED`.
use super::Frame;
use super::token::RendezvousToken;
use hmac::{Hmac, Mac};
use sha2::Sha256;
use std::fmt;
use std::io::{self, Read, Write};

/// Kinds of frames.
const NONCE: u8 = 40;
const PROOF: u8 = 41;
const DENIED: u8 = 42;
/// Longest payload of these frames.
const MAX_PAYLOAD: usize = 32;
const NONCE_BYTES: usize = 32;

/// Key of a job's connections of one purpose, and the proof that both sides have it.
#[derive(Clone)]
pub struct Handshake {
    key: Vec<u8>,
    purpose: &'static str,
}

/// Failure of a handshake.
#[derive(Debug)]
pub enum HandshakeError {
    /// The other side has another token, or none.
    OtherToken,
    /// The connection is lost, too slow, or not of this protocol.
    Connection(io::Error),
}

/// Side of a connection. It is part of the proof: a proof that is sent back proves nothing.
#[derive(Clone, Copy)]
enum Role {
    Connecting,
    Listening,
}

impl Handshake {
    /// The handshake with rank 0 of a job. Without a token it proves nothing.
    pub fn rendezvous(token: &RendezvousToken) -> Handshake {
        Handshake { key: token.as_bytes().to_vec(), purpose: "rendezvous" }
    }

    /// The handshake between two ranks of a group, which has a random text of its own.
    pub fn mesh(token: &RendezvousToken, group: &str) -> Handshake {
        let mut mac = mac(token.as_bytes());
        mac.update(b"fornax group\0");
        mac.update(group.as_bytes());
        Handshake { key: mac.finalize().into_bytes().to_vec(), purpose: "mesh" }
    }

    /// The listener's side.
    pub fn accept(&self, connection: &mut (impl Read + Write)) -> Result<(), HandshakeError> {
        let theirs = receive(connection, NONCE)?;
        let own = nonce()?;
        Frame::write(connection, NONCE, &own)?;
        let proof = receive(connection, PROOF)?;
        if self.mac(Role::Connecting, &theirs, &own).verify_slice(&proof).is_err() {
            Frame::write(connection, DENIED, &[])?;
            return Err(HandshakeError::OtherToken);
        }
        let proof = self.mac(Role::Listening, &theirs, &own).finalize().into_bytes();
        Ok(Frame::write(connection, PROOF, &proof)?)
    }

    /// The connecting side.
    pub fn connect(&self, connection: &mut (impl Read + Write)) -> Result<(), HandshakeError> {
        let own = nonce()?;
        Frame::write(connection, NONCE, &own)?;
        let theirs = receive(connection, NONCE)?;
        let proof = self.mac(Role::Connecting, &own, &theirs).finalize().into_bytes();
        Frame::write(connection, PROOF, &proof)?;
        let proof = receive(connection, PROOF)?;
        let expected = self.mac(Role::Listening, &own, &theirs);
        expected.verify_slice(&proof).map_err(|_| HandshakeError::OtherToken)
    }

    fn mac(&self, role: Role, connecting: &[u8], listening: &[u8]) -> Hmac<Sha256> {
        let role: &[u8] = match role {
            Role::Connecting => b"connecting",
            Role::Listening => b"listening",
        };
        let mut mac = mac(&self.key);
        for part in [b"fornax", role, self.purpose.as_bytes()] {
            mac.update(part);
            mac.update(b"\0");
        }
        // Both have the same length: the parts cannot shift.
        mac.update(connecting);
        mac.update(listening);
        mac
    }
}

fn mac(key: &[u8]) -> Hmac<Sha256> {
    Hmac::new_from_slice(key).expect("a key of any length")
}

fn nonce() -> io::Result<[u8; NONCE_BYTES]> {
    let mut nonce = [0; NONCE_BYTES];
    getrandom::fill(&mut nonce)?;
    Ok(nonce)
}

/// Payload of the next frame, which must be of this kind.
fn receive(connection: &mut impl Read, kind: u8) -> Result<Vec<u8>, HandshakeError> {
    let frame = Frame::read(connection, MAX_PAYLOAD)?;
    match frame.kind {
        DENIED if kind == PROOF => Err(HandshakeError::OtherToken),
        found if found == kind && frame.payload.len() == MAX_PAYLOAD => Ok(frame.payload),
        found => {
            Err(invalid(&format!("frame {found} of {} bytes is not expected", frame.payload.len())).into())
        }
    }
}

fn invalid(why: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, why.to_string())
}

impl From<io::Error> for HandshakeError {
    fn from(error: io::Error) -> HandshakeError {
        HandshakeError::Connection(error)
    }
}

impl fmt::Display for HandshakeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            HandshakeError::OtherToken => f.write_str("it has another token, or none"),
            HandshakeError::Connection(error) => error.fmt(f),
        }
    }
}

impl std::error::Error for HandshakeError {}

impl fmt::Debug for Handshake {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Handshake({})", self.purpose)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::net::UnixStream;

    type Outcome = Result<(), HandshakeError>;

    /// Results of the listener and of the connecting side.
    fn meet(listening: &Handshake, connecting: &Handshake) -> (Outcome, Outcome) {
        let (mut one, mut other) = UnixStream::pair().expect("a pair of sockets");
        std::thread::scope(|scope| {
            let accepted = scope.spawn(move || listening.accept(&mut one));
            let connected = connecting.connect(&mut other);
            drop(other);
            (accepted.join().expect("no panic"), connected)
        })
    }

    fn rendezvous(token: &str) -> Handshake {
        Handshake::rendezvous(&RendezvousToken::new(token))
    }

    #[test]
    fn equal_tokens_meet_and_others_are_rejected_on_both_sides() {
        assert!(matches!(meet(&rendezvous("a"), &rendezvous("a")), (Ok(()), Ok(()))));
        assert!(matches!(meet(&rendezvous(""), &rendezvous("")), (Ok(()), Ok(()))));
        let token = RendezvousToken::new("a");
        let mesh = |group| Handshake::mesh(&token, group);
        assert!(matches!(meet(&mesh("g"), &mesh("g")), (Ok(()), Ok(()))));
        let same_key = Handshake { purpose: "another", ..rendezvous("a") };
        for (one, other) in [
            (rendezvous("a"), rendezvous("b")),
            (rendezvous("a"), rendezvous("")),
            (mesh("g"), mesh("h")),
            (mesh("g"), rendezvous("a")),
            (rendezvous("a"), same_key),
        ] {
            let outcomes = meet(&one, &other);
            let are_rejected =
                matches!(outcomes, (Err(HandshakeError::OtherToken), Err(HandshakeError::OtherToken)));
            assert!(are_rejected, "{one:?} {other:?}: {outcomes:?}");
        }
    }

    #[test]
    fn listener_without_the_token_is_rejected_by_the_connecting_side() {
        let (mut one, mut other) = UnixStream::pair().expect("a pair of sockets");
        let connecting = std::thread::spawn(move || rendezvous("a").connect(&mut other));
        // It accepts any proof, and sends it back as its own.
        receive(&mut one, NONCE).expect("a nonce");
        Frame::write(&mut one, NONCE, &[7; 32]).expect("writes");
        let proof = receive(&mut one, PROOF).expect("a proof");
        Frame::write(&mut one, PROOF, &proof).expect("writes");
        let outcome = connecting.join().expect("no panic");
        assert!(matches!(outcome, Err(HandshakeError::OtherToken)), "{outcome:?}");
    }

    #[test]
    fn replayed_proof_is_rejected() {
        let (mut one, mut other) = UnixStream::pair().expect("a pair of sockets");
        let accepting = std::thread::spawn(move || rendezvous("a").accept(&mut one));
        let earlier = rendezvous("a").mac(Role::Connecting, &[1; 32], &[2; 32]).finalize().into_bytes();
        Frame::write(&mut other, NONCE, &[1; 32]).expect("writes");
        receive(&mut other, NONCE).expect("a nonce");
        Frame::write(&mut other, PROOF, &earlier).expect("writes");
        assert!(matches!(accepting.join().expect("no panic"), Err(HandshakeError::OtherToken)));
    }
}

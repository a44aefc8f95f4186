//! Client of the key-value store that torchrun's agent serves on MASTER_PORT (PyTorch's `TCPStore`). With it rank 0 publishes the port it
//! listens on.
use super::launcher::Launch;
use super::rendezvous::resolve;
use super::wire::Timed;
use crate::{Error, Result};
use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::time::Duration;

/// Requests of the protocol, `QueryType` in PyTorch's TCPStoreBackend.hpp.
const VALIDATE: u8 = 0;
const SET: u8 = 1;
const GET: u8 = 3;
const CHECK: u8 = 5;
/// Number that follows `VALIDATE`.
const VALIDATION_MAGIC: u32 = 0x3C85_F7CE;
/// Reply of `CHECK` if all keys are set.
const READY: u8 = 0;

/// Time to connect, and for a reply.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
const REPLY_TIMEOUT: Duration = Duration::from_secs(2);

/// Publishes the port of rank 0.
pub fn publish_port(launch: &Launch, port: u16) -> Result<()> {
    let published = AgentStore::connect(launch).and_then(|store| store.set(&key(launch), &port.to_string()));
    published.map_err(|e| {
        Error::usage("the store of torchrun's agent cannot be used")
            .at(format!("{}:{}", launch.address, launch.port))
            .because(e)
            .remedy("use --master-port, which every rank uses instead")
    })
}

/// The port that rank 0 has published. Errors if it has not done so yet.
pub fn published_port(launch: &Launch) -> io::Result<u16> {
    let port = AgentStore::connect(launch)?.get(&key(launch))?.ok_or(io::ErrorKind::NotFound)?;
    port.parse().map_err(io::Error::other)
}

/// Key of the port of rank 0.
fn key(launch: &Launch) -> String {
    format!("fornax/{}/{}/port", launch.job.id.as_deref().unwrap_or("none"), launch.job.restarts)
}

/// Connection to the store.
struct AgentStore(TcpStream);

impl AgentStore {
    /// Connects and greets the store.
    fn connect(launch: &Launch) -> io::Result<AgentStore> {
        let mut stream = Err(io::ErrorKind::AddrNotAvailable.into());
        for address in resolve(&launch.address, launch.port)? {
            stream = TcpStream::connect_timeout(&address, CONNECT_TIMEOUT);
            if stream.is_ok() {
                break;
            }
        }
        let stream = stream?;
        let mut greeting = vec![VALIDATE];
        greeting.extend(VALIDATION_MAGIC.to_le_bytes());
        Timed::new(&stream, REPLY_TIMEOUT).write_all(&greeting)?;
        Ok(AgentStore(stream))
    }

    /// The connection, for one request.
    fn timed(&self) -> Timed<'_> {
        Timed::new(&self.0, REPLY_TIMEOUT)
    }

    /// Sets a key.
    fn set(&self, key: &str, value: &str) -> io::Result<()> {
        let mut request = vec![SET];
        append(&mut request, key);
        append(&mut request, value);
        self.timed().write_all(&request)
    }

    /// The value of a key, if it is set.
    fn get(&self, key: &str) -> io::Result<Option<String>> {
        let mut request = vec![CHECK];
        request.extend(1u64.to_le_bytes());
        append(&mut request, key);
        let mut timed = self.timed();
        timed.write_all(&request)?;
        let mut reply = [0];
        timed.read_exact(&mut reply)?;
        if reply[0] != READY {
            return Ok(None);
        }
        let mut request = vec![GET];
        append(&mut request, key);
        timed.write_all(&request)?;
        let mut length = [0; 8];
        timed.read_exact(&mut length)?;
        let mut value = vec![];
        timed.take(u64::from_le_bytes(length).min(1024)).read_to_end(&mut value)?;
        String::from_utf8(value).map(Some).map_err(|e| io::Error::new(io::ErrorKind::InvalidData, e))
    }
}

/// Appends a string with its length.
fn append(request: &mut Vec<u8>, text: &str) {
    request.extend((text.len() as u64).to_le_bytes());
    request.extend(text.as_bytes());
}

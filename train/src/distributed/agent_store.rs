//! Client of the key-value store that torchrun's agent serves on MASTER_PORT (PyTorch's `TCPStore`). With it rank 0 publishes the port it
//! listens on.
use std::io::{self, Read, Write};
use std::net::TcpStream;

/// Requests of the protocol, `QueryType` in PyTorch's TCPStoreBackend.hpp.
const VALIDATE: u8 = 0;
const SET: u8 = 1;
const GET: u8 = 3;
const CHECK: u8 = 5;
/// Number that follows `VALIDATE`.
const VALIDATION_MAGIC: u32 = 0x3C85_F7CE;
/// Answer of `CHECK` if all keys are set.
const READY: u8 = 0;

/// Connection to the store.
pub struct AgentStore(TcpStream);

impl AgentStore {
    /// Greets the store on a new connection.
    pub fn new(mut stream: TcpStream) -> io::Result<AgentStore> {
        let mut greeting = vec![VALIDATE];
        greeting.extend(VALIDATION_MAGIC.to_le_bytes());
        stream.write_all(&greeting)?;
        Ok(AgentStore(stream))
    }

    /// Sets a key.
    pub fn set(&mut self, key: &str, value: &str) -> io::Result<()> {
        let mut request = vec![SET];
        append(&mut request, key);
        append(&mut request, value);
        self.0.write_all(&request)
    }

    /// The value of a key, if it is set.
    pub fn get(&mut self, key: &str) -> io::Result<Option<String>> {
        let mut request = vec![CHECK];
        request.extend(1u64.to_le_bytes());
        append(&mut request, key);
        self.0.write_all(&request)?;
        let mut answer = [0];
        self.0.read_exact(&mut answer)?;
        if answer[0] != READY {
            return Ok(None);
        }
        let mut request = vec![GET];
        append(&mut request, key);
        self.0.write_all(&request)?;
        let mut length = [0; 8];
        self.0.read_exact(&mut length)?;
        let mut value = vec![];
        (&mut self.0).take(u64::from_le_bytes(length).min(1024)).read_to_end(&mut value)?;
        String::from_utf8(value).map(Some).map_err(|e| io::Error::new(io::ErrorKind::InvalidData, e))
    }
}

/// Appends a string with its length.
fn append(request: &mut Vec<u8>, text: &str) {
    request.extend((text.len() as u64).to_le_bytes());
    request.extend(text.as_bytes());
}

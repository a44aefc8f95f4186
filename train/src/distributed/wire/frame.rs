//! Frames of the connections among ranks: magic, kind, length, CRC32C, payload.
use std::io::{self, Read, Write};

/// First bytes of every frame; the last one is the version of the protocol.
const MAGIC: [u8; 4] = *b"FXD2";
/// Bytes before the payload.
const HEADER: usize = 4 + 1 + 8 + 4;
/// Longest payload that is written together with its header.
const COPIED: usize = 32 << 10;
/// Bytes that are reserved for a payload before any has arrived: a wrong length allocates no more.
const RESERVED: usize = 1 << 20;
/// Longest payload of a control frame.
pub const MAX_CONTROL: usize = 16 << 20;

/// Message between two ranks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame {
    /// Meaning of the payload.
    pub kind: u8,
    /// The content.
    pub payload: Vec<u8>,
}

impl Frame {
    /// Writes a frame.
    pub fn write(out: &mut impl Write, kind: u8, payload: &[u8]) -> io::Result<()> {
        let mut header = [0; HEADER];
        header[..4].copy_from_slice(&MAGIC);
        header[4] = kind;
        header[5..13].copy_from_slice(&(payload.len() as u64).to_le_bytes());
        header[13..].copy_from_slice(&checksum(kind, payload).to_le_bytes());
        match payload.len() <= COPIED {
            // One packet.
            true => out.write_all(&[&header, payload].concat())?,
            false => {
                out.write_all(&header)?;
                out.write_all(payload)?;
            }
        }
        out.flush()
    }

    /// Reads a frame whose payload has at most `limit` bytes. Errors with [`io::ErrorKind::InvalidData`] if the bytes are not a frame, and with
    /// [`io::ErrorKind::UnexpectedEof`] if the connection ends.
    pub fn read(input: &mut impl Read, limit: usize) -> io::Result<Frame> {
        let invalid = |why: &str| io::Error::new(io::ErrorKind::InvalidData, why.to_string());
        let mut header = [0; HEADER];
        // The magic alone first: a foreign protocol may send fewer bytes than a header and wait.
        input.read_exact(&mut header[..4])?;
        if header[..4] != MAGIC {
            return Err(invalid("it is not a frame of Fornax, or one of another version"));
        }
        input.read_exact(&mut header[4..])?;
        let kind = header[4];
        let length = u64::from_le_bytes(header[5..13].try_into().expect("8 bytes"));
        let sum = u32::from_le_bytes(header[13..].try_into().expect("4 bytes"));
        if length > limit as u64 {
            return Err(invalid("the frame is too long"));
        }
        let mut payload = Vec::with_capacity(RESERVED.min(length as usize));
        input.take(length).read_to_end(&mut payload)?;
        if (payload.len() as u64) < length {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        if checksum(kind, &payload) != sum {
            return Err(invalid("the checksum of a frame does not match"));
        }
        Ok(Frame { kind, payload })
    }
}

fn checksum(kind: u8, payload: &[u8]) -> u32 {
    crc32c::crc32c_append(u32::from(kind), payload)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes(kind: u8, payload: &[u8]) -> Vec<u8> {
        let mut bytes = vec![];
        Frame::write(&mut bytes, kind, payload).expect("writes to memory");
        bytes
    }

    #[test]
    fn frame_is_read_as_written() {
        for payload in [vec![], vec![7], (0..=255).cycle().take(100_000).collect()] {
            let bytes = bytes(3, &payload);
            let read = Frame::read(&mut &bytes[..], MAX_CONTROL).expect("a frame");
            assert_eq!(read, Frame { kind: 3, payload });
        }
    }

    #[test]
    fn changed_and_truncated_frames_are_rejected() {
        let bytes = bytes(2, b"rank 3 of 4");
        for bit in 0..bytes.len() * 8 {
            let mut changed = bytes.clone();
            changed[bit / 8] ^= 1 << (bit % 8);
            assert!(Frame::read(&mut &changed[..], MAX_CONTROL).is_err(), "bit {bit}");
        }
        for length in 0..bytes.len() {
            assert!(Frame::read(&mut &bytes[..length], MAX_CONTROL).is_err(), "{length} bytes");
        }
    }

    #[test]
    fn claimed_length_allocates_little_memory() {
        let mut bytes = bytes(1, &[]);
        bytes[5..13].copy_from_slice(&(u64::MAX / 2).to_le_bytes());
        let error = Frame::read(&mut &bytes[..], usize::MAX).expect_err("too short");
        assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof);
        let error = Frame::read(&mut &bytes[..], MAX_CONTROL).expect_err("too long");
        assert_eq!(error.kind(), io::ErrorKind::InvalidData);
    }
}

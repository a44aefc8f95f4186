//! Processes that connect to ranks and do not belong to their job.
use fornax::distributed::Frame;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

/// Connects to a port of this machine as soon as something listens there.
pub fn connect(port: u16) -> TcpStream {
    let deadline = Instant::now() + Duration::from_secs(60);
    loop {
        match TcpStream::connect(("127.0.0.1", port)) {
            Ok(stream) => return stream,
            Err(error) => assert!(Instant::now() < deadline, "{error}"),
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Ports at which this process listens, by /proc.
pub fn listening_ports() -> Vec<u16> {
    const LISTEN: &str = "0A";
    let own: Vec<String> = std::fs::read_dir("/proc/self/fd")
        .expect("lists")
        .flatten()
        .filter_map(|entry| Some(std::fs::read_link(entry.path()).ok()?.to_str()?.to_string()))
        .collect();
    let port = |line: &str| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let is_own = own.contains(&format!("socket:[{}]", fields.get(9)?));
        let port = u16::from_str_radix(fields.get(1)?.rsplit_once(':')?.1, 16).ok()?;
        (is_own && fields.get(3) == Some(&LISTEN)).then_some(port)
    };
    let tables = ["/proc/self/net/tcp", "/proc/self/net/tcp6"];
    let text: String = tables.iter().filter_map(|path| std::fs::read_to_string(path).ok()).collect();
    text.lines().filter_map(port).collect()
}

/// Connection of a stranger, closed when it is dropped.
pub struct Stranger {
    pub stream: TcpStream,
}

impl Stranger {
    pub fn new(stream: TcpStream) -> Stranger {
        Stranger { stream }
    }

    /// A connection to a port of this machine.
    pub fn at(port: u16) -> std::io::Result<Stranger> {
        TcpStream::connect_timeout(&([127, 0, 0, 1], port).into(), Duration::from_secs(2)).map(Stranger::new)
    }

    /// Sends bytes. The other side may have closed the connection.
    pub fn send(mut self, bytes: &[u8]) -> Stranger {
        self.stream.write_all(bytes).ok();
        self
    }

    /// Sends a frame.
    pub fn send_frame(mut self, kind: u8, payload: &[u8]) -> Stranger {
        Frame::write(&mut self.stream, kind, payload).ok();
        self
    }

    /// All that the other side sends before it closes the connection.
    pub fn reply(mut self) -> Vec<u8> {
        let mut reply = vec![];
        self.stream.set_read_timeout(Some(Duration::from_secs(20))).expect("sets");
        self.stream.read_to_end(&mut reply).ok();
        reply
    }

    /// Sends the header of a frame byte by byte, and zeros after it, until the connection or the test ends.
    pub fn drip(mut self, interval: Duration, is_over: impl Fn() -> bool) {
        let header = *b"FXD2\x28\xe8\x03\0\0\0\0\0\0";
        let mut bytes = header.into_iter().chain(std::iter::repeat(0));
        while !is_over() && bytes.next().is_some_and(|byte| self.stream.write_all(&[byte]).is_ok()) {
            std::thread::sleep(interval);
        }
    }
}

/// Pseudo-random mutations of bytes.
pub struct Mutations(u64);

impl Mutations {
    pub fn new(seed: u64) -> Mutations {
        Mutations(seed)
    }

    /// splitmix64
    fn next(&mut self, below: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        ((z ^ (z >> 31)) % below.max(1) as u64) as usize
    }

    /// A frame with other bytes, another length, or other fields in its payload under a right checksum.
    pub fn of(&mut self, frame: &[u8]) -> Vec<u8> {
        let mut bytes = frame.to_vec();
        match self.next(6) {
            0 => bytes.truncate(self.next(frame.len())),
            1 => (0..1 + self.next(8)).for_each(|_| {
                let at = self.next(bytes.len());
                bytes[at] = self.next(256) as u8;
            }),
            2 => bytes = (0..self.next(300)).map(|_| self.next(256) as u8).collect(),
            // Another length.
            3 => bytes[5..13].copy_from_slice(&(self.next(usize::MAX) as u64).to_le_bytes()),
            4 => {
                let repeated = bytes.repeat(1 + self.next(20));
                bytes = repeated;
            }
            _ => {
                let mut whole = Frame::read(&mut &*frame, 1 << 20).expect("a frame");
                for _ in 0..1 + self.next(4) {
                    match whole.payload.len() {
                        0 => whole.payload.push(self.next(256) as u8),
                        length => {
                            let at = self.next(length);
                            match self.next(3) {
                                0 => drop(whole.payload.remove(at)),
                                1 => whole.payload[at] = b"0129-\"{}[],:aenul\\"[self.next(18)],
                                _ => whole.payload.insert(at, b"0129-\"{}[],:aenul\\"[self.next(18)]),
                            }
                        }
                    }
                }
                if self.next(4) == 0 {
                    whole.kind = self.next(50) as u8;
                }
                bytes.clear();
                Frame::write(&mut bytes, whole.kind, &whole.payload).expect("writes to memory");
            }
        }
        if bytes.is_empty() { vec![0] } else { bytes }
    }
}

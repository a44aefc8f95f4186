//! Collective operations over TCP, for the CPU. Every rank is connected to every other. A large tensor is divided into one part per rank:
//! each rank receives its part from all others, reduces it, and sends the result to all. Elements are reduced in the order of ranks, so
//! results do not depend on timing.
use super::frame::Frame;
use super::group::ProcessGroup;
use super::reduce::{RankElement, reduce};
use crate::Result;
use fornax_engine::collective::{check_reduction, gathered_shape};
use fornax_engine::dtype::{bf16, f16};
use fornax_engine::{Collective, DType, Element, PendingCollective, Reduction, Tensor};
use std::io::{self, Write};
use std::net::{Shutdown, TcpStream};
use std::ops::Range;
use std::sync::mpsc::{Sender, channel};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// Kind of the frames with elements.
const ELEMENTS: u8 = 32;
/// Kind of the first frame of a connection: token and rank.
const GREETING: u8 = 33;
/// Bytes of a tensor up to which each rank sends all of it to all others, which takes one exchange instead of two.
const SMALL: usize = 16 << 10;

/// Collective operations of one rank over TCP.
pub struct TcpCollective {
    group: Arc<ProcessGroup>,
    jobs: Mutex<Sender<Job>>,
}

type Job = Box<dyn FnOnce(&mut Mesh) + Send>;

/// Runs `$body` with the type `$t` of a tensor's elements.
macro_rules! dispatch {
    ($dtype:expr, $t:ident => $body:expr) => {
        match $dtype {
            DType::F32 => {
                type $t = f32;
                $body
            }
            DType::F16 => {
                type $t = f16;
                $body
            }
            DType::BF16 => {
                type $t = bf16;
                $body
            }
            DType::F64 => {
                type $t = f64;
                $body
            }
            DType::I64 => {
                type $t = i64;
                $body
            }
            DType::U8 => {
                type $t = u8;
                $body
            }
        }
    };
}

impl TcpCollective {
    /// Connects every rank with every other.
    pub fn new(group: Arc<ProcessGroup>) -> Result<TcpCollective> {
        let connected = Mesh::connect(&group).map_err(|error| {
            let why = group
                .failure_after(|| format!("{} has no connection: {error}", group.describe(group.rank())));
            super::group::peer_error(group.rank(), group.world_size(), &why)
        });
        let mut mesh = connected?;
        let streams: Vec<TcpStream> =
            mesh.peers.iter().flatten().filter_map(|p| p.stream.try_clone().ok()).collect();
        group.on_failure(move || streams.iter().for_each(|stream| drop(stream.shutdown(Shutdown::Both))));
        let (jobs, queue) = channel::<Job>();
        // Operations run in order on a thread of their own, while the rank computes.
        std::thread::spawn(move || queue.into_iter().for_each(|job| job(&mut mesh)));
        Ok(TcpCollective { group, jobs: Mutex::new(jobs) })
    }

    /// Queues an operation; the result is waited for later.
    fn queue<R: Send + 'static>(
        &self,
        op: &'static str,
        run: impl FnOnce(&mut Mesh) -> fornax_engine::Result<R> + Send + 'static,
    ) -> impl FnOnce() -> fornax_engine::Result<R> + Send + 'static {
        let (result, receiver) = channel();
        let group = self.group.clone();
        let job: Job = Box::new(move |mesh| {
            mesh.op = op;
            result.send(run(mesh)).ok();
        });
        let is_queued = self.jobs.lock().unwrap_or_else(|e| e.into_inner()).send(job).is_ok();
        move || match receiver.recv() {
            Ok(result) if is_queued => result,
            _ => Err(collective_error(op, &group, "the communication thread ended".into())),
        }
    }
}

impl Collective for TcpCollective {
    fn rank(&self) -> usize {
        self.group.rank()
    }

    fn world_size(&self) -> usize {
        self.group.world_size()
    }

    fn start_all_reduce(
        &self,
        tensor: &Tensor,
        reduction: Reduction,
    ) -> fornax_engine::Result<PendingCollective> {
        check_reduction(tensor, reduction)?;
        let tensor = tensor.detach();
        let wait = self.queue(
            "all_reduce",
            move |mesh| dispatch!(tensor.dtype(), T => mesh.all_reduce::<T>(&tensor, reduction)),
        );
        Ok(PendingCollective::new(wait))
    }

    fn broadcast(&self, tensor: &Tensor, root: usize) -> fornax_engine::Result<()> {
        let tensor = tensor.detach();
        self.queue(
            "broadcast",
            move |mesh| dispatch!(tensor.dtype(), T => mesh.broadcast::<T>(&tensor, root)),
        )()
    }

    fn all_gather(&self, tensor: &Tensor) -> fornax_engine::Result<Tensor> {
        let tensor = tensor.detach();
        self.queue("all_gather", move |mesh| dispatch!(tensor.dtype(), T => mesh.all_gather::<T>(&tensor)))()
    }

    fn barrier(&self) -> fornax_engine::Result<()> {
        self.queue("barrier", Mesh::barrier)()
    }

    fn abort(&self) {
        self.group.abort("its operations were aborted");
    }
}

impl std::fmt::Debug for TcpCollective {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "TcpCollective(rank {} of {})", self.rank(), self.world_size())
    }
}

/// Connections of one rank with all others.
struct Mesh {
    group: Arc<ProcessGroup>,
    /// By rank; `None` for this rank.
    peers: Vec<Option<Peer>>,
    /// Number of the current exchange.
    exchange: u64,
    op: &'static str,
}

struct Peer {
    stream: TcpStream,
    /// Frames for the thread that writes.
    outgoing: Sender<Vec<u8>>,
}

impl Mesh {
    fn connect(group: &Arc<ProcessGroup>) -> io::Result<Mesh> {
        let (rank, world) = (group.rank(), group.world_size());
        let rendezvous = group.rendezvous();
        let mut streams: Vec<Option<TcpStream>> = (0..world).map(|_| None).collect();
        let mut greeting = (rank as u64).to_le_bytes().to_vec();
        greeting.extend(rendezvous.token.as_bytes());
        for (peer, slot) in streams.iter_mut().enumerate().take(rank) {
            let address = rendezvous.address(&group.members()[peer])?;
            let mut stream = TcpStream::connect_timeout(&address, group.timeout())?;
            Frame::write(&mut stream, GREETING, &greeting)?;
            *slot = Some(stream);
        }
        rendezvous.listener.set_nonblocking(true)?;
        let deadline = Instant::now() + group.timeout();
        while streams.iter().skip(rank + 1).any(Option::is_none) {
            if group.check().is_err() || Instant::now() > deadline {
                return Err(io::ErrorKind::TimedOut.into());
            }
            let Ok((mut stream, _)) = rendezvous.listener.accept() else {
                std::thread::sleep(Duration::from_millis(2));
                continue;
            };
            stream.set_nonblocking(false)?;
            stream.set_read_timeout(Some(Duration::from_secs(2)))?;
            // A connection of another program is dropped.
            let Ok(frame) = Frame::read(&mut stream, 1024) else { continue };
            let Some((from, token)) = frame.payload.split_first_chunk::<8>() else { continue };
            let from = u64::from_le_bytes(*from) as usize;
            if frame.kind == GREETING && token == rendezvous.token.as_bytes() && from > rank && from < world {
                streams[from] = Some(stream);
            }
        }
        let peer = |stream: TcpStream| {
            stream.set_read_timeout(Some(group.operation_timeout()))?;
            Peer::new(stream)
        };
        let peers = streams.into_iter().map(|stream| stream.map(peer).transpose());
        let peers = peers.collect::<io::Result<_>>()?;
        Ok(Mesh { group: group.clone(), peers, exchange: 0, op: "" })
    }

    fn rank(&self) -> usize {
        self.group.rank()
    }

    fn world(&self) -> usize {
        self.peers.len()
    }

    /// The other ranks.
    fn others(&self) -> impl Iterator<Item = usize> + use<> {
        let rank = self.rank();
        (0..self.world()).filter(move |r| *r != rank)
    }

    fn all_reduce<T: RankElement>(
        &mut self,
        tensor: &Tensor,
        reduction: Reduction,
    ) -> fornax_engine::Result<()> {
        let own = tensor.read::<T>()?;
        let (rank, world, n) = (self.rank(), self.world(), own.len());
        let is_small = n * size_of::<T>() <= SMALL;
        let part = |r: usize| if is_small { 0..n } else { r * n / world..(r + 1) * n / world };
        self.exchange += 1;
        self.others().for_each(|r| self.send(r, &own[part(r)]));
        let mut inputs = vec![];
        for r in 0..world {
            inputs.push(match r == rank {
                true => own[part(rank)].to_vec(),
                false => self.receive::<T>(r, part(rank).len())?,
            });
        }
        drop(own);
        let reduced = reduce(&inputs, reduction);
        if is_small {
            return store(tensor, &[(0..n, reduced)]);
        }
        self.exchange += 1;
        self.others().for_each(|r| self.send(r, &reduced));
        let mut parts = vec![(part(rank), reduced)];
        for r in self.others() {
            parts.push((part(r), self.receive::<T>(r, part(r).len())?));
        }
        parts.sort_by_key(|(range, _)| range.start);
        store(tensor, &parts)
    }

    fn broadcast<T: RankElement>(&mut self, tensor: &Tensor, root: usize) -> fornax_engine::Result<()> {
        self.exchange += 1;
        if self.rank() == root {
            let own = tensor.read::<T>()?;
            self.others().for_each(|r| self.send(r, &own));
            return Ok(());
        }
        let received = self.receive::<T>(root, tensor.numel())?;
        store(tensor, &[(0..received.len(), received)])
    }

    fn all_gather<T: RankElement>(&mut self, tensor: &Tensor) -> fornax_engine::Result<Tensor> {
        let own = tensor.read::<T>()?;
        let shape = gathered_shape(tensor, self.world())?;
        self.exchange += 1;
        self.others().for_each(|r| self.send(r, &own));
        let mut all = Vec::with_capacity(shape.numel());
        for r in 0..self.world() {
            if r == self.rank() {
                all.extend_from_slice(&own);
            } else {
                all.extend(self.receive::<T>(r, own.len())?);
            }
        }
        Tensor::from_vec(all, shape)?.to_device(&tensor.device())
    }

    fn barrier(&mut self) -> fornax_engine::Result<()> {
        self.exchange += 1;
        self.others().for_each(|r| self.send::<u8>(r, &[]));
        self.others().try_for_each(|r| self.receive::<u8>(r, 0).map(drop))
    }

    /// Queues elements for a rank. A broken connection is noticed when its answer is read.
    fn send<T: RankElement>(&self, to: usize, elements: &[T]) {
        let mut payload = self.header::<T>(elements.len());
        T::append(elements, &mut payload);
        if let Some(peer) = &self.peers[to] {
            peer.outgoing.send(Frame::to_bytes(ELEMENTS, &payload)).ok();
        }
    }

    /// Reads `count` elements of a rank.
    fn receive<T: RankElement>(&self, from: usize, count: usize) -> fornax_engine::Result<Vec<T>> {
        let peer = self.peers[from].as_ref().expect("another rank");
        let expected = self.header::<T>(count);
        let frame = Frame::read(&mut &peer.stream, usize::MAX).map_err(|error| {
            let why = self.group.failure_after(|| self.describe_lost(from, &error));
            collective_error(self.op, &self.group, why)
        })?;
        match frame.payload.strip_prefix(&expected[..]) {
            Some(bytes) if frame.kind == ELEMENTS => Ok(T::parse(bytes)),
            _ => {
                let why = format!(
                    "{} calls {}, {} calls {}: all ranks must call the same operations with equal shapes and dtypes",
                    self.group.describe(self.rank()),
                    describe_header(&expected),
                    self.group.describe(from),
                    describe_header(&frame.payload),
                );
                self.group.fail(&why);
                Err(collective_error(self.op, &self.group, why))
            }
        }
    }

    fn describe_lost(&self, from: usize, error: &io::Error) -> String {
        let who = self.group.describe(from);
        match error.kind() {
            io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => {
                format!("{who} did not join {} within {} s", self.op, self.group.timeout().as_secs_f64())
            }
            _ => format!("the connection with {who} is lost: {error}"),
        }
    }

    /// Description of an exchange before its elements: equal on all ranks that take part.
    fn header<T: Element>(&self, count: usize) -> Vec<u8> {
        let mut bytes = self.exchange.to_le_bytes().to_vec();
        bytes.extend((count as u64).to_le_bytes());
        bytes.push(DType::ALL.iter().position(|dtype| *dtype == T::DTYPE).unwrap_or_default() as u8);
        bytes.push(self.op.len() as u8);
        bytes.extend(self.op.as_bytes());
        bytes
    }
}

/// Bytes of [`Mesh::header`] before the operation's name.
const HEADER: usize = 18;

fn describe_header(bytes: &[u8]) -> String {
    let number =
        |at: usize| bytes.get(at..at + 8).and_then(|b| b.try_into().ok()).map_or(0, u64::from_le_bytes);
    let dtype =
        bytes.get(16).and_then(|i| DType::ALL.get(usize::from(*i))).map_or("?".into(), DType::to_string);
    let length = bytes.get(17).map_or(0, |length| usize::from(*length));
    let op = bytes.get(HEADER..HEADER + length).map_or("?".into(), String::from_utf8_lossy);
    format!("{op} of {} elements of {dtype} as operation {}", number(8), number(0))
}

impl Peer {
    fn new(stream: TcpStream) -> io::Result<Peer> {
        stream.set_nodelay(true)?;
        let mut writer = stream.try_clone()?;
        let (outgoing, frames) = channel::<Vec<u8>>();
        // All ranks send before they read, so writing must not block reading.
        std::thread::spawn(move || {
            for frame in frames {
                if writer.write_all(&frame).is_err() {
                    writer.shutdown(Shutdown::Both).ok();
                    return;
                }
            }
        });
        Ok(Peer { stream, outgoing })
    }
}

/// Writes parts, in order, to a tensor.
fn store<T: Element>(tensor: &Tensor, parts: &[(Range<usize>, Vec<T>)]) -> fornax_engine::Result<()> {
    if tensor.device() == fornax_engine::Device::Cpu {
        let mut out = tensor.write::<T>()?;
        parts.iter().for_each(|(range, values)| out[range.clone()].copy_from_slice(values));
        return Ok(());
    }
    let all: Vec<T> = parts.iter().flat_map(|(_, values)| values.iter().copied()).collect();
    tensor.copy_from(&Tensor::from_vec(all, *tensor.shape())?.to_device(&tensor.device())?)
}

fn collective_error(op: &'static str, group: &ProcessGroup, why: String) -> fornax_engine::Error {
    fornax_engine::Error::Collective { op, rank: group.rank(), world: group.world_size(), why }
}

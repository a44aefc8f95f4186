//! Connections of one rank with all others, and the exchanges of tensors over them.
mod connect;

use super::group::ProcessGroup;
use super::reduce::{RankElement, reduce};
use super::wire::Frame;
use connect::connect;
use fornax_engine::collective::gathered_shape;
use fornax_engine::{DType, Device, Element, Reduction, Tensor};
use std::io;
use std::net::{Shutdown, TcpStream};
use std::sync::Arc;
use std::sync::mpsc::{Sender, channel};

/// Kind of the frames with elements.
const ELEMENTS: u8 = 32;
/// Bytes of a tensor up to which each rank sends all of it to all others, which takes one exchange instead of two.
const SMALL: usize = 16 << 10;
/// Bytes of the parts of a large tensor: small enough to stay in the cache between receiving, adding and sending.
const PART: usize = 256 << 10;
/// Parts that are sent ahead of the one that is received, so that ranks wait less for each other.
const AHEAD: usize = 4;

/// Connections of one rank with all others.
pub(super) struct Mesh {
    group: Arc<ProcessGroup>,
    /// By rank; `None` for this rank.
    pub peers: Vec<Option<Peer>>,
    /// Number of the current operation.
    number: u64,
    /// Number of its elements on this rank.
    elements: usize,
    /// Name of the current operation.
    pub op: &'static str,
}

/// Connection with another rank.
pub(super) struct Peer {
    pub stream: TcpStream,
    /// Frames for the thread that writes.
    outgoing: Sender<Frame>,
}

impl Mesh {
    /// Connects with every other rank.
    pub fn connect(group: &Arc<ProcessGroup>) -> io::Result<Mesh> {
        let peer = |stream: TcpStream| {
            stream.set_read_timeout(Some(group.operation_timeout()))?;
            stream.set_write_timeout(None)?;
            Peer::new(stream)
        };
        let peers = connect(group)?.into_iter().map(|stream| stream.map(peer).transpose());
        let peers = peers.collect::<io::Result<_>>()?;
        Ok(Mesh { group: group.clone(), peers, number: 0, elements: 0, op: "" })
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

    /// See [`fornax_engine::Collective::all_reduce`].
    pub fn all_reduce<T: RankElement>(
        &mut self,
        tensor: &Tensor,
        reduction: Reduction,
    ) -> fornax_engine::Result<()> {
        self.begin(tensor.numel());
        in_place(tensor, |elements: &mut [T]| match size_of_val(elements) <= SMALL {
            true => self.all_reduce_small(elements, reduction),
            false => self.all_reduce_large(elements, reduction),
        })
    }

    /// Each rank reduces all elements.
    fn all_reduce_small<T: RankElement>(
        &self,
        elements: &mut [T],
        reduction: Reduction,
    ) -> fornax_engine::Result<()> {
        self.others().for_each(|r| self.send(r, elements));
        let reduced = self.receive_and_reduce(elements, reduction)?;
        elements.copy_from_slice(&reduced);
        Ok(())
    }

    /// The elements are divided into chunks, and a chunk into one part per rank, which reduces it and sends the result to the others. Several
    /// chunks are on their way at any time. On a connection their frames follow one another as in the loop, on both sides.
    fn all_reduce_large<T: RankElement>(
        &self,
        elements: &mut [T],
        reduction: Reduction,
    ) -> fornax_engine::Result<()> {
        let (rank, world, n) = (self.rank(), self.world(), elements.len());
        let chunk = PART / size_of::<T>() * world;
        let chunks = n.div_ceil(chunk);
        let part = |k: usize, r: usize| {
            let (start, length) = (k * chunk, chunk.min(n - k * chunk));
            start + r * length / world..start + (r + 1) * length / world
        };
        let send_inputs = |k: usize, elements: &[T]| {
            self.others().for_each(|r| self.send(r, &elements[part(k, r)]));
        };
        (0..AHEAD.min(chunks)).for_each(|k| send_inputs(k, elements));
        for k in 0..chunks + AHEAD {
            if k + AHEAD < chunks {
                send_inputs(k + AHEAD, elements);
            }
            if k < chunks {
                let reduced = self.receive_and_reduce(&elements[part(k, rank)], reduction)?;
                self.others().for_each(|r| self.send(r, &reduced));
                elements[part(k, rank)].copy_from_slice(&reduced);
            }
            if let Some(k) = k.checked_sub(AHEAD).filter(|k| *k < chunks) {
                for r in self.others() {
                    let range = part(k, r);
                    let received = self.receive::<T>(r, range.len())?;
                    elements[range].copy_from_slice(&received);
                }
            }
        }
        Ok(())
    }

    /// The reduction of the elements of this rank and of the others, in the order of ranks.
    fn receive_and_reduce<T: RankElement>(
        &self,
        own: &[T],
        reduction: Reduction,
    ) -> fornax_engine::Result<Vec<T>> {
        let mut inputs = Vec::with_capacity(self.world());
        for r in 0..self.world() {
            inputs.push(if r == self.rank() { own.to_vec() } else { self.receive(r, own.len())? });
        }
        Ok(reduce(&inputs, reduction))
    }

    /// See [`fornax_engine::Collective::broadcast`].
    pub fn broadcast<T: RankElement>(&mut self, tensor: &Tensor, root: usize) -> fornax_engine::Result<()> {
        self.begin(tensor.numel());
        if self.rank() == root {
            let own = tensor.read::<T>()?;
            self.others().for_each(|r| self.send(r, &own));
            return Ok(());
        }
        let received = self.receive::<T>(root, tensor.numel())?;
        in_place(tensor, |elements| {
            elements.copy_from_slice(&received);
            Ok(())
        })
    }

    /// See [`fornax_engine::Collective::all_gather`].
    pub fn all_gather<T: RankElement>(&mut self, tensor: &Tensor) -> fornax_engine::Result<Tensor> {
        let own = tensor.read::<T>()?;
        let shape = gathered_shape(tensor, self.world())?;
        self.begin(own.len());
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

    /// See [`fornax_engine::Collective::barrier`].
    pub fn barrier(&mut self) -> fornax_engine::Result<()> {
        self.begin(0);
        self.others().for_each(|r| self.send::<u8>(r, &[]));
        self.others().try_for_each(|r| self.receive::<u8>(r, 0).map(drop))
    }

    /// Begins an operation on tensors with this number of elements.
    fn begin(&mut self, elements: usize) {
        self.number += 1;
        self.elements = elements;
    }

    /// Queues elements for a rank. A broken connection is noticed when its reply is read.
    fn send<T: RankElement>(&self, to: usize, elements: &[T]) {
        let mut payload = self.header::<T>();
        T::append(elements, &mut payload);
        if let Some(peer) = &self.peers[to] {
            peer.outgoing.send(Frame { kind: ELEMENTS, payload }).ok();
        }
    }

    /// Reads `count` elements of a rank.
    fn receive<T: RankElement>(&self, from: usize, count: usize) -> fornax_engine::Result<Vec<T>> {
        let peer = self.peers[from].as_ref().expect("another rank");
        let expected = self.header::<T>();
        let frame = Frame::read(&mut &peer.stream, usize::MAX).map_err(|error| {
            let why = self.group.failure_after(|| self.describe_lost(from, &error));
            collective_error(self.op, &self.group, why)
        })?;
        match frame.payload.strip_prefix(&expected[..]) {
            Some(bytes) if frame.kind == ELEMENTS && bytes.len() == count * size_of::<T>() => {
                Ok(T::parse(bytes))
            }
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
                format!(
                    "{who} did not join {} within {} s",
                    self.op,
                    self.group.operation_timeout().as_secs_f64()
                )
            }
            _ => format!("the connection with {who} is lost: {error}"),
        }
    }

    /// Description of the operation before the elements of a frame: equal on all ranks.
    fn header<T: Element>(&self) -> Vec<u8> {
        let mut bytes = self.number.to_le_bytes().to_vec();
        bytes.extend((self.elements as u64).to_le_bytes());
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
        let (outgoing, frames) = channel::<Frame>();
        // All ranks send before they read, so writing must not block reading.
        std::thread::spawn(move || {
            for frame in frames {
                if Frame::write(&mut writer, frame.kind, &frame.payload).is_err() {
                    writer.shutdown(Shutdown::Both).ok();
                    return;
                }
            }
        });
        Ok(Peer { stream, outgoing })
    }
}

/// Changes the elements of a tensor.
fn in_place<T: Element>(
    tensor: &Tensor,
    change: impl FnOnce(&mut [T]) -> fornax_engine::Result<()>,
) -> fornax_engine::Result<()> {
    if tensor.device() == Device::Cpu {
        return change(&mut tensor.write::<T>()?);
    }
    let mut elements = tensor.to_vec::<T>()?;
    change(&mut elements)?;
    tensor.copy_from(&Tensor::from_vec(elements, *tensor.shape())?.to_device(&tensor.device())?)
}

/// Error of an operation.
pub(super) fn collective_error(op: &'static str, group: &ProcessGroup, why: String) -> fornax_engine::Error {
    fornax_engine::Error::Collective { op, rank: group.rank(), world: group.world_size(), why }
}

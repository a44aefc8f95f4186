//! Collective operations over TCP, for the CPU. Every rank is connected to every other. A large tensor is divided into one part per rank:
//! each rank receives its part from all others, reduces it, and sends the result to all. Elements are reduced in the order of ranks, so
//! results do not depend on timing.
use super::group::ProcessGroup;
use super::mesh::{Mesh, collective_error};
use crate::Result;
use fornax_engine::collective::check_reduction;
use fornax_engine::dtype::{bf16, f16};
use fornax_engine::{Collective, DType, PendingCollective, Reduction, Tensor};
use std::net::{Shutdown, TcpStream};
use std::sync::mpsc::{Sender, channel};
use std::sync::{Arc, Mutex};

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

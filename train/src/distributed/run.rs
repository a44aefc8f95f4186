//! A run on several ranks: what they share, and what they agree on.
use super::group::{PendingValues, ProcessGroup};
use super::launcher::Launch;
use super::rendezvous::{Identity, join};
use super::tcp::TcpCollective;
use crate::error::{ErrorKind, Signal};
use crate::settings::DistBn;
use crate::{Error, Result};
use fornax_engine::cuda::nccl::{NcclCollective, UniqueId};
use fornax_engine::{Collective, Device, PendingCollective, Reduction, Tensor};
use fornax_nn::{Module, StateKind, state_entries};
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::sync::{Arc, Mutex};

/// The ranks of a run.
pub struct DistributedRun {
    /// The processes.
    pub group: Arc<ProcessGroup>,
    /// Reductions of tensors on the run's device.
    pub collective: Arc<dyn Collective>,
    pub(super) device: Device,
    /// Exchange of [`Flags`], finished at the next one.
    flags: Mutex<Option<PendingValues>>,
}

/// Events of one rank that all ranks must act upon after the same update.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Flags {
    /// Signal that interrupts the run.
    pub interrupt: Option<Signal>,
    /// A checkpoint is requested.
    pub save: bool,
    /// The rank has met bad images that other ranks do not know.
    pub bad_images: bool,
    /// A callback stops the run.
    pub stop: Option<String>,
}

impl DistributedRun {
    /// Joins the group of a launch.
    pub fn join(launch: &Launch, identity: &Identity, device: Device) -> Result<DistributedRun> {
        DistributedRun::new(join(launch, identity)?, device)
    }

    /// The run of a group, on one device per rank: NCCL connects CUDA devices, TCP CPUs.
    pub fn new(group: Arc<ProcessGroup>, device: Device) -> Result<DistributedRun> {
        let collective: Arc<dyn Collective> = match device {
            Device::Cuda(_) => join_nccl(&group, &device)?,
            _ => Arc::new(TcpCollective::new(group.clone())?),
        };
        Ok(DistributedRun::over(group, collective, device))
    }

    /// The run of a group whose tensors on `device` are reduced by `collective`.
    pub fn over(group: Arc<ProcessGroup>, collective: Arc<dyn Collective>, device: Device) -> DistributedRun {
        DistributedRun { group, collective, device, flags: Mutex::default() }
    }

    /// Rank of this process.
    pub fn rank(&self) -> usize {
        self.group.rank()
    }

    /// Number of ranks.
    pub fn world_size(&self) -> usize {
        self.group.world_size()
    }

    /// Replaces tensors, on any device, by those of rank 0.
    pub fn replicate(&self, tensors: impl IntoIterator<Item = Tensor>) -> Result<()> {
        for tensor in tensors {
            if tensor.device() == self.device {
                self.collective.broadcast(&tensor, 0)?;
                continue;
            }
            let copy = tensor.detach().to_device(&self.device)?;
            self.collective.broadcast(&copy, 0)?;
            tensor.copy_from(&copy)?;
        }
        Ok(())
    }

    /// The value of rank 0, which passes `Some`.
    pub fn share<T: Serialize + DeserializeOwned>(&self, what: &'static str, value: Option<&T>) -> Result<T> {
        let own = value.map(|value| serde_json::to_vec(value).expect("plain values have a JSON form"));
        let bytes = self.group.broadcast(what, own.as_deref())?;
        serde_json::from_slice(&bytes)
            .map_err(|e| Error::new(ErrorKind::Peer, format!("{what} of rank 0 cannot be read")).because(e))
    }

    /// The values of all ranks, by rank.
    pub fn gather<T: Serialize + DeserializeOwned>(&self, what: &'static str, own: &T) -> Result<Vec<T>> {
        self.group.gather(what, own)
    }

    /// The flags that the ranks passed at the previous call. Every rank gets the same at the same call, without waiting for the others' flags
    /// of this one.
    pub fn agree(&self, own: &Flags) -> Result<Flags> {
        let mut pending = self.flags.lock().unwrap_or_else(|e| e.into_inner());
        let value = serde_json::to_vec(own).expect("plain values have a JSON form");
        let next = self.group.start_all_gather("flags", &value)?;
        match pending.replace(next) {
            Some(previous) => Ok(merged(&self.group.finish_all_gather(previous)?)),
            None => Ok(Flags::default()),
        }
    }

    /// As [`DistributedRun::agree`], with the flags of this call.
    pub fn agree_now(&self, own: &Flags) -> Result<Flags> {
        let earlier = self.agree(own)?;
        let pending = self.flags.lock().unwrap_or_else(|e| e.into_inner()).take();
        let now = pending.map_or(Ok(vec![]), |pending| self.group.finish_all_gather(pending))?;
        Ok(earlier.or(merged(&now)))
    }

    /// Makes the running statistics of batch norm equal on all ranks: their mean, or those of rank 0.
    pub fn distribute_statistics(&self, model: &dyn Module, mode: DistBn) -> Result<()> {
        let statistics = running_statistics(model);
        match mode {
            DistBn::None => Ok(()),
            DistBn::Broadcast => self.replicate(statistics),
            DistBn::Reduce => {
                let started = statistics.iter().map(|t| self.collective.start_all_reduce(t, Reduction::Mean));
                let started = started.collect::<fornax_engine::Result<Vec<_>>>()?;
                Ok(started.into_iter().try_for_each(PendingCollective::wait)?)
            }
        }
    }
}

/// Joins an NCCL communicator of the group, which ends when the group fails.
fn join_nccl(group: &Arc<ProcessGroup>, device: &Device) -> Result<Arc<NcclCollective>> {
    let unusable = |why: String| {
        Error::new(ErrorKind::Device, "NCCL cannot be used")
            .because(why)
            .remedy("`fornax doctor` shows the libraries that were found")
    };
    let own = match group.rank() {
        0 => Some(UniqueId::new().map_err(|e| unusable(e.to_string()))?),
        _ => None,
    };
    let bytes = group.broadcast("the NCCL id", own.as_ref().map(|id| &id.as_bytes()[..]))?;
    let bytes = bytes.try_into().map_err(|_| unusable("the unique id of rank 0 has another size".into()))?;
    let id = UniqueId::from_bytes(bytes);
    let (rank, world) = (group.rank(), group.world_size());
    let joined = NcclCollective::new(device, &id, rank, world, group.operation_timeout())?;
    let collective = Arc::new(joined);
    let aborted = Arc::downgrade(&collective);
    group.on_failure(move || {
        if let Some(collective) = aborted.upgrade() {
            collective.abort();
        }
    });
    Ok(collective)
}

/// Running means and variances of a model.
fn running_statistics(model: &dyn Module) -> Vec<Tensor> {
    let is_statistic = |name: &str| name.contains("running_mean") || name.contains("running_var");
    let buffers = state_entries(model).into_iter().filter(|entry| entry.kind == StateKind::Buffer);
    buffers.filter(|entry| is_statistic(&entry.name)).map(|entry| entry.tensor).collect()
}

impl Flags {
    fn or(self, other: Flags) -> Flags {
        Flags {
            interrupt: self.interrupt.or(other.interrupt),
            save: self.save || other.save,
            bad_images: self.bad_images || other.bad_images,
            stop: self.stop.or(other.stop),
        }
    }
}

/// The flags of all ranks; of several reasons, that of the lowest rank.
fn merged(values: &[Vec<u8>]) -> Flags {
    let flags = values.iter().filter_map(|value| serde_json::from_slice::<Flags>(value).ok());
    flags.fold(Flags::default(), Flags::or)
}

//! NCCL.
use super::{LibraryError, REASON};
use crate::{Collective, Device, Error, PendingCollective, Reduction, Result, Tensor};
use std::time::Duration;

/// Unique id of a communicator.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UniqueId([u8; UniqueId::BYTES]);

impl UniqueId {
    pub const BYTES: usize = 128;

    /// An error: there is no NCCL.
    pub fn new() -> std::result::Result<UniqueId, LibraryError> {
        Err(LibraryError::Driver { why: REASON.into() })
    }

    pub fn from_bytes(bytes: [u8; UniqueId::BYTES]) -> UniqueId {
        UniqueId(bytes)
    }

    pub fn as_bytes(&self) -> &[u8; UniqueId::BYTES] {
        &self.0
    }
}

/// A type without values.
#[derive(Debug)]
pub enum NcclCollective {}

impl NcclCollective {
    /// An error: there is no NCCL.
    pub fn new(_: &Device, _: &UniqueId, rank: usize, world: usize, _: Duration) -> Result<NcclCollective> {
        Err(Error::Collective { op: "joining the process group", rank, world, why: REASON.into() })
    }
}

impl Collective for NcclCollective {
    fn rank(&self) -> usize {
        match *self {}
    }
    fn world_size(&self) -> usize {
        match *self {}
    }
    fn start_all_reduce(&self, _: &Tensor, _: Reduction) -> Result<PendingCollective> {
        match *self {}
    }
    fn broadcast(&self, _: &Tensor, _: usize) -> Result<()> {
        match *self {}
    }
    fn all_gather(&self, _: &Tensor) -> Result<Tensor> {
        match *self {}
    }
    fn barrier(&self) -> Result<()> {
        match *self {}
    }
    fn abort(&self) {
        match *self {}
    }
}

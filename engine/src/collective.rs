//! Collective communication among the ranks of a process group, one process or thread per rank, as `torch.distributed`.
use crate::{DType, Error, Result, Shape, Tensor};
use std::fmt::Debug;

/// Reduction over the ranks of a process group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reduction {
    /// Sum.
    Sum,
    /// Sum divided by the number of ranks.
    Mean,
    /// Maximum.
    Max,
}

/// Communication among the ranks of a process group. Every rank calls the same operations in the same order with tensors of equal shapes and
/// dtypes. Tensors are dense and on the device of the rank. Errors are [`Error::Collective`]; after one, the group cannot be used.
pub trait Collective: Send + Sync + Debug {
    /// Rank of this process, below [`Collective::world_size`].
    fn rank(&self) -> usize;

    /// Number of ranks.
    fn world_size(&self) -> usize;

    /// Starts to replace the elements of a tensor by their reduction over all ranks, in place, after the work queued so far. The tensor must
    /// not be used until [`PendingCollective::wait`].
    fn start_all_reduce(&self, tensor: &Tensor, reduction: Reduction) -> Result<PendingCollective>;

    /// Replaces the elements of a tensor by their reduction over all ranks.
    fn all_reduce(&self, tensor: &Tensor, reduction: Reduction) -> Result<()> {
        self.start_all_reduce(tensor, reduction)?.wait()
    }

    /// Replaces the elements of a tensor by those of rank `root`.
    fn broadcast(&self, tensor: &Tensor, root: usize) -> Result<()>;

    /// The tensors of all ranks, `[world, ...]`.
    fn all_gather(&self, tensor: &Tensor) -> Result<Tensor>;

    /// Waits until every rank calls it. Work queued on a device by this rank before it is finished.
    fn barrier(&self) -> Result<()>;

    /// Errors if an operation has failed after it was queued. Call it when the results of the operations were read: they are then valid.
    fn check(&self) -> Result<()> {
        Ok(())
    }

    /// Ends the operations of this rank with an error, those that wait for a peer too. The peers' operations end likewise.
    fn abort(&self);
}

/// Collective operation that may not be finished.
#[must_use = "the tensor must not be used before the wait"]
pub struct PendingCollective(Box<dyn FnOnce() -> Result<()> + Send>);

impl PendingCollective {
    /// An operation that `wait` finishes.
    pub fn new(wait: impl FnOnce() -> Result<()> + Send + 'static) -> PendingCollective {
        PendingCollective(Box::new(wait))
    }

    /// Finishes the operation: work that is queued later sees its result. On the CPU this waits for the result; on a GPU the compute stream
    /// waits, and the host does not.
    pub fn wait(self) -> Result<()> {
        (self.0)()
    }
}

/// The shape of gathered tensors: `[world, ...]`. Errors if the rank of the shape is too large.
pub fn gathered_shape(tensor: &Tensor, world: usize) -> Result<Shape> {
    if tensor.rank() == crate::MAX_RANK {
        return Err(Error::shape("all_gather", &[("tensor", tensor)], "has too many axes for one more"));
    }
    let dims: Vec<usize> = [world].into_iter().chain(tensor.dims().iter().copied()).collect();
    Shape::new(&dims)
}

/// Checks that a reduction supports the dtype of a tensor: [`Reduction::Mean`] needs floats.
pub fn check_reduction(tensor: &Tensor, reduction: Reduction) -> Result<()> {
    let is_supported = match reduction {
        Reduction::Mean => tensor.dtype().is_float(),
        Reduction::Sum | Reduction::Max => tensor.dtype() != DType::U8,
    };
    if is_supported {
        return Ok(());
    }
    let accepted = if reduction == Reduction::Mean { "floats" } else { "floats and i64" };
    Err(Error::dtype("all_reduce", &[("tensor", tensor)], accepted))
}

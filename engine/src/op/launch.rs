//! Queuing kernels for operands on a GPU.
use crate::cuda::{self, DeviceSlice, Gpu};
use crate::error::Operands;
use crate::{Device, Error, Result, Tensor};
use smallvec::SmallVec;
use std::sync::Arc;

/// As many values as most operations have operands, without an allocation: the host time of a step is that of hundreds of operations.
pub(super) type Few<T> = SmallVec<[T; 8]>;

/// Calls `f`, which queues kernels on the GPU of the operands, with their memory. Errors name the operation and the operands.
pub(crate) fn launch<R>(
    op: &'static str,
    operands: &[(&'static str, &Tensor)],
    f: impl FnOnce(&Arc<Gpu>, &[DeviceSlice]) -> cuda::Result<R>,
) -> Result<R> {
    check_device(op, operands)?;
    launch_checked(op, operands, f)
}

/// [`launch`] for operands that are known to be on one device.
pub(super) fn launch_checked<R>(
    op: &'static str,
    operands: &[(&'static str, &Tensor)],
    f: impl FnOnce(&Arc<Gpu>, &[DeviceSlice]) -> cuda::Result<R>,
) -> Result<R> {
    let views: Few<_> = operands.iter().map(|(_, t)| t.device_view()).collect();
    let gpu = views[0].gpu();
    let slices: Few<DeviceSlice> = views.iter().map(|view| view.slice()).collect();
    f(gpu, &slices).map_err(|failure| failure.with_op_context(op, gpu.device(), operands))
}

/// Errors unless all operands are on the device of the first.
pub(crate) fn check_device(op: &'static str, operands: &[(&'static str, &Tensor)]) -> Result<Device> {
    let device = operands[0].1.device();
    if operands.iter().all(|(_, t)| t.device() == device) {
        return Ok(device);
    }
    let why = "all operands must be on one device; move them with to_device".to_string();
    Err(Error::Device { op, device, operands: Operands::of(operands), why })
}

//! Copies between host and device that the host does not wait for: uploads on the copy stream, concurrent with the compute stream, and
//! reads of results.
use crate::cuda::memory::pinned::PinnedBuffer;
use crate::cuda::stream::stream_event::StreamEvent;
use crate::cuda::{CudaError, Gpu, Result, StreamKind, pinned_tensor, record_stream};
use crate::{Device, Element, Shape, Tensor};
use cudarc::driver::CudaStream;
use cudarc::driver::result;
use std::marker::PhantomData;
use std::sync::Arc;

/// Upload on the copy stream. Dropping it leaves the memory to the copy stream until the copy is done.
#[must_use = "the tensor is used after the upload"]
pub struct PendingUpload {
    gpu: Option<Arc<Gpu>>,
    /// `None` once handed out.
    tensor: Option<Tensor>,
    done: Option<StreamEvent>,
}

/// Elements of a tensor on their way to the host; see [`Tensor::read_later`].
#[must_use = "the elements are read after the wait"]
pub struct PendingRead<T> {
    elements: PendingElements<T>,
    shape: Shape,
}

enum PendingElements<T> {
    Host(Vec<T>),
    Copied(PinnedBuffer, PhantomData<T>),
}

/// Queues a copy of a CPU tensor to `device` on the device's copy stream, where it runs while the compute stream works on earlier operations.
/// From [pinned memory](pinned_tensor) the host does not wait; other memory is copied into pinned memory first. `source` must not be
/// written while it is copied, but may be dropped at once.
pub fn upload(source: &Tensor, device: &Device) -> crate::Result<PendingUpload> {
    let Device::Cuda(ordinal) = *device else {
        return Ok(PendingUpload { gpu: None, tensor: Some(source.to_device(device)?), done: None });
    };
    if source.device() != Device::Cpu {
        return Ok(PendingUpload { gpu: None, tensor: Some(source.to_device(device)?), done: None });
    }
    let in_op = |error: CudaError| error.with_op_context("upload", *device, &[("source", source)]);
    let gpu = Gpu::get(ordinal).map_err(in_op)?;
    let source = &source.detach();
    let address = |tensor: &Tensor| -> crate::Result<usize> {
        crate::dtype::dispatch_any!(tensor.dtype(), T => Ok(tensor.read::<T>()?.as_ptr() as usize))
    };
    let pinned = match gpu.is_pinned(address(source)?) {
        true => source.clone(),
        false => {
            let pinned = pinned_tensor(*source.shape(), source.dtype(), device)?;
            pinned.copy_from(source)?;
            pinned
        }
    };
    let from = address(&pinned)?;
    let tensor = Tensor::build_on(&gpu, *source.shape(), source.dtype(), |_| Ok(())).map_err(in_op)?;
    let upload = || -> Result<StreamEvent> {
        let _access = gpu.bind()?;
        gpu.check_copies_are_possible()?;
        let copy_stream = gpu.copy_stream()?.cu_stream();
        let (view, failed) = (tensor.device_view(), |e| CudaError::from_driver("uploading", e));
        let done = StreamEvent::new().map_err(failed)?;
        // Work that is queued on the compute stream may still use the memory of the new tensor.
        done.record(gpu.stream()).and_then(|()| done.delay(copy_stream)).map_err(failed)?;
        // SAFETY: the pinned block has the bytes, and is not reused before the event of `record_pinned`.
        let bytes = unsafe { std::slice::from_raw_parts(from as *const u8, view.slice().bytes()) };
        gpu.profiled_on(StreamKind::Copy, copy_stream, &"upload", || {
            // SAFETY: the slice is inside a live block of this device, which is not reused before the copy, as the upload's users wait.
            unsafe { result::memcpy_htod_async(view.slice().pointer, bytes, copy_stream) }.map_err(failed)
        })?;
        gpu.record_pinned(from, copy_stream)?;
        done.record(copy_stream).map_err(failed)?;
        Ok(done)
    };
    let done = upload().map_err(in_op)?;
    Ok(PendingUpload { gpu: Some(gpu.clone()), tensor: Some(tensor), done: Some(done) })
}

impl PendingUpload {
    /// The tensor on the device, for operations queued from now on: the compute stream waits for the upload, the host does not.
    pub fn into_tensor(mut self) -> crate::Result<Tensor> {
        if let (Some(gpu), Some(done)) = (&self.gpu, &self.done) {
            let waits = gpu.bind().and_then(|_access| {
                done.delay(gpu.stream()).map_err(|e| CudaError::from_driver("waiting for an upload", e))
            });
            waits.map_err(|e| e.with_op_context("upload", gpu.device(), &[]))?;
        }
        Ok(self.tensor.take().expect("the tensor is handed out once"))
    }
}

impl Drop for PendingUpload {
    fn drop(&mut self) {
        if let (Some(gpu), Some(tensor)) = (&self.gpu, &self.tensor)
            && let Ok(copy_stream) = gpu.copy_stream()
        {
            // SAFETY: the copy stream is the device's and lives as long as it.
            unsafe { record_stream(tensor, copy_stream.cu_stream()) };
        }
    }
}

impl Tensor {
    /// Queues a copy of the elements to the host, after the work queued before, without waiting for it: later operations do not delay
    /// the elements, nor does the copy delay them. Elements on the CPU are copied at once. Errors when `T` is not the tensor's dtype.
    pub fn read_later<T: Element>(&self) -> crate::Result<PendingRead<T>> {
        let Device::Cuda(_) = self.device() else {
            return Ok(PendingRead {
                elements: PendingElements::Host(self.to_vec::<T>()?),
                shape: *self.shape(),
            });
        };
        self.check_element::<T>("read_later")?;
        let view = self.device_view();
        let (gpu, from) = (view.gpu(), view.slice());
        let copied = || -> Result<PinnedBuffer> {
            let _access = gpu.bind()?;
            gpu.check_copies_are_possible()?;
            let mut pinned = gpu.allocate_pinned(from.bytes().max(1))?;
            // SAFETY: the block has the bytes and is not read before the copy is waited for; the slice is inside a live block.
            unsafe { result::memcpy_dtoh_async(pinned.target(from.bytes()), from.pointer, gpu.stream()) }
                .map_err(|e| CudaError::from_driver("copying from the device", e))?;
            gpu.record_pinned(pinned.address(), gpu.stream())?;
            Ok(pinned)
        };
        let pinned =
            copied().map_err(|e| e.with_op_context("read_later", self.device(), &[("self", self)]))?;
        Ok(PendingRead { elements: PendingElements::Copied(pinned, PhantomData), shape: *self.shape() })
    }
}

impl<T: Element> PendingRead<T> {
    /// Waits for the copy, and returns the elements, row-major.
    pub fn wait(self) -> crate::Result<Vec<T>> {
        match self.elements {
            PendingElements::Host(elements) => Ok(elements),
            PendingElements::Copied(pinned, _) => {
                let bytes = pinned.wait(self.shape.numel() * std::mem::size_of::<T>());
                let bytes = bytes.map_err(|e| e.with_op_context("read_later", pinned.device(), &[]))?;
                Ok(bytemuck::cast_slice(bytes).to_vec())
            }
        }
    }

    /// Shape of the tensor.
    pub fn shape(&self) -> &Shape {
        &self.shape
    }
}

impl Gpu {
    /// Stream of uploads, created at its first use; it lives as long as the process.
    fn copy_stream(&self) -> Result<&Arc<CudaStream>> {
        if let Some(stream) = self.copy_stream.get() {
            return Ok(stream);
        }
        let new = self.new_stream()?;
        Ok(self.copy_stream.get_or_init(|| new))
    }
}

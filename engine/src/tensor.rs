//! The tensor: a cheap handle to dense row-major elements on a device, with its autograd metadata.
mod create;
mod display;
mod index;
mod operators;

pub use create::{Generator, IntoElements};
pub use index::{AxisIndex, IntoAxisIndices};

use crate::autograd::{AutogradMeta, Leaf};
use crate::cuda::{self, CudaError, DeviceSlice, Gpu};
use crate::storage::{DeferredElements, DeviceView, ReadGuard, Storage, WriteGuard};
use crate::{DType, Device, Element, Error, IntoShape, Result, Shape};
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::Ordering;

/// A dense, row-major tensor; image batches are channels-last, `[N, H, W, C]`. Cloning copies the handle, not the elements.
#[derive(Clone)]
pub struct Tensor(Arc<Inner>);

struct Inner {
    storage: Arc<Storage>,
    /// Index of the first element within the storage, which views share.
    offset: usize,
    shape: Shape,
    dtype: DType,
    autograd_meta: AutogradMeta,
}

/// Constructors.
impl Tensor {
    /// A tensor of the given elements, row-major.
    pub fn from_slice<T: Element>(data: &[T], shape: impl IntoShape) -> Result<Tensor> {
        let shape = shape.into_shape()?;
        if shape.numel() != data.len() {
            let why = format!("shape {shape} needs {} elements, not {}", shape.numel(), data.len());
            return Err(Error::Shape { op: "from_slice", operands: crate::error::Operands(vec![]), why });
        }
        Tensor::build(shape, |out: &mut [T]| out.copy_from_slice(data))
    }

    /// A tensor of the given elements, row-major.
    pub fn from_vec<T: Element>(data: Vec<T>, shape: impl IntoShape) -> Result<Tensor> {
        Tensor::from_slice(&data, shape)
    }

    /// A tensor without axes (rank 0).
    pub fn scalar<T: Element>(value: T) -> Result<Tensor> {
        Tensor::from_slice(&[value], ())
    }

    /// A tensor whose elements are all `value`, rounded to the dtype. Any dtype; f64 on the CPU only.
    pub fn full(shape: impl IntoShape, value: f64, dtype: DType, device: &Device) -> Result<Tensor> {
        let shape = shape.into_shape()?;
        if let Device::Cuda(ordinal) = *device
            && dtype != DType::F64
        {
            // Filled on the device: a captured CUDA graph contains no copies from the host.
            return Gpu::get(ordinal)
                .and_then(|gpu| {
                    Tensor::build_on(&gpu, shape, dtype, |y| cuda::memory::copy::fill(&gpu, y, value))
                })
                .map_err(|e| e.with_op_context("full", *device, &[]));
        }
        crate::dtype::dispatch_any!(dtype, T => Tensor::build(shape, |out: &mut [T]| out.fill(T::from_f64(value))))?
            .to_device(device)
    }

    /// A tensor of zeros.
    pub fn zeros(shape: impl IntoShape, dtype: DType, device: &Device) -> Result<Tensor> {
        Tensor::full(shape, 0.0, dtype, device)
    }

    /// A tensor of ones.
    pub fn ones(shape: impl IntoShape, dtype: DType, device: &Device) -> Result<Tensor> {
        Tensor::full(shape, 1.0, dtype, device)
    }

    /// A CPU tensor whose elements `fill` writes. The memory it receives has arbitrary content; it must write all of it.
    pub fn build<T: Element>(shape: impl IntoShape, fill: impl FnOnce(&mut [T])) -> Result<Tensor> {
        let shape = shape.into_shape()?;
        let storage = Storage::build(shape.numel(), fill)?;
        Ok(Tensor::assemble(Arc::new(storage), 0, shape, T::DTYPE, AutogradMeta::None))
    }

    /// A CPU tensor in the memory of a buffer.
    #[cfg(feature = "cuda")]
    pub(crate) fn from_cpu_buffer(
        buffer: crate::cpu::memory::CpuBuffer,
        shape: Shape,
        dtype: DType,
    ) -> Tensor {
        Tensor::assemble(Arc::new(Storage::on_cpu(buffer)), 0, shape, dtype, AutogradMeta::None)
    }

    /// A CPU tensor whose elements are computed at their first use. With `keeps_formula` the formula is available afterwards, too.
    pub(crate) fn deferred(
        formula: Arc<dyn DeferredElements>,
        shape: Shape,
        dtype: DType,
        keeps_formula: bool,
    ) -> Tensor {
        let storage = Arc::new(Storage::deferred(formula, keeps_formula));
        Tensor::assemble(storage, 0, shape, dtype, AutogradMeta::None)
    }

    /// A tensor on a GPU. `fill` queues the kernels that write all of its elements.
    pub(crate) fn build_on(
        gpu: &Arc<Gpu>,
        shape: Shape,
        dtype: DType,
        fill: impl FnOnce(DeviceSlice) -> cuda::Result<()>,
    ) -> cuda::Result<Tensor> {
        let storage = Arc::new(Storage::on_gpu(gpu, shape.numel(), dtype)?);
        let tensor = Tensor::assemble(storage, 0, shape, dtype, AutogradMeta::None);
        fill(tensor.device_view().slice())?;
        Ok(tensor)
    }
}

/// Shape, dtype and device.
impl Tensor {
    /// Extents, outermost first.
    pub fn shape(&self) -> &Shape {
        &self.0.shape
    }

    /// Extents as a slice.
    pub fn dims(&self) -> &[usize] {
        self.0.shape.dims()
    }

    /// Number of axes.
    pub fn rank(&self) -> usize {
        self.0.shape.rank()
    }

    /// Number of elements.
    pub fn numel(&self) -> usize {
        self.0.shape.numel()
    }

    /// Element type.
    pub fn dtype(&self) -> DType {
        self.0.dtype
    }

    /// Device of the elements.
    pub fn device(&self) -> Device {
        self.0.storage.device()
    }
}

/// Access to the elements.
impl Tensor {
    /// Borrows the elements for reading. Elements on a GPU are copied to the host, after the work queued there.
    /// Errors when `T` is not the tensor's dtype.
    pub fn read<T: Element>(&self) -> Result<ReadGuard<'_, T>> {
        self.check_element::<T>("read")?;
        ReadGuard::new(&self.0.storage, self.0.offset, self.numel())?.map_err(|e| self.error("read", e))
    }

    /// Borrows the elements for writing in place, for optimizers and state dicts. If an operation has saved them for its backward pass, that
    /// pass is an error afterwards. The guard holds the tensor's lock: reading the same tensor before it is dropped deadlocks.
    /// Errors when `T` is not the tensor's dtype, or the elements are on a GPU: see [`Tensor::copy_from`].
    pub fn write<T: Element>(&self) -> Result<WriteGuard<'_, T>> {
        self.check_element::<T>("write")?;
        WriteGuard::new(&self.0.storage, self.0.offset, self.numel())?.ok_or_else(|| {
            self.error(
                "write",
                CudaError::new("only elements on the CPU can be written in place; use copy_from"),
            )
        })
    }

    /// A copy of the elements, row-major.
    pub fn to_vec<T: Element>(&self) -> Result<Vec<T>> {
        Ok(self.read::<T>()?.to_vec())
    }

    /// The only element, as f64. Errors when there is more than one.
    pub fn item(&self) -> Result<f64> {
        if self.numel() != 1 {
            return Err(Error::shape("item", &[("self", self)], "needs exactly one element"));
        }
        crate::dtype::dispatch_any!(self.dtype(), T => Ok(self.read::<T>()?[0].to_f64()))
    }

    /// Overwrites the elements with those of `source`, which must have the same shape and dtype; any device.
    pub fn copy_from(&self, source: &Tensor) -> Result<()> {
        if source.shape() != self.shape() || source.dtype() != self.dtype() {
            return Err(Error::shape(
                "copy_from",
                &[("self", self), ("source", source)],
                "shapes and dtypes must be equal",
            ));
        }
        match (self.device(), source.device()) {
            (Device::Cuda(a), Device::Cuda(b)) if a == b => {
                let (to, from) = (self.device_view(), source.device_view());
                self.bump_version();
                to.gpu().copy(from.slice(), to.slice()).map_err(|e| self.error("copy_from", e))
            }
            (Device::Cuda(_), _) => crate::dtype::dispatch_any!(self.dtype(), T => {
                let (data, to) = (source.read::<T>()?, self.device_view());
                self.bump_version();
                let uploaded = to.gpu().upload(bytemuck::cast_slice(&data), to.slice());
                uploaded.map_err(|e| self.error("copy_from", e))
            }),
            (Device::Cpu, _) => crate::dtype::dispatch_any!(self.dtype(), T => {
                let data = source.to_vec::<T>()?;
                self.write::<T>()?.copy_from_slice(&data);
                Ok(())
            }),
        }
    }

    /// Moves the elements to a device in place. Every tensor that shares them moves too; this is how a model is moved to a GPU.
    /// Operations on those tensors must not run meanwhile.
    pub fn move_to(&self, device: &Device) -> Result<()> {
        if self.device() == *device {
            return Ok(());
        }
        let whole = self.0.storage.len(self.dtype());
        let all = Tensor::assemble(
            self.0.storage.clone(),
            0,
            Shape::must_fit(&[whole]),
            self.dtype(),
            AutogradMeta::None,
        );
        let moved = all.copy_to_device(device)?;
        let sole = Arc::into_inner(moved.0).and_then(|inner| Arc::into_inner(inner.storage));
        self.0.storage.replace(sole.expect("a fresh copy has one owner").into_buffer());
        Ok(())
    }

    /// A copy of the elements on a device, outside the graph.
    pub(crate) fn copy_to_device(&self, device: &Device) -> Result<Tensor> {
        let to = match *device {
            Device::Cpu => {
                crate::dtype::dispatch_any!(self.dtype(), T => Tensor::build(*self.shape(), |_: &mut [T]| ()))?
            }
            Device::Cuda(_) if self.dtype() == DType::F64 => {
                return Err(Error::dtype("to_device", &[("x", self)], "every dtype but f64 on a GPU"));
            }
            Device::Cuda(ordinal) => {
                let empty = Gpu::get(ordinal)
                    .and_then(|gpu| Tensor::build_on(&gpu, *self.shape(), self.dtype(), |_| Ok(())));
                empty.map_err(|e| e.with_op_context("to_device", *device, &[("x", self)]))?
            }
        };
        to.copy_from(&self.detach())?;
        Ok(to)
    }

    /// A copy of the elements on the same device, outside the graph.
    pub fn copy(&self) -> Result<Tensor> {
        if self.device() != Device::Cpu {
            return self.copy_to_device(&self.device());
        }
        crate::dtype::dispatch_any!(self.dtype(), T => {
            let data = self.read::<T>()?;
            Tensor::build(*self.shape(), |out: &mut [T]| out.copy_from_slice(&data))
        })
    }

    /// A view of the elements in device memory, for kernel launchers.
    ///
    /// # Panics
    /// When its slice is taken and the elements are on the CPU.
    pub(crate) fn device_view(&self) -> DeviceView<'_> {
        DeviceView::new(&self.0.storage, self.0.offset, self.numel(), self.dtype())
    }

    /// Increments the version counter of the elements, which invalidates their autocast cache. Call it when work queued on the device,
    /// such as the replay of a CUDA graph, changes them.
    pub fn bump_version(&self) {
        self.0.storage.bump_version();
    }

    /// Borrows the bytes of a CPU tensor's whole memory for reading, which views share.
    pub(crate) fn read_storage_bytes(&self) -> Result<ReadGuard<'_, u8>> {
        ReadGuard::new(&self.0.storage, 0, self.0.storage.len(DType::U8))?.map_err(|e| self.error("read", e))
    }

    /// Distance in bytes of the first element from the beginning of the memory that views share.
    pub(crate) fn byte_offset(&self) -> usize {
        self.0.offset * self.dtype().size()
    }

    /// Borrows the bytes of a CPU tensor for writing.
    pub(crate) fn write_bytes(&self) -> Result<WriteGuard<'_, u8>> {
        let bytes = self.numel() * self.dtype().size();
        let guard = WriteGuard::new(&self.0.storage, self.byte_offset(), bytes)?;
        Ok(guard.expect("the elements are on the CPU"))
    }

    /// The memory of the elements.
    pub(crate) fn storage(&self) -> &Arc<Storage> {
        &self.0.storage
    }

    /// This tensor without its memory, if its elements have a formula: they are computed again at the next use. Otherwise this tensor.
    pub(crate) fn recomputable(&self) -> Tensor {
        match self.0.storage.formula() {
            Some(formula) if self.0.offset == 0 && formula.bytes() == self.numel() * self.dtype().size() => {
                let storage = Arc::new(Storage::deferred(formula, true));
                Tensor::assemble(storage, 0, self.0.shape, self.0.dtype, self.0.autograd_meta.clone())
            }
            _ => self.clone(),
        }
    }

    /// The version counter of the elements: it grows with every change.
    pub(crate) fn version(&self) -> u64 {
        self.0.storage.version()
    }

    fn error(&self, op: &'static str, failure: CudaError) -> Error {
        failure.with_op_context(op, self.device(), &[("self", self)])
    }

    pub(crate) fn check_element<T: Element>(&self, op: &'static str) -> Result<()> {
        if T::DTYPE == self.dtype() {
            return Ok(());
        }
        let accepted = match T::DTYPE {
            DType::F32 => "f32",
            DType::F16 => "f16",
            DType::BF16 => "bf16",
            DType::F64 => "f64",
            DType::I64 => "i64",
            DType::U8 => "u8",
        };
        Err(Error::dtype(op, &[("self", self)], accepted))
    }
}

/// Autograd.
impl Tensor {
    /// This tensor as a variable: a leaf that requires a gradient, which backward passes accumulate. Shares the elements.
    ///
    /// # Panics
    /// When the dtype is not a float.
    pub fn variable(&self) -> Tensor {
        assert!(self.dtype().is_float(), "a tensor of {} cannot require a gradient", self.dtype());
        self.with_autograd_meta(AutogradMeta::Leaf(Arc::new(Leaf::new(self.dtype()))))
    }

    /// A tensor of the same elements outside the graph.
    pub fn detach(&self) -> Tensor {
        if self.requires_grad() { self.with_autograd_meta(AutogradMeta::None) } else { self.clone() }
    }

    /// True for a variable and for every tensor computed from one.
    pub fn requires_grad(&self) -> bool {
        !matches!(self.0.autograd_meta, AutogradMeta::None)
    }

    /// True for a variable itself.
    pub fn is_variable(&self) -> bool {
        matches!(self.0.autograd_meta, AutogradMeta::Leaf(_))
    }

    /// The gradient that backward passes have accumulated in this variable since [`Tensor::zero_grad`].
    pub fn grad(&self) -> Option<Tensor> {
        let AutogradMeta::Leaf(leaf) = &self.0.autograd_meta else { return None };
        leaf.grad.lock().unwrap_or_else(|e| e.into_inner()).clone()
    }

    /// Lets a backward pass leave this variable's gradient in half precision where the variable's only use was a
    /// [cached cast](Tensor::cached_cast) to that dtype, which saves a cast: [`crate::update`] reads gradients of either dtype. Otherwise
    /// a gradient has the dtype of its variable. No effect on a tensor that is not a variable.
    pub fn allow_low_precision_grad(&self) {
        if let AutogradMeta::Leaf(leaf) = &self.0.autograd_meta {
            leaf.allows_low_precision_grad.store(true, Ordering::Relaxed);
        }
    }

    /// Resets the accumulated gradient to `None`.
    pub fn zero_grad(&self) {
        self.set_grad(None);
    }

    /// Replaces the accumulated gradient of this variable. No effect on a tensor that is not a variable.
    pub fn set_grad(&self, grad: Option<Tensor>) {
        if let AutogradMeta::Leaf(leaf) = &self.0.autograd_meta {
            *leaf.grad.lock().unwrap_or_else(|e| e.into_inner()) = grad;
        }
    }
}

/// Used by operations.
impl Tensor {
    pub(crate) fn autograd_meta(&self) -> &AutogradMeta {
        &self.0.autograd_meta
    }

    /// A view of the same elements from `start` (relative to this tensor), outside the graph.
    pub(crate) fn view(&self, start: usize, shape: Shape) -> Tensor {
        let end = start.checked_add(shape.numel());
        assert!(
            end.is_some_and(|end| end <= self.numel()),
            "a view of {shape} at element {start} exceeds {self:?}"
        );
        Tensor::assemble(
            self.0.storage.clone(),
            self.0.offset + start,
            shape,
            self.dtype(),
            AutogradMeta::None,
        )
    }

    /// True for clones of one handle, which are one tensor of the graph.
    pub(crate) fn is_same_handle(&self, other: &Tensor) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }

    /// True when nothing else refers to these elements, so that an operation that owns this tensor may overwrite them.
    pub(crate) fn is_sole_owner(&self) -> bool {
        Arc::strong_count(&self.0) == 1 && Arc::strong_count(&self.0.storage) == 1
    }

    /// `self + other` for equal shapes and dtypes, in place when nothing else refers to `self` and neither requires a gradient.
    /// Gradients are accumulated with it.
    pub(crate) fn accumulate(self, other: Tensor) -> Result<Tensor> {
        if self.is_sole_owner() && !self.requires_grad() && !other.requires_grad() {
            self.add_in_place(&other)?;
            return Ok(self);
        }
        self.add(&other)
    }

    /// A tensor of the same elements with other autograd metadata.
    pub(crate) fn with_autograd_meta(&self, gradient: AutogradMeta) -> Tensor {
        Tensor::assemble(self.0.storage.clone(), self.0.offset, self.0.shape, self.0.dtype, gradient)
    }

    fn assemble(
        storage: Arc<Storage>,
        start: usize,
        shape: Shape,
        dtype: DType,
        gradient: AutogradMeta,
    ) -> Tensor {
        Tensor(Arc::new(Inner { storage, offset: start, shape, dtype, autograd_meta: gradient }))
    }
}

impl fmt::Debug for Tensor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Tensor({}{} on {})", self.dtype(), self.shape(), self.device())
    }
}

//! The tensor: a cheap handle to dense row-major elements on a device, and its place in the graph.
use crate::autograd::{self, Gradient, Hook, Leaf};
use crate::storage::{Read, Storage, Write};
use crate::{DType, Device, Element, Error, Result, Shape};
use std::fmt;
use std::sync::Arc;

/// A dense, row-major tensor; image batches are channels-last, `[N, H, W, C]`. Cloning copies the handle, not the elements.
#[derive(Clone)]
pub struct Tensor(Arc<Inner>);

struct Inner {
    storage: Arc<Storage>,
    /// First element within the storage: views share it.
    start: usize,
    shape: Shape,
    dtype: DType,
    gradient: Gradient,
}

/// Constructors.
impl Tensor {
    /// A tensor of the given elements, row-major.
    pub fn from_slice<T: Element>(data: &[T], shape: impl Into<Shape>) -> Result<Tensor> {
        let shape = shape.into();
        if shape.numel() != data.len() {
            let why = format!("{} elements do not fill shape {shape}", data.len());
            return Err(Error::Shape { op: "from_slice", operands: crate::error::Operands(vec![]), why });
        }
        Tensor::build(shape, |out: &mut [T]| out.copy_from_slice(data))
    }

    /// A tensor of the given elements, row-major.
    pub fn from_vec<T: Element>(data: Vec<T>, shape: impl Into<Shape>) -> Result<Tensor> {
        Tensor::from_slice(&data, shape)
    }

    /// A tensor without axes.
    pub fn scalar<T: Element>(value: T) -> Result<Tensor> {
        Tensor::from_slice(&[value], ())
    }

    /// Every element `value`, rounded to the dtype.
    pub fn full(shape: impl Into<Shape>, value: f64, dtype: DType, device: &Device) -> Result<Tensor> {
        let shape = shape.into();
        let t = crate::ops::dispatch_any!(dtype, T => Tensor::build(shape, |out: &mut [T]| out.fill(T::from_f64(value))))?;
        t.to_device(*device)
    }

    /// Zeros.
    pub fn zeros(shape: impl Into<Shape>, dtype: DType, device: &Device) -> Result<Tensor> {
        Tensor::full(shape, 0.0, dtype, device)
    }

    /// Ones.
    pub fn ones(shape: impl Into<Shape>, dtype: DType, device: &Device) -> Result<Tensor> {
        Tensor::full(shape, 1.0, dtype, device)
    }

    /// A CPU tensor whose elements `fill` writes; it is handed memory of arbitrary content and must write all of it.
    pub fn build<T: Element>(shape: impl Into<Shape>, fill: impl FnOnce(&mut [T])) -> Result<Tensor> {
        let shape = shape.into();
        let storage = Storage::build(shape.numel(), fill)?;
        Ok(Tensor::assemble(Arc::new(storage), 0, shape, T::DTYPE, Gradient::None))
    }
}

/// What it is.
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

    /// Where it lives.
    pub fn device(&self) -> Device {
        self.0.storage.device()
    }
}

/// Its elements.
impl Tensor {
    /// The elements, for as long as the guard lives. Errors when `T` is not the tensor's dtype.
    pub fn read<T: Element>(&self) -> Result<Read<'_, T>> {
        self.check_element::<T>("read")?;
        Read::new(&self.0.storage, self.0.start, self.numel())?.map_err(|f| f.of("read", self.device(), &[("self", self)]))
    }

    /// The elements, to change in place: for optimizers and state dicts. What an operation saved for its backward pass
    /// changes with them. The guard holds the tensor's lock; reading the same tensor meanwhile waits for ever.
    pub fn write<T: Element>(&self) -> Result<Write<'_, T>> {
        self.check_element::<T>("write")?;
        Write::new(&self.0.storage, self.0.start, self.numel()).ok_or_else(|| Error::Device {
            op: "write", device: self.device(), operands: crate::error::Operands(vec![]), why: "host memory only".into(),
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
        crate::ops::dispatch_any!(self.dtype(), T => Ok(self.read::<T>()?[0].to_f64()))
    }

    /// Overwrites the elements with those of `source`, which has the same shape and dtype.
    pub fn copy_from(&self, source: &Tensor) -> Result<()> {
        if source.shape() != self.shape() || source.dtype() != self.dtype() {
            return Err(Error::shape(
                "copy_from",
                &[("self", self), ("source", source)],
                "shapes and dtypes must be equal",
            ));
        }
        crate::ops::dispatch_any!(self.dtype(), T => {
            let data = source.to_vec::<T>()?;
            self.write::<T>()?.copy_from_slice(&data);
            Ok(())
        })
    }

    /// A tensor with elements of its own, outside the graph.
    pub fn copy(&self) -> Result<Tensor> {
        crate::ops::dispatch_any!(self.dtype(), T => {
            let data = self.read::<T>()?;
            Tensor::build(*self.shape(), |out: &mut [T]| out.copy_from_slice(&data))
        })
    }

    fn check_element<T: Element>(&self, op: &'static str) -> Result<()> {
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

/// Its place in the graph.
impl Tensor {
    /// This tensor as a variable: a leaf whose gradient backward passes collect. Shares the elements.
    ///
    /// # Panics
    /// When the dtype is not a float.
    pub fn variable(&self) -> Tensor {
        assert!(self.dtype().is_float(), "a tensor of {} cannot require a gradient", self.dtype());
        self.with_gradient(Gradient::Leaf(Arc::new(Leaf::default())))
    }

    /// The same elements outside the graph.
    pub fn detach(&self) -> Tensor {
        if self.requires_grad() { self.with_gradient(Gradient::None) } else { self.clone() }
    }

    /// True for a variable and for what was computed from one.
    pub fn requires_grad(&self) -> bool {
        !matches!(self.0.gradient, Gradient::None)
    }

    /// True for a variable itself.
    pub fn is_variable(&self) -> bool {
        matches!(self.0.gradient, Gradient::Leaf(_))
    }

    /// The gradient that backward passes have collected in this variable since [`Tensor::zero_grad`].
    pub fn grad(&self) -> Option<Tensor> {
        let Gradient::Leaf(leaf) = &self.0.gradient else { return None };
        leaf.grad.lock().unwrap_or_else(|e| e.into_inner()).clone()
    }

    /// Forgets the collected gradient.
    pub fn zero_grad(&self) {
        self.set_grad(None);
    }

    /// Replaces the collected gradient of this variable; anything else has none to replace.
    pub fn set_grad(&self, grad: Option<Tensor>) {
        if let Gradient::Leaf(leaf) = &self.0.gradient {
            *leaf.grad.lock().unwrap_or_else(|e| e.into_inner()) = grad;
        }
    }

    /// Calls `hook` with this variable's gradient whenever a backward pass has added up all of it. Errors on anything
    /// but a variable.
    pub fn register_hook(&self, hook: Hook) -> Result<()> {
        match &self.0.gradient {
            Gradient::Leaf(leaf) => {
                leaf.hooks.lock().unwrap_or_else(|e| e.into_inner()).push(hook);
                Ok(())
            }
            _ => Err(Error::Autograd { why: "only a variable's gradient can be hooked".into() }),
        }
    }
}

/// For operations.
impl Tensor {
    /// TEMP
    pub fn to_device(&self, device: Device) -> Result<Tensor> {
        let Device::Cuda(i) = device else {
            return crate::ops::dispatch_any!(self.dtype(), T => Tensor::from_vec(self.to_vec::<T>()?, *self.shape()));
        };
        let fail = |f: crate::cuda::Failure| f.of("to_device", device, &[]);
        let gpu = crate::cuda::Gpu::get(i).map_err(fail)?;
        Tensor::build_on(&gpu, *self.shape(), self.dtype(), |to| {
            crate::ops::dispatch_any!(self.dtype(), T => {
                let data = self.to_vec::<T>().expect("readable");
                gpu.upload(bytemuck::cast_slice(&data), to)
            })
        }).map_err(fail)
    }

    /// A tensor on a GPU whose elements `fill` queues to be written.
    pub(crate) fn build_on(
        gpu: &Arc<crate::cuda::Gpu>,
        shape: impl Into<Shape>,
        dtype: DType,
        fill: impl FnOnce(crate::cuda::Slice) -> crate::cuda::Result<()>,
    ) -> crate::cuda::Result<Tensor> {
        let shape = shape.into();
        let tensor = Tensor::assemble(Arc::new(Storage::on_gpu(gpu, shape.numel(), dtype)?), 0, shape, dtype, Gradient::None);
        fill(tensor.held().slice())?;
        Ok(tensor)
    }

    /// The elements in device memory, for as long as the guard lives.
    pub(crate) fn held(&self) -> crate::storage::Held<'_> {
        crate::storage::Held::new(&self.0.storage, self.0.start, self.numel(), self.dtype())
    }

    /// This fresh result of an operation, recorded in the graph: `make` builds the backward function when one is needed.
    pub(crate) fn recorded<F>(self, op: &'static str, inputs: &[&Tensor], make: impl FnOnce() -> F) -> Tensor
    where
        F: Fn(Tensor, &[bool]) -> Result<Vec<Option<Tensor>>> + Send + Sync + 'static,
    {
        match autograd::record(op, *self.shape(), inputs, make) {
            Gradient::None => self,
            gradient => self.with_gradient(gradient),
        }
    }

    pub(crate) fn gradient(&self) -> &Gradient {
        &self.0.gradient
    }

    /// A view of the same elements from `start` (relative to this tensor), outside the graph.
    pub(crate) fn view(&self, start: usize, shape: Shape) -> Tensor {
        debug_assert!(start + shape.numel() <= self.numel());
        Tensor::assemble(self.0.storage.clone(), self.0.start + start, shape, self.dtype(), Gradient::None)
    }

    /// True when nothing else refers to these elements: an operation that was handed them may overwrite them.
    pub(crate) fn is_sole_owner(&self) -> bool {
        Arc::strong_count(&self.0) == 1 && Arc::strong_count(&self.0.storage) == 1
    }

    /// `self + other` of equal shape and dtype, in place when nothing else refers to `self`: how gradients add up.
    pub(crate) fn accumulate(self, other: Tensor) -> Result<Tensor> {
        if self.is_sole_owner() {
            self.add_in_place(&other)?;
            return Ok(self);
        }
        self.add(&other)
    }

    fn with_gradient(&self, gradient: Gradient) -> Tensor {
        Tensor::assemble(self.0.storage.clone(), self.0.start, self.0.shape, self.0.dtype, gradient)
    }

    fn assemble(
        storage: Arc<Storage>,
        start: usize,
        shape: Shape,
        dtype: DType,
        gradient: Gradient,
    ) -> Tensor {
        Tensor(Arc::new(Inner { storage, start, shape, dtype, gradient }))
    }
}

impl fmt::Debug for Tensor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Tensor({}{} on {})", self.dtype(), self.shape(), self.device())
    }
}

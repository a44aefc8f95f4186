//! Maxima and minima with their indices, top-k, and gathering by index.
use super::gpu::OnGpu;
use crate::cpu::lines::{self, Lines};
use crate::cuda::lines::SortOrder;
use crate::{DType, Error, IntoShape, Result, Tensor, cuda};

impl Tensor {
    /// Maximum over the given axes; the gradient is divided evenly among equal maxima, as in PyTorch's `amax`. f32, f16, bf16; f64 on the
    /// CPU.
    pub fn amax(&self, axes: &[usize], keepdim: bool) -> Result<Tensor> {
        self.reduce_extremum("amax", axes, keepdim, false)
    }

    /// Minimum over the given axes; the gradient is divided evenly among equal minima, as in PyTorch's `amin`. f32, f16, bf16; f64 on the
    /// CPU.
    pub fn amin(&self, axes: &[usize], keepdim: bool) -> Result<Tensor> {
        self.reduce_extremum("amin", axes, keepdim, true)
    }

    /// Maximum along an axis and its index (i64). Of equal maxima the first is chosen, and gets the whole gradient. f32, f16, bf16; f64 on
    /// the CPU.
    pub fn max_with_index(&self, axis: usize) -> Result<(Tensor, Tensor)> {
        let index = self.arg_extremum("max_with_index", axis, false)?;
        let values = self.gather_unchecked(axis, &index)?;
        let shape = self.shape().without(axis);
        Ok((values.reshape(shape)?, index.reshape(shape)?))
    }

    /// Index (i64) of the maximum along an axis, the first of equal maxima. f32, f16, bf16; f64 on the CPU.
    pub fn argmax(&self, axis: usize) -> Result<Tensor> {
        self.arg_extremum("argmax", axis, false)?.reshape(self.shape().without(axis))
    }

    /// Index (i64) of the minimum along an axis, the first of equal minima. f32, f16, bf16; f64 on the CPU.
    pub fn argmin(&self, axis: usize) -> Result<Tensor> {
        self.arg_extremum("argmin", axis, true)?.reshape(self.shape().without(axis))
    }

    /// The `k` largest (or smallest) values along an axis in sorted order, and their indices (i64). f32, f16, bf16; f64 on the CPU.
    pub fn top_k(&self, k: usize, axis: usize, smallest: bool) -> Result<(Tensor, Tensor)> {
        self.check_axis("top_k", axis)?;
        if k > self.dims()[axis] {
            return Err(Error::shape(
                "top_k",
                &[("x", self)],
                format!("axis {axis} has fewer than {k} elements"),
            ));
        }
        if self.is_half_on_cpu() {
            let (values, index) = self.widened()?.top_k(k, axis, smallest)?;
            return Ok((values.rounded_as(self)?, index));
        }
        let lines = Lines::new(self.shape(), axis);
        let shape = self.shape().with(axis, k)?;
        let index = match OnGpu::of("top_k", &[("x", self)])? {
            Some(on) => on.build(shape, DType::I64, |index| {
                // NaN counts as the largest value.
                let order = SortOrder { smallest, nan_first: !smallest };
                cuda::lines::top_k(&on.gpu, lines, self.device_view().slice(), k, order, None, Some(index))
            }),
            None => dispatch_real!("top_k", [("x", self)], T => {
                let x = self.read::<T>()?;
                Tensor::build(shape, |i: &mut [i64]| lines::top_k(lines, &x, k, smallest, i))
            }),
        }?;
        Ok((self.gather_unchecked(axis, &index)?, index))
    }

    pub(crate) fn check_axis(&self, op: &'static str, axis: usize) -> Result<()> {
        if axis < self.rank() {
            return Ok(());
        }
        Err(Error::shape(op, &[("x", self)], format!("there is no axis {axis}")))
    }

    fn arg_extremum(&self, op: &'static str, axis: usize, smallest: bool) -> Result<Tensor> {
        self.check_axis(op, axis)?;
        if self.dims()[axis] == 0 {
            return Err(Error::shape(op, &[("x", self)], format!("axis {axis} is empty")));
        }
        let lines = Lines::new(self.shape(), axis);
        if let Some(on) = OnGpu::of(op, &[("x", self)])? {
            return on.build(self.shape().reduced(axis), DType::I64, |index| {
                let order = SortOrder { smallest, nan_first: true };
                cuda::lines::top_k(&on.gpu, lines, self.device_view().slice(), 1, order, None, Some(index))
            });
        }
        let wide = self.widened()?;
        dispatch_real!(op, [("x", &wide)], T => {
            let x = wide.read::<T>()?;
            Tensor::build(self.shape().reduced(axis), |i: &mut [i64]| lines::arg_extreme(lines, &x, smallest, i))
        })
    }

    fn reduce_extremum(
        &self,
        op: &'static str,
        axes: &[usize],
        keepdim: bool,
        smallest: bool,
    ) -> Result<Tensor> {
        let reduced = self.reduced_shape(op, axes)?;
        if self.is_half_on_cpu() {
            return self.widened()?.reduce_extremum(op, axes, keepdim, smallest)?.rounded_as(self);
        }
        let mut y = self.detach();
        for axis in axes {
            let lines = Lines::new(y.shape(), *axis);
            if lines.n == 0 {
                return Err(Error::shape(op, &[("x", self)], format!("axis {axis} is empty")));
            }
            let shape = y.shape().reduced(*axis);
            y = match OnGpu::of(op, &[("x", self)])? {
                Some(on) => on.build(shape, self.dtype(), |out| {
                    let order = SortOrder { smallest, nan_first: true };
                    cuda::lines::top_k(&on.gpu, lines, y.device_view().slice(), 1, order, Some(out), None)
                }),
                None => dispatch_real!(op, [("x", self)], T => {
                    let x = y.read::<T>()?;
                    Tensor::build(shape, |out: &mut [T]| lines::extreme(lines, &x, smallest, out))
                }),
            }?;
        }
        let shape = if keepdim { reduced } else { super::sum::without_axes(self.shape(), axes) };
        let extreme = y.reshape(shape)?;
        Ok(extreme
            .clone()
            .with_composed_backward(op, &[self], || {
                let (x, axes) = (self.detach(), axes.to_vec());
                move |grad: Tensor, _: &[bool]| {
                    let mask = x.equal(&y)?;
                    let each = grad.reshape(reduced)?.div(&mask.sum(&axes, true)?)?;
                    Ok(vec![Some(mask.mul(&each)?)])
                }
            })
            .with_saved(&[&extreme]))
    }
}

impl Tensor {
    /// `y[.., j, ..] = x[.., index[.., j, ..], ..]` along an axis: `index` (i64) has the shape of `x` except along that axis. f32, f16, bf16;
    /// f64 on the CPU. An index out of range is an error: the indices are read back to the host.
    pub fn gather(&self, axis: usize, index: &Tensor) -> Result<Tensor> {
        let operands = [("x", self), ("index", index)];
        self.check_axis("gather", axis)?;
        if index.dtype() != DType::I64 {
            return Err(Error::dtype("gather", &operands, "an index of i64"));
        }
        let k = index.dims().get(axis).copied().unwrap_or_default();
        if *index.shape() != self.shape().with(axis, k)? {
            return Err(Error::shape(
                "gather",
                &operands,
                format!("the index must have the shape of x except along axis {axis}"),
            ));
        }
        let n = self.dims()[axis];
        if let Some(bad) = index.read::<i64>()?.iter().find(|i| !(0..n as i64).contains(*i)) {
            return Err(Error::value("gather", &operands, format!("index {bad} is not in 0..{n}")));
        }
        self.gather_unchecked(axis, index)
    }

    /// [`Tensor::gather`] without checking the indices.
    fn gather_unchecked(&self, axis: usize, index: &Tensor) -> Result<Tensor> {
        if self.is_half_on_cpu() {
            return self.widened()?.gather_unchecked(axis, index)?.rounded_as(self);
        }
        let (lines, from, k) = (Lines::new(self.shape(), axis), *self.shape(), index.dims()[axis]);
        let y = match OnGpu::of("gather", &[("x", self), ("index", index)])? {
            Some(on) => on.build(*index.shape(), self.dtype(), |y| {
                cuda::lines::gather(
                    &on.gpu,
                    lines,
                    self.device_view().slice(),
                    index.device_view().slice(),
                    k,
                    y,
                )
            }),
            None => dispatch_real!("gather", [("x", self)], T => {
                let (x, i) = (self.read::<T>()?, index.read::<i64>()?);
                Tensor::build(*index.shape(), |y: &mut [T]| lines::gather(lines, &x, &i, k, y))
            }),
        }?;
        Ok(y.with_composed_backward("gather", &[self], || {
            let index = index.clone();
            move |grad: Tensor, _: &[bool]| Ok(vec![Some(grad.scatter_add(axis, &index, from)?)])
        })
        .with_saved(&[index]))
    }

    /// The gradient of [`Tensor::gather`] for an x of shape `to`: adds each element at the index it was gathered from.
    pub(super) fn scatter_add(&self, axis: usize, index: &Tensor, to: impl IntoShape) -> Result<Tensor> {
        let to = to.into_shape()?;
        if self.is_half_on_cpu() {
            return self.widened()?.scatter_add(axis, index, to)?.rounded_as(self);
        }
        let (lines, k) = (Lines::new(&to, axis), index.dims()[axis]);
        let y = match OnGpu::of("gather", &[("grad", self), ("index", index)])? {
            Some(on) => on.build(to, self.dtype(), |y| {
                let (x, index) = (self.device_view(), index.device_view());
                cuda::lines::scatter_add(&on.gpu, lines, x.slice(), index.slice(), k, y)
            }),
            None => dispatch_real!("gather", [("grad", self)], T => {
                let (x, i) = (self.read::<T>()?, index.read::<i64>()?);
                Tensor::build(to, |y: &mut [T]| lines::scatter_add(lines, &x, &i, k, y))
            }),
        }?;
        Ok(y.with_composed_backward("gather", &[self], || {
            let index = index.clone();
            move |grad: Tensor, _: &[bool]| Ok(vec![Some(grad.gather_unchecked(axis, &index)?)])
        })
        .with_saved(&[index]))
    }

    /// One-hot encoding of class indices (i64, any shape) along a new last axis of `classes` elements: `on` at the class, `off` elsewhere.
    /// Any dtype; f64 on the CPU only. The indices are read back to the host.
    pub fn one_hot(&self, classes: usize, on: f64, off: f64, dtype: DType) -> Result<Tensor> {
        if self.dtype() != DType::I64 || self.rank() >= crate::MAX_RANK {
            return Err(Error::dtype(
                "one_hot",
                &[("index", self)],
                "class indices of i64 with less than MAX_RANK axes",
            ));
        }
        let index = self.read::<i64>()?;
        if let Some(bad) = index.iter().find(|i| !(0..classes as i64).contains(*i)) {
            return Err(Error::value(
                "one_hot",
                &[("index", self)],
                format!("class {bad} is not in 0..{classes}"),
            ));
        }
        let mut dims = self.dims().to_vec();
        dims.push(classes);
        if let Some(gpu) = OnGpu::of_any("one_hot", &[("index", self)])?
            && matches!(dtype, DType::F32 | DType::F16 | DType::BF16)
        {
            return gpu.build(dims, dtype, |y| {
                cuda::lines::one_hot(&gpu.gpu, self.device_view().slice(), classes, [on, off], y)
            });
        }
        let rows = Tensor::build(dims, |y: &mut [f64]| {
            y.fill(off);
            index.iter().enumerate().for_each(|(row, class)| y[row * classes + *class as usize] = on);
        })?;
        rows.to_dtype(dtype)?.to_device(&self.device())
    }
}

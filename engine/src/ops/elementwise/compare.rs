//! Comparisons, whose results are masks of 1 and 0 (u8), and choices by a mask. Any dtype.
use super::cuda::compare as on_cuda;
use crate::autograd::{Derivative, Gradients, Saved, Saves};
use crate::cpu::parallel::for_each_piece;
use crate::cuda::{DeviceSlice, Gpu, Result as CudaResult};
use crate::op::{CpuCall, Infos, Op, Spec, TensorInfo, apply, compute, for_any};
use crate::{DType, Error, Result, Shape, Tensor};
use std::borrow::Cow;
use std::sync::Arc;

/// An operand of a comparison: a tensor or a number.
pub trait Comparand {
    /// The tensor, or the number as a scalar of the dtype and device of `x`.
    fn tensor_like(&self, x: &Tensor) -> Result<Cow<'_, Tensor>>;
}

impl Comparand for Tensor {
    fn tensor_like(&self, _: &Tensor) -> Result<Cow<'_, Tensor>> {
        Ok(Cow::Borrowed(self))
    }
}

impl Comparand for &Tensor {
    fn tensor_like(&self, _: &Tensor) -> Result<Cow<'_, Tensor>> {
        Ok(Cow::Borrowed(self))
    }
}

impl Comparand for f64 {
    fn tensor_like(&self, x: &Tensor) -> Result<Cow<'_, Tensor>> {
        Tensor::full((), *self, x.dtype(), &x.device()).map(Cow::Owned)
    }
}

macro_rules! comparisons {
    ($($name:ident $symbol:literal $kernel:literal $swapped:literal;)*) => {
        impl Tensor {
            $(
                #[doc = concat!("1 where `self ", $symbol, " other`, else 0 (u8), broadcasting; a number has the dtype of `self`. Any dtype.")]
                ///
                /// ```
                /// # use fornax_engine::{Result, Tensor};
                /// # fn main() -> Result<()> {
                /// let (a, b) = (Tensor::new([1.0f32, 2.0, 3.0])?, Tensor::new([2.0f32, 2.0, 2.0])?);
                #[doc = concat!("let mask = a.", stringify!($name), "(&b)?.to_vec::<u8>()?;")]
                #[doc = concat!("assert_eq!(mask, [1.0, 2.0, 3.0].map(|v| u8::from(v ", $symbol, " 2.0)));")]
                #[doc = concat!("assert_eq!(mask, a.", stringify!($name), "(2.0)?.to_vec::<u8>()?);")]
                /// # Ok(()) }
                /// ```
                pub fn $name(&self, other: impl Comparand) -> Result<Tensor> {
                    let other = other.tensor_like(self)?;
                    let (a, b) = if $swapped { (&*other, self) } else { (self, &*other) };
                    self.compare(stringify!($name), $kernel, a, b)
                }
            )*
        }
    };
}

comparisons! {
    eq "==" "eq" false;
    ne "!=" "ne" false;
    lt "<" "lt" false;
    le "<=" "le" false;
    gt ">" "lt" true;
    ge ">=" "le" true;
}

impl Tensor {
    /// Elements of `yes` where this mask (u8) is not 0, and of `no` elsewhere, broadcasting; both have one dtype. Like PyTorch's `where`. The
    /// gradient of an element that is not chosen is 0, even where its value is infinite or NaN. Any dtype.
    ///
    /// ```
    /// # use fornax_engine::{Result, Tensor};
    /// # fn main() -> Result<()> {
    /// let x = Tensor::new([1.0f32, -2.0, 3.0])?;
    /// let y = x.gt(0.0)?.where_cond(&x, &Tensor::scalar(0.0f32)?)?;
    /// assert_eq!(y.to_vec::<f32>()?, [1.0, 0.0, 3.0]);
    /// # Ok(()) }
    /// ```
    pub fn where_cond(&self, yes: &Tensor, no: &Tensor) -> Result<Tensor> {
        let operands = [("mask", self), ("yes", yes), ("no", no)];
        if self.dtype() != DType::U8 {
            return Err(Error::dtype("where_cond", &operands, "a mask of u8, as comparisons return"));
        }
        let mut shape = *self.shape();
        for t in [yes, no] {
            shape = match shape.broadcast(t.shape())? {
                Some(shape) => shape,
                None => return Err(Error::shape("where_cond", &operands, "the shapes do not broadcast")),
            };
        }
        let mask = self.expand(shape)?;
        apply(Where { shape, dtype: yes.dtype() }, &[&mask, &spread(yes, shape)?, &spread(no, shape)?])
    }

    /// This tensor with `value` where the mask (u8), which broadcasts to its shape, is not 0. Any dtype.
    ///
    /// ```
    /// # use fornax_engine::{Result, Tensor};
    /// # fn main() -> Result<()> {
    /// let x = Tensor::new([1.0f32, -2.0])?;
    /// assert_eq!(x.masked_fill(&x.lt(0.0)?, 9.0)?.to_vec::<f32>()?, [1.0, 9.0]);
    /// # Ok(()) }
    /// ```
    pub fn masked_fill(&self, mask: &Tensor, value: f64) -> Result<Tensor> {
        if mask.shape().broadcast(self.shape())? != Some(*self.shape()) {
            let operands = [("x", self), ("mask", mask)];
            return Err(Error::shape("masked_fill", &operands, "the mask must broadcast to the shape of x"));
        }
        mask.where_cond(&Tensor::full((), value, self.dtype(), &self.device())?, self)
    }

    fn compare(&self, name: &'static str, kernel: &'static str, a: &Tensor, b: &Tensor) -> Result<Tensor> {
        let Some(shape) = a.shape().broadcast(b.shape())? else {
            return Err(Error::shape(name, &[("self", a), ("other", b)], "the shapes do not broadcast"));
        };
        let (a, b) = (spread(&a.detach(), shape)?, spread(&b.detach(), shape)?);
        compute(&Compare { name, kernel, shape }, &[&a, &b])
    }
}

/// A tensor that broadcasts to a shape: one element as it is, others as a copy of that shape.
fn spread(t: &Tensor, shape: Shape) -> Result<Tensor> {
    if t.numel() == 1 { Ok(t.clone()) } else { t.expand(shape) }
}

/// A comparison of operands of the result's shape or of one element.
struct Compare {
    name: &'static str,
    kernel: &'static str,
    shape: Shape,
}

impl Op for Compare {
    fn spec(&self) -> Spec {
        Spec::new(self.name, &["self", "other"]).any_dtype()
    }

    fn results(&self, _: &[&Tensor]) -> Infos {
        Ok(vec![TensorInfo::new(self.shape, DType::U8)?])
    }

    fn cpu(&self, call: &CpuCall) -> Result<()> {
        for_any!(call, T => {
            let (a, b) = (call.x::<T>(0)?, call.x::<T>(1)?);
            let holds: fn(&T, &T) -> bool = match self.kernel {
                "eq" => |a, b| a == b,
                "ne" => |a, b| a != b,
                "lt" => |a, b| a < b,
                _ => |a, b| a <= b,
            };
            let (a_step, b_step) = (usize::from(a.len() > 1), usize::from(b.len() > 1));
            for_each_piece(&mut call.y::<u8>(0)?, |start, y| {
                for (i, y) in y.iter_mut().enumerate() {
                    *y = u8::from(holds(&a[(start + i) * a_step], &b[(start + i) * b_step]));
                }
            });
        })
    }

    fn cuda(&self, gpu: &Arc<Gpu>, x: &[DeviceSlice], y: &[DeviceSlice]) -> CudaResult<()> {
        on_cuda::compare(gpu, self.kernel, x[0], x[1], y[0])
    }
}

/// A choice between operands of the mask's shape or of one element.
struct Where {
    shape: Shape,
    dtype: DType,
}

impl Op for Where {
    fn spec(&self) -> Spec {
        Spec::new("where_cond", &["mask", "yes", "no"]).dtypes_of_results()
    }

    fn results(&self, x: &[&Tensor]) -> Infos {
        if x[1].dtype() != x[2].dtype() {
            return Err(crate::op::Mismatch::DType("two values of one dtype"));
        }
        Ok(vec![TensorInfo::of(x[1]).with_shape(self.shape)])
    }

    fn cpu(&self, call: &CpuCall) -> Result<()> {
        crate::dtype::dispatch_any!(self.dtype, T => {
            let (mask, yes, no) = (call.x::<u8>(0)?, call.x::<T>(1)?, call.x::<T>(2)?);
            let (yes_step, no_step) = (usize::from(yes.len() > 1), usize::from(no.len() > 1));
            for_each_piece(&mut call.y::<T>(0)?, |start, y| {
                for (i, y) in (start..).zip(y) {
                    *y = if mask[i] != 0 { yes[i * yes_step] } else { no[i * no_step] };
                }
            });
            Ok(())
        })
    }

    fn cuda(&self, gpu: &Arc<Gpu>, x: &[DeviceSlice], y: &[DeviceSlice]) -> CudaResult<()> {
        on_cuda::choose(gpu, x[0], x[1], x[2], y[0])
    }
}

impl Derivative for Where {
    fn saves(&self, _: &[bool]) -> Saves {
        Saves::operands(&[0])
    }

    fn backward(&self, saved: &Saved, dy: Tensor, needs: &[bool]) -> Result<Gradients> {
        let (mask, zero) = (saved.operand(0), Tensor::full((), 0.0, dy.dtype(), &dy.device())?);
        let of = |i: usize, yes: &Tensor, no: &Tensor| {
            needs[i].then(|| mask.where_cond(yes, no)?.sum_to(saved.shape(i))).transpose()
        };
        Ok(vec![None, of(1, &dy, &zero)?, of(2, &zero, &dy)?])
    }
}

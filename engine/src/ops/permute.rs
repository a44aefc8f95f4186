//! Permutation of axes, and conversion between channels-last and NCHW.
use super::gpu::OnGpu;
use crate::{Error, Result, Shape, Tensor, cpu, cuda};

impl Tensor {
    /// Axis `a` of the result is axis `axes[a]` of this tensor; a dense copy. Any dtype.
    pub fn permute(&self, axes: &[usize]) -> Result<Tensor> {
        let mut sorted = axes.to_vec();
        sorted.sort_unstable();
        if !sorted.iter().copied().eq(0..self.rank()) {
            return Err(Error::shape(
                "permute",
                &[("self", self)],
                format!("axes {axes:?} must contain each axis once"),
            ));
        }
        let shape = Shape::must_fit(&axes.iter().map(|a| self.dims()[*a]).collect::<Vec<_>>());
        let y = match OnGpu::of_any("permute", &[("self", self)])? {
            Some(on) => on.build(shape, self.dtype(), |y| {
                cuda::copy::permute(&on.gpu, self.device_view().slice(), self.shape(), axes, y)
            }),
            None => dispatch_any!(self.dtype(), T => {
                let x = self.read::<T>()?;
                Tensor::build(shape, |y: &mut [T]| cpu::permute::permute(&x, self.shape(), axes, y))
            }),
        }?;
        Ok(y.with_composed_backward("permute", &[self], || {
            let mut inverse = vec![0; axes.len()];
            axes.iter().enumerate().for_each(|(to, from)| inverse[*from] = to);
            move |grad: Tensor, _: &[bool]| Ok(vec![Some(grad.permute(&inverse)?)])
        }))
    }

    /// Swaps the last two axes; a dense copy. Any dtype.
    pub fn transpose(&self) -> Result<Tensor> {
        let rank = self.rank();
        if rank < 2 {
            return Err(Error::shape("transpose", &[("self", self)], "needs at least two axes"));
        }
        let mut axes: Vec<usize> = (0..rank).collect();
        axes.swap(rank - 2, rank - 1);
        self.permute(&axes)
    }

    /// Converts `[N, C, H, W]` (or a weight `[out, in, kh, kw]`) to channels-last. Any dtype.
    pub fn from_nchw(nchw: &Tensor) -> Result<Tensor> {
        nchw.check_images("from_nchw")?;
        nchw.permute(&[0, 2, 3, 1])
    }

    /// Converts channels-last to `[N, C, H, W]` (or a weight to `[out, in, kh, kw]`). Any dtype.
    pub fn to_nchw(&self) -> Result<Tensor> {
        self.check_images("to_nchw")?;
        self.permute(&[0, 3, 1, 2])
    }

    fn check_images(&self, op: &'static str) -> Result<()> {
        if self.rank() == 4 {
            return Ok(());
        }
        Err(Error::shape(op, &[("self", self)], "needs four axes"))
    }
}

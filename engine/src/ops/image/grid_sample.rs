//! Sampling of images at points.
use crate::autograd::{Derivative, Gradients, Saved, Saves};
use crate::cpu::parallel::{DisjointSlice, for_each_task};
use crate::cuda::launch::{to_i32, to_i32s};
use crate::cuda::{self, DeviceSlice, Gpu, Kernel, LaunchConfig, args};
use crate::dtype::Real;
use crate::op::{CpuCall, Infos, Op, Spec, TensorInfo, apply, check_parameters, for_real};
use crate::ops::wide;
use crate::resampling::GridPadding;
use crate::{DType, Error, Result, Tensor};
use fornax_kernels::arguments::GridSampling;
use std::sync::Arc;

impl Tensor {
    /// Bilinear samples of images `[n, h, w, c]` at the points of a grid `[n, oh, ow, 2]`: `[n, oh, ow, c]`, as PyTorch's `grid_sample` (Jaderberg
    /// et al., "Spatial transformer networks", 2015). The last axis of the grid is x, y; -1 and 1 are the edges of the image or, with
    /// `align_corners`, the centres of its corner pixels. Both tensors have one dtype: f32, f16, bf16, or f64 on the CPU; the grid of f16 and bf16
    /// images may be f32.
    ///
    /// Errors: other shapes, or images without pixels or channels.
    ///
    /// ```
    /// use fornax_engine::{Result, Tensor, resampling::GridPadding};
    /// # fn main() -> Result<()> {
    /// let image = Tensor::from_slice(&[0.0f32, 1.0, 2.0, 3.0], [1, 2, 2, 1])?;
    /// let centre = Tensor::from_slice(&[0.0f32, 0.0], [1, 1, 1, 2])?;
    /// assert_eq!(image.grid_sample(&centre, GridPadding::Zeros, false)?.to_vec::<f32>()?, [1.5]);
    /// # Ok(()) }
    /// ```
    pub fn grid_sample(&self, grid: &Tensor, padding: GridPadding, align_corners: bool) -> Result<Tensor> {
        match (self.dims(), grid.dims()) {
            (&[n, h, w, c], &[n_grid, oh, ow, 2]) if n == n_grid && h * w * c > 0 => {
                let shape = SampleShape { n, size: [h, w], out: [oh, ow], c };
                let order = [0; 2];
                apply(GridSample { shape, padding, align_corners, order, transposed: false }, &[self, grid])
            }
            _ => {
                let why = "needs images [n, h, w, c], not empty, and a grid [n, oh, ow, 2]";
                Err(Error::shape(NAME, &[("x", self), ("grid", grid)], why))
            }
        }
    }
}

const NAME: &str = "grid_sample";

/// Images `[n, size, c]` and their samples `[n, out, c]`.
#[derive(Clone, Copy)]
struct SampleShape {
    n: usize,
    size: [usize; 2],
    out: [usize; 2],
    c: usize,
}

/// Samples of x at the points of a grid, or `transposed` the images for which they are the gradient. With an `order` (x, y) above 0 the weights
/// are their derivatives by the coordinates, of which second derivatives by one coordinate are 0.
#[derive(Clone, Copy)]
struct GridSample {
    shape: SampleShape,
    padding: GridPadding,
    align_corners: bool,
    order: [u8; 2],
    transposed: bool,
}

impl GridSample {
    /// Indices and weights of the two pixels of an axis (0 vertical, 1 horizontal) around coordinate `g`; index `usize::MAX` is outside.
    fn pixels(&self, axis: usize, g: f64) -> [(usize, f64); 2] {
        let (size, order) = (self.shape.size[axis] as f64, self.order[1 - axis]);
        let (mut u, mut step) = match self.align_corners {
            true => ((g + 1.0) / 2.0 * (size - 1.0), (size - 1.0) / 2.0),
            false => (((g + 1.0) * size - 1.0) / 2.0, size / 2.0),
        };
        if self.padding == GridPadding::Border && !(u > 0.0 && u < size - 1.0) {
            // Written so that NaN is 0.
            (u, step) = (if u > 0.0 { size - 1.0 } else { 0.0 }, 0.0);
        }
        if !(u >= -1.0 && u < size) {
            return [(usize::MAX, 0.0); 2];
        }
        let first = u.floor();
        let weights = if order == 0 { [1.0 - (u - first), u - first] } else { [-step, step] };
        let inside = |at: f64| if at >= 0.0 && at < size { at as usize } else { usize::MAX };
        [(inside(first), weights[0]), (inside(first + 1.0), weights[1])]
    }

    /// Calls `f` with the first element of each pixel around a point of the grid, within its image, and the weight.
    fn for_each_pixel<T: Real>(&self, point: &[T], mut f: impl FnMut(usize, T)) {
        let (across, down) = (self.pixels(1, point[0].to_f64()), self.pixels(0, point[1].to_f64()));
        for (row, a) in down {
            for (column, b) in across {
                if row != usize::MAX && column != usize::MAX {
                    f((row * self.shape.size[1] + column) * self.shape.c, T::from_f64(a * b));
                }
            }
        }
    }

    fn sample<T: Real>(&self, x: &[T], grid: &[T], y: &mut [T]) {
        let SampleShape { size, out, c, .. } = self.shape;
        let (row, rows, out_row) = (out[1] * c, y.len() / (out[1] * c).max(1), out[1] * 2);
        let results = DisjointSlice::new(y);
        for_each_task(rows, |r| {
            // SAFETY: a row belongs to one task.
            let y = unsafe { results.slice(r * row, row) };
            y.fill(T::zero());
            let image = &x[r / out[0] * size[0] * size[1] * c..];
            for (y, point) in y.chunks_exact_mut(c).zip(grid[r * out_row..].chunks_exact(2)) {
                self.for_each_pixel(point, |at, weight| {
                    y.iter_mut().zip(&image[at..]).for_each(|(y, x)| *y += weight * *x);
                });
            }
        });
    }

    fn scatter<T: Real>(&self, dy: &[T], grid: &[T], dx: &mut [T]) {
        let SampleShape { n, size, out, c } = self.shape;
        let (image, points) = (size[0] * size[1] * c, out[0] * out[1]);
        let results = DisjointSlice::new(dx);
        for_each_task(n, |i| {
            // SAFETY: an image belongs to one task.
            let dx = unsafe { results.slice(i * image, image) };
            dx.fill(T::zero());
            let dy = &dy[i * points * c..][..points * c];
            for (dy, point) in dy.chunks_exact(c).zip(grid[i * points * 2..].chunks_exact(2)) {
                self.for_each_pixel(point, |at, weight| {
                    dx[at..].iter_mut().zip(dy).for_each(|(dx, dy)| *dx += weight * *dy);
                });
            }
        });
    }
}

impl Op for GridSample {
    fn spec(&self) -> Spec {
        Spec::new(NAME, &["x", "grid"]).mixed_dtypes()
    }

    fn results(&self, x: &[&Tensor]) -> Infos {
        check_parameters(x[0], &x[1..])?;
        let SampleShape { n, size, out, c } = self.shape;
        Ok(vec![match self.transposed {
            false => TensorInfo::new([n, out[0], out[1], c], x[0].dtype())?,
            // Sums of any number of terms.
            true => TensorInfo::new([n, size[0], size[1], c], wide(x[0].dtype()))?,
        }])
    }

    fn cpu(&self, call: &CpuCall) -> Result<()> {
        for_real!(call, T => match self.transposed {
            false => self.sample::<T>(&call.x(0)?, &call.x(1)?, &mut call.y(0)?),
            true => self.scatter::<T>(&call.x(0)?, &call.x(1)?, &mut call.y(0)?),
        })
    }

    fn cuda(&self, gpu: &Arc<Gpu>, x: &[DeviceSlice], y: &[DeviceSlice]) -> cuda::Result<()> {
        let SampleShape { n, size, out, c } = self.shape;
        let sampling = GridSampling {
            size: to_i32s(size)?,
            out: to_i32s(out)?,
            c: to_i32(c)?,
            border: i32::from(self.padding == GridPadding::Border),
            align_corners: i32::from(self.align_corners),
            order: self.order.map(i32::from),
        };
        // A thread adds up all samples of one channel of an image: the order of the sums is fixed.
        let (name, items) = if self.transposed { ("grid_scatter", n * c) } else { (NAME, y[0].len) };
        if y[0].len == 0 {
            return Ok(());
        }
        let kernel = Kernel::new(NAME, name).of(x[0].dtype).of(x[1].dtype);
        gpu.launch(kernel, LaunchConfig::grid_stride(items), args![x[0], x[1], y[0], items, &sampling])
    }
}

impl Derivative for GridSample {
    fn saves(&self, needs: &[bool]) -> Saves {
        Saves::default().and_operand_if(needs[1], 0).and_operand_if(true, 1)
    }

    fn backward(&self, saved: &Saved, g: Tensor, needs: &[bool]) -> Result<Gradients> {
        let grid = saved.operand(1);
        let of_x = needs[0].then(|| {
            let transposed = GridSample { transposed: !self.transposed, ..*self };
            transposed.of(&g, grid)?.to_dtype(saved.dtype(0))
        });
        let of_grid = needs[1].then(|| {
            // The samples of one operand are multiplied by the other.
            let [image, samples] =
                if self.transposed { [&g, saved.operand(0)] } else { [saved.operand(0), &g] };
            let along = |order: [u8; 2]| {
                let derivative = GridSample { transposed: false, order, ..*self };
                let terms = match order.contains(&2) {
                    true => Tensor::zeros(*samples.shape(), image.dtype(), &g.device())?,
                    false => derivative.of(image, grid)?,
                };
                terms.mul(&samples.to_dtype(terms.dtype())?)?.sum(&[3], true)
            };
            let [across, down] = self.order;
            let both = Tensor::cat(&[&along([across + 1, down])?, &along([across, down + 1])?], 3)?;
            both.to_dtype(grid.dtype())
        });
        Ok(vec![of_x.transpose()?, of_grid.transpose()?])
    }
}

impl GridSample {
    /// The result for an operand of any float dtype, in the graph.
    fn of(self, x: &Tensor, grid: &Tensor) -> Result<Tensor> {
        let grid = if x.dtype() == DType::F32 { grid.to_dtype(DType::F32)? } else { grid.clone() };
        apply(self, &[x, &grid])
    }
}

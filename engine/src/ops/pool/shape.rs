//! The geometry of 2-D pooling, shared by the operations and their kernels.
use crate::window::{MAX_SIDE, free_steps};
use crate::{Error, Result, Shape, Tensor};

/// Options of 2-D pooling; pairs are (vertical, horizontal).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pool2dOptions {
    /// Kernel height and width.
    pub kernel: [usize; 2],
    /// Step between windows.
    pub stride: [usize; 2],
    /// Rows and columns of implicit padding on each side; at most half of the kernel.
    pub padding: [usize; 2],
    /// Spacing between the elements of a window.
    pub dilation: [usize; 2],
    /// Round the number of windows up; the last one still starts within the image or its left padding.
    pub ceil_mode: bool,
}

impl Default for Pool2dOptions {
    fn default() -> Self {
        Pool2dOptions { kernel: [2, 2], stride: [2, 2], padding: [0, 0], dilation: [1, 1], ceil_mode: false }
    }
}

impl Pool2dOptions {
    /// These options with strides and dilations of at most [`MAX_SIDE`], which is beyond every window: the windows are the same.
    pub(crate) fn clamped(self) -> Pool2dOptions {
        let clamp = |pair: [usize; 2]| pair.map(|v| v.min(MAX_SIDE));
        Pool2dOptions { stride: clamp(self.stride), dilation: clamp(self.dilation), ..self }
    }

    /// Number of windows along an axis (0 vertical, 1 horizontal) of an image of `size`, or `None` when not even one fits, or the padded
    /// size exceeds 2^31 - 1.
    pub fn windows(&self, axis: usize, size: usize) -> Option<usize> {
        let options = self.clamped();
        let (k, s, p, d) =
            (options.kernel[axis], options.stride[axis], options.padding[axis], options.dilation[axis]);
        let span = free_steps(size, k, p, d)?;
        let mut n = if self.ceil_mode { span.div_ceil(s) } else { span / s } + 1;
        // PyTorch's rule: no window lies entirely in the padding on the right.
        if self.ceil_mode && (n - 1) * s >= size + p {
            n -= 1;
        }
        Some(n)
    }
}

/// Shapes and options of one pooling of images `[n, size[0], size[1], c]` to `[n, out[0], out[1], c]`.
#[derive(Clone, Copy, Debug)]
pub struct PoolShape {
    /// Batch size.
    pub n: usize,
    /// Input height and width.
    pub size: [usize; 2],
    /// Output height and width.
    pub out: [usize; 2],
    /// Channels.
    pub c: usize,
    /// Options.
    pub pool: Pool2dOptions,
}

impl PoolShape {
    /// Shape of the input.
    pub(super) fn input(&self) -> [usize; 4] {
        [self.n, self.size[0], self.size[1], self.c]
    }

    /// Shape of the output.
    pub(in crate::ops) fn output(&self) -> [usize; 4] {
        [self.n, self.out[0], self.out[1], self.c]
    }

    /// First row (or column) of window `i`, relative to the image's edge: negative in the padding.
    pub fn start(&self, axis: usize, i: usize) -> isize {
        (i * self.pool.stride[axis]) as isize - self.pool.padding[axis] as isize
    }

    /// Image position of element `tap` of window `i` along an axis, if it is inside.
    pub(super) fn pixel(&self, axis: usize, i: usize, tap: usize) -> Option<usize> {
        let at = self.start(axis, i) + (tap * self.pool.dilation[axis]) as isize;
        usize::try_from(at).ok().filter(|at| *at < self.size[axis])
    }

    /// The image positions of window `i` along an axis: (index within the window, position).
    pub fn taps(&self, axis: usize, i: usize) -> impl Iterator<Item = (usize, usize)> + '_ {
        let (start, size) = (self.start(axis, i), self.size[axis] as isize);
        let (kernel, step) = (self.pool.kernel[axis] as isize, self.pool.dilation[axis] as isize);
        // Number of steps from the first position to the first one at or after `at`.
        let steps_to = |at: isize| (at - start + step - 1).max(0) / step;
        let inside = steps_to(0)..steps_to(size).min(kernel);
        inside.map(move |t| (t as usize, (start + t * step) as usize))
    }

    /// The windows that cover image position `at` along an axis: (index within the window, window).
    pub fn covering(&self, axis: usize, at: usize) -> impl Iterator<Item = (usize, usize)> + '_ {
        let from_padding = at + self.pool.padding[axis];
        (0..self.pool.kernel[axis]).filter_map(move |t| {
            let start = from_padding.checked_sub(t * self.pool.dilation[axis])?;
            let window = start / self.pool.stride[axis];
            (start % self.pool.stride[axis] == 0 && window < self.out[axis]).then_some((t, window))
        })
    }
}

impl Tensor {
    /// Shape of a pooling of these images, checked.
    pub(super) fn pool_shape(&self, op: &'static str, pool: &Pool2dOptions) -> Result<PoolShape> {
        let fail = |why: String| Err(Error::shape(op, &[("x", self)], why));
        let &[n, h, w, c] = self.dims() else {
            return fail("needs images [n, h, w, c]".into());
        };
        if h * w * c == 0 {
            return fail("images need at least one pixel and one channel".into());
        }
        if pool.kernel.contains(&0) || pool.stride.contains(&0) || pool.dilation.contains(&0) {
            return fail(format!("kernel, stride and dilation must be at least 1: {pool:?}"));
        }
        if (0..2).any(|a| pool.padding[a] > pool.kernel[a] / 2) {
            return fail(format!(
                "padding {:?} must be at most half of the kernel {:?}",
                pool.padding, pool.kernel
            ));
        }
        match (pool.windows(0, h), pool.windows(1, w)) {
            (Some(oh), Some(ow)) => {
                Shape::new(&[n, oh, ow, c])?;
                Ok(PoolShape { n, size: [h, w], out: [oh, ow], c, pool: pool.clamped() })
            }
            _ => fail(format!("a kernel of {:?} does not fit into {h}x{w} with its padding", pool.kernel)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ceil_mode_drops_a_window_that_starts_in_the_padding() {
        let pool = |kernel, stride, padding, ceil_mode| Pool2dOptions {
            kernel: [kernel; 2],
            stride: [stride; 2],
            padding: [padding; 2],
            ceil_mode,
            ..Pool2dOptions::default()
        };
        assert_eq!(pool(3, 2, 1, false).windows(0, 7), Some(4));
        assert_eq!(pool(2, 2, 0, true).windows(0, 7), Some(4));
        assert_eq!(pool(2, 2, 1, true).windows(0, 6), Some(4));
        assert_eq!(pool(1, 2, 0, true).windows(0, 2), Some(1));
        assert_eq!(pool(9, 2, 0, false).windows(0, 6), None);
    }
}

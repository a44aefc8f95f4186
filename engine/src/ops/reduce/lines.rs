//! Lines along an axis, shared by the operations and their kernels.
use crate::Shape;

/// Tensor as a set of lines along one axis.
#[derive(Clone, Copy, Debug)]
pub struct Lines {
    /// Product of the extents before the axis.
    pub outer: usize,
    /// Length of the axis.
    pub n: usize,
    /// Product of the extents after the axis, which is the stride of a line's elements.
    pub inner: usize,
}

impl Lines {
    /// Lines of `shape` along `axis`.
    pub fn new(shape: &Shape, axis: usize) -> Lines {
        Lines {
            outer: shape[..axis].iter().product(),
            n: shape[axis],
            inner: shape[axis + 1..].iter().product(),
        }
    }

    /// Number of lines.
    pub fn count(&self) -> usize {
        self.outer * self.inner
    }
}

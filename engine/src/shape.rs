//! The extents of a tensor.
use std::fmt;
use std::ops::Deref;

/// Maximum number of axes of a tensor.
pub const MAX_RANK: usize = 6;

/// Extents of a dense row-major tensor, outermost first: a `Copy` value of at most [`MAX_RANK`] axes that dereferences to a slice.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Shape {
    dims: [usize; MAX_RANK],
    rank: u8,
}

impl Shape {
    /// A shape of the given extents.
    ///
    /// # Panics
    /// When there are more than [`MAX_RANK`] axes.
    pub fn new(dims: &[usize]) -> Self {
        assert!(dims.len() <= MAX_RANK, "a tensor has at most {MAX_RANK} axes, not {}", dims.len());
        let mut shape = Shape { dims: [0; MAX_RANK], rank: dims.len() as u8 };
        shape.dims[..dims.len()].copy_from_slice(dims);
        shape
    }

    /// The extents.
    pub fn dims(&self) -> &[usize] {
        &self.dims[..self.rank as usize]
    }

    /// Number of axes.
    pub fn rank(&self) -> usize {
        self.rank as usize
    }

    /// Number of elements: the product of the extents, 1 for a scalar.
    pub fn numel(&self) -> usize {
        self.dims().iter().product()
    }

    /// Row-major strides in elements.
    pub fn strides(&self) -> [usize; MAX_RANK] {
        let mut strides = [0; MAX_RANK];
        let mut step = 1;
        for axis in (0..self.rank()).rev() {
            strides[axis] = step;
            step *= self.dims[axis];
        }
        strides
    }

    /// This shape without the given axis.
    pub fn without(&self, axis: usize) -> Shape {
        let mut dims = self.dims().to_vec();
        dims.remove(axis);
        Shape::new(&dims)
    }

    /// This shape with the extent of one axis replaced.
    pub fn with(&self, axis: usize, extent: usize) -> Shape {
        let mut shape = *self;
        shape.dims[axis] = extent;
        shape
    }

    /// The shape that `self` and `other` broadcast to (NumPy's rule), or `None`.
    pub fn broadcast(&self, other: &Shape) -> Option<Shape> {
        let rank = self.rank().max(other.rank());
        let mut dims = [1; MAX_RANK];
        for back in 1..=rank {
            let pick = |s: &Shape| if back <= s.rank() { s.dims[s.rank() - back] } else { 1 };
            let (a, b) = (pick(self), pick(other));
            dims[rank - back] = match (a, b) {
                (a, b) if a == b => a,
                (1, b) => b,
                (a, 1) => a,
                _ => return None,
            };
        }
        Some(Shape::new(&dims[..rank]))
    }
}

impl Deref for Shape {
    type Target = [usize];
    fn deref(&self) -> &[usize] {
        self.dims()
    }
}

impl fmt::Debug for Shape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.dims())
    }
}

impl fmt::Display for Shape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.dims())
    }
}

impl<const N: usize> From<[usize; N]> for Shape {
    fn from(dims: [usize; N]) -> Self {
        Shape::new(&dims)
    }
}
impl From<&[usize]> for Shape {
    fn from(dims: &[usize]) -> Self {
        Shape::new(dims)
    }
}
impl From<Vec<usize>> for Shape {
    fn from(dims: Vec<usize>) -> Self {
        Shape::new(&dims)
    }
}
impl From<()> for Shape {
    fn from(_: ()) -> Self {
        Shape::new(&[])
    }
}
impl From<&Shape> for Shape {
    fn from(shape: &Shape) -> Self {
        *shape
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn broadcasting_follows_numpy() {
        let s = |d: &[usize]| Shape::new(d);
        assert_eq!(s(&[2, 3, 4]).broadcast(&s(&[4])), Some(s(&[2, 3, 4])));
        assert_eq!(s(&[2, 1, 4]).broadcast(&s(&[3, 1])), Some(s(&[2, 3, 4])));
        assert_eq!(s(&[]).broadcast(&s(&[5])), Some(s(&[5])));
        assert_eq!(s(&[2, 3]).broadcast(&s(&[2])), None);
        assert_eq!(s(&[0, 3]).broadcast(&s(&[1, 3])), Some(s(&[0, 3])));
    }

    #[test]
    fn strides_are_row_major() {
        assert_eq!(Shape::new(&[2, 3, 4]).strides()[..3], [12, 4, 1]);
        assert_eq!(Shape::from(()).numel(), 1);
    }
}

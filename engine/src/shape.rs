//! The extents of a tensor.
use crate::error::Operands;
use crate::{Error, Result};
use std::fmt;
use std::ops::Deref;

/// Maximum number of axes of a tensor.
pub const MAX_RANK: usize = 6;

/// Maximum number of elements of a tensor, extents of 0 counted as 1: elements of 8 bytes, the largest dtype's, fill the address space.
pub const MAX_NUMEL: usize = isize::MAX as usize / 8;

/// Extents of a dense row-major tensor, outermost first: a `Copy` value of at most [`MAX_RANK`] axes that dereferences to a slice.
///
/// The product of the extents is at most [`MAX_NUMEL`]. As in NumPy, an extent of 0 counts as 1 there, so the product of any of the axes,
/// each stride, and their sizes in bytes fit in an `isize`.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Shape {
    dims: [usize; MAX_RANK],
    rank: u8,
}

impl Shape {
    /// A shape of the given extents. Errors when there are more than [`MAX_RANK`] axes, or more elements than memory can address.
    pub fn new(dims: &[usize]) -> Result<Shape> {
        let rejected = |why: String| Error::Shape { op: "shape", operands: Operands(vec![]), why };
        if dims.len() > MAX_RANK {
            let n = dims.len();
            return Err(rejected(format!("extents {dims:?} have {n} axes; a tensor has at most {MAX_RANK}")));
        }
        let numel = dims.iter().try_fold(1usize, |numel, d| numel.checked_mul((*d).max(1)));
        if numel.is_none_or(|numel| numel > MAX_NUMEL) {
            return Err(rejected(format!(
                "extents {dims:?} have too large a product: the maximum is 2^60 - 1 elements, extents of 0 counted as 1"
            )));
        }
        let mut shape = Shape { dims: [0; MAX_RANK], rank: dims.len() as u8 };
        shape.dims[..dims.len()].copy_from_slice(dims);
        Ok(shape)
    }

    /// A shape of extents that are known to fit, such as some of another shape's.
    ///
    /// # Panics
    /// When they do not.
    pub(crate) fn must_fit(dims: &[usize]) -> Shape {
        Shape::new(dims).unwrap_or_else(|error| panic!("{error}"))
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
        Shape::must_fit(&dims)
    }

    /// This shape with extent 1 on one axis.
    pub fn reduced(&self, axis: usize) -> Shape {
        let mut shape = *self;
        shape.dims[axis] = 1;
        shape
    }

    /// This shape with the extent of one axis replaced. Errors as [`Shape::new`] does.
    pub fn with(&self, axis: usize, extent: usize) -> Result<Shape> {
        let mut dims = self.dims;
        dims[axis] = extent;
        Shape::new(&dims[..self.rank()])
    }

    /// The shape that `self` and `other` broadcast to (NumPy's rule), or `None`. Errors as [`Shape::new`] does.
    pub fn broadcast(&self, other: &Shape) -> Result<Option<Shape>> {
        let rank = self.rank().max(other.rank());
        let mut dims = [1; MAX_RANK];
        for back in 1..=rank {
            let pick = |s: &Shape| if back <= s.rank() { s.dims[s.rank() - back] } else { 1 };
            let (a, b) = (pick(self), pick(other));
            dims[rank - back] = match (a, b) {
                (a, b) if a == b => a,
                (1, b) => b,
                (a, 1) => a,
                _ => return Ok(None),
            };
        }
        Shape::new(&dims[..rank]).map(Some)
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

/// Extents that a function takes as a shape: `()`, an array, a slice or a vector of them, or a [`Shape`].
pub trait IntoShape {
    /// The shape of the extents. Errors as [`Shape::new`] does.
    fn into_shape(self) -> Result<Shape>;
}

impl IntoShape for Shape {
    fn into_shape(self) -> Result<Shape> {
        Ok(self)
    }
}
impl IntoShape for &Shape {
    fn into_shape(self) -> Result<Shape> {
        Ok(*self)
    }
}
impl<const N: usize> IntoShape for [usize; N] {
    fn into_shape(self) -> Result<Shape> {
        Shape::new(&self)
    }
}
impl IntoShape for &[usize] {
    fn into_shape(self) -> Result<Shape> {
        Shape::new(self)
    }
}
impl IntoShape for Vec<usize> {
    fn into_shape(self) -> Result<Shape> {
        Shape::new(&self)
    }
}
impl IntoShape for () {
    fn into_shape(self) -> Result<Shape> {
        Ok(Shape::default())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn broadcasting_follows_numpy() {
        let s = Shape::must_fit;
        let broadcast = |a: &[usize], b: &[usize]| s(a).broadcast(&s(b)).expect("few elements");
        assert_eq!(broadcast(&[2, 3, 4], &[4]), Some(s(&[2, 3, 4])));
        assert_eq!(broadcast(&[2, 1, 4], &[3, 1]), Some(s(&[2, 3, 4])));
        assert_eq!(broadcast(&[], &[5]), Some(s(&[5])));
        assert_eq!(broadcast(&[2, 3], &[2]), None);
        assert_eq!(broadcast(&[0, 3], &[1, 3]), Some(s(&[0, 3])));
    }

    #[test]
    fn strides_are_row_major() {
        assert_eq!(Shape::must_fit(&[2, 3, 4]).strides()[..3], [12, 4, 1]);
        assert_eq!(Shape::default().numel(), 1);
    }

    #[test]
    fn extents_beyond_the_address_space_are_rejected() {
        let error = |dims: &[usize]| Shape::new(dims).expect_err("too large").to_string();
        // Their product is 1 modulo 2^64.
        let wrapping = [3, 12_297_829_382_473_034_411, 1, 1];
        assert!(error(&wrapping).contains("extents [3, 12297829382473034411, 1, 1]"), "{}", error(&wrapping));
        assert!(error(&[MAX_NUMEL + 1]).contains("the maximum is 2^60 - 1 elements"));
        assert!(error(&[0, usize::MAX, 2]).contains("extents of 0 counted as 1"));
        assert!(error(&[1; 7]).contains("7 axes; a tensor has at most 6"), "{}", error(&[1; 7]));
        assert_eq!(Shape::new(&[MAX_NUMEL]).expect("the largest shape").numel(), MAX_NUMEL);
        assert_eq!(Shape::new(&[0, 1 << 59]).expect("an empty shape").numel(), 0);
    }

    #[test]
    fn replaced_and_broadcast_extents_are_checked() {
        let (a, b) = (Shape::must_fit(&[1 << 40, 1]), Shape::must_fit(&[1, 1 << 40]));
        assert!(a.broadcast(&b).is_err());
        assert!(a.with(1, 1 << 40).is_err());
    }
}

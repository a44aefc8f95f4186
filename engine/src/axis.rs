//! Axes as arguments, counted from the first or from the last.
use crate::{Error, Result, Tensor};
use std::fmt;

/// An axis as an argument: 0 is the first one, -1 the last one.
///
/// ```
/// # use fornax_engine::{Result, Tensor};
/// # fn main() -> Result<()> {
/// let x = Tensor::from_slice(&[1.0f32, 5.0, 3.0, 2.0, 4.0, 6.0], [2, 3])?;
/// assert_eq!(x.argmax(-1)?.to_vec::<i64>()?, x.argmax(1)?.to_vec::<i64>()?);
/// let error = x.argmax(2).unwrap_err().to_string();
/// assert!(error.contains("axis 2 is out of range: the axes of 2 are -2 to 1"));
/// # Ok(()) }
/// ```
pub trait Axis: Copy + fmt::Display {
    /// Index of the axis in a tensor of `rank` axes, counted from the first one; `None` if there is no such axis.
    fn index(self, rank: usize) -> Option<usize>;
}

impl Axis for usize {
    fn index(self, rank: usize) -> Option<usize> {
        (self < rank).then_some(self)
    }
}

impl Axis for isize {
    fn index(self, rank: usize) -> Option<usize> {
        let from_first = if self < 0 { rank.checked_sub(self.unsigned_abs())? } else { self.unsigned_abs() };
        from_first.index(rank)
    }
}

impl Axis for i32 {
    fn index(self, rank: usize) -> Option<usize> {
        (self as isize).index(rank)
    }
}

/// Distinct axes as an argument: a borrowed array, slice or vector of [`Axis`].
pub trait Axes {
    /// The axes of a tensor `x`, counted from the first one, in the given order. Errors, naming the operation, if one does not exist or
    /// occurs twice.
    fn indices(&self, op: &'static str, x: &Tensor) -> Result<Vec<usize>>;
}

impl<A: Axis> Axes for &[A] {
    fn indices(&self, op: &'static str, x: &Tensor) -> Result<Vec<usize>> {
        let axes = self.iter().map(|axis| x.axis(op, *axis)).collect::<Result<Vec<usize>>>()?;
        match axes.iter().enumerate().find(|(i, axis)| axes[..*i].contains(axis)) {
            Some((i, _)) => Err(Error::shape(op, &[("x", x)], format!("axis {} occurs twice", self[i]))),
            None => Ok(axes),
        }
    }
}

impl<A: Axis, const N: usize> Axes for &[A; N] {
    fn indices(&self, op: &'static str, x: &Tensor) -> Result<Vec<usize>> {
        (&self[..]).indices(op, x)
    }
}

impl<A: Axis> Axes for &Vec<A> {
    fn indices(&self, op: &'static str, x: &Tensor) -> Result<Vec<usize>> {
        (&self[..]).indices(op, x)
    }
}

impl Tensor {
    /// Index of an axis, counted from the first one.
    pub(crate) fn axis(&self, op: &'static str, axis: impl Axis) -> Result<usize> {
        axis_of(self.rank(), axis).map_err(|why| Error::shape(op, &[("x", self)], why))
    }

    /// Index of an axis of the result, which has one axis more than this tensor.
    pub(crate) fn new_axis(&self, op: &'static str, axis: impl Axis) -> Result<usize> {
        axis_of(self.rank() + 1, axis).map_err(|why| Error::shape(op, &[("x", self)], why))
    }
}

fn axis_of(rank: usize, axis: impl Axis) -> std::result::Result<usize, String> {
    axis.index(rank).ok_or_else(|| match rank {
        0 => format!("axis {axis} is out of range: a scalar has no axes"),
        _ => format!("axis {axis} is out of range: the axes of {rank} are -{rank} to {}", rank - 1),
    })
}

//! Indexing: numbers and ranges for the first axes.
use crate::{Error, Result, Tensor};
use std::ops::{Range, RangeFrom, RangeFull, RangeInclusive, RangeTo, RangeToInclusive};

/// What [`Tensor::i`] takes of one axis. Numbers below 0 count from the end, as in Python.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AxisIndex {
    /// One element; the axis disappears.
    At(isize),
    /// Elements from the first number to before the second, or to the end.
    Between(isize, Option<isize>),
}

macro_rules! numbers {
    ($($t:ty)*) => {$(
        impl From<$t> for AxisIndex {
            fn from(i: $t) -> AxisIndex {
                AxisIndex::At(i as isize)
            }
        }
        impl From<Range<$t>> for AxisIndex {
            fn from(r: Range<$t>) -> AxisIndex {
                AxisIndex::Between(r.start as isize, Some(r.end as isize))
            }
        }
        impl From<RangeFrom<$t>> for AxisIndex {
            fn from(r: RangeFrom<$t>) -> AxisIndex {
                AxisIndex::Between(r.start as isize, None)
            }
        }
        impl From<RangeTo<$t>> for AxisIndex {
            fn from(r: RangeTo<$t>) -> AxisIndex {
                AxisIndex::Between(0, Some(r.end as isize))
            }
        }
        impl From<RangeInclusive<$t>> for AxisIndex {
            fn from(r: RangeInclusive<$t>) -> AxisIndex {
                AxisIndex::Between(*r.start() as isize, after(*r.end() as isize))
            }
        }
        impl From<RangeToInclusive<$t>> for AxisIndex {
            fn from(r: RangeToInclusive<$t>) -> AxisIndex {
                AxisIndex::Between(0, after(r.end as isize))
            }
        }
    )*};
}
numbers!(usize isize i32);

impl From<RangeFull> for AxisIndex {
    fn from(_: RangeFull) -> AxisIndex {
        AxisIndex::Between(0, None)
    }
}

/// The end of a range that includes its last number: -1 is the last element.
fn after(last: isize) -> Option<isize> {
    if last == -1 { None } else { Some(last + 1) }
}

/// An argument of [`Tensor::i`]: a number, a range, or a tuple of them for the first axes.
pub trait IntoAxisIndices {
    /// One index for each of the first axes.
    fn into_axis_indices(self) -> Vec<AxisIndex>;
}

impl<A: Into<AxisIndex>> IntoAxisIndices for A {
    fn into_axis_indices(self) -> Vec<AxisIndex> {
        vec![self.into()]
    }
}

macro_rules! tuples {
    ($($($t:ident $i:tt)+;)*) => {$(
        impl<$($t: Into<AxisIndex>),+> IntoAxisIndices for ($($t,)+) {
            fn into_axis_indices(self) -> Vec<AxisIndex> {
                vec![$(self.$i.into()),+]
            }
        }
    )*};
}
tuples! {
    A 0;
    A 0 B 1;
    A 0 B 1 C 2;
    A 0 B 1 C 2 D 3;
    A 0 B 1 C 2 D 3 E 4;
    A 0 B 1 C 2 D 3 E 4 F 5;
}

impl Tensor {
    /// Elements by number or range along the first axes, like `x[..., 1:3, -1]` in Python; further axes are whole. A number removes its axis, a
    /// range keeps it; numbers below 0 count from the end. Any dtype. A copy, or a view if only the first axis is indexed.
    ///
    /// ```
    /// # use fornax_engine::{Result, Tensor};
    /// # fn main() -> Result<()> {
    /// let x = Tensor::from_slice(&[1.0f32, 2.0, 3.0, 4.0, 5.0, 6.0], [2, 3])?;
    /// assert_eq!(x.i((.., -1))?.to_vec::<f32>()?, [3.0, 6.0]);
    /// assert_eq!(x.i((1, 0..2))?.to_vec::<f32>()?, [4.0, 5.0]);
    /// assert_eq!(x.i((0.., 1..=-1))?.dims(), [2, 2]);
    /// assert!(x.i(2).unwrap_err().to_string().contains("2 is out of range for axis 0 of 2 elements"));
    /// # Ok(()) }
    /// ```
    pub fn i(&self, at: impl IntoAxisIndices) -> Result<Tensor> {
        let indices = at.into_axis_indices();
        let failed = |why: String| Err(Error::shape("i", &[("x", self)], why));
        if indices.len() > self.rank() {
            return failed(format!("{} indices are too many for {} axes", indices.len(), self.rank()));
        }
        let mut y = self.clone();
        let mut dims = vec![];
        for (axis, index) in indices.iter().enumerate() {
            let n = self.dims()[axis];
            // A bound of a range may be the end.
            let from_first = |i: isize, last: usize| {
                let i = if i < 0 { i.checked_add_unsigned(n)? } else { i };
                usize::try_from(i).ok().filter(|i| *i <= last)
            };
            let (start, end) = match *index {
                AxisIndex::At(i) => match n.checked_sub(1).and_then(|last| from_first(i, last)) {
                    Some(start) => (start, start + 1),
                    None => return failed(format!("{i} is out of range for axis {axis} of {n} elements")),
                },
                AxisIndex::Between(first, end) => {
                    match (from_first(first, n), end.map_or(Some(n), |end| from_first(end, n))) {
                        (Some(start), Some(end)) if start <= end => (start, end),
                        _ => {
                            let end = end.map_or(String::new(), |end| end.to_string());
                            return failed(format!(
                                "{first}..{end} is out of range for axis {axis} of {n} elements"
                            ));
                        }
                    }
                }
            };
            if (start, end) != (0, n) {
                y = y.narrow(axis, start, end - start)?;
            }
            if let AxisIndex::Between(..) = index {
                dims.push(end - start);
            }
        }
        dims.extend(&self.dims()[indices.len()..]);
        if dims == y.dims() { Ok(y) } else { y.reshape(dims) }
    }
}

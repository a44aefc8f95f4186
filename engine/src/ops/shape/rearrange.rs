//! Rearrangements composed of other shape operations. Any dtype.
use crate::error::Operands;
use crate::{Axis, Error, Result, Tensor};

impl Tensor {
    /// Removes an axis of extent 1. No copy.
    ///
    /// ```
    /// # use fornax_engine::{Result, Tensor};
    /// # fn main() -> Result<()> {
    /// let x = Tensor::new([[1.0f32], [2.0]])?;
    /// assert_eq!(x.squeeze(-1)?.dims(), [2]);
    /// assert_eq!(x.unsqueeze(0)?.dims(), [1, 2, 1]);
    /// # Ok(()) }
    /// ```
    pub fn squeeze(&self, axis: impl Axis) -> Result<Tensor> {
        let axis = self.axis("squeeze", axis)?;
        if self.dims()[axis] != 1 {
            let why = format!("axis {axis} has extent {}, not 1", self.dims()[axis]);
            return Err(Error::shape("squeeze", &[("x", self)], why));
        }
        self.reshape(self.shape().without(axis))
    }

    /// Inserts an axis of extent 1 at `axis` of the result. No copy.
    pub fn unsqueeze(&self, axis: impl Axis) -> Result<Tensor> {
        let axis = self.new_axis("unsqueeze", axis)?;
        let mut dims = self.dims().to_vec();
        dims.insert(axis, 1);
        self.reshape(dims)
    }

    /// Joins tensors of one shape along a new axis.
    ///
    /// ```
    /// # use fornax_engine::{Result, Tensor};
    /// # fn main() -> Result<()> {
    /// let (a, b) = (Tensor::new([1.0f32, 2.0])?, Tensor::new([3.0f32, 4.0])?);
    /// assert_eq!(Tensor::stack(&[&a, &b], 0)?.to_vec::<f32>()?, [1.0, 2.0, 3.0, 4.0]);
    /// assert_eq!(Tensor::stack(&[&a, &b], -1)?.to_vec::<f32>()?, [1.0, 3.0, 2.0, 4.0]);
    /// # Ok(()) }
    /// ```
    pub fn stack(tensors: &[&Tensor], axis: impl Axis) -> Result<Tensor> {
        let Some(first) = tensors.first() else {
            let why = "needs at least one tensor".into();
            return Err(Error::Shape { op: "stack", operands: Operands(vec![]), why });
        };
        let axis = first.new_axis("stack", axis)?;
        if let Some(other) = tensors.iter().find(|t| t.shape() != first.shape()) {
            return Err(Error::shape("stack", &[("x", first), ("x", other)], "the shapes must be equal"));
        }
        let parts = tensors.iter().map(|t| t.unsqueeze(axis)).collect::<Result<Vec<_>>>()?;
        Tensor::cat(&parts.iter().collect::<Vec<_>>(), axis)
    }

    /// Cuts along an axis into parts of `size` elements; the last one may be smaller.
    ///
    /// ```
    /// # use fornax_engine::{Result, Tensor};
    /// # fn main() -> Result<()> {
    /// let x = Tensor::new([1i64, 2, 3, 4, 5])?;
    /// let sizes = |parts: Vec<Tensor>| parts.iter().map(Tensor::numel).collect::<Vec<_>>();
    /// assert_eq!(sizes(x.split(2, 0)?), [2, 2, 1]);
    /// assert_eq!(sizes(x.chunk(2, 0)?), [3, 2]);
    /// # Ok(()) }
    /// ```
    pub fn split(&self, size: usize, axis: impl Axis) -> Result<Vec<Tensor>> {
        let axis = self.axis("split", axis)?;
        if size == 0 {
            return Err(Error::value("split", &[("x", self)], "a part needs at least one element"));
        }
        let n = self.dims()[axis];
        (0..n).step_by(size).map(|start| self.narrow(axis, start, size.min(n - start))).collect()
    }

    /// Cuts along an axis into at most `chunks` parts of equal size; the last one may be smaller.
    pub fn chunk(&self, chunks: usize, axis: impl Axis) -> Result<Vec<Tensor>> {
        let axis = self.axis("chunk", axis)?;
        if chunks == 0 {
            return Err(Error::value("chunk", &[("x", self)], "needs at least one part"));
        }
        self.split(self.dims()[axis].div_ceil(chunks).max(1), axis)
    }

    /// Repeats the tensor along each axis; more numbers than axes add axes in front.
    ///
    /// ```
    /// # use fornax_engine::{Result, Tensor};
    /// # fn main() -> Result<()> {
    /// let x = Tensor::new([1i64, 2])?;
    /// assert_eq!(x.repeat(&[2])?.to_vec::<i64>()?, [1, 2, 1, 2]);
    /// assert_eq!(x.repeat(&[3, 1])?.dims(), [3, 2]);
    /// # Ok(()) }
    /// ```
    pub fn repeat(&self, times: &[usize]) -> Result<Tensor> {
        let Some(new) = times.len().checked_sub(self.rank()) else {
            let why = format!("{} numbers are too few for {} axes", times.len(), self.rank());
            return Err(Error::shape("repeat", &[("x", self)], why));
        };
        let mut y = self.reshape([vec![1; new], self.dims().to_vec()].concat())?;
        for (axis, n) in times.iter().enumerate().filter(|(_, n)| **n != 1) {
            y = match n {
                0 => y.narrow(axis, 0, 0)?,
                _ => Tensor::cat(&vec![&y; *n], axis)?,
            };
        }
        Ok(y)
    }

    /// Shifts the elements along an axis; those beyond the end come in again at the start. A shift below 0 is towards the start.
    ///
    /// ```
    /// # use fornax_engine::{Result, Tensor};
    /// # fn main() -> Result<()> {
    /// assert_eq!(Tensor::new([1i64, 2, 3])?.roll(1, 0)?.to_vec::<i64>()?, [3, 1, 2]);
    /// assert_eq!(Tensor::new([1i64, 2, 3])?.roll(-1, 0)?.to_vec::<i64>()?, [2, 3, 1]);
    /// # Ok(()) }
    /// ```
    pub fn roll(&self, shift: isize, axis: impl Axis) -> Result<Tensor> {
        let axis = self.axis("roll", axis)?;
        let n = self.dims()[axis];
        let shift = if n == 0 { 0 } else { shift.rem_euclid(n as isize) as usize };
        if shift == 0 {
            return Ok(self.clone());
        }
        let [end, start] = [self.narrow(axis, n - shift, shift)?, self.narrow(axis, 0, n - shift)?];
        Tensor::cat(&[&end, &start], axis)
    }
}

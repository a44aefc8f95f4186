//! What a row of the table is, and making its tensors.
use fornax_engine::random::{RngKey, RngStream};
use fornax_engine::{DType, Result, Tensor};

/// An operation with its shapes and options.
pub struct Case {
    /// The operation, as its method is called.
    pub op: &'static str,
    /// Tells the rows of an operation apart; with `op` a unique name.
    pub variant: String,
    /// The tensors it is applied to.
    pub inputs: Vec<Input>,
    /// Numbers that another implementation needs to compute the same, by name.
    pub options: Vec<(&'static str, f64)>,
    /// Large rows are timed and compared between dtypes and levels; small ones have their gradients checked too.
    pub large: bool,
    /// The operation.
    pub run: Run,
}

/// A computation on the tensors of a case.
pub type Run = Box<dyn Fn(&[Tensor]) -> Result<Tensor> + Send + Sync>;

/// One tensor of a case.
#[derive(Clone, Debug)]
pub struct Input {
    /// Extents.
    pub shape: Vec<usize>,
    /// What its elements are.
    pub values: Values,
    /// True when the operation has a gradient for it.
    pub differentiable: bool,
    /// True when the first axis is the batch, which tests may shorten.
    pub batched: bool,
}

/// What the elements of an input are.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Values {
    /// Standard normal.
    Normal,
    /// Standard normal in quarters: of so few values, hardly any is normalised to within rounding of a kink.
    Coarse,
    /// Uniform in 0.5..1.5.
    Positive,
    /// Distinct multiples of 1/16 in random order: no ties, and no kink within a finite difference.
    Distinct,
    /// Class indices below the number, as i64.
    Class(usize),
    /// 0 or 1, half of each.
    Mask,
}

impl Case {
    /// A small row.
    pub fn new(
        op: &'static str,
        variant: impl Into<String>,
        inputs: Vec<Input>,
        run: impl Fn(&[Tensor]) -> Result<Tensor> + Send + Sync + 'static,
    ) -> Case {
        Case { op, variant: variant.into(), inputs, options: vec![], large: false, run: Box::new(run) }
    }

    /// The same row as a large one, whose first input has the batch as its first axis.
    pub fn large(self) -> Case {
        self.large_in(&[0])
    }

    /// The same row as a large one; the named inputs have the batch as their first axis.
    pub fn large_in(mut self, batched: &[usize]) -> Case {
        self.large = true;
        batched.iter().for_each(|i| self.inputs[*i].batched = true);
        self
    }

    /// With an option by name.
    pub fn with_option(mut self, name: &'static str, value: f64) -> Case {
        self.options.push((name, value));
        self
    }

    /// `op/variant`.
    pub fn name(&self) -> String {
        format!("{}/{}", self.op, self.variant)
    }

    /// The tensors of the case, the same at each call; floats in `dtype`, from values that f32 holds exactly.
    pub fn tensors(&self, dtype: DType) -> Result<Vec<Tensor>> {
        self.tensors_of_batch(usize::MAX, dtype)
    }

    /// As [`Case::tensors`], with at most so many samples in a batch.
    pub fn tensors_of_batch(&self, batch: usize, dtype: DType) -> Result<Vec<Tensor>> {
        let tensor = |(i, input): (usize, &Input)| {
            let mut input = input.clone();
            if input.batched {
                input.shape[0] = input.shape[0].min(batch);
            }
            input.tensor(RngStream::new(RngKey::new(i as u64, &self.name()), 0, 0), dtype)
        };
        self.inputs.iter().enumerate().map(tensor).collect()
    }

    /// An upstream gradient for an output of this shape, in `dtype`.
    pub fn upstream(&self, like: &Tensor, dtype: DType) -> Result<Tensor> {
        let input = Input {
            shape: like.dims().to_vec(),
            values: Values::Normal,
            differentiable: false,
            batched: false,
        };
        input.tensor(RngStream::new(RngKey::new(99, &self.name()), 0, 0), dtype)
    }
}

impl Input {
    fn tensor(&self, mut draws: RngStream, dtype: DType) -> Result<Tensor> {
        let n: usize = self.shape.iter().product();
        let data: Vec<f32> = match self.values {
            Values::Normal => (0..n).map(|_| draws.normal()).collect(),
            Values::Coarse => (0..n).map(|_| (draws.normal() * 4.0).round() / 4.0).collect(),
            Values::Positive => (0..n).map(|_| 0.5 + draws.uniform()).collect(),
            Values::Mask => (0..n).map(|_| (draws.next_u32() & 1) as f32).collect(),
            Values::Distinct => {
                let mut v: Vec<f32> = (0..n).map(|i| (i as f32 - n as f32 / 2.0 + 0.5) / 16.0).collect();
                (1..n).rev().for_each(|i| v.swap(i, draws.below(i as u32 + 1) as usize));
                v
            }
            Values::Class(classes) => {
                let data: Vec<i64> = (0..n).map(|_| i64::from(draws.below(classes as u32))).collect();
                return Tensor::from_vec(data, self.shape.as_slice());
            }
        };
        let tensor = Tensor::from_vec(data, self.shape.as_slice())?.to_dtype(dtype)?;
        Ok(if self.differentiable { tensor.variable() } else { tensor })
    }
}

/// A differentiable normal input.
pub(super) fn x(shape: &[usize]) -> Input {
    of(shape, Values::Normal)
}

/// A differentiable input.
pub(super) fn of(shape: &[usize], values: Values) -> Input {
    Input { shape: shape.to_vec(), values, differentiable: true, batched: false }
}

/// An input without a gradient.
pub(super) fn fixed(shape: &[usize], values: Values) -> Input {
    Input { shape: shape.to_vec(), values, differentiable: false, batched: false }
}

//! Rows of the table of cases, and their tensors.
use fornax_engine::random::{RngKey, RngStream};
use fornax_engine::{DType, Result, Tensor};

/// Row of the table: an operation with its shapes and options.
pub struct Case {
    /// Name of the operation.
    pub op: &'static str,
    /// Name of the row within the operation; `op/variant` is unique.
    pub variant: String,
    /// The operands.
    pub inputs: Vec<Input>,
    /// Options by name, for another implementation of the operation.
    pub options: Vec<(&'static str, f64)>,
    /// Large rows are benchmarked, and compared between dtypes and SIMD levels; the gradients of small ones are also checked against finite
    /// differences.
    pub large: bool,
    /// The operation.
    pub run: Run,
}

/// A computation on the tensors of a case.
pub type Run = Box<dyn Fn(&[Tensor]) -> Result<Tensor> + Send + Sync>;

/// Operand of a case.
#[derive(Clone, Debug)]
pub struct Input {
    /// Extents.
    pub shape: Vec<usize>,
    /// Distribution of the elements.
    pub values: Values,
    /// True when the operation has a gradient for it.
    pub differentiable: bool,
    /// True when the first axis is the batch, which tests may truncate.
    pub batched: bool,
}

/// Distribution of the elements of an input.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Values {
    /// Standard normal.
    Normal,
    /// Standard normal, rounded to multiples of 1/4: after normalisation hardly any value is within rounding of a kink.
    Coarse,
    /// Uniform in 0.5..1.5.
    Positive,
    /// Distinct values at a spacing of 1/16 in random order: no ties and, for an even count, no multiple of 1/16, so no integer kink.
    Distinct,
    /// Class indices below this number, as i64.
    Class(usize),
    /// 0 or 1, with equal probability.
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

    /// This row as a large one; the first axis of the first input is the batch.
    pub fn large(self) -> Case {
        self.large_in(&[0])
    }

    /// This row as a large one; the first axis of the inputs at these indices is the batch.
    pub fn large_in(mut self, batched: &[usize]) -> Case {
        self.large = true;
        batched.iter().for_each(|i| self.inputs[*i].batched = true);
        self
    }

    /// Adds an option.
    pub fn with_option(mut self, name: &'static str, value: f64) -> Case {
        self.options.push((name, value));
        self
    }

    /// `op/variant`.
    pub fn name(&self) -> String {
        format!("{}/{}", self.op, self.variant)
    }

    /// The tensors of the case, the same at each call; floats are in `dtype`, rounded from f32.
    pub fn tensors(&self, dtype: DType) -> Result<Vec<Tensor>> {
        self.tensors_of_batch(usize::MAX, dtype)
    }

    /// As [`Case::tensors`], with at most `batch` samples.
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

    /// An upstream gradient in the shape of `like`, in `dtype`.
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
    fn tensor(&self, mut rng: RngStream, dtype: DType) -> Result<Tensor> {
        let n: usize = self.shape.iter().product();
        let data: Vec<f32> = match self.values {
            Values::Normal => (0..n).map(|_| rng.normal()).collect(),
            Values::Coarse => (0..n).map(|_| (rng.normal() * 4.0).round() / 4.0).collect(),
            Values::Positive => (0..n).map(|_| 0.5 + rng.uniform()).collect(),
            Values::Mask => (0..n).map(|_| (rng.next_u32() & 1) as f32).collect(),
            Values::Distinct => {
                let mut v: Vec<f32> = (0..n).map(|i| (i as f32 - n as f32 / 2.0 + 0.5) / 16.0).collect();
                (1..n).rev().for_each(|i| v.swap(i, rng.below(i as u32 + 1) as usize));
                v
            }
            Values::Class(classes) => {
                let data: Vec<i64> = (0..n).map(|_| i64::from(rng.below(classes as u32))).collect();
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

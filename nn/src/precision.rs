//! Which operation computes in which precision: the one table of mixed precision.
//!
//! | operation | O0 | O1 | O2 | O3 |
//! |---|---|---|---|---|
//! | images | f32 | f32 | half | half |
//! | convolution, linear, matrix product, attention | f32 | half | half | half |
//! | batch norm | f32 | as its input; parameters and statistics f32 | as O1 | as O1; parameters hold half values |
//! | layer norm, group norm, softmax | f32 | f32 | as their input | as their input |
//! | activation, addition, pooling, dropout | as their input | as their input | as their input | as their input |
//! | logits, loss | f32 | f32 | f32 | f32 |
//! | weights between updates | f32 | f32, with a half copy | f32, with a half copy | half values |
//! | gradients of weights, moments, update | f32 | f32 | f32 | f32, then rounded |
//!
//! At O0 nothing is converted, and parameters are f32. "half" is f16 or bf16. All sums, products and statistics are taken in f32, whatever the operands; half-precision operands are
//! widened as they are read. The half copy is written by the update, in the same pass. f16 needs loss scaling; bf16, with the range of f32, does not.
use fornax_engine::DType;

/// How much is computed in half precision; names of NVIDIA's Apex.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum OptLevel {
    /// Nothing.
    #[default]
    O0,
    /// Products, whose operands are converted; what is delicate stays in f32.
    O1,
    /// All but parameters and statistics of batch norm, and the loss.
    O2,
    /// As O2, and no more precise weights are kept.
    O3,
}

/// A kind of operation, a row of the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operation {
    /// The images that enter a model.
    Input,
    /// Convolution, linear, matrix product, attention.
    MatMul,
    /// Layer norm, group norm, softmax.
    RowNorm,
    /// Batch norm, activation, addition, pooling, dropout.
    Inherit,
    /// Logits and the loss.
    Loss,
}

/// A level with its half precision.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Precision {
    level: OptLevel,
    half: DType,
}

impl Default for Precision {
    /// Everything in f32.
    fn default() -> Self {
        Precision { level: OptLevel::O0, half: DType::F16 }
    }
}

impl Precision {
    /// A level in f16 or bf16.
    ///
    /// # Panics
    /// When `half` is another dtype.
    pub fn new(level: OptLevel, half: DType) -> Precision {
        assert!(matches!(half, DType::F16 | DType::BF16), "{half} is not a half precision");
        Precision { level, half }
    }

    /// The level.
    pub fn level(&self) -> OptLevel {
        self.level
    }

    /// What an operation converts its operands to; `None` when it takes them as they come.
    pub fn dtype_for(&self, operation: Operation) -> Option<DType> {
        use OptLevel::{O0, O1, O2, O3};
        match (operation, self.level) {
            (Operation::Inherit, _) | (_, O0) => None,
            (Operation::Loss, _) | (Operation::Input | Operation::RowNorm, O1) => Some(DType::F32),
            (Operation::RowNorm, O2 | O3) => None,
            (Operation::Input, O2 | O3) | (Operation::MatMul, _) => Some(self.half),
        }
    }

    /// What weights are rounded to after each update, where no more precise ones are kept.
    pub fn weight_rounding(&self) -> Option<DType> {
        (self.level == OptLevel::O3).then_some(self.half)
    }

    /// True when small gradients would vanish without loss scaling.
    pub fn needs_loss_scaling(&self) -> bool {
        self.level != OptLevel::O0 && self.half == DType::F16
    }

    /// The dtype of half precision, where there is any.
    pub fn half_dtype(&self) -> Option<DType> {
        (self.level != OptLevel::O0).then_some(self.half)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_is_what_the_documentation_says() {
        let (f32, half) = (Some(DType::F32), Some(DType::BF16));
        let rows = [
            (Operation::Input, [None, f32, half, half]),
            (Operation::MatMul, [None, half, half, half]),
            (Operation::RowNorm, [None, f32, None, None]),
            (Operation::Inherit, [None; 4]),
            (Operation::Loss, [None, f32, f32, f32]),
        ];
        let levels = [OptLevel::O0, OptLevel::O1, OptLevel::O2, OptLevel::O3];
        for (operation, expected) in rows {
            let got = levels.map(|level| Precision::new(level, DType::BF16).dtype_for(operation));
            assert_eq!(got, expected, "{operation:?}");
        }
        let rounding = levels.map(|level| Precision::new(level, DType::F16).weight_rounding());
        assert_eq!(rounding, [None, None, None, Some(DType::F16)]);
        let scaling = levels.map(|level| Precision::new(level, DType::F16).needs_loss_scaling());
        assert_eq!(scaling, [false, true, true, true]);
        assert!(!Precision::new(OptLevel::O1, DType::BF16).needs_loss_scaling());
    }
}

//! Mixed precision: the dtype of each operation at each optimization level.
//!
//! | operation | O0 | O1 | O2 | O3 |
//! |---|---|---|---|---|
//! | images | f32 | f32 | half | half |
//! | convolution, linear, matmul, attention | f32 | half | half | half |
//! | batch norm | f32 | input dtype; parameters and statistics f32 | as O1 | as O1; parameters rounded to half |
//! | layer norm, group norm, softmax | f32 | f32 | input dtype | input dtype |
//! | activation, addition, pooling, dropout | input dtype | input dtype | input dtype | input dtype |
//! | logits, loss | f32 | f32 | f32 | f32 |
//! | weights between updates | f32 | f32, with a low-precision copy | f32, with a low-precision copy | f32, rounded to half |
//! | gradients of weights, moments, update | f32 | f32 | f32 | f32; weights are rounded afterwards |
//!
//! "half" is f16 or bf16. At O0 nothing is converted. Sums, products and statistics of half-precision operands are computed in f32. The
//! optimizer step writes the low-precision copy in the same pass. f16 needs loss scaling; bf16 has the range of f32 and does not.
use fornax_engine::DType;

/// Apex-style optimization level of mixed precision.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum OptLevel {
    /// f32 only.
    #[default]
    O0,
    /// Convolutions, matmuls and attention in half precision, by casting their operands; norms, softmax and loss in f32.
    O1,
    /// Everything in half precision except the weights, the parameters and statistics of batch norm, and the loss.
    O2,
    /// O2 without f32 master weights.
    O3,
}

/// Category of operations: a row of the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operation {
    /// Input images of a model.
    Input,
    /// Convolution, linear, matmul, attention.
    MatMul,
    /// Layer norm, group norm, softmax.
    RowNorm,
    /// Batch norm, activation, addition, pooling, dropout: the dtype of the input.
    Inherit,
    /// Logits and the loss.
    Loss,
}

/// Optimization level with a half-precision dtype.
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
    /// Precision of a level in f16 or bf16.
    ///
    /// # Panics
    /// If `half` is another dtype.
    pub fn new(level: OptLevel, half: DType) -> Precision {
        assert!(matches!(half, DType::F16 | DType::BF16), "{half} is not a half-precision dtype");
        Precision { level, half }
    }

    /// Optimization level.
    pub fn level(&self) -> OptLevel {
        self.level
    }

    /// Dtype to which an operation casts its operands; `None` if it keeps their dtype.
    pub fn dtype_for(&self, operation: Operation) -> Option<DType> {
        use OptLevel::{O0, O1, O2, O3};
        match (operation, self.level) {
            (Operation::Inherit, _) | (_, O0) => None,
            (Operation::Loss, _) | (Operation::Input | Operation::RowNorm, O1) => Some(DType::F32),
            (Operation::RowNorm, O2 | O3) => None,
            (Operation::Input, O2 | O3) | (Operation::MatMul, _) => Some(self.half),
        }
    }

    /// Dtype to which weights are rounded after each update; `None` if f32 weights are kept.
    pub fn weight_rounding(&self) -> Option<DType> {
        (self.level == OptLevel::O3).then_some(self.half)
    }

    /// True if small gradients underflow without loss scaling.
    pub fn needs_loss_scaling(&self) -> bool {
        self.level != OptLevel::O0 && self.half == DType::F16
    }

    /// Half-precision dtype; `None` at O0.
    pub fn half_dtype(&self) -> Option<DType> {
        (self.level != OptLevel::O0).then_some(self.half)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dtypes_match_documented_table() {
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

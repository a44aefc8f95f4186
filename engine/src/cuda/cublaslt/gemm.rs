//! Description of a row-major GEMM for cuBLASLt.
use crate::DType;
use std::fmt;

/// Row-major GEMM `D = op(A) op(B)`: op(A) is `[rows, inner]`, op(B) `[inner, cols]`, D `[rows, cols]`, all contiguous; f32, f16 or bf16,
/// accumulated in f32. A strided batch repeats it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Gemm {
    /// Rows of the result.
    pub rows: usize,
    /// Columns of the result.
    pub cols: usize,
    /// Length of the inner (reduction) axis.
    pub inner: usize,
    /// A is stored `[inner, rows]`.
    pub transpose_a: bool,
    /// B is stored `[cols, inner]`, as the weight of a linear layer.
    pub transpose_b: bool,
    /// Number of matrices in the batch.
    pub batch: usize,
    /// Batch stride of A in elements; 0 to use one A for the whole batch.
    pub stride_a: usize,
    /// Batch stride of B in elements; 0 to use one B for the whole batch.
    pub stride_b: usize,
    /// Dtype of A, B, D and the epilogue's bias.
    pub dtype: DType,
    /// Allow rounding of f32 operands to TF32 (10 mantissa bits) for tensor cores.
    pub tf32: bool,
    /// Epilogue.
    pub epilogue: Epilogue,
}

/// Epilogue of a GEMM, as cuBLASLt's `CUBLASLT_EPILOGUE_*`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
pub enum Epilogue {
    /// No epilogue (`DEFAULT`).
    #[default]
    None,
    /// `D += bias`, with bias `[cols]` (`BIAS`).
    Bias,
    /// `D = relu(D + bias)` (`RELU_BIAS`).
    BiasRelu,
    /// `D = gelu(D + bias)`, with the tanh approximation (`GELU_BIAS`).
    BiasGeluTanh,
    /// `BiasRelu` that also writes the mask `D + bias > 0` to aux, one bit per element (`RELU_AUX_BIAS`).
    BiasReluAux,
    /// `BiasGeluTanh` that also writes the activation's input `D + bias` to aux, `[rows, cols]`. `cols` must be a multiple of 8
    /// (`GELU_AUX_BIAS`).
    BiasGeluTanhAux,
    /// `D = 0` where the aux mask of `BiasReluAux` is 0; the bias `[cols]` receives the sums of D over its rows. For `D = dy w` these are
    /// the gradients of the activation's input and of its bias (`DRELU_BGRAD`).
    DreluBgrad,
    /// `D *= gelu'(aux)`, with the aux of `BiasGeluTanhAux`; sums as for `DreluBgrad` (`DGELU_BGRAD`).
    DgeluTanhBgrad,
    /// The bias `[rows]` receives the sums of op(A) over the inner axis: the bias gradient of a linear layer, along with the weight gradient
    /// `dw = dyᵀ x` (`BGRADB`; cuBLASLt's B is our A).
    BgradA,
}

/// Device addresses of a GEMM's operands. `bias` and `aux` are used by the epilogue, 0 if it has none.
#[derive(Clone, Copy, Debug)]
pub struct GemmOperands {
    /// A.
    pub a: u64,
    /// B.
    pub b: u64,
    /// D.
    pub d: u64,
    /// Bias, or the output for a bias gradient.
    pub bias: u64,
    /// Auxiliary ReLU mask or GELU input, written in the forward pass and read in the backward pass: [`Gemm::aux_bytes`] bytes.
    pub aux: u64,
}

/// Alignments of a GEMM's operands in bytes, at most 256 each. They determine which algorithms can be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct GemmAlignments {
    pub(super) a: u32,
    pub(super) b: u32,
    pub(super) d: u32,
    pub(super) bias: u32,
    pub(super) aux: u32,
}

impl Gemm {
    /// GEMM of single, contiguous matrices, without an epilogue or TF32.
    pub fn new(dtype: DType, rows: usize, cols: usize, inner: usize) -> Gemm {
        Gemm {
            rows,
            cols,
            inner,
            transpose_a: false,
            transpose_b: false,
            batch: 1,
            stride_a: rows * inner,
            stride_b: inner * cols,
            dtype,
            tf32: false,
            epilogue: Epilogue::None,
        }
    }

    /// Bytes of the epilogue's auxiliary operand.
    pub fn aux_bytes(&self) -> usize {
        match self.epilogue {
            Epilogue::BiasReluAux | Epilogue::DreluBgrad => self.rows * self.aux_stride() / 8,
            _ => self.rows * self.aux_stride() * self.dtype.size(),
        }
    }

    /// Row stride of the auxiliary operand, in elements or, for a mask, in bits; 0 if there is none.
    pub(super) fn aux_stride(&self) -> usize {
        match self.epilogue {
            Epilogue::BiasReluAux | Epilogue::DreluBgrad => self.cols.next_multiple_of(128),
            Epilogue::BiasGeluTanhAux | Epilogue::DgeluTanhBgrad => self.cols,
            _ => 0,
        }
    }
}

impl GemmOperands {
    pub(super) fn alignments(&self) -> GemmAlignments {
        let of = |pointer: u64| 1 << (pointer | 256).trailing_zeros();
        GemmAlignments { a: of(self.a), b: of(self.b), d: of(self.d), bias: of(self.bias), aux: of(self.aux) }
    }
}

impl fmt::Display for Gemm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let suffix = |transposed| if transposed { "ᵀ" } else { "" };
        let (a, b) = (suffix(self.transpose_a), suffix(self.transpose_b));
        write!(f, "{} matmul [{}, {}]{a} x ", self.dtype, self.rows, self.inner)?;
        write!(f, "[{}, {}]{b}, batch {}, epilogue {:?}", self.inner, self.cols, self.batch, self.epilogue)
    }
}

//! What is asked of cuBLASLt: one row-major product.
use crate::DType;
use cudarc::cublaslt::sys::cublasLtEpilogue_t;
use cudarc::driver::sys::CUdeviceptr;
use std::fmt;

/// `D = op(A) op(B)`, row-major: op(A) `[rows, inner]`, op(B) `[inner, cols]`, D `[rows, cols]`, dense; f32, f16 or bf16 with
/// f32 sums. A batch repeats it over matrices that lie a step apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Gemm {
    /// Rows of the result.
    pub rows: usize,
    /// Columns of the result.
    pub cols: usize,
    /// The extent that is summed over.
    pub inner: usize,
    /// A is stored `[inner, rows]`.
    pub transpose_a: bool,
    /// B is stored `[cols, inner]`, as the weight of a fully connected layer is.
    pub transpose_b: bool,
    /// How many products.
    pub batch: usize,
    /// Elements from one A to the next; 0 takes the same one each time.
    pub stride_a: usize,
    /// Elements from one B to the next; 0 takes the same one each time.
    pub stride_b: usize,
    /// The element type of A, B, D and the epilogue's vector.
    pub dtype: DType,
    /// f32 operands may be rounded to TF32 (10 bits of precision) for the tensor cores.
    pub tf32: bool,
    /// What happens beside the product.
    pub epilogue: Epilogue,
}

/// What a product computes on the way, with one vector more.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
pub enum Epilogue {
    /// Nothing.
    #[default]
    None,
    /// `D += bias`, with bias `[cols]`.
    Bias,
    /// `D = max(D + bias, 0)`
    BiasRelu,
    /// `D = gelu(D + bias)` in the approximation by tanh.
    BiasGeluTanh,
    /// As `BiasRelu`; beside it, where the activation was open, one bit an element.
    BiasReluAux,
    /// As `BiasGeluTanh`; beside it what the activation saw, `[rows, cols]` like D. `cols` must be a multiple of 8.
    BiasGeluTanhAux,
    /// `D = 0` where a mask of `BiasReluMask` is 0; the vector `[cols]` receives the sums of D over its rows. With
    /// `D = dy w`, the gradients of what the activation saw and of the bias in it.
    DreluBgrad,
    /// `D *= gelu'(input)` with an input of `BiasGeluTanhInput`, and sums as of `ReluSlopeSum`.
    DgeluTanhBgrad,
    /// The vector `[rows]` receives the sums of op(A) over the inner axis: a bias's gradient beside the weight's, `dw = dyᵀ x`.
    BgradA,
}

/// Device addresses. `vector` and `beside` are the epilogue's, 0 where it has none.
#[derive(Clone, Copy, Debug)]
pub struct GemmOperands {
    /// A.
    pub a: CUdeviceptr,
    /// B.
    pub b: CUdeviceptr,
    /// D.
    pub d: CUdeviceptr,
    /// The bias, or where the sums go.
    pub bias: CUdeviceptr,
    /// The mask or the activation's input, written forward and read back: [`Product::beside_len`] bytes.
    pub aux: CUdeviceptr,
}

/// Bytes to which A, B, D, the vector and what is beside are aligned, at most 256 each: the algorithm depends on them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Alignments {
    pub(super) a: u32,
    pub(super) b: u32,
    pub(super) d: u32,
    pub(super) vector: u32,
    pub(super) beside: u32,
}

impl Gemm {
    /// One product of dense matrices without an epilogue, in strict precision.
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

    /// Bytes of what the epilogue writes or reads beside D.
    pub fn aux_bytes(&self) -> usize {
        match self.epilogue {
            Epilogue::BiasReluAux | Epilogue::DreluBgrad => self.rows * self.beside_step() / 8,
            _ => self.rows * self.beside_step() * self.dtype.size(),
        }
    }

    /// From one row to the next of what is beside D, in elements or in a mask's bits; 0 where there is nothing.
    pub(super) fn beside_step(&self) -> usize {
        match self.epilogue {
            Epilogue::BiasReluAux | Epilogue::DreluBgrad => self.cols.next_multiple_of(128),
            Epilogue::BiasGeluTanhAux | Epilogue::DgeluTanhBgrad => self.cols,
            _ => 0,
        }
    }
}

impl Epilogue {
    pub(super) fn code(self) -> cublasLtEpilogue_t {
        match self {
            Epilogue::None => cublasLtEpilogue_t::CUBLASLT_EPILOGUE_DEFAULT,
            Epilogue::Bias => cublasLtEpilogue_t::CUBLASLT_EPILOGUE_BIAS,
            Epilogue::BiasRelu => cublasLtEpilogue_t::CUBLASLT_EPILOGUE_RELU_BIAS,
            Epilogue::BiasGeluTanh => cublasLtEpilogue_t::CUBLASLT_EPILOGUE_GELU_BIAS,
            Epilogue::BiasReluAux => cublasLtEpilogue_t::CUBLASLT_EPILOGUE_RELU_AUX_BIAS,
            Epilogue::BiasGeluTanhAux => cublasLtEpilogue_t::CUBLASLT_EPILOGUE_GELU_AUX_BIAS,
            Epilogue::DreluBgrad => cublasLtEpilogue_t::CUBLASLT_EPILOGUE_DRELU_BGRAD,
            Epilogue::DgeluTanhBgrad => cublasLtEpilogue_t::CUBLASLT_EPILOGUE_DGELU_BGRAD,
            // The operands are exchanged: our A is the library's B.
            Epilogue::BgradA => cublasLtEpilogue_t::CUBLASLT_EPILOGUE_BGRADB,
        }
    }
}

impl GemmOperands {
    pub(super) fn alignments(&self) -> Alignments {
        let of = |pointer: CUdeviceptr| 1 << (pointer | 256).trailing_zeros();
        Alignments {
            a: of(self.a),
            b: of(self.b),
            d: of(self.d),
            vector: of(self.bias),
            beside: of(self.aux),
        }
    }
}

impl fmt::Display for Gemm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mark = |transposed| if transposed { "ᵀ" } else { "" };
        let (a, b) = (mark(self.transpose_a), mark(self.transpose_b));
        write!(f, "{} product [{}, {}]{a} x ", self.dtype, self.rows, self.inner)?;
        write!(f, "[{}, {}]{b}, batch {}, epilogue {:?}", self.inner, self.cols, self.batch, self.epilogue)
    }
}

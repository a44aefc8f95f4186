//! Matmul by cuBLASLt.
use crate::cuda::cublaslt::{Epilogue, Gemm, GemmOperands};
use crate::cuda::{DeviceSlice, Gpu, LibraryError, Result};
use std::sync::Arc;

/// `d = op(a) op(b)` for a GEMM without an epilogue. With an empty inner axis, `d` is zero.
pub(crate) fn gemm(
    gpu: &Arc<Gpu>,
    gemm: &Gemm,
    a: DeviceSlice,
    b: DeviceSlice,
    d: DeviceSlice,
) -> Result<()> {
    if d.len == 0 {
        return Ok(());
    }
    if gemm.inner == 0 {
        return gpu.zero(d);
    }
    let operands = GemmOperands { a: a.pointer, b: b.pointer, d: d.pointer, bias: 0, aux: 0 };
    Ok(call(gpu, gemm, operands)?)
}

/// [`gemm`] with an epilogue, its bias `bias` and its auxiliary operand. Returns false, without effect, if cuBLASLt does not support it.
pub(crate) fn gemm_with_epilogue(
    gpu: &Arc<Gpu>,
    gemm: &Gemm,
    epilogue: Epilogue,
    [a, b, d, bias]: [DeviceSlice; 4],
    aux: Option<DeviceSlice>,
) -> Result<bool> {
    if d.len == 0 || gemm.inner == 0 {
        return Ok(false);
    }
    let aux = aux.map_or(0, |slice| slice.pointer);
    let operands = GemmOperands { a: a.pointer, b: b.pointer, d: d.pointer, bias: bias.pointer, aux };
    match call(gpu, &Gemm { epilogue, ..*gemm }, operands) {
        Ok(()) => Ok(true),
        Err(LibraryError::Unsupported { .. }) => Ok(false),
        Err(e) => Err(e.into()),
    }
}

fn call(gpu: &Arc<Gpu>, gemm: &Gemm, operands: GemmOperands) -> std::result::Result<(), LibraryError> {
    let _access = gpu.bind().map_err(|e| LibraryError::Driver { why: e.why })?;
    let cublaslt = gpu.cublaslt()?;
    // SAFETY: operations pass slices of the GEMM's shapes and dtype, which stay allocated until the stream is done.
    gpu.with_workspace("cublaslt matmul", |workspace| unsafe {
        cublaslt.matmul(gemm, operands, gpu.stream(), workspace)
    })
}

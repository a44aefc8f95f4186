//! Matrix products by cuBLASLt.
use super::cublaslt::{Epilogue, Gemm, GemmOperands};
use super::{DeviceSlice, Gpu, LibraryError, Result};
use std::sync::Arc;

/// `d = op(a) op(b)` as `product` describes it, which has no epilogue. Empty products are zero.
pub(crate) fn gemm(
    gpu: &Arc<Gpu>,
    product: &Gemm,
    a: DeviceSlice,
    b: DeviceSlice,
    d: DeviceSlice,
) -> Result<()> {
    if d.len == 0 {
        return Ok(());
    }
    if product.inner == 0 {
        return gpu.zero(d);
    }
    let operands = GemmOperands { a: a.pointer, b: b.pointer, d: d.pointer, bias: 0, aux: 0 };
    Ok(call(gpu, product, operands)?)
}

/// As [`multiply`], with an epilogue, its vector and what it has beside; false, and nothing done, where the library does not have it.
pub(crate) fn gemm_with_epilogue(
    gpu: &Arc<Gpu>,
    product: &Gemm,
    epilogue: Epilogue,
    [a, b, d, vector]: [DeviceSlice; 4],
    beside: Option<DeviceSlice>,
) -> Result<bool> {
    if d.len == 0 || product.inner == 0 {
        return Ok(false);
    }
    let beside = beside.map_or(0, |slice| slice.pointer);
    let operands =
        GemmOperands { a: a.pointer, b: b.pointer, d: d.pointer, bias: vector.pointer, aux: beside };
    match call(gpu, &Gemm { epilogue, ..*product }, operands) {
        Ok(()) => Ok(true),
        Err(LibraryError::Unsupported { .. }) => Ok(false),
        Err(e) => Err(e.into()),
    }
}

fn call(gpu: &Arc<Gpu>, product: &Gemm, operands: GemmOperands) -> std::result::Result<(), LibraryError> {
    let _turn = gpu.bind().map_err(|e| LibraryError::Workspace { bytes: 0, why: e.why })?;
    let blas = gpu.blas()?;
    // SAFETY: operations hand in slices of the product's extents and dtype, in use until the stream is done.
    gpu.with_workspace(|workspace| unsafe { blas.matmul(product, operands, gpu.stream(), workspace) })
}

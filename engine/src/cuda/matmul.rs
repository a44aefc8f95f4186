//! Matrix products by cuBLASLt.
use super::blas::{Epilogue, Operands, Product};
use super::{Gpu, LibraryError, Result, Slice};
use std::sync::Arc;

/// `d = op(a) op(b)` as `product` describes it, which has no epilogue. Empty products are zero.
pub(crate) fn multiply(gpu: &Arc<Gpu>, product: &Product, a: Slice, b: Slice, d: Slice) -> Result<()> {
    if d.len == 0 {
        return Ok(());
    }
    if product.inner == 0 {
        return gpu.zero(d);
    }
    let operands = Operands { a: a.pointer, b: b.pointer, d: d.pointer, vector: 0, beside: 0 };
    Ok(call(gpu, product, operands)?)
}

/// As [`multiply`], with an epilogue, its vector and what it has beside; false, and nothing done, where the library does not have it.
pub(crate) fn multiply_with(
    gpu: &Arc<Gpu>,
    product: &Product,
    epilogue: Epilogue,
    [a, b, d, vector]: [Slice; 4],
    beside: Option<Slice>,
) -> Result<bool> {
    if d.len == 0 || product.inner == 0 {
        return Ok(false);
    }
    let beside = beside.map_or(0, |slice| slice.pointer);
    let operands = Operands { a: a.pointer, b: b.pointer, d: d.pointer, vector: vector.pointer, beside };
    match call(gpu, &Product { epilogue, ..*product }, operands) {
        Ok(()) => Ok(true),
        Err(LibraryError::Unsupported { .. }) => Ok(false),
        Err(e) => Err(e.into()),
    }
}

fn call(gpu: &Arc<Gpu>, product: &Product, operands: Operands) -> std::result::Result<(), LibraryError> {
    let _turn = gpu.bind().map_err(|e| LibraryError::Workspace { bytes: 0, why: e.why })?;
    let blas = gpu.blas()?;
    // SAFETY: operations hand in slices of the product's extents and dtype, in use until the stream is done.
    gpu.with_workspace(|workspace| unsafe { blas.multiply(product, operands, gpu.stream(), workspace) })
}

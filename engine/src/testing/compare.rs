//! Comparison of results with expected values.
use crate::DType;

/// Tolerance of a result in a dtype, relative to its magnitude plus the root mean square of the tensor, as [`worst`] computes it.
pub fn tolerance(dtype: DType) -> f64 {
    match dtype {
        DType::F64 => 1e-12,
        DType::F32 => 2e-5,
        // A few roundings to 11 or 8 bits within a composed operation.
        DType::F16 => 4e-3,
        _ => 3e-2,
    }
}

/// Index of the element with the largest error, relative to its magnitude plus the root mean square of the expected values, if that error
/// exceeds the tolerance.
///
/// ```
/// use fornax_engine::testing::worst;
/// assert_eq!(worst(&[1.0, 2.0], &[1.0, 2.1], 1e-3), Some(1));
/// assert_eq!(worst(&[1.0, 2.0], &[1.0, 2.1], 1e-1), None);
/// ```
///
/// # Panics
/// When the lengths differ.
pub fn worst(got: &[f64], expected: &[f64], tolerance: f64) -> Option<usize> {
    assert_eq!(got.len(), expected.len(), "number of elements");
    let norm = (expected.iter().map(|v| v * v).sum::<f64>() / expected.len() as f64).sqrt();
    let off = |(i, (g, e)): (usize, (&f64, &f64))| {
        (if g == e || (g.is_nan() && e.is_nan()) { 0.0 } else { (g - e).abs() / (norm + e.abs()) }, i)
    };
    let (off, at) = got.iter().zip(expected).enumerate().map(off).max_by(|a, b| a.0.total_cmp(&b.0))?;
    (off.is_nan() || off > tolerance).then_some(at)
}

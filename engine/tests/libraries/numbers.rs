//! Test values: random numbers, rounding to a dtype, conversion to bytes and back, and comparison.
use fornax_engine::DType;
use fornax_engine::dtype::{bf16, f16};
use fornax_engine::random::{RngKey, RngStream};

/// The dtypes that both libraries support.
pub const DTYPES: [DType; 3] = [DType::F32, DType::F16, DType::BF16];

/// `len` random values between -1 and 1, exact in `dtype`.
pub fn random(seed: u64, len: usize, dtype: DType) -> Vec<f64> {
    let mut stream = RngStream::new(RngKey::new(seed, "operands"), 0, 0);
    (0..len).map(|_| round(f64::from(stream.uniform()) * 2.0 - 1.0, dtype)).collect()
}

pub fn round(value: f64, dtype: DType) -> f64 {
    match dtype {
        DType::F16 => f16::from_f64(value).to_f64(),
        DType::BF16 => bf16::from_f64(value).to_f64(),
        _ => f64::from(value as f32),
    }
}

pub fn to_bytes(values: &[f64], dtype: DType) -> Vec<u8> {
    match dtype {
        DType::F16 => values.iter().flat_map(|v| f16::from_f64(*v).to_le_bytes()).collect(),
        DType::BF16 => values.iter().flat_map(|v| bf16::from_f64(*v).to_le_bytes()).collect(),
        _ => values.iter().flat_map(|v| (*v as f32).to_le_bytes()).collect(),
    }
}

pub fn from_bytes(bytes: &[u8], dtype: DType) -> Vec<f64> {
    let pair = |b: &[u8]| [b[0], b[1]];
    match dtype {
        DType::F16 => bytes.chunks_exact(2).map(|b| f16::from_le_bytes(pair(b)).to_f64()).collect(),
        DType::BF16 => bytes.chunks_exact(2).map(|b| bf16::from_le_bytes(pair(b)).to_f64()).collect(),
        _ => bytes.chunks_exact(4).map(|b| f64::from(f32::from_le_bytes([b[0], b[1], b[2], b[3]]))).collect(),
    }
}

/// The largest error in units of the tolerance, the error bound of f32 sums that are rounded once to `dtype`; at most 1 passes.
/// `scales` are the sums of the absolute terms.
pub fn error(got: &[f64], want: &[f64], scales: &[f64], dtype: DType) -> f64 {
    assert_eq!(got.len(), want.len());
    let last_bit = match dtype {
        DType::F16 => 2f64.powi(-11),
        DType::BF16 => 2f64.powi(-8),
        _ => 2f64.powi(-24),
    };
    let allowed = |want: f64, scale: f64| want.abs() * last_bit * 1.01 + scale * 2f64.powi(-20) + 1e-7;
    let errors = got
        .iter()
        .zip(want)
        .zip(scales)
        .map(|((got, want), scale)| (got - want).abs() / allowed(*want, *scale));
    errors.fold(0.0, |worst, e| if e.is_nan() { f64::INFINITY } else { f64::max(worst, e) })
}

//! Conversion between dtypes.
use super::vectorized::vectorized;
use crate::dtype::{DType, Element, f16};
use half::slice::HalfFloatSliceExt;

/// `y[i] = x[i]` in another dtype: rounded to nearest even between float dtypes, truncated towards zero and saturated into
/// integers.
pub fn cast<A: Element, B: Element>(x: &[A], y: &mut [B]) {
    match (A::DTYPE, B::DTYPE) {
        (DType::F32, DType::F16) => {
            bytemuck::cast_slice_mut::<B, f16>(y).convert_from_f32_slice(bytemuck::cast_slice(x));
        }
        (DType::F16, DType::F32) => {
            bytemuck::cast_slice::<A, f16>(x).convert_to_f32_slice(bytemuck::cast_slice_mut(y));
        }
        (DType::F32, DType::BF16) => to_bf16(bytemuck::cast_slice(x), bytemuck::cast_slice_mut(y)),
        (DType::BF16, DType::F32) => from_bf16(bytemuck::cast_slice(x), bytemuck::cast_slice_mut(y)),
        _ => y.iter_mut().zip(x).for_each(|(y, x)| *y = B::from_f64(x.to_f64())),
    }
}

vectorized! {
    /// bf16 bits of f32 bits: the upper 16 bits, rounded to nearest even. NaN stays NaN.
    wide fn to_bf16(x: &[u32], y: &mut [u16]) {
        for (y, x) in y.iter_mut().zip(x) {
            let is_nan = x & 0x7fff_ffff > 0x7f80_0000;
            let rounded = (x.wrapping_add(0x7fff + (x >> 16 & 1))) >> 16;
            *y = if is_nan { (x >> 16 | 0x40) as u16 } else { rounded as u16 };
        }
    }
}

vectorized! {
    wide fn from_bf16(x: &[u16], y: &mut [u32]) {
        y.iter_mut().zip(x).for_each(|(y, x)| *y = u32::from(*x) << 16);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dtype::bf16;

    /// f32 bit patterns on a coarse grid, with their neighbours at rounding ties.
    #[test]
    fn slice_conversions_match_single_elements() {
        let patterns = (0..=0xffffu32)
            .flat_map(|high| [0, 1, 0x7fff, 0x8000, 0x8001, 0xffff].map(|low| high << 16 | low));
        let x: Vec<f32> = patterns.map(f32::from_bits).collect();
        let (mut half, mut brain) = (vec![f16::ZERO; x.len()], vec![bf16::ZERO; x.len()]);
        cast(&x, &mut half);
        cast(&x, &mut brain);
        let mut wide = vec![0.0f32; x.len()];
        for (i, x) in x.iter().enumerate() {
            assert_eq!(half[i].is_nan(), x.is_nan());
            assert!(x.is_nan() || half[i].to_bits() == f16::from_f32(*x).to_bits(), "{x} in f16");
            assert!(brain[i].to_bits() == bf16::from_f32(*x).to_bits(), "{x} in bf16");
        }
        cast(&half, &mut wide);
        assert!(wide.iter().zip(&half).all(|(w, h)| w.to_bits() == h.to_f32().to_bits() || h.is_nan()));
        cast(&brain, &mut wide);
        assert!(wide.iter().zip(&brain).all(|(w, h)| w.to_bits() == h.to_f32().to_bits()));
    }
}

//! Element types, and the Rust types they correspond to.
use std::fmt;

pub use half::{bf16, f16};

/// The element type of a tensor.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum DType {
    /// IEEE single precision: the default, and the dtype of parameters.
    F32,
    /// IEEE half precision.
    F16,
    /// bfloat16: the exponent range of f32 with 8 bits of precision.
    BF16,
    /// IEEE double precision, on the CPU only: for gradient checks.
    F64,
    /// Class indices and counters.
    I64,
    /// Image bytes and masks.
    U8,
}

impl DType {
    /// Every dtype, in declaration order.
    pub const ALL: [DType; 6] = [DType::F32, DType::F16, DType::BF16, DType::F64, DType::I64, DType::U8];

    /// Bytes of one element.
    pub const fn size(self) -> usize {
        match self {
            DType::U8 => 1,
            DType::F16 | DType::BF16 => 2,
            DType::F32 => 4,
            DType::F64 | DType::I64 => 8,
        }
    }

    /// Bytes of `len` elements.
    ///
    /// # Panics
    /// When they exceed the address space, which no [`Shape`](crate::Shape)'s elements do.
    pub(crate) const fn bytes(self, len: usize) -> usize {
        len.checked_mul(self.size()).expect("elements fit in the address space")
    }

    /// True for f32, f16, bf16 and f64: the dtypes that can carry a gradient.
    pub const fn is_float(self) -> bool {
        !matches!(self, DType::I64 | DType::U8)
    }

    /// True for f16 and bf16.
    pub(crate) const fn is_half(self) -> bool {
        matches!(self, DType::F16 | DType::BF16)
    }
}

impl fmt::Display for DType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            DType::F32 => "f32",
            DType::F16 => "f16",
            DType::BF16 => "bf16",
            DType::F64 => "f64",
            DType::I64 => "i64",
            DType::U8 => "u8",
        })
    }
}

/// A Rust type that can be an element of a tensor.
pub trait Element: bytemuck::Pod + PartialOrd + Send + Sync + fmt::Debug + 'static {
    /// The dtype of this type.
    const DTYPE: DType;
    /// From f64, rounding to nearest (floats) or truncating towards zero and saturating (integers).
    fn from_f64(value: f64) -> Self;
    /// To f64; exact for all but i64 beyond 2^53.
    fn to_f64(self) -> f64;
}

macro_rules! element {
    ($t:ty, $d:ident, $from:expr, $to:expr) => {
        impl Element for $t {
            const DTYPE: DType = DType::$d;
            fn from_f64(value: f64) -> Self {
                $from(value)
            }
            fn to_f64(self) -> f64 {
                $to(self)
            }
        }
    };
}
element!(f32, F32, |v| v as f32, f64::from);
element!(f64, F64, |v| v, |v| v);
// Rounded by way of f32: `from_f64` of these types reads only the upper half of the f64, and mistakes other values for ties.
element!(f16, F16, |v| f16::from_f32(v as f32), f16::to_f64);
element!(bf16, BF16, |v| bf16::from_f32(v as f32), bf16::to_f64);
element!(i64, I64, |v| v as i64, |v| v as f64);
element!(u8, U8, |v| v as u8, f64::from);

/// A float type in which CPU kernels compute: f32, with vectorised paths, or f64, the plain reference.
#[allow(missing_docs, reason = "each method is the method of f32 and f64 of the same name")]
pub trait Real:
    Element
    + PartialOrd
    + std::iter::Sum
    + std::ops::Add<Output = Self>
    + std::ops::Sub<Output = Self>
    + std::ops::Mul<Output = Self>
    + std::ops::Div<Output = Self>
    + std::ops::Neg<Output = Self>
    + std::ops::AddAssign
    + std::ops::SubAssign
    + std::ops::MulAssign
    + std::ops::DivAssign
{
    fn zero() -> Self;
    fn one() -> Self;
    fn infinity() -> Self;
    fn neg_infinity() -> Self;
    fn abs(self) -> Self;
    fn sqrt(self) -> Self;
    fn floor(self) -> Self;
    fn exp(self) -> Self;
    fn ln(self) -> Self;
    fn ln_1p(self) -> Self;
    fn exp_m1(self) -> Self;
    fn tanh(self) -> Self;
    fn powf(self, exponent: Self) -> Self;
    fn mul_add(self, a: Self, b: Self) -> Self;
    fn max(self, other: Self) -> Self;
    fn min(self, other: Self) -> Self;
    fn is_nan(self) -> bool;
    fn is_finite(self) -> bool;
}

macro_rules! real {
    ($t:ident, $ln:path, $powf:path) => {
        impl Real for $t {
            fn zero() -> Self {
                0.0
            }
            fn one() -> Self {
                1.0
            }
            fn infinity() -> Self {
                $t::INFINITY
            }
            fn neg_infinity() -> Self {
                $t::NEG_INFINITY
            }
            real!(@ $t abs sqrt floor exp ln_1p exp_m1 tanh);
            #[inline(always)]
            fn ln(self) -> Self {
                $ln(self)
            }
            #[inline(always)]
            fn powf(self, exponent: Self) -> Self {
                $powf(self, exponent)
            }
            fn mul_add(self, a: Self, b: Self) -> Self {
                $t::mul_add(self, a, b)
            }
            fn max(self, other: Self) -> Self {
                $t::max(self, other)
            }
            fn min(self, other: Self) -> Self {
                $t::min(self, other)
            }
            fn is_nan(self) -> bool {
                $t::is_nan(self)
            }
            fn is_finite(self) -> bool {
                $t::is_finite(self)
            }
        }
    };
    (@ $t:ident $($name:ident)*) => {
        $(#[inline] fn $name(self) -> Self { $t::$name(self) })*
    };
}
// f32 in a form that loops can vectorise.
real!(f32, crate::scalar::power::ln, crate::scalar::power::powf);
real!(f64, f64::ln, f64::powf);

/// `x` as f32 when `T` is f32: from a generic kernel to its vectorised form.
pub fn as_f32<T: Element>(x: &[T]) -> Option<&[f32]> {
    (T::DTYPE == DType::F32).then(|| bytemuck::cast_slice(x))
}

/// `x` as mutable f32 when `T` is f32.
pub fn as_f32_mut<T: Element>(x: &mut [T]) -> Option<&mut [f32]> {
    if T::DTYPE == DType::F32 { Some(bytemuck::cast_slice_mut(x)) } else { None }
}

/// Runs `$body` with `$T` as the Rust type of a dtype; any dtype.
macro_rules! dispatch_any {
    ($dtype:expr, $T:ident => $body:expr) => {
        match $dtype {
            $crate::DType::F32 => {
                type $T = f32;
                $body
            }
            $crate::DType::F16 => {
                type $T = $crate::dtype::f16;
                $body
            }
            $crate::DType::BF16 => {
                type $T = $crate::dtype::bf16;
                $body
            }
            $crate::DType::F64 => {
                type $T = f64;
                $body
            }
            $crate::DType::I64 => {
                type $T = i64;
                $body
            }
            $crate::DType::U8 => {
                type $T = u8;
                $body
            }
        }
    };
}
pub(crate) use dispatch_any;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn f64_to_half_precision_rounds_to_nearest_even() {
        // Midpoints between two neighbours, and the next f32 above a midpoint.
        let middle = |bits: i32| 1.0 + 2f32.powi(-bits);
        let above = |bits: i32| f64::from(f32::from_bits(middle(bits).to_bits() + 1));
        assert_eq!(bf16::from_f64(middle(8).into()).to_f64(), 1.0, "a tie goes to the even neighbour");
        assert_eq!(<bf16 as Element>::from_f64(above(8)).to_f64(), 1.0 + 2f64.powi(-7));
        assert_eq!(<f16 as Element>::from_f64(above(11)).to_f64(), 1.0 + 2f64.powi(-10));
    }
}

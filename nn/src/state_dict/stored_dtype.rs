//! Dtypes of elements in weights files, and their conversion to tensors.
use crate::{Error, Result};
use fornax_engine::dtype::{bf16, f16};
use fornax_engine::{DType, Element, Tensor};
use std::fmt;

/// Dtype of stored elements. Integers of other widths than u8 are read as i64, bool as u8.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[allow(missing_docs, reason = "the names say it")]
pub enum StoredDType {
    F64,
    F32,
    F16,
    BF16,
    I64,
    I32,
    I16,
    I8,
    U64,
    U32,
    U16,
    U8,
    Bool,
}

impl StoredDType {
    /// Every dtype.
    pub const ALL: [StoredDType; 13] = [
        StoredDType::F64,
        StoredDType::F32,
        StoredDType::F16,
        StoredDType::BF16,
        StoredDType::I64,
        StoredDType::I32,
        StoredDType::I16,
        StoredDType::I8,
        StoredDType::U64,
        StoredDType::U32,
        StoredDType::U16,
        StoredDType::U8,
        StoredDType::Bool,
    ];

    /// Bytes of an element.
    pub fn size(self) -> usize {
        match self {
            StoredDType::F64 | StoredDType::I64 | StoredDType::U64 => 8,
            StoredDType::F32 | StoredDType::I32 | StoredDType::U32 => 4,
            StoredDType::F16 | StoredDType::BF16 | StoredDType::I16 | StoredDType::U16 => 2,
            StoredDType::I8 | StoredDType::U8 | StoredDType::Bool => 1,
        }
    }

    /// Dtype of the tensor that the elements are read into.
    pub fn loaded(self) -> DType {
        match self {
            StoredDType::F64 => DType::F64,
            StoredDType::F32 => DType::F32,
            StoredDType::F16 => DType::F16,
            StoredDType::BF16 => DType::BF16,
            StoredDType::U8 | StoredDType::Bool => DType::U8,
            _ => DType::I64,
        }
    }

    /// Tensor of little-endian elements. Errors if their number does not match the shape, or if an element exceeds i64.
    pub fn decode(self, shape: &[usize], bytes: &[u8]) -> Result<Tensor> {
        let expected = shape.iter().try_fold(self.size(), |size, n| size.checked_mul(*n));
        if expected != Some(bytes.len()) {
            return Err(Error::Safetensors(format!("{} bytes do not make {self}{shape:?}", bytes.len())));
        }
        match self {
            StoredDType::F64 => copy::<f64>(shape, bytes),
            StoredDType::F32 => copy::<f32>(shape, bytes),
            StoredDType::F16 => copy::<f16>(shape, bytes),
            StoredDType::BF16 => copy::<bf16>(shape, bytes),
            StoredDType::I64 => copy::<i64>(shape, bytes),
            StoredDType::U8 | StoredDType::Bool => copy::<u8>(shape, bytes),
            StoredDType::I32 => widen(shape, bytes, |b| i32::from_le_bytes(b).into()),
            StoredDType::I16 => widen(shape, bytes, |b| i16::from_le_bytes(b).into()),
            StoredDType::I8 => widen(shape, bytes, |b| i8::from_le_bytes(b).into()),
            StoredDType::U32 => widen(shape, bytes, |b| u32::from_le_bytes(b).into()),
            StoredDType::U16 => widen(shape, bytes, |b| u16::from_le_bytes(b).into()),
            StoredDType::U64 => match bytes.chunks_exact(8).all(|b| b[7] < 0x80) {
                true => copy::<i64>(shape, bytes),
                false => Err(Error::Safetensors("an element of u64 exceeds i64".into())),
            },
        }
    }
}

impl fmt::Display for StoredDType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&format!("{self:?}").to_lowercase())
    }
}

fn copy<T: Element>(shape: &[usize], bytes: &[u8]) -> Result<Tensor> {
    Ok(Tensor::build(shape, |out: &mut [T]| bytemuck::cast_slice_mut(out).copy_from_slice(bytes))?)
}

fn widen<const N: usize>(shape: &[usize], bytes: &[u8], value: fn([u8; N]) -> i64) -> Result<Tensor> {
    Ok(Tensor::build(shape, |out: &mut [i64]| {
        for (out, bytes) in out.iter_mut().zip(bytes.chunks_exact(N)) {
            *out = value(bytes.try_into().expect("chunks have N bytes"));
        }
    })?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn integers_of_every_width_are_widened_with_their_sign() {
        let read = |dtype: StoredDType, bytes: &[u8]| {
            dtype.decode(&[bytes.len() / dtype.size()], bytes).and_then(|t| Ok(t.to_vec::<i64>()?))
        };
        assert_eq!(read(StoredDType::I8, &[1, 0xff]).expect("i8"), [1, -1]);
        assert_eq!(read(StoredDType::I16, &[1, 0, 0xfe, 0xff]).expect("i16"), [1, -2]);
        assert_eq!(read(StoredDType::I32, &(-3i32).to_le_bytes()).expect("i32"), [-3]);
        assert_eq!(read(StoredDType::I64, &(-4i64).to_le_bytes()).expect("i64"), [-4]);
        assert_eq!(read(StoredDType::U16, &[0xff, 0xff]).expect("u16"), [65_535]);
        assert_eq!(read(StoredDType::U32, &[0xff; 4]).expect("u32"), [4_294_967_295]);
        assert_eq!(read(StoredDType::U64, &7u64.to_le_bytes()).expect("u64"), [7]);
        let error = read(StoredDType::U64, &[0xff; 8]).expect_err("exceeds i64").to_string();
        assert!(error.contains("exceeds i64"), "{error}");
        assert!(StoredDType::F32.decode(&[2], &[0; 4]).is_err(), "too few bytes");
    }
}

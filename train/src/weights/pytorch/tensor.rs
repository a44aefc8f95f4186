//! Tensors of a PyTorch file: views of storages, validated against the file.
use super::archive::Elements;
use super::value::TensorView;
use fornax_engine::{MAX_RANK, Tensor};
use fornax_nn::state_dict::{StoredDType, TensorInfo};
use std::collections::HashMap;

/// Validated tensor.
pub struct StoredTensor<'a> {
    pub info: TensorInfo,
    /// Key of the storage.
    pub storage: &'a str,
    elements: Elements<'a>,
    /// In elements.
    offset: usize,
    strides: Vec<usize>,
}

/// Validates a tensor: a known dtype, all of its elements in the storage, and not larger than the file.
pub fn check<'a>(
    view: &TensorView<'a>,
    storages: &HashMap<String, Elements<'a>>,
    file_size: usize,
) -> Result<StoredTensor<'a>, String> {
    let dtype: StoredDType = view.dtype.map_err(|name| format!("its dtype {name} is not supported"))?;
    let invalid = || {
        format!("offset {}, shape {:?} and strides {:?} are invalid", view.offset, view.shape, view.strides)
    };
    let narrow = |values: &[i64]| -> Option<Vec<usize>> {
        values.iter().map(|value| usize::try_from(*value).ok()).collect()
    };
    if view.shape.len() > MAX_RANK {
        return Err(format!("it has {} axes; at most {MAX_RANK} are supported", view.shape.len()));
    }
    let (Ok(offset), Some(shape), Some(strides)) =
        (usize::try_from(view.offset), narrow(&view.shape), narrow(&view.strides))
    else {
        return Err(invalid());
    };
    if shape.len() != strides.len() {
        return Err(invalid());
    }
    let elements =
        *storages.get(view.storage).ok_or_else(|| format!("its storage {} is missing", view.storage))?;
    let bytes = shape.iter().try_fold(dtype.size(), |size, n| size.checked_mul(*n)).ok_or_else(invalid)?;
    if bytes > file_size {
        return Err(format!("its {bytes} bytes are more than the file has: it repeats elements"));
    }
    let last = shape
        .iter()
        .zip(&strides)
        .try_fold(offset, |last, (n, stride)| last.checked_add(n.saturating_sub(1).checked_mul(*stride)?));
    let end = last.and_then(|last| last.checked_add(1)?.checked_mul(dtype.size())).ok_or_else(invalid)?;
    if bytes > 0 && end > elements.bytes.len() {
        return Err(format!(
            "its storage {} has {} bytes, {end} are needed",
            view.storage,
            elements.bytes.len()
        ));
    }
    let info = TensorInfo { dtype: dtype.loaded(), stored: dtype, shape };
    Ok(StoredTensor { info, storage: view.storage, elements, offset, strides })
}

impl StoredTensor<'_> {
    /// Copies the tensor from the file, dense and row-major.
    pub fn tensor(&self) -> fornax_nn::Result<Tensor> {
        let TensorInfo { stored, shape, .. } = &self.info;
        let size = stored.size();
        let count: usize = shape.iter().product();
        if count == 0 {
            return stored.decode(shape, &[]);
        }
        if self.is_dense() {
            return stored.decode(shape, &self.elements.bytes[self.offset * size..][..count * size]);
        }
        let mut bytes = Vec::with_capacity(count * size);
        let mut index = vec![0; shape.len()];
        let mut at = self.offset;
        for _ in 0..count {
            bytes.extend_from_slice(&self.elements.bytes[at * size..][..size]);
            for axis in (0..shape.len()).rev() {
                index[axis] += 1;
                at += self.strides[axis];
                if index[axis] < shape[axis] {
                    break;
                }
                at -= self.strides[axis] * shape[axis];
                index[axis] = 0;
            }
        }
        stored.decode(shape, &bytes)
    }

    /// Verifies the CRC-32 of the storage. Returns false if the file has none.
    pub fn verify(&self) -> Result<bool, String> {
        let mut sum = flate2::Crc::new();
        sum.update(self.elements.bytes);
        match self.elements.crc32 {
            Some(expected) if expected != sum.sum() => {
                Err(format!("the CRC-32 of its storage {} does not match: the file is damaged", self.storage))
            }
            expected => Ok(expected.is_some()),
        }
    }

    fn is_dense(&self) -> bool {
        let mut expected = 1;
        self.info.shape.iter().zip(&self.strides).rev().all(|(n, stride)| {
            let is_dense = *n == 1 || *stride == expected;
            expected *= n;
            is_dense
        })
    }
}

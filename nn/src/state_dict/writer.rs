//! Writer of safetensors files.
use crate::{Error, Result};
use fornax_engine::dtype::{bf16, f16};
use fornax_engine::{DType, Element, Tensor};
use serde_json::{Map, Value, json};
use std::collections::{BTreeMap, HashMap};

/// Safetensors file under construction. Equal tensors and metadata give equal bytes.
#[derive(Default)]
pub struct SafetensorsWriter {
    header: Map<String, Value>,
    elements: Vec<u8>,
}

impl SafetensorsWriter {
    /// Creates a file without tensors.
    pub fn new() -> SafetensorsWriter {
        SafetensorsWriter::default()
    }

    /// Adds a tensor and returns its bytes in the file. Readers that map the file need aligned elements: add tensors of wide dtypes first, as
    /// [`sort_for_file`] orders them. Errors if the name is taken.
    pub fn add(&mut self, name: &str, tensor: &Tensor) -> Result<&[u8]> {
        let start = self.elements.len();
        append_bytes(&mut self.elements, tensor)?;
        let entry = json!({
            "dtype": tensor.dtype().to_string().to_uppercase(),
            "shape": tensor.dims(),
            "data_offsets": [start, self.elements.len()],
        });
        if self.header.insert(name.to_string(), entry).is_some() {
            return Err(Error::Safetensors(format!("two tensors are named {name:?}")));
        }
        Ok(&self.elements[start..])
    }

    /// The bytes of the file with metadata strings.
    pub fn finish(self, metadata: HashMap<String, String>) -> Result<Vec<u8>> {
        let mut entries = Map::new();
        if !metadata.is_empty() {
            entries.insert("__metadata__".into(), json!(metadata.into_iter().collect::<BTreeMap<_, _>>()));
        }
        for (name, entry) in self.header {
            if entries.insert(name, entry).is_some() {
                return Err(Error::Safetensors("a tensor is named \"__metadata__\"".into()));
            }
        }
        let mut header = Value::Object(entries).to_string().into_bytes();
        header.resize(header.len().next_multiple_of(8), b' ');
        let mut file = Vec::with_capacity(8 + header.len() + self.elements.len());
        file.extend((header.len() as u64).to_le_bytes());
        file.extend(header);
        file.extend(self.elements);
        Ok(file)
    }
}

/// Orders tensors for a file: widest dtype first, then by name.
pub fn sort_for_file(tensors: &mut [(String, Tensor)]) {
    tensors.sort_by(|a, b| b.1.dtype().size().cmp(&a.1.dtype().size()).then_with(|| a.0.cmp(&b.0)));
}

/// Appends the elements of a tensor, little-endian.
pub fn append_bytes(out: &mut Vec<u8>, tensor: &Tensor) -> Result<()> {
    fn append<T: Element>(out: &mut Vec<u8>, tensor: &Tensor) -> Result<()> {
        out.extend_from_slice(bytemuck::cast_slice(&tensor.read::<T>()?));
        Ok(())
    }
    match tensor.dtype() {
        DType::F32 => append::<f32>(out, tensor),
        DType::F64 => append::<f64>(out, tensor),
        DType::F16 => append::<f16>(out, tensor),
        DType::BF16 => append::<bf16>(out, tensor),
        DType::I64 => append::<i64>(out, tensor),
        DType::U8 => append::<u8>(out, tensor),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::state_dict::from_safetensors;

    #[test]
    fn tensors_of_every_dtype_are_read_back_and_aligned() {
        let values = Tensor::from_slice(&[1.5f32, -2.0, 0.25], [3]).expect("shape");
        let dtypes = [DType::U8, DType::F16, DType::F32, DType::BF16, DType::F64, DType::I64];
        let convert = |dtype: DType| match dtype {
            DType::I64 => Tensor::from_slice(&[-1i64, 2, 3], [3]),
            DType::U8 => Tensor::from_slice(&[1u8, 2, 3], [3]),
            dtype => values.to_dtype(dtype),
        };
        let mut tensors: Vec<(String, Tensor)> =
            dtypes.iter().map(|dtype| (dtype.to_string(), convert(*dtype).expect("converts"))).collect();
        sort_for_file(&mut tensors);
        let mut writer = SafetensorsWriter::new();
        for (name, tensor) in &tensors {
            assert_eq!(writer.add(name, tensor).expect("a new name").len(), 3 * tensor.dtype().size());
        }
        let metadata = HashMap::from([("a".to_string(), "b".to_string())]);
        let bytes = writer.finish(metadata.clone()).expect("writes");
        let (read, found) = from_safetensors(&bytes).expect("reads");
        assert_eq!(found, metadata);
        for (name, tensor) in &tensors {
            let (mut a, mut b) = (vec![], vec![]);
            append_bytes(&mut a, tensor).expect("reads");
            append_bytes(&mut b, &read[name]).expect("reads");
            assert_eq!((a, tensor.dtype()), (b, read[name].dtype()));
        }
        let file = safetensors::SafeTensors::deserialize(&bytes).expect("another reader accepts it");
        for (name, tensor) in file.tensors() {
            assert!(
                (tensor.data().as_ptr() as usize - bytes.as_ptr() as usize)
                    .is_multiple_of(read[&name].dtype().size())
            );
        }
    }

    #[test]
    fn duplicate_names_are_rejected() {
        let tensor = Tensor::scalar(1.0f32).expect("a scalar");
        let mut writer = SafetensorsWriter::new();
        writer.add("a", &tensor).expect("new");
        assert!(writer.add("a", &tensor).is_err());
    }
}

//! Parsed weights file of either format.
use super::pytorch::PyTorchFile;
use fornax_engine::Tensor;
use fornax_nn::state_dict::{SafetensorsFile, TensorInfo};
use std::collections::{BTreeMap, HashMap};
use std::sync::LazyLock;

/// Parsed weights file. Its tensors are created on request.
pub enum TensorFile<'a> {
    /// Safetensors.
    Safetensors(SafetensorsFile<'a>),
    /// `torch.save`; names of EMA weights begin with `ema/`.
    PyTorch(PyTorchFile<'a>),
}

impl TensorFile<'_> {
    /// Dtypes and shapes of all tensors, by name.
    pub fn tensors(&self) -> &BTreeMap<String, TensorInfo> {
        match self {
            TensorFile::Safetensors(file) => file.tensors(),
            TensorFile::PyTorch(file) => file.tensors(),
        }
    }

    /// Copies a tensor from the file.
    pub fn tensor(&self, name: &str) -> fornax_nn::Result<Tensor> {
        match self {
            TensorFile::Safetensors(file) => file.tensor(name),
            TensorFile::PyTorch(file) => file.tensor(name),
        }
    }

    /// Metadata strings; PyTorch files have none.
    pub fn metadata(&self) -> &HashMap<String, String> {
        static EMPTY: LazyLock<HashMap<String, String>> = LazyLock::new(HashMap::new);
        match self {
            TensorFile::Safetensors(file) => file.metadata(),
            TensorFile::PyTorch(_) => &EMPTY,
        }
    }

    /// Reason why an entry of the weights cannot be read, if it is one.
    pub fn rejected(&self, name: &str) -> Option<&String> {
        match self {
            TensorFile::Safetensors(_) => None,
            TensorFile::PyTorch(file) => file.rejected().get(name),
        }
    }
}

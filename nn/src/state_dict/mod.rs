//! State dicts: a model's parameters and buffers under timm's names and in PyTorch's shapes, and safetensors files.
mod file;
mod stored_dtype;
mod writer;

pub use file::{SafetensorsFile, SafetensorsHeader, TensorInfo};
pub use stored_dtype::StoredDType;
pub use writer::{SafetensorsWriter, append_bytes, sort_for_file};

use crate::{Error, Module, Result, StateEntry, StateLayout, state_entries};
use fornax_engine::Tensor;
use std::collections::{BTreeMap, HashMap};

/// Names and tensors in PyTorch's shapes, in registration order. Tensors with a different layout are copies.
pub fn state_dict(module: &(impl Module + ?Sized)) -> Result<Vec<(String, Tensor)>> {
    state_entries(module).into_iter().map(|e| Ok((e.name.clone(), to_torch(&e)?))).collect()
}

/// Loads tensors in PyTorch's shapes into a model, as `load_state_dict(strict=True)`: names, shapes and dtypes must match exactly.
///
/// # Errors
/// Lists every mismatch; the model is then unchanged.
pub fn load_state_dict(module: &(impl Module + ?Sized), state: &BTreeMap<String, Tensor>) -> Result<()> {
    let entries = state_entries(module);
    let mut problems = vec![];
    let mut loads = vec![];
    for entry in &entries {
        let (dtype, shape) = (entry.tensor.dtype(), torch_shape(entry));
        match state.get(&entry.name) {
            None => problems.push(format!("{} is missing", entry.name)),
            Some(t) if t.dims() != shape || t.dtype() != dtype => problems.push(format!(
                "{} is {}{}, the model expects {dtype}{shape:?}",
                entry.name,
                t.dtype(),
                t.shape()
            )),
            Some(t) => loads.push((entry, t)),
        }
    }
    for name in state.keys().filter(|name| !entries.iter().any(|e| e.name == **name)) {
        problems.push(format!("{name} is not part of the model"));
    }
    if !problems.is_empty() {
        return Err(Error::StateDict { problems });
    }
    loads.into_iter().try_for_each(|(entry, tensor)| load_entry(entry, tensor))
}

/// Shape of an entry in PyTorch.
pub fn torch_shape(entry: &StateEntry) -> Vec<usize> {
    match (entry.layout, entry.tensor.dims()) {
        (StateLayout::ConvWeight, &[out, kh, kw, inputs]) => vec![out, inputs, kh, kw],
        (_, dims) => dims.to_vec(),
    }
}

/// Copies a tensor in PyTorch's shape into an entry of the same dtype.
pub fn load_entry(entry: &StateEntry, tensor: &Tensor) -> Result<()> {
    let tensor = match entry.layout {
        StateLayout::Same => tensor.clone(),
        StateLayout::ConvWeight => Tensor::from_nchw(tensor)?,
    };
    Ok(entry.tensor.copy_from(&tensor)?)
}

/// Serialises tensors and string metadata to a safetensors file. The same state gives the same bytes.
pub fn to_safetensors<'a>(
    tensors: impl IntoIterator<Item = &'a (String, Tensor)>,
    metadata: Option<HashMap<String, String>>,
) -> Result<Vec<u8>> {
    let mut sorted: Vec<(String, Tensor)> = tensors.into_iter().cloned().collect();
    sort_for_file(&mut sorted);
    let mut writer = SafetensorsWriter::new();
    for (name, tensor) in &sorted {
        writer.add(name, tensor)?;
    }
    writer.finish(metadata.unwrap_or_default())
}

/// Tensors and metadata of a safetensors file. The whole file is validated before a tensor is created.
pub fn from_safetensors(bytes: &[u8]) -> Result<(BTreeMap<String, Tensor>, HashMap<String, String>)> {
    let file = SafetensorsFile::parse(bytes)?;
    let read = |name: &String| Ok((name.clone(), file.tensor(name)?));
    let tensors = file.tensors().keys().map(read).collect::<Result<_>>()?;
    Ok((tensors, file.metadata().clone()))
}

fn to_torch(entry: &StateEntry) -> Result<Tensor> {
    let tensor = entry.tensor.detach();
    Ok(match entry.layout {
        StateLayout::Same => tensor,
        StateLayout::ConvWeight => tensor.to_nchw()?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Model, ModelOptions, create_model, named_parameters};

    fn model(seed: u64) -> Box<dyn Model> {
        let options = ModelOptions { num_classes: 10, in_chans: 1, seed, ..ModelOptions::default() };
        create_model("resnet8", &options).expect("builds")
    }

    fn map(state: Vec<(String, Tensor)>) -> BTreeMap<String, Tensor> {
        state.into_iter().collect()
    }

    #[test]
    fn state_dict_round_trips_through_safetensors() {
        let (a, b) = (model(1), model(2));
        let state = state_dict(&*a).expect("reads");
        assert_eq!(state[0].0, "conv1.weight");
        assert_eq!(state[0].1.dims(), [16, 1, 3, 3], "PyTorch's layout");
        let metadata = HashMap::from([("epoch".to_string(), "3".to_string())]);
        let bytes = to_safetensors(&state, Some(metadata)).expect("writes");
        assert_eq!(
            bytes,
            to_safetensors(
                &state_dict(&*a).expect("reads"),
                Some(HashMap::from([("epoch".into(), "3".into())]))
            )
            .expect("writes")
        );
        let (read, metadata) = from_safetensors(&bytes).expect("reads");
        assert_eq!(metadata["epoch"], "3");
        load_state_dict(&*b, &read).expect("fits");
        for ((name, x), (_, y)) in named_parameters(&*a).iter().zip(named_parameters(&*b)) {
            assert_eq!(x.to_vec::<f32>().expect("f32"), y.to_vec::<f32>().expect("f32"), "{name}");
        }
    }

    #[test]
    fn mismatches_are_listed_and_model_is_unchanged() {
        let (a, b) = (model(1), model(2));
        let mut state = map(state_dict(&*a).expect("reads"));
        state.remove("fc.bias");
        state.insert("fc.extra".into(), Tensor::scalar(1.0f32).expect("memory"));
        state.insert("conv1.weight".into(), Tensor::scalar(1.0f32).expect("memory"));
        let before = state_dict(&*b).expect("reads")[0].1.to_vec::<f32>().expect("f32");
        let error = load_state_dict(&*b, &state).expect_err("three problems").to_string();
        for part in [
            "fc.bias is missing",
            "fc.extra is not part of the model",
            "conv1.weight is f32[], the model expects f32[16, 1, 3, 3]",
        ] {
            assert!(error.contains(part), "{error}");
        }
        assert_eq!(before, state_dict(&*b).expect("reads")[0].1.to_vec::<f32>().expect("f32"));
    }

    #[test]
    fn damaged_file_is_rejected() {
        let bytes = to_safetensors(&state_dict(&*model(1)).expect("reads"), None).expect("writes");
        for cut in [0, 7, 8, 100, bytes.len() - 1] {
            assert!(matches!(from_safetensors(&bytes[..cut]), Err(Error::Safetensors(_))), "cut at {cut}");
        }
        let mut huge = bytes.clone();
        huge[..8].copy_from_slice(&u64::MAX.to_le_bytes());
        assert!(matches!(from_safetensors(&huge), Err(Error::Safetensors(_))));
    }
}

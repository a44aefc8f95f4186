//! Restricted reader of PyTorch files (`.pth`, `.pt`, `.pth.tar`): it knows tensors, storages, dicts, `Namespace` and numbers, and executes
//! nothing. Other objects, such as the state of an optimizer, are skipped; if the weights need one, the error names its class.
mod archive;
mod pickle;
mod tensor;
mod value;

pub use archive::LEGACY_MAGIC;

use crate::checkpoint::EMA;
use archive::Contents;
use fornax_engine::Tensor;
use fornax_nn::state_dict::TensorInfo;
use std::collections::{BTreeMap, HashMap};
use tensor::StoredTensor;
use value::{Object, Pickle, Value};

/// Keys of a checkpoint's weights, in timm's order.
const WEIGHTS: [&str; 2] = ["state_dict", "model"];
/// Keys of a checkpoint's EMA weights, in timm's order.
const EMA_WEIGHTS: [&str; 2] = ["state_dict_ema", "model_ema"];
/// Bytes of all tensors, in sizes of the file: tensors may share a storage.
const MAX_SHARING: usize = 8;

/// PyTorch file in memory, with validated tensors.
pub struct PyTorchFile<'a> {
    tensors: BTreeMap<String, TensorInfo>,
    stored: HashMap<String, StoredTensor<'a>>,
    rejected: BTreeMap<String, String>,
    architecture: Option<String>,
}

impl<'a> PyTorchFile<'a> {
    /// Reads the pickle and validates the tensors of the weights; names of EMA weights begin with `ema/`.
    pub fn parse(file: &'a [u8]) -> Result<PyTorchFile<'a>, String> {
        let contents = archive::open(file)?;
        let pickle = &contents.pickle;
        let mut read = PyTorchFile {
            tensors: BTreeMap::new(),
            stored: HashMap::new(),
            rejected: BTreeMap::new(),
            architecture: architecture(pickle),
        };
        read.add("", weights(pickle)?, &contents, file.len())?;
        let ema = EMA_WEIGHTS
            .iter()
            .find_map(|key| pickle.entry(pickle.root, key).filter(|v| has_tensors(pickle, *v)));
        if let Some(ema) = ema {
            read.add(EMA, ema, &contents, file.len())?;
        }
        Ok(read)
    }

    /// Adds the tensors of a state dict; entries of other types are skipped.
    fn add(
        &mut self,
        prefix: &str,
        dict: Value<'a>,
        contents: &Contents<'a>,
        size: usize,
    ) -> Result<(), String> {
        let pickle = &contents.pickle;
        for (key, value) in pickle.dict(dict).unwrap_or_default() {
            let Value::Text(key) = key else { continue };
            let name = format!("{prefix}{key}");
            match pickle.object(*value) {
                Some(Object::Tensor(view)) => match tensor::check(view, &contents.storages, size) {
                    Ok(stored) => {
                        self.tensors.insert(name.clone(), stored.info.clone());
                        self.stored.insert(name, stored);
                    }
                    // Left to the model: it may not need the tensor.
                    Err(why) if view.dtype.is_err() => drop(self.rejected.insert(name, why)),
                    Err(why) => return Err(format!("{name}: {why}")),
                },
                Some(Object::Opaque { class, .. }) => {
                    self.rejected.insert(name, format!("it is an object of {class}, which is not read"));
                }
                _ => {}
            }
        }
        let bytes =
            |info: &TensorInfo| info.shape.iter().product::<usize>() as u128 * info.stored.size() as u128;
        match self.tensors.values().map(bytes).sum::<u128>() > (size * MAX_SHARING) as u128 {
            true => Err(format!("its tensors have more than {MAX_SHARING} times the bytes of the file")),
            false => Ok(()),
        }
    }

    /// Dtypes and shapes of all tensors, by name.
    pub fn tensors(&self) -> &BTreeMap<String, TensorInfo> {
        &self.tensors
    }

    /// Copies a tensor from the file.
    pub fn tensor(&self, name: &str) -> fornax_nn::Result<Tensor> {
        match self.stored.get(name) {
            Some(stored) => stored.tensor(),
            None => Err(fornax_nn::Error::Safetensors(format!("no tensor {name:?}"))),
        }
    }

    /// Entries of the weights that cannot be read, with the reason.
    pub fn rejected(&self) -> &BTreeMap<String, String> {
        &self.rejected
    }

    /// Name of the model, if the checkpoint says it, as timm's do.
    pub fn architecture(&self) -> Option<&str> {
        self.architecture.as_deref()
    }

    /// Verifies the CRC-32 of all storages of the weights. Returns false if the file has none.
    pub fn verify(&self) -> Result<bool, String> {
        let mut has_sums = false;
        for (name, stored) in &self.stored {
            has_sums |= stored.verify().map_err(|why| format!("{name}: {why}"))?;
        }
        Ok(has_sums)
    }
}

/// The state dict of a checkpoint: under timm's keys, else the checkpoint itself if it has tensors, else its only entry with tensors.
fn weights<'a>(pickle: &Pickle<'a>) -> Result<Value<'a>, String> {
    let root = pickle.root;
    let Some(entries) = pickle.dict(root) else { return Err(no_dict(pickle, "it", root)) };
    if let Some((key, found)) = WEIGHTS.iter().find_map(|key| Some((*key, pickle.entry(root, key)?))) {
        return match pickle.dict(found) {
            Some(_) => Ok(found),
            None => Err(no_dict(pickle, &format!("its entry {key:?}"), found)),
        };
    }
    if has_tensors(pickle, root) {
        return Ok(root);
    }
    let candidates: Vec<Value<'a>> =
        entries.iter().map(|(_, value)| *value).filter(|value| has_tensors(pickle, *value)).collect();
    if let [only] = candidates[..] {
        return Ok(only);
    }
    let keys: Vec<&str> = entries
        .iter()
        .filter_map(|(key, _)| if let Value::Text(key) = key { Some(*key) } else { None })
        .take(10)
        .collect();
    let count = if candidates.is_empty() { "no state dict" } else { "several state dicts, none" };
    Err(format!("it has {count} under \"state_dict\" or \"model\"; its entries are: {}", keys.join(", ")))
}

/// True for a dict with at least one tensor.
fn has_tensors<'a>(pickle: &Pickle<'a>, value: Value<'a>) -> bool {
    let is_tensor = |value: &Value<'a>| matches!(pickle.object(*value), Some(Object::Tensor(_)));
    pickle.dict(value).is_some_and(|entries| entries.iter().any(|(_, value)| is_tensor(value)))
}

fn no_dict<'a>(pickle: &Pickle<'a>, what: &str, value: Value<'a>) -> String {
    match (pickle.object(value), value) {
        (Some(Object::Opaque { class, .. }), _) => format!(
            "{what} is an object of {class}, which only its Python code could read; save its state_dict() instead"
        ),
        (Some(Object::Tensor(_)), _) => format!("{what} is a single tensor, not a state dict"),
        (_, Value::None) => format!("{what} is None, not a state dict"),
        _ => format!("{what} is not a state dict"),
    }
}

/// `arch` of timm's checkpoints, else `model` of their arguments.
fn architecture(pickle: &Pickle<'_>) -> Option<String> {
    let text = |value: Value<'_>| match value {
        Value::Text(text) => Some(text.to_string()),
        _ => None,
    };
    let of_arguments = || match pickle.object(pickle.entry(pickle.root, "args")?)? {
        Object::Opaque { state, .. } => text(pickle.entry(*state, "model")?),
        _ => None,
    };
    pickle.entry(pickle.root, "arch").and_then(text).or_else(of_arguments)
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILES: [&[u8]; 6] = [
        include_bytes!("../../../tests/data/pytorch/plain.pth"),
        include_bytes!("../../../tests/data/pytorch/timm.pth.tar"),
        include_bytes!("../../../tests/data/pytorch/views.pth"),
        include_bytes!("../../../tests/data/pytorch/dtypes.pth"),
        include_bytes!("../../../tests/data/pytorch/legacy.pth"),
        include_bytes!("../../../tests/data/pytorch/whole.pth"),
    ];

    /// Operations of pickles and digits.
    const SYMBOLS: &[u8] = b"().0123456789NRQKJMXc}]sutqbe\x85\x86\x87\x8a\xff";

    #[test]
    fn corrupted_file_never_panics_and_allocates_no_more_than_its_size_allows() {
        let mut state = 1u64;
        let mut random = |n: usize| {
            state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            (state >> 33) as usize % n
        };
        let mut accepted = 0;
        for round in 0..30_000 {
            let mut bad = FILES[round % FILES.len()].to_vec();
            for _ in 0..=random(4) {
                let at = random(bad.len());
                match random(5) {
                    0 => bad[at] ^= 1 << random(8),
                    1 => bad[at] = SYMBOLS[random(SYMBOLS.len())],
                    2 => bad.truncate(at + 1),
                    3 => bad.insert(at, b"(tRQ2}"[random(6)]),
                    _ => bad[at] = 0xff,
                }
            }
            if let Ok(file) = PyTorchFile::parse(&bad) {
                accepted += 1;
                let mut bytes = 0;
                for (name, info) in file.tensors() {
                    bytes += info.shape.iter().product::<usize>() * info.stored.size();
                    // Only an unsigned integer above the range of i64 is rejected now.
                    if let Ok(tensor) = file.tensor(name) {
                        assert_eq!(tensor.dims(), info.shape);
                    }
                }
                assert!(bytes <= MAX_SHARING * bad.len(), "{bytes} bytes of {}", bad.len());
                // A damaged sum is an error, not a panic.
                file.verify().map_or_else(drop, |_| ());
            }
        }
        assert!((1_000..29_000).contains(&accepted), "{accepted}");
    }

    #[test]
    fn damaged_elements_do_not_match_their_checksum() {
        let mut bytes = FILES[0].to_vec();
        assert_eq!(PyTorchFile::parse(&bytes).expect("whole").verify(), Ok(true));
        assert_eq!(PyTorchFile::parse(FILES[4]).expect("whole").verify(), Ok(false));
        let at = bytes.windows(4).position(|w| w == 22.0f32.to_le_bytes()).expect("an element");
        bytes[at] ^= 1;
        let error = PyTorchFile::parse(&bytes).expect("readable").verify().expect_err("damaged");
        assert!(error.contains("conv.weight: the CRC-32"), "{error}");
    }
}

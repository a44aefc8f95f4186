//! Golden topics: their JSON document and tensors.
use fornax_engine::{DType, Device, Error, Tensor};
use serde_json::Value;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// The golden folder: `FORNAX_GOLDEN`, or the copy in this package.
pub fn folder() -> PathBuf {
    match std::env::var_os("FORNAX_GOLDEN") {
        Some(path) => path.into(),
        None => Path::new(env!("CARGO_MANIFEST_DIR")).join("golden"),
    }
}

/// One topic of the folder.
pub struct Topic {
    /// Name: the files' stem.
    pub name: String,
    /// The JSON document.
    pub json: Value,
    /// Device on which its cases are computed.
    pub device: Device,
    /// The tensors by name.
    pub tensors: BTreeMap<String, StoredTensor>,
}

/// A stored tensor with its values as f64 (exact for all stored dtypes, for i64 up to 2^53).
#[derive(Clone, Debug)]
pub struct StoredTensor {
    /// The stored dtype; i32 counts as i64, a mask as u8.
    pub dtype: DType,
    /// Extents as stored: NCHW for images unless the case states otherwise.
    pub shape: Vec<usize>,
    /// Elements, row-major.
    pub data: Vec<f64>,
}

/// One case of a topic.
#[derive(Clone, Copy)]
pub struct GoldenCase<'a> {
    /// The topic it belongs to.
    pub topic: &'a Topic,
    /// The case's JSON object.
    pub json: &'a Value,
}

impl Topic {
    /// Reads a topic from a folder; its cases are computed on `device`. A topic without tensors has no safetensors file.
    pub fn load(folder: &Path, name: &str, device: Device) -> Result<Topic, String> {
        let path = folder.join(format!("{name}.json"));
        let text = std::fs::read_to_string(&path).map_err(|e| format!("{}: {e}", path.display()))?;
        let json: Value = serde_json::from_str(&text).map_err(|e| format!("{}: {e}", path.display()))?;
        let tensors = match json["tensors"].as_str() {
            Some(file) => read_tensors(&folder.join(file))?,
            None => BTreeMap::new(),
        };
        Ok(Topic { name: name.into(), json, device, tensors })
    }

    /// The cases. An empty or missing list is an error, so that an empty topic cannot pass.
    pub fn cases(&self) -> Result<Vec<GoldenCase<'_>>, String> {
        match self.json["cases"].as_array() {
            Some(list) if !list.is_empty() => {
                Ok(list.iter().map(|json| GoldenCase { topic: self, json }).collect())
            }
            _ => Err(format!("{}: no cases", self.name)),
        }
    }

    /// A tensor by name.
    pub fn tensor(&self, name: &str) -> Result<&StoredTensor, String> {
        self.tensors.get(name).ok_or_else(|| format!("{}: no tensor {name}", self.name))
    }
}

impl StoredTensor {
    /// Converts to a tensor of the given dtype on a device.
    pub fn to_tensor(&self, dtype: DType, device: &Device) -> Result<Tensor, Error> {
        Tensor::from_slice(&self.data, self.shape.as_slice())?.to_dtype(dtype)?.to_device(device)
    }
}

impl<'a> GoldenCase<'a> {
    /// The case's unique name.
    pub fn id(&self) -> &'a str {
        self.json["id"].as_str().unwrap_or("(no id)")
    }

    /// The case's operation.
    pub fn op(&self) -> &'a str {
        self.json["op"].as_str().unwrap_or("(no op)")
    }

    /// The tensor of `role` in `map` ("inputs", "outputs", "grads", "upstream", "buffers_in", "buffers_out").
    pub fn tensor(&self, map: &str, role: &str) -> Result<&'a StoredTensor, String> {
        let name = self.json[map][role].as_str().ok_or_else(|| format!("{}: no {map}.{role}", self.id()))?;
        self.topic.tensor(name)
    }

    /// The roles in `map`, in the file's order.
    pub fn roles(&self, map: &str) -> Vec<&'a str> {
        self.json[map].as_object().map(|m| m.keys().map(String::as_str).collect()).unwrap_or_default()
    }

    /// True when `map` has `role`.
    pub fn has(&self, map: &str, role: &str) -> bool {
        self.json[map].get(role).is_some()
    }

    /// A parameter of the case; null when absent.
    pub fn param(&self, name: &str) -> &'a Value {
        &self.json["params"][name]
    }

    /// A number among the parameters.
    pub fn number(&self, name: &str) -> Result<f64, String> {
        self.param(name).as_f64().ok_or_else(|| format!("{}: parameter {name} is not a number", self.id()))
    }

    /// A flag among the parameters; absent means false.
    pub fn flag(&self, name: &str) -> bool {
        self.param(name).as_bool().unwrap_or(false)
    }

    /// A string among the parameters.
    pub fn text(&self, name: &str) -> Result<&'a str, String> {
        self.param(name).as_str().ok_or_else(|| format!("{}: parameter {name} is not a string", self.id()))
    }

    /// A pair among the parameters; one number stands for both.
    pub fn pair(&self, name: &str) -> Result<[usize; 2], String> {
        let value = self.param(name);
        let number = |v: &Value| v.as_u64().map(|n| n as usize);
        let pair = match value.as_array() {
            Some(list) if list.len() == 2 => number(&list[0]).zip(number(&list[1])).map(|(a, b)| [a, b]),
            Some(_) => None,
            None => number(value).map(|n| [n, n]),
        };
        pair.ok_or_else(|| format!("{}: parameter {name} is neither a number nor a pair", self.id()))
    }

    /// Errors on an unknown parameter, so that a new option is not ignored.
    pub fn allow_params(&self, known: &[&str]) -> Result<(), String> {
        let Some(params) = self.json["params"].as_object() else { return Ok(()) };
        match params.keys().find(|k| !known.contains(&k.as_str())) {
            Some(k) => Err(format!("{}: parameter {k} is not known to the test", self.id())),
            None => Ok(()),
        }
    }
}

fn read_tensors(path: &Path) -> Result<BTreeMap<String, StoredTensor>, String> {
    let bytes = std::fs::read(path).map_err(|e| format!("{}: {e}", path.display()))?;
    let file =
        safetensors::SafeTensors::deserialize(&bytes).map_err(|e| format!("{}: {e}", path.display()))?;
    file.tensors()
        .into_iter()
        .map(|(name, view)| {
            let (dtype, data) = decode(view.dtype(), view.data()).ok_or_else(|| {
                format!("{}: {name} has dtype {:?}, which no case uses", path.display(), view.dtype())
            })?;
            Ok((name, StoredTensor { dtype, shape: view.shape().to_vec(), data }))
        })
        .collect()
}

fn decode(dtype: safetensors::Dtype, bytes: &[u8]) -> Option<(DType, Vec<f64>)> {
    use safetensors::Dtype;
    macro_rules! values {
        ($t:ty) => {
            bytes
                .chunks_exact(size_of::<$t>())
                .map(|b| <$t>::from_le_bytes(b.try_into().expect("a whole element")) as f64)
                .collect()
        };
    }
    Some(match dtype {
        Dtype::F32 => (DType::F32, values!(f32)),
        Dtype::F64 => (DType::F64, values!(f64)),
        Dtype::I64 => (DType::I64, values!(i64)),
        Dtype::I32 => (DType::I64, values!(i32)),
        Dtype::U8 | Dtype::BOOL => (DType::U8, values!(u8)),
        _ => return None,
    })
}

//! Checkpoints: one safetensors file with all that the next update reads.
//!
//! The model's tensors stand under timm's names and in PyTorch's shapes, those of its average likewise under `ema/`, the optimizer's
//! under `optimizer/`. The metadata holds the state as JSON (`fornax.state`) and the CRC32C of that and of every tensor (`fornax.crc32c`). The
//! header is sorted, so equal states give equal files.
pub mod durable;

use crate::data::{Dataset, Statistics};
use crate::ema::Ema;
use crate::optim::Optimizer;
use crate::settings::Settings;
use crate::trainer::TrainerState;
use crate::{Error, Result};
use fornax_engine::{DType, Tensor};
use fornax_nn::{Module, state_dict};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};

/// Version of the layout.
const VERSION: u32 = 1;
/// What names of the optimizer's tensors begin with.
pub(crate) const OPTIMIZER: &str = "optimizer/";
/// What names of the weights' moving average begin with.
pub(crate) const EMA: &str = "ema/";
const STATE: &str = "fornax.state";
const SUMS: &str = "fornax.crc32c";

/// The CRC32C of each tensor and of the state, by name.
pub(crate) type Sums = BTreeMap<String, u32>;

/// What a checkpoint says beside its tensors.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Header {
    /// Version of the layout; see [`read`].
    version: u32,
    /// The run's settings.
    pub settings: Settings,
    /// Where the run stands.
    pub state: TrainerState,
    /// Of the data set's images and labels.
    pub data_crc32c: u32,
    /// Names of the classes, in the order of the logits.
    pub classes: Vec<String>,
    /// Statistics that images are normalised with.
    pub statistics: Statistics,
    /// Height, width and channels of the images; unknown in old files.
    #[serde(default)]
    pub image_size: Option<[usize; 3]>,
}

impl Header {
    /// The header of a run at a state.
    pub fn new(settings: &Settings, state: &TrainerState, data: &Dataset) -> Header {
        Header {
            version: VERSION,
            settings: settings.clone(),
            state: state.clone(),
            data_crc32c: data.crc32c(),
            classes: data.classes.clone(),
            statistics: data.statistics.clone(),
            image_size: Some(data.train.size),
        }
    }
}

/// A checkpoint that was read, and found whole.
pub struct Checkpoint {
    /// What it says.
    pub header: Header,
    path: PathBuf,
    tensors: BTreeMap<String, Tensor>,
}

/// The tensors of a model and, if given, of its optimizer and its average, sorted for a checkpoint.
pub fn tensors(
    model: &dyn Module,
    optimizer: Option<&Optimizer>,
    ema: Option<&Ema>,
) -> Result<Vec<(String, Tensor)>> {
    let of_model =
        |model: &dyn Module| state_dict::state_dict(model).map_err(|e| Error::checkpoint(e.to_string()));
    let mut tensors = of_model(model)?;
    let averages = ema.map(|ema| of_model(ema.model())).transpose()?.unwrap_or_default();
    tensors.extend(averages.into_iter().map(|(name, tensor)| (format!("{EMA}{name}"), tensor)));
    let state = optimizer.map_or(vec![], |o| o.state_dict());
    tensors.extend(state.into_iter().map(|(name, tensor)| (format!("{OPTIMIZER}{name}"), tensor)));
    // The widest first, so that each stands aligned in the file; then by name.
    tensors.sort_by(|a, b| b.1.dtype().size().cmp(&a.1.dtype().size()).then_with(|| a.0.cmp(&b.0)));
    Ok(tensors)
}

/// The bytes of a checkpoint of `tensors`, which [`tensors`] sorted.
pub fn serialize(tensors: &[(String, Tensor)], header: &Header) -> Result<Vec<u8>> {
    let state = json(header);
    let mut sums = Sums::from([(STATE.to_string(), crc32c::crc32c(state.as_bytes()))]);
    let mut entries = serde_json::Map::new();
    let mut body = vec![];
    for (name, tensor) in tensors {
        let start = body.len();
        append(&mut body, tensor)?;
        sums.insert(name.clone(), crc32c::crc32c(&body[start..]));
        let entry = serde_json::json!({
            "dtype": tensor.dtype().to_string().to_uppercase(),
            "shape": tensor.dims(),
            "data_offsets": [start, body.len()],
        });
        entries.insert(name.clone(), entry);
    }
    let metadata = serde_json::json!({ "format": "pt", SUMS: json(&sums), STATE: state });
    let mut all = serde_json::Map::from_iter([("__metadata__".to_string(), metadata)]);
    all.extend(entries);
    let mut text = json(&all).into_bytes();
    text.resize(text.len().next_multiple_of(8), b' ');
    let mut file = (text.len() as u64).to_le_bytes().to_vec();
    file.extend(text);
    file.extend(body);
    Ok(file)
}

/// Reads a checkpoint and verifies every sum.
pub fn read(path: &Path) -> Result<Checkpoint> {
    let fail = |why: String| {
        Error::checkpoint("the checkpoint cannot be used")
            .at_path(path)
            .because(why)
            .remedy("name another with --resume, or start over without it")
    };
    let bytes = std::fs::read(path).map_err(|e| fail(e.to_string()))?;
    let (tensors, metadata) = state_dict::from_safetensors(&bytes).map_err(|e| fail(e.to_string()))?;
    let foreign = || fail("it was not written by fornax train: it says nothing of a run".into());
    let header = header(&metadata).map_err(fail)?.ok_or_else(foreign)?;
    let sums = sums(&metadata).map_err(fail)?.ok_or_else(foreign)?;
    let check = |name: &str, sum: u32| check(&sums, name, sum).map_err(fail);
    if sums.len() != tensors.len() + 1 {
        return Err(fail(format!("{} tensors were recorded, {} are there", sums.len() - 1, tensors.len())));
    }
    for (name, tensor) in &tensors {
        let mut bytes = vec![];
        append(&mut bytes, tensor)?;
        check(name, crc32c::crc32c(&bytes))?;
    }
    Ok(Checkpoint { header, path: path.into(), tensors })
}

/// The recorded sums of a file of this metadata; nothing if Fornax did not write it.
pub(crate) fn sums(metadata: &HashMap<String, String>) -> std::result::Result<Option<Sums>, String> {
    let sums =
        metadata.get(SUMS).map(|text| serde_json::from_str(text).map_err(|e| format!("its sums: {e}")));
    sums.transpose()
}

/// What a file of this metadata says about its run, verified; nothing if Fornax did not write it.
pub(crate) fn header(metadata: &HashMap<String, String>) -> std::result::Result<Option<Header>, String> {
    let (Some(state), Some(sums)) = (metadata.get(STATE), sums(metadata)?) else { return Ok(None) };
    check(&sums, STATE, crc32c::crc32c(state.as_bytes()))?;
    let version = serde_json::from_str::<serde_json::Value>(state).map(|v| v["version"].as_u64());
    if let Ok(Some(version)) = version
        && version > u64::from(VERSION)
    {
        return Err(format!("its layout is version {version}; this fornax knows up to {VERSION}"));
    }
    serde_json::from_str(state).map(Some).map_err(|e| format!("its state: {e}"))
}

fn check(sums: &Sums, name: &str, sum: u32) -> std::result::Result<(), String> {
    match sums.get(name) {
        Some(expected) if *expected == sum => Ok(()),
        _ => Err(format!("{name} does not have the CRC32C that was recorded: the file is damaged")),
    }
}

impl Checkpoint {
    /// Brings a model, its optimizer and its average to the saved state; an average that the checkpoint does not have becomes a copy of
    /// the model. Errors, changing nothing, when model and optimizer are not of its kind.
    pub fn restore(&self, model: &dyn Module, optimizer: &Optimizer, ema: Option<&Ema>) -> Result<()> {
        let fail = |why: String| {
            Error::checkpoint("the checkpoint does not fit this run").at_path(&self.path).because(why)
        };
        let (of_optimizer, others): (BTreeMap<_, _>, BTreeMap<_, _>) =
            self.tensors.clone().into_iter().partition(|(name, _)| name.starts_with(OPTIMIZER));
        let (of_ema, of_model): (BTreeMap<_, _>, BTreeMap<_, _>) =
            others.into_iter().partition(|(name, _)| name.starts_with(EMA));
        let of_ema: BTreeMap<String, Tensor> =
            of_ema.into_iter().map(|(name, tensor)| (name[EMA.len()..].to_string(), tensor)).collect();
        let mut pairs = vec![];
        // SGD's did not use to be saved, as nothing depended on it.
        let updates = Tensor::scalar(self.header.state.update as i64)?;
        for (name, tensor) in optimizer.state_dict() {
            let saved = of_optimizer.get(&format!("{OPTIMIZER}{name}"));
            match saved.filter(|s| s.shape() == tensor.shape() && s.dtype() == tensor.dtype()) {
                Some(saved) => pairs.push((tensor, saved)),
                None if name == "step" => pairs.push((tensor, &updates)),
                None => {
                    let remedy =
                        "resume from checkpoints/last.safetensors, which holds the optimizer's state";
                    return Err(fail(format!("it lacks the optimizer's {name}")).remedy(remedy));
                }
            }
        }
        state_dict::load_state_dict(model, &of_model).map_err(|e| fail(e.to_string()))?;
        if let Some(ema) = ema {
            let saved = if of_ema.is_empty() { &of_model } else { &of_ema };
            state_dict::load_state_dict(ema.model(), saved).map_err(|e| fail(e.to_string()))?;
        }
        for (tensor, saved) in pairs {
            tensor.copy_from(saved)?;
        }
        Ok(())
    }
}

fn json(value: &impl Serialize) -> String {
    serde_json::to_string(value).expect("plain values have a JSON form")
}

/// Appends the elements of a tensor, little-endian.
fn append(out: &mut Vec<u8>, tensor: &Tensor) -> Result<()> {
    match tensor.dtype() {
        DType::F32 => tensor.read::<f32>()?.iter().for_each(|v| out.extend(v.to_le_bytes())),
        DType::F64 => tensor.read::<f64>()?.iter().for_each(|v| out.extend(v.to_le_bytes())),
        DType::I64 => tensor.read::<i64>()?.iter().for_each(|v| out.extend(v.to_le_bytes())),
        DType::U8 => out.extend_from_slice(&tensor.read::<u8>()?),
        half => return Err(Error::checkpoint(format!("checkpoints do not hold tensors of {half}"))),
    }
    Ok(())
}

/// SHA-256, in hexadecimal, of the names, dtypes, shapes and elements of tensors, in the given order.
pub fn hash(tensors: &[(String, Tensor)]) -> Result<String> {
    use sha2::{Digest, Sha256};
    let mut hasher = Sha256::new();
    for (name, tensor) in tensors {
        let mut bytes = format!("{name}\0{}{:?}\0", tensor.dtype(), tensor.dims()).into_bytes();
        append(&mut bytes, tensor)?;
        hasher.update(bytes);
    }
    Ok(hasher.finalize().iter().map(|byte| format!("{byte:02x}")).collect())
}

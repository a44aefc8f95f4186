//! Checkpoints: one safetensors file with the complete state of a run.
//!
//! The model's tensors have timm's names and PyTorch's shapes; the EMA weights have the same names under `ema/`, the optimizer's state
//! tensors are under `optimizer/`. The metadata holds the state as JSON (`fornax.state`) and the CRC32C of it and of every tensor
//! (`fornax.crc32c`). The header is sorted, so equal states give equal files.
mod conv_plans;
pub mod durable;
pub mod files;
pub mod history;
mod lock;
mod newest;
mod room;
pub(crate) mod space;
mod stored_paths;
mod validity;

pub use conv_plans::ConvPlans;
pub use lock::{LOCK_FILE, RunLock};
pub use newest::{NewestCheckpoint, newest, newest_accepted};
pub use room::{make_room, make_room_for_reports};
pub use stored_paths::{missing_dataset, with_absolute_paths};

use crate::config::InputConfig;
use crate::data::{ChannelStats, DatasetChecksums, DatasetSplits, SplitChecksums};
use crate::ema::Ema;
use crate::error::ErrorKind;
use crate::optim::Optimizer;
use crate::settings::{ConvAlgo, Settings};
use crate::trainer::TrainerState;
use crate::weights::{ForeignFormat, read_weights};
use crate::{Error, Result};
use fornax_engine::dtype::{bf16, f16};
use fornax_engine::{DType, Tensor};
use fornax_nn::state_dict::{self, SafetensorsWriter, append_bytes, sort_for_file};
use fornax_nn::{Module, state_entries};
use serde::{Deserialize, Deserializer, Serialize};
use std::collections::{BTreeMap, HashMap};
use std::io;
use std::path::{Path, PathBuf};

/// Version of the file layout.
const VERSION: u32 = 1;
/// Name prefix of the optimizer's tensors.
pub(crate) const OPTIMIZER: &str = "optimizer/";
/// Name prefix of the EMA weights.
pub(crate) const EMA: &str = "ema/";
const STATE: &str = "fornax.state";
/// Value of the metadata `format`, by which timm and others know PyTorch's shapes.
const FORMAT: &str = "pt";
const CHECKSUMS: &str = "fornax.crc32c";

/// CRC32C of each tensor and of the state, by name.
pub(crate) type Checksums = BTreeMap<String, u32>;

/// Metadata of a checkpoint.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct CheckpointHeader {
    /// Version of the file layout; see [`read`].
    version: u32,
    /// The run's settings, with absolute paths. `conv_algo` is direct if the file is of an older version, which has no other algorithm.
    #[serde(deserialize_with = "settings_of_run")]
    pub settings: Settings,
    /// Number of ranks; each has a batch of the settings' size.
    #[serde(default = "one", skip_serializing_if = "is_one")]
    pub world_size: usize,
    /// Progress of the run.
    pub state: TrainerState,
    /// CRC32C of the names and labels of all samples.
    pub data_crc32c: u32,
    /// CRC32C of the names and labels of each split; `None` in files of older versions.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub split_crc32c: Option<SplitChecksums>,
    /// CRC32C of the image files of each split; `None` in files of older versions.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub content_crc32c: Option<SplitChecksums>,
    /// Names of the classes, in the order of the logits.
    pub classes: Vec<String>,
    /// Mean and standard deviation for the normalisation of images.
    pub statistics: ChannelStats,
    /// Height, width and channels of the images; `None` in files of older versions.
    #[serde(default)]
    pub image_size: Option<[usize; 3]>,
    /// Convolution plans of a CUDA device that were chosen by timing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub conv_plans: Option<ConvPlans>,
}

fn settings_of_run<'de, D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Settings, D::Error> {
    let settings = Settings::deserialize(deserializer)?;
    Ok(Settings { conv_algo: settings.conv_algo.or(Some(ConvAlgo::Direct)), ..settings })
}

fn one() -> usize {
    1
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "the signature that serde calls")]
fn is_one(number: &usize) -> bool {
    *number == 1
}

impl CheckpointHeader {
    /// Creates the metadata of a run in its initial state.
    pub fn new(
        settings: &Settings,
        data: &DatasetSplits,
        checksums: &DatasetChecksums,
        input: &InputConfig,
    ) -> CheckpointHeader {
        CheckpointHeader {
            version: VERSION,
            settings: with_absolute_paths(settings),
            world_size: 1,
            state: TrainerState::default(),
            data_crc32c: checksums.samples.combined(),
            split_crc32c: Some(checksums.samples),
            content_crc32c: Some(checksums.content),
            classes: data.classes.clone(),
            statistics: input.statistics.clone(),
            image_size: Some([input.size[0], input.size[1], input.channels]),
            conv_plans: None,
        }
    }

    /// The same metadata of a run of several ranks.
    pub fn with_world_size(self, world_size: usize) -> CheckpointHeader {
        CheckpointHeader { world_size, ..self }
    }

    /// The same metadata in another state.
    pub fn with_state(&self, state: &TrainerState, conv_plans: Option<ConvPlans>) -> CheckpointHeader {
        CheckpointHeader { state: state.clone(), conv_plans, ..self.clone() }
    }
}

/// Checkpoint read from a file, with verified checksums.
pub struct Checkpoint {
    /// The metadata.
    pub header: CheckpointHeader,
    path: PathBuf,
    tensors: BTreeMap<String, Tensor>,
}

/// The tensors of a model and, if given, of its optimizer and its EMA, sorted for a checkpoint.
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
    sort_for_file(&mut tensors);
    Ok(tensors)
}

/// The tensors of a model and, if given, of its optimizer and its EMA, which share their elements with them.
pub fn state_tensors(model: &dyn Module, optimizer: Option<&Optimizer>, ema: Option<&Ema>) -> Vec<Tensor> {
    let of_model = |model: &dyn Module| state_entries(model).into_iter().map(|entry| entry.tensor);
    let mut tensors: Vec<Tensor> = of_model(model).collect();
    tensors.extend(ema.into_iter().flat_map(|ema| of_model(ema.model())));
    tensors.extend(optimizer.into_iter().flat_map(Optimizer::state_dict).map(|(_, tensor)| tensor));
    tensors
}

/// Serializes a checkpoint of `tensors`, as sorted by [`tensors`]. Errors with [`ErrorKind::NonFinite`] if an element is not finite.
pub fn serialize(tensors: &[(String, Tensor)], header: &CheckpointHeader) -> Result<Vec<u8>> {
    let state = json(header);
    let mut sums = Checksums::from([(STATE.to_string(), crc32c::crc32c(state.as_bytes()))]);
    let mut writer = SafetensorsWriter::new();
    for (name, tensor) in tensors {
        let bytes = writer.add(name, tensor).map_err(unwritable)?;
        if !is_finite(tensor.dtype(), bytes) {
            return Err(Error::new(
                ErrorKind::NonFinite,
                format!("{name} is not finite, so it is not saved"),
            )
            .remedy("lower --lr or raise --warmup-epochs; earlier checkpoints are finite"));
        }
        sums.insert(name.clone(), crc32c::crc32c(bytes));
    }
    let metadata = [("format".into(), FORMAT.into()), (CHECKSUMS.into(), json(&sums)), (STATE.into(), state)];
    writer.finish(HashMap::from(metadata)).map_err(unwritable)
}

fn unwritable(error: fornax_nn::Error) -> Error {
    Error::checkpoint("the checkpoint cannot be written").because(error)
}

/// Reads a checkpoint and verifies every checksum.
pub fn read(path: &Path) -> Result<Checkpoint> {
    let fail = |why: String| {
        Error::checkpoint("the checkpoint cannot be used")
            .at_path(path)
            .because(why)
            .remedy("pass another checkpoint to --resume, or start over without --resume")
    };
    let bytes = read_weights(path).map_err(|e| match e.kind() {
        // Not a regular file, longer than its header declares, or larger than the memory.
        io::ErrorKind::InvalidInput | io::ErrorKind::InvalidData | io::ErrorKind::OutOfMemory => {
            fail(e.to_string())
        }
        _ => Error::unreadable(ErrorKind::Checkpoint, "the checkpoint cannot be read", path, &e),
    })?;
    let (tensors, metadata) =
        state_dict::from_safetensors(&bytes).map_err(|e| match ForeignFormat::of(&bytes) {
            Some(ForeignFormat::PyTorch) => fail(ForeignFormat::PyTorch.why().into())
                .remedy("start from its weights: use --initial-checkpoint instead of --resume"),
            Some(format) => fail(format.why().into())
                .remedy(format!("{}; then start from it with --initial-checkpoint", format.remedy(path))),
            None => fail(e.to_string()),
        })?;
    let foreign = || fail("it was not written by fornax train: it has no training state".into());
    let header = header(&metadata).map_err(fail)?.ok_or_else(foreign)?;
    let sums = checksums(&metadata).map_err(fail)?.ok_or_else(foreign)?;
    if metadata.get("format").map(String::as_str) != Some(FORMAT) {
        return Err(fail("its metadata is damaged".into()));
    }
    let check = |name: &str, sum: u32| verify_checksum(&sums, name, sum).map_err(fail);
    if sums.len() != tensors.len() + 1 {
        return Err(fail(format!("it has {} tensors, expected {}", tensors.len(), sums.len() - 1)));
    }
    for (name, tensor) in &tensors {
        let mut bytes = vec![];
        append_bytes(&mut bytes, tensor).map_err(|e| Error::checkpoint(e.to_string()))?;
        check(name, crc32c::crc32c(&bytes))?;
    }
    Ok(Checkpoint { header, path: path.into(), tensors })
}

/// The checksums in a file's metadata; `None` if Fornax did not write the file.
pub(crate) fn checksums(
    metadata: &HashMap<String, String>,
) -> std::result::Result<Option<Checksums>, String> {
    let sums =
        metadata.get(CHECKSUMS).map(|text| serde_json::from_str(text).map_err(|e| format!("its sums: {e}")));
    sums.transpose()
}

/// The verified training state in a file's metadata; `None` if Fornax did not write the file.
pub(crate) fn header(
    metadata: &HashMap<String, String>,
) -> std::result::Result<Option<CheckpointHeader>, String> {
    let (Some(state), Some(sums)) = (metadata.get(STATE), checksums(metadata)?) else { return Ok(None) };
    verify_checksum(&sums, STATE, crc32c::crc32c(state.as_bytes()))?;
    let version = serde_json::from_str::<serde_json::Value>(state).map(|v| v["version"].as_u64());
    if let Ok(Some(version)) = version
        && version > u64::from(VERSION)
    {
        return Err(format!("its layout is version {version}; this version of fornax reads up to {VERSION}"));
    }
    let header: CheckpointHeader = serde_json::from_str(state).map_err(|e| format!("its state: {e}"))?;
    header.check().map(|()| Some(header))
}

fn verify_checksum(sums: &Checksums, name: &str, sum: u32) -> std::result::Result<(), String> {
    match sums.get(name) {
        Some(expected) if *expected == sum => Ok(()),
        _ => Err(format!("the CRC32C of {name} does not match: the file is damaged")),
    }
}

impl Checkpoint {
    /// The file from which the checkpoint was read.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// True if the optimizer's state has a loss scale.
    pub fn has_loss_scale(&self) -> bool {
        self.tensors.contains_key(&format!("{OPTIMIZER}loss_scale"))
    }

    /// Restores a model and, if given, its optimizer and its EMA; if the checkpoint has no EMA, the EMA becomes a copy of the model. Errors without
    /// changing anything if names, shapes or dtypes differ.
    pub fn restore(
        &self,
        model: &dyn Module,
        optimizer: Option<&Optimizer>,
        ema: Option<&Ema>,
    ) -> Result<()> {
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
        // Older versions did not save SGD's step counter, as nothing depended on it.
        let updates = Tensor::scalar(self.header.state.update as i64)?;
        for (name, tensor) in optimizer.map_or(vec![], |optimizer| optimizer.state_dict()) {
            let saved = of_optimizer.get(&format!("{OPTIMIZER}{name}"));
            match saved.filter(|s| s.shape() == tensor.shape() && s.dtype() == tensor.dtype()) {
                Some(saved) => pairs.push((tensor, saved)),
                None if name == "step" => pairs.push((tensor, &updates)),
                None => {
                    return Err(match saved {
                        Some(_) => fail(format!("the optimizer's state {name} has another shape or dtype")),
                        None => fail(format!("it lacks the optimizer's state {name}")).remedy(
                            "continue without the optimizer's state with --no-resume-opt, or pass another checkpoint of the run",
                        ),
                    });
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

/// True if every element is finite, given little-endian bytes.
fn is_finite(dtype: DType, bytes: &[u8]) -> bool {
    let all = |size: usize, is_finite: fn(&[u8]) -> bool| bytes.chunks_exact(size).all(is_finite);
    match dtype {
        DType::F64 => all(8, |b| f64::from_le_bytes(b.try_into().expect("8 bytes")).is_finite()),
        DType::F32 => all(4, |b| f32::from_le_bytes(b.try_into().expect("4 bytes")).is_finite()),
        DType::F16 => all(2, |b| f16::from_le_bytes(b.try_into().expect("2 bytes")).is_finite()),
        DType::BF16 => all(2, |b| bf16::from_le_bytes(b.try_into().expect("2 bytes")).is_finite()),
        DType::I64 | DType::U8 => true,
    }
}

/// SHA-256, in hexadecimal, of the names, dtypes, shapes and elements of tensors, in the given order.
pub fn hash(tensors: &[(String, Tensor)]) -> Result<String> {
    use sha2::{Digest, Sha256};
    let mut hasher = Sha256::new();
    for (name, tensor) in tensors {
        let mut bytes = format!("{name}\0{}{:?}\0", tensor.dtype(), tensor.dims()).into_bytes();
        append_bytes(&mut bytes, tensor).map_err(|e| Error::checkpoint(e.to_string()))?;
        hasher.update(bytes);
    }
    Ok(hasher.finalize().iter().map(|byte| format!("{byte:02x}")).collect())
}

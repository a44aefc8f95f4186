//! Weights in a safetensors or PyTorch file: selection and names of its tensors.
use super::pytorch::PyTorchFile;
use super::{ForeignFormat, TensorFile, WeightsIdentity, read_weights};
use crate::checkpoint;
use crate::{Error, Result};
use fornax_engine::Tensor;
use fornax_nn::state_dict::{SafetensorsFile, TensorInfo};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// Name prefixes added by `DistributedDataParallel`, `torch.compile` and Lightning's modules.
const WRAPPERS: [&str; 3] = ["module.", "_orig_mod.", "model."];

/// Weights file in memory, not parsed yet. It is read rather than mapped: another program that truncates a mapped
/// file ends this one with a bus error.
pub struct WeightsFile {
    path: PathBuf,
    bytes: Vec<u8>,
}

/// Weights of a model in a file, by the model's names.
pub struct Weights<'a> {
    path: &'a Path,
    file: TensorFile<'a>,
    /// Name in the file, by the model's name without prefixes.
    names: BTreeMap<String, String>,
    checksums: Option<checkpoint::Checksums>,
    ema: bool,
}

impl WeightsFile {
    /// Reads a file. Errors if it is not a regular file, or longer than its header declares.
    pub fn open(path: &Path) -> Result<WeightsFile> {
        let bytes = read_weights(path).map_err(|e| unusable(path, e))?;
        Ok(WeightsFile { path: path.into(), bytes })
    }

    /// Path of the file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Checkpoint metadata, if Fornax wrote the file.
    pub fn checkpoint_header(&self) -> Result<Option<checkpoint::CheckpointHeader>> {
        checkpoint::header(self.parse()?.metadata()).map_err(|why| unusable(&self.path, why))
    }

    /// What the file says of its model and input, if anything.
    pub fn identity(&self) -> Result<Option<WeightsIdentity>> {
        let file = self.parse()?;
        if let Some(header) = self.checkpoint_header()? {
            return Ok(Some(WeightsIdentity::of_run(&header)));
        }
        match &file {
            TensorFile::Safetensors(file) => {
                WeightsIdentity::read(file.metadata()).map_err(|why| unusable(&self.path, why))
            }
            TensorFile::PyTorch(file) => Ok(file.architecture().and_then(WeightsIdentity::of_architecture)),
        }
    }

    /// True for a PyTorch file with EMA weights, which timm loads by default.
    pub fn prefers_ema(&self) -> Result<bool> {
        Ok(matches!(self.parse()?, TensorFile::PyTorch(_)) && self.has_ema()?)
    }

    /// True if the file has EMA weights too, under `state_dict_ema` or `model_ema` as timm's, or of a run with `--model-ema`.
    pub fn has_ema(&self) -> Result<bool> {
        Ok(self.parse()?.tensors().keys().any(|name| name.starts_with(checkpoint::EMA)))
    }

    /// The weights: all tensors of the file, or the model's or its EMA's tensors of a checkpoint.
    pub fn weights(&self, ema: bool) -> Result<Weights<'_>> {
        let file = self.parse()?;
        let sums = checkpoint::checksums(file.metadata()).map_err(|why| unusable(&self.path, why))?;
        let has_parts = sums.is_some() || matches!(file, TensorFile::PyTorch(_));
        let mut names = BTreeMap::new();
        for stored in file.tensors().keys() {
            let of_average = stored.strip_prefix(checkpoint::EMA);
            let name = match (has_parts, ema) {
                (false, _) => Some(stored.as_str()),
                (true, true) => of_average,
                (true, false) if of_average.is_some() || stored.starts_with(checkpoint::OPTIMIZER) => None,
                (true, false) => Some(stored.as_str()),
            };
            let Some(name) = name.map(strip_wrappers) else { continue };
            if let Some(other) = names.insert(name.to_string(), stored.clone()) {
                return Err(unusable(
                    &self.path,
                    format!("{other} and {stored} are both {name} of the model"),
                ));
            }
        }
        if ema && (!has_parts || names.is_empty()) {
            let remedy = "omit --use-ema, or pass a checkpoint of a run with --model-ema";
            return Err(unusable(&self.path, "it has no EMA weights").remedy(remedy));
        }
        Ok(Weights { path: &self.path, file, names, checksums: sums, ema })
    }

    /// The file's size in bytes.
    pub fn size(&self) -> usize {
        self.bytes.len()
    }

    /// The validated file, with access to every tensor.
    pub fn parse(&self) -> Result<TensorFile<'_>> {
        match ForeignFormat::of(&self.bytes) {
            Some(ForeignFormat::PyTorch) => {
                let file = PyTorchFile::parse(&self.bytes).map_err(|why| unusable(&self.path, why))?;
                Ok(TensorFile::PyTorch(file))
            }
            format => match SafetensorsFile::parse(&self.bytes) {
                Ok(file) => Ok(TensorFile::Safetensors(file)),
                Err(e) => Err(match format {
                    Some(format) => unusable(&self.path, format.why()).remedy(format.remedy(&self.path)),
                    None => unusable(&self.path, e),
                }),
            },
        }
    }

    /// Verifies the checksum of every tensor of a checkpoint, and that none is missing. Returns false for a file without checksums.
    pub fn verify(&self) -> Result<bool> {
        let damaged = |why: String| unusable(&self.path, why);
        let file = match self.parse()? {
            TensorFile::Safetensors(file) => file,
            TensorFile::PyTorch(file) => return file.verify().map_err(damaged),
        };
        let Some(sums) = checkpoint::checksums(file.metadata()).map_err(damaged)? else { return Ok(false) };
        checkpoint::header(file.metadata()).map_err(damaged)?;
        if let Some(name) = file.tensors().keys().find(|name| !sums.contains_key(*name)) {
            return Err(damaged(format!("{name} has no checksum: the file is damaged")));
        }
        let of_tensors = sums.keys().filter(|name| file.tensors().contains_key(*name)).count();
        // The remaining checksum is that of the training state.
        if of_tensors + 1 != sums.len() {
            return Err(damaged(format!("it has {of_tensors} tensors, expected {}", sums.len() - 1)));
        }
        file.tensors()
            .keys()
            .try_for_each(|name| verify_checksum(&self.path, &file, &sums, name).map(drop))?;
        Ok(true)
    }
}

/// The bytes of a stored tensor, after a check of its checksum.
fn verify_checksum<'a>(
    path: &Path,
    file: &SafetensorsFile<'a>,
    sums: &checkpoint::Checksums,
    stored: &str,
) -> Result<&'a [u8]> {
    let bytes = file.bytes(stored).map_err(|e| unusable(path, e))?;
    match sums.get(stored) == Some(&crc32c::crc32c(bytes)) {
        true => Ok(bytes),
        false => Err(unusable(path, format!("the CRC32C of {stored} does not match: the file is damaged"))),
    }
}

impl Weights<'_> {
    /// The names of all weights, without wrapper prefixes.
    pub fn names(&self) -> impl Iterator<Item = &String> {
        self.names.keys()
    }

    /// Dtype and shape of a stored tensor.
    pub fn get(&self, name: &str) -> Option<&TensorInfo> {
        self.file.tensors().get(self.names.get(strip_wrappers(name))?)
    }

    /// Reason why a tensor cannot be read although the file has an entry for it.
    pub fn rejected(&self, name: &str) -> Option<&String> {
        let prefix = if self.ema { checkpoint::EMA } else { "" };
        self.file.rejected(&format!("{prefix}{name}"))
    }

    /// Entries of a PyTorch file that cannot be read, with the reasons.
    pub fn all_rejected(&self) -> impl Iterator<Item = (&String, &String)> {
        let rejected = match &self.file {
            TensorFile::Safetensors(_) => None,
            TensorFile::PyTorch(file) => Some(file.rejected()),
        };
        let of_ema = |name: &str| name.starts_with(checkpoint::EMA);
        rejected.into_iter().flatten().filter(move |(name, _)| of_ema(name) == self.ema)
    }

    /// Reads a stored tensor and verifies its checksum, if there is one. Panics if there is no tensor of this name.
    pub fn tensor(&self, name: &str) -> Result<Tensor> {
        let stored = &self.names[strip_wrappers(name)];
        if let (Some(sums), TensorFile::Safetensors(file)) = (&self.checksums, &self.file) {
            verify_checksum(self.path, file, sums, stored)?;
        }
        self.file.tensor(stored).map_err(|e| unusable(self.path, e))
    }
}

/// A tensor's name without the prefixes of wrappers.
pub(super) fn strip_wrappers(mut name: &str) -> &str {
    while let Some(rest) = WRAPPERS.iter().find_map(|wrapper| name.strip_prefix(wrapper)) {
        name = rest;
    }
    name
}

fn unusable(path: &Path, why: impl std::fmt::Display) -> Error {
    Error::checkpoint("the weights cannot be used").at_path(path).because(why).remedy(
        "weights must be in safetensors or PyTorch format; download the file again, or pass another one",
    )
}

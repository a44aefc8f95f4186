//! Weights in a safetensors file: selection and names of its tensors.
use crate::checkpoint;
use crate::{Error, Result};
use fornax_engine::{MappedFile, Tensor};
use fornax_nn::state_dict::{SafetensorsFile, TensorInfo};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// Name prefixes added by PyTorch's wrappers: `DistributedDataParallel` and `torch.compile`.
const WRAPPERS: [&str; 2] = ["module.", "_orig_mod."];

/// Safetensors file mapped into memory, with its header not parsed yet.
pub struct WeightsFile {
    path: PathBuf,
    bytes: MappedFile,
}

/// Weights of a model in a file, by the model's names.
pub struct Weights<'a> {
    path: &'a Path,
    file: SafetensorsFile<'a>,
    /// Name in the file, by the model's name.
    names: BTreeMap<String, String>,
    checksums: Option<checkpoint::Checksums>,
}

impl WeightsFile {
    /// Maps a file.
    pub fn open(path: &Path) -> Result<WeightsFile> {
        let bytes = MappedFile::open(path).map_err(|e| unusable(path, e))?;
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

    /// The weights: all tensors of the file, or the model's or its EMA's tensors of a Fornax checkpoint.
    pub fn weights(&self, ema: bool) -> Result<Weights<'_>> {
        let file = self.parse()?;
        let sums = checkpoint::checksums(file.metadata()).map_err(|why| unusable(&self.path, why))?;
        let mut names = BTreeMap::new();
        for stored in file.tensors().keys() {
            let of_average = stored.strip_prefix(checkpoint::EMA);
            let name = match (sums.is_some(), ema) {
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
        if ema && (sums.is_none() || names.is_empty()) {
            let remedy = "leave --use-ema out, or give a checkpoint of a run with --model-ema";
            return Err(unusable(&self.path, "it has no EMA weights").remedy(remedy));
        }
        Ok(Weights { path: &self.path, file, names, checksums: sums })
    }

    fn parse(&self) -> Result<SafetensorsFile<'_>> {
        SafetensorsFile::parse(&self.bytes).map_err(|e| unusable(&self.path, e))
    }
}

impl Weights<'_> {
    /// The names of all weights, without wrapper prefixes.
    pub fn names(&self) -> impl Iterator<Item = &String> {
        self.names.keys()
    }

    /// Dtype and shape of a stored tensor.
    pub fn get(&self, name: &str) -> Option<&TensorInfo> {
        self.file.tensors().get(self.names.get(name)?)
    }

    /// Reads a stored tensor and verifies its checksum, if there is one. Panics if there is no tensor of this name.
    pub fn tensor(&self, name: &str) -> Result<Tensor> {
        let stored = &self.names[name];
        let fail = |e: fornax_nn::Error| unusable(self.path, e);
        let bytes = self.file.bytes(stored).map_err(fail)?;
        if let Some(sums) = &self.checksums
            && sums.get(stored) != Some(&crc32c::crc32c(bytes))
        {
            let why = format!("the CRC32C of {stored} does not match: the file is damaged");
            return Err(unusable(self.path, why));
        }
        self.file.tensor(stored).map_err(fail)
    }
}

fn strip_wrappers(mut name: &str) -> &str {
    while let Some(rest) = WRAPPERS.iter().find_map(|wrapper| name.strip_prefix(wrapper)) {
        name = rest;
    }
    name
}

fn unusable(path: &Path, why: impl std::fmt::Display) -> Error {
    Error::checkpoint("the weights cannot be used")
        .at_path(path)
        .because(why)
        .remedy("weights must be in safetensors format; download the file again, or give another one")
}

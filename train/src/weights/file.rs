//! Weights in a safetensors file: selection and names of its tensors.
use super::ForeignFormat;
use crate::checkpoint;
use crate::{Error, Result};
use fornax_engine::Tensor;
use fornax_nn::state_dict::{SafetensorsFile, TensorInfo};
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

/// Name prefixes added by PyTorch's wrappers: `DistributedDataParallel` and `torch.compile`.
const WRAPPERS: [&str; 2] = ["module.", "_orig_mod."];

/// Safetensors file in memory, with its header not parsed yet. It is read rather than mapped: another program that truncates a mapped
/// file ends this one with a bus error.
pub struct WeightsFile {
    path: PathBuf,
    bytes: Vec<u8>,
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
    /// Reads a file. Errors if it is not a regular file.
    pub fn open(path: &Path) -> Result<WeightsFile> {
        let bytes = read_regular_file(path).map_err(|e| unusable(path, e))?;
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
            let remedy = "omit --use-ema, or pass a checkpoint of a run with --model-ema";
            return Err(unusable(&self.path, "it has no EMA weights").remedy(remedy));
        }
        Ok(Weights { path: &self.path, file, names, checksums: sums })
    }

    /// The file's size in bytes.
    pub fn size(&self) -> usize {
        self.bytes.len()
    }

    /// The validated header, with access to every tensor.
    pub fn parse(&self) -> Result<SafetensorsFile<'_>> {
        SafetensorsFile::parse(&self.bytes).map_err(|e| match ForeignFormat::of(&self.bytes) {
            Some(format) => unusable(&self.path, format.why()).remedy(format.remedy(&self.path)),
            None => unusable(&self.path, e),
        })
    }

    /// Verifies the checksum of every tensor of a Fornax checkpoint, and that none is missing. Other files have no checksums.
    pub fn verify(&self) -> Result<()> {
        let file = self.parse()?;
        let damaged = |why: String| unusable(&self.path, why);
        let Some(sums) = checkpoint::checksums(file.metadata()).map_err(damaged)? else { return Ok(()) };
        checkpoint::header(file.metadata()).map_err(damaged)?;
        if let Some(name) = file.tensors().keys().find(|name| !sums.contains_key(*name)) {
            return Err(damaged(format!("{name} has no checksum: the file is damaged")));
        }
        let of_tensors = sums.keys().filter(|name| file.tensors().contains_key(*name)).count();
        // The remaining checksum is that of the training state.
        if of_tensors + 1 != sums.len() {
            return Err(damaged(format!("it has {of_tensors} tensors, expected {}", sums.len() - 1)));
        }
        file.tensors().keys().try_for_each(|name| verify_checksum(&self.path, &file, &sums, name).map(drop))
    }
}

/// Reads a regular file: reading a device or a pipe could take forever.
pub(crate) fn read_regular_file(path: &Path) -> io::Result<Vec<u8>> {
    let mut file = File::open(path)?;
    if !file.metadata()?.is_file() {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "not a regular file"));
    }
    let mut bytes = vec![];
    file.read_to_end(&mut bytes)?;
    Ok(bytes)
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
        self.file.tensors().get(self.names.get(name)?)
    }

    /// Reads a stored tensor and verifies its checksum, if there is one. Panics if there is no tensor of this name.
    pub fn tensor(&self, name: &str) -> Result<Tensor> {
        let stored = &self.names[name];
        if let Some(sums) = &self.checksums {
            verify_checksum(self.path, &self.file, sums, stored)?;
        }
        self.file.tensor(stored).map_err(|e| unusable(self.path, e))
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
        .remedy("weights must be in safetensors format; download the file again, or pass another one")
}

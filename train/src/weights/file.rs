//! The weights in a file: which of its tensors they are, and under which names.
use crate::checkpoint;
use crate::{Error, Result};
use fornax_engine::{MappedFile, Tensor};
use fornax_nn::state_dict::{SafetensorsFile, TensorInfo};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// Names of wrappers that PyTorch puts before those of the model: data parallelism and compilation.
const WRAPPERS: [&str; 2] = ["module.", "_orig_mod."];

/// A safetensors file mapped into memory, its header not looked at yet.
pub struct WeightsFile {
    path: PathBuf,
    bytes: MappedFile,
}

/// The weights of a model in a file, under the model's names.
pub struct Weights<'a> {
    path: &'a Path,
    file: SafetensorsFile<'a>,
    /// The name in the file of each of the model's names.
    names: BTreeMap<String, String>,
    sums: Option<checkpoint::Sums>,
}

impl WeightsFile {
    /// Maps a file.
    pub fn open(path: &Path) -> Result<WeightsFile> {
        let bytes = MappedFile::open(path).map_err(|e| unusable(path, e))?;
        Ok(WeightsFile { path: path.into(), bytes })
    }

    /// Where it lies.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// What it says about the run that wrote it, if Fornax did.
    pub fn run(&self) -> Result<Option<checkpoint::Header>> {
        checkpoint::header(self.parse()?.metadata()).map_err(|why| unusable(&self.path, why))
    }

    /// Its weights: all of its tensors, or of a checkpoint of Fornax those of the model or its moving average.
    pub fn weights(&self, ema: bool) -> Result<Weights<'_>> {
        let file = self.parse()?;
        let sums = checkpoint::sums(file.metadata()).map_err(|why| unusable(&self.path, why))?;
        let mut names = BTreeMap::new();
        for stored in file.tensors().keys() {
            let of_average = stored.strip_prefix(checkpoint::EMA);
            let name = match (sums.is_some(), ema) {
                (false, _) => Some(stored.as_str()),
                (true, true) => of_average,
                (true, false) if of_average.is_some() || stored.starts_with(checkpoint::OPTIMIZER) => None,
                (true, false) => Some(stored.as_str()),
            };
            let Some(name) = name.map(unwrapped) else { continue };
            if let Some(other) = names.insert(name.to_string(), stored.clone()) {
                return Err(unusable(
                    &self.path,
                    format!("{other} and {stored} are both {name} of the model"),
                ));
            }
        }
        if ema && (sums.is_none() || names.is_empty()) {
            let remedy = "leave --use-ema out, or name a checkpoint of a run with --model-ema";
            return Err(unusable(&self.path, "it holds no moving average of the weights").remedy(remedy));
        }
        Ok(Weights { path: &self.path, file, names, sums })
    }

    fn parse(&self) -> Result<SafetensorsFile<'_>> {
        SafetensorsFile::parse(&self.bytes).map_err(|e| unusable(&self.path, e))
    }
}

impl Weights<'_> {
    /// The model's names that have a tensor here.
    pub fn names(&self) -> impl Iterator<Item = &String> {
        self.names.keys()
    }

    /// What is stored under a name of the model.
    pub fn get(&self, name: &str) -> Option<&TensorInfo> {
        self.file.tensors().get(self.names.get(name)?)
    }

    /// The tensor under a name that has one. Its sum is verified where one was recorded.
    pub fn tensor(&self, name: &str) -> Result<Tensor> {
        let stored = &self.names[name];
        let fail = |e: fornax_nn::Error| unusable(self.path, e);
        let bytes = self.file.bytes(stored).map_err(fail)?;
        if let Some(sums) = &self.sums
            && sums.get(stored) != Some(&crc32c::crc32c(bytes))
        {
            let why = format!("{stored} does not have the CRC32C that was recorded: the file is damaged");
            return Err(unusable(self.path, why));
        }
        self.file.tensor(stored).map_err(fail)
    }
}

fn unwrapped(mut name: &str) -> &str {
    while let Some(rest) = WRAPPERS.iter().find_map(|wrapper| name.strip_prefix(wrapper)) {
        name = rest;
    }
    name
}

fn unusable(path: &Path, why: impl std::fmt::Display) -> Error {
    Error::checkpoint("the weights cannot be used")
        .at_path(path)
        .because(why)
        .remedy("weights are read from safetensors files only; get the file again or name another")
}

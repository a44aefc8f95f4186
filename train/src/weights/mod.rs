//! Weights from elsewhere: files of timm's names and PyTorch's shapes, made by timm or by Fornax, into a model.
mod adapt;
mod file;
mod mismatch;
mod source;

pub use file::{Weights, WeightsFile};
pub use source::Source;

use crate::{Error, Result};
use fornax_engine::{DType, Tensor};
use fornax_nn::state_dict::{load_entry, torch_shape};
use fornax_nn::{Module, StateEntry, state_entries};
use mismatch::Mismatch;
use std::collections::HashSet;
use std::path::Path;

/// What a file may lack or have otherwise, and what of it is taken.
#[derive(Clone, Debug)]
pub struct LoadOptions<'a> {
    /// Name of the model's classifier, such as `fc`.
    pub classifier: &'a str,
    /// Name of the convolution that reads the images, such as `conv1`.
    pub first_conv: &'a str,
    /// Weights of another task are welcome: a classifier of other classes is left as it was initialised, the first convolution is
    /// adapted to other channels, and position embeddings to another grid. Otherwise all of these are errors.
    pub adapt: bool,
    /// Missing, unexpected and misshapen tensors are errors; otherwise they are reported and left out.
    pub strict: bool,
    /// Take the moving average that a checkpoint of Fornax holds, rather than the model's own weights.
    pub ema: bool,
    /// Height and width of the images, by which a position embedding that is not square is understood.
    pub img_size: Option<[usize; 2]>,
}

impl LoadOptions<'static> {
    /// As for weights to go on from: everything must be there and fit.
    pub fn exact() -> LoadOptions<'static> {
        LoadOptions { classifier: "", first_conv: "", adapt: false, strict: true, ema: false, img_size: None }
    }
}

impl<'a> LoadOptions<'a> {
    /// As for weights that were trained for another task.
    pub fn pretrained(classifier: &'a str, first_conv: &'a str) -> LoadOptions<'a> {
        LoadOptions { classifier, first_conv, adapt: true, strict: true, ema: false, img_size: None }
    }
}

/// What became of a file's tensors.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LoadReport {
    /// Tensors of the model that were loaded.
    pub loaded: usize,
    /// Tensors of the model that keep their initial value.
    pub kept: Vec<String>,
    /// What was adapted, converted or left out, a sentence each.
    pub notes: Vec<String>,
}

/// Loads a safetensors file into a model. Nothing of the model changes unless all of the file is found to be in order.
pub fn load(model: &(impl Module + ?Sized), path: &Path, options: &LoadOptions<'_>) -> Result<LoadReport> {
    load_file(model, &WeightsFile::open(path)?, options)
}

/// The same for a file that is open already.
pub fn load_file(
    model: &(impl Module + ?Sized),
    file: &WeightsFile,
    options: &LoadOptions<'_>,
) -> Result<LoadReport> {
    let entries = state_entries(model);
    let weights = file.weights(options.ema)?;
    let mut report = LoadReport::default();
    let (mut mismatch, mut loads, mut converted) = (Mismatch::default(), vec![], vec![]);
    for entry in &entries {
        let stored = weights.get(&entry.name);
        let note = match fate(entry, &entries, &weights, options)? {
            Fate::Load(tensor, note) => {
                converted.extend(stored.map(|s| s.dtype).filter(|dtype| *dtype != entry.tensor.dtype()));
                loads.push((entry, tensor));
                note
            }
            Fate::Keep(note) => {
                report.kept.push(entry.name.clone());
                note
            }
            Fate::Mismatch => {
                mismatch.add(entry, stored);
                None
            }
        };
        report.notes.extend(note);
    }
    let known: HashSet<&str> = entries.iter().map(|e| e.name.as_str()).collect();
    let headless = options.adapt && !known.iter().any(|name| of_layer(name, options.classifier));
    for name in weights.names().filter(|name| !known.contains(name.as_str())) {
        match headless && of_layer(name, options.classifier) {
            true => report.notes.push(format!("{name} is left out: the model has no classifier")),
            false => mismatch.unexpected.push(name.clone()),
        }
    }
    if !mismatch.is_empty() {
        let text = mismatch.text(&entries);
        if options.strict {
            return Err(Error::checkpoint("the weights do not fit the model")
                .at_path(file.path())
                .because(text)
                .remedy("name the model that they were made for with --model, or other weights"));
        }
        report.notes.extend(text.lines().map(String::from));
        report.kept.extend(mismatch.missing);
        report.kept.extend(mismatch.misshapen.into_iter().map(|(name, _)| name));
    }
    report.notes.extend(conversions(&converted));
    report.loaded = loads.len();
    for (entry, tensor) in loads {
        let tensor = tensor.to_dtype(entry.tensor.dtype())?;
        load_entry(entry, &tensor).map_err(|e| Error::checkpoint(e.to_string()).at_path(file.path()))?;
    }
    Ok(report)
}

/// What becomes of a tensor of the model.
enum Fate {
    /// It gets this value, with a sentence where that is not simply the stored one.
    Load(Tensor, Option<String>),
    /// It keeps its initial value, with a sentence where that is not as usual.
    Keep(Option<String>),
    /// There is nothing for it, or nothing that fits.
    Mismatch,
}

fn fate(
    entry: &StateEntry,
    entries: &[StateEntry],
    weights: &Weights,
    options: &LoadOptions<'_>,
) -> Result<Fate> {
    let name = &entry.name;
    let in_fresh_head = options.adapt && of_layer(name, options.classifier);
    let Some(stored) = weights.get(name) else {
        return Ok(if in_fresh_head {
            Fate::Keep(Some(format!("{name} is not in the file: it keeps its initial value")))
        } else if name.ends_with(".num_batches_tracked") {
            // PyTorch does not ask for this counter either where a file is from before there was one.
            Fate::Keep(None)
        } else {
            Fate::Mismatch
        });
    };
    let (dtype, shape) = (entry.tensor.dtype(), torch_shape(entry));
    if stored.dtype != dtype && !(stored.dtype.is_float() && dtype.is_float()) {
        return Ok(Fate::Mismatch);
    }
    if stored.shape == shape {
        return Ok(Fate::Load(weights.tensor(name)?, None));
    }
    if in_fresh_head && stored.shape.get(1..) == shape.get(1..) {
        let (from, to) = (stored.shape[0], shape[0]);
        let note = format!("{name} is for {from} classes, the model has {to}: it keeps its initial value");
        return Ok(Fate::Keep(Some(note)));
    }
    let adapted = adapt::adapted(entry, entries, options, || weights.tensor(name), &stored.shape)?;
    Ok(adapted.map_or(Fate::Mismatch, |(tensor, note)| Fate::Load(tensor, Some(note))))
}

fn of_layer(name: &str, layer: &str) -> bool {
    name.strip_prefix(layer).is_some_and(|rest| !layer.is_empty() && rest.starts_with('.'))
}

fn conversions(converted: &[DType]) -> Vec<String> {
    let count = |dtype: DType| converted.iter().filter(|d| **d == dtype).count();
    let verb = |dtype: DType| if dtype == DType::F64 { "rounded" } else { "widened" };
    let dtypes = [DType::F16, DType::BF16, DType::F64].into_iter().filter(|d| count(*d) > 0);
    dtypes.map(|d| format!("{} tensors of {d} were {} to f32", count(d), verb(d))).collect()
}

/// What became of the weights, in lines for a person.
impl std::fmt::Display for LoadReport {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} tensors loaded", self.loaded)?;
        self.notes.iter().try_for_each(|note| write!(f, "\n{note}"))
    }
}

//! Loading of weights from safetensors and PyTorch files with timm's names and PyTorch's shapes.
mod adapt;
mod file;
mod foreign_format;
mod identity;
pub mod imagenet;
mod mismatch;
mod pytorch;
mod read;
mod source;
mod tensor_file;

pub use file::{Weights, WeightsFile};
pub use foreign_format::ForeignFormat;
pub use identity::{WeightsIdentity, identity_at};
pub(crate) use read::{read_weights, safetensors_header};
pub use source::{WeightsSource, is_weights_file};
pub use tensor_file::TensorFile;

use crate::message::count;
use crate::{Error, Result};
use fornax_engine::{DType, Tensor};
use fornax_nn::state_dict::{load_entry, torch_shape};
use fornax_nn::{Module, StateEntry, state_entries};
use mismatch::Mismatch;
use std::collections::HashSet;
use std::path::Path;

/// Options for loading weights.
#[derive(Clone, Debug)]
pub struct LoadOptions<'a> {
    /// Name of the model's classifier, such as `fc`.
    pub classifier: &'a str,
    /// Name of the first convolution, such as `conv1`.
    pub first_conv: &'a str,
    /// Adapts weights of another task: keeps the initial classifier if the number of classes differs, adapts the first convolution to other
    /// input channels, and resamples position embeddings. If false, these mismatches are errors.
    pub adapt: bool,
    /// Rejects missing and unexpected tensors and those of another shape; if false, they are reported and skipped.
    pub strict: bool,
    /// Loads the EMA weights of a Fornax checkpoint instead of the model's own.
    pub ema: bool,
    /// Height and width of the images, needed for a position embedding of a grid that is not square.
    pub img_size: Option<[usize; 2]>,
    /// Keeps the initial classifier, whatever its number of classes.
    pub reset_classifier: bool,
    /// Name of the model, for messages; empty if it has none.
    pub model: &'a str,
}

impl LoadOptions<'static> {
    /// Options for `--initial-checkpoint`: every tensor must match.
    pub fn exact() -> LoadOptions<'static> {
        LoadOptions { adapt: false, ..LoadOptions::pretrained("", "") }
    }
}

impl<'a> LoadOptions<'a> {
    /// Options for pretrained weights, possibly of another task.
    pub fn pretrained(classifier: &'a str, first_conv: &'a str) -> LoadOptions<'a> {
        LoadOptions {
            classifier,
            first_conv,
            adapt: true,
            strict: true,
            ema: false,
            img_size: None,
            reset_classifier: false,
            model: "",
        }
    }
}

/// Result of loading weights.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LoadReport {
    /// Tensors of the model that were loaded.
    pub loaded: usize,
    /// Names of the model's tensors that keep their initial value.
    pub kept: Vec<String>,
    /// Notes on adapted, converted and skipped tensors.
    pub notes: Vec<String>,
}

/// Loads a weights file into a model. On an error the model is unchanged.
pub fn load(model: &(impl Module + ?Sized), path: &Path, options: &LoadOptions<'_>) -> Result<LoadReport> {
    load_file(model, &WeightsFile::open(path)?, options)
}

/// As [`load`], for an open file.
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
        let note = match load_action(entry, &entries, &weights, options)? {
            LoadAction::Load(tensor, note) => {
                converted.extend(stored.map(|s| s.dtype).filter(|dtype| *dtype != entry.tensor.dtype()));
                loads.push((entry, tensor));
                note
            }
            LoadAction::Keep(note) => {
                report.kept.push(entry.name.clone());
                note
            }
            LoadAction::Mismatch => {
                match weights.rejected(&entry.name) {
                    Some(why) => mismatch.rejected.push((entry.name.clone(), why.clone())),
                    None => mismatch.add(entry, stored),
                }
                None
            }
        };
        report.notes.extend(note);
    }
    let known: HashSet<&str> = entries.iter().map(|e| file::strip_wrappers(&e.name)).collect();
    let headless = options.adapt && !known.iter().any(|name| belongs_to_layer(name, options.classifier));
    for name in weights.names().filter(|name| !known.contains(name.as_str())) {
        match headless && belongs_to_layer(name, options.classifier) {
            true => report.notes.push(format!("{name} is skipped: the model has no classifier")),
            false => mismatch.unexpected.push(name.clone()),
        }
    }
    if !mismatch.is_empty() {
        let text = mismatch.text(&entries);
        if options.strict {
            return Err(misfit(file, &weights, &mismatch, text, options));
        }
        report.notes.extend(text.lines().map(String::from));
        report.kept.extend(mismatch.missing);
        report.kept.extend(mismatch.mismatched.into_iter().map(|(name, _)| name));
    }
    report.notes.extend(conversions(&converted));
    report.loaded = loads.len();
    for (entry, tensor) in loads {
        let tensor = tensor.to_dtype(entry.tensor.dtype())?;
        load_entry(entry, &tensor).map_err(|e| Error::checkpoint(e.to_string()).at_path(file.path()))?;
    }
    Ok(report)
}

/// The error about weights that do not fit: first what the file says of itself, then names of tensors.
fn misfit(
    file: &WeightsFile,
    weights: &Weights,
    mismatch: &Mismatch,
    text: String,
    options: &LoadOptions<'_>,
) -> Error {
    let error = Error::checkpoint("the weights do not fit the model").at_path(file.path());
    let identity = file.identity().ok().flatten();
    let own = identity.as_ref().and_then(|identity| identity.model());
    let described = identity.as_ref().and_then(|identity| identity.describe(weights));
    match (own, described) {
        (Some(own), Some(described)) if !options.model.is_empty() && own != options.model => error
            .because(format!("it is {described}; the model is {}\n{text}", options.model))
            .remedy(format!("use --model {own}, or pass other weights")),
        _ if mismatch.is_of_classes(options.classifier) && !options.classifier.is_empty() => {
            error.because(text).remedy(
                "to train a new classifier, add --reset-classifier, or use --pretrained-path instead of --initial-checkpoint",
            )
        }
        (_, Some(described)) => error
            .because(format!("it is {described}\n{text}"))
            .remedy("choose the matching options of the model, or pass other weights"),
        _ => error.because(text).remedy("choose the matching model with --model, or pass other weights"),
    }
}

/// Loading decision for one tensor of the model.
enum LoadAction {
    /// Load this value, with a note if it was adapted.
    Load(Tensor, Option<String>),
    /// Keep the initial value, with a note if that is unusual.
    Keep(Option<String>),
    /// Missing, or of another dtype or shape.
    Mismatch,
}

fn load_action(
    entry: &StateEntry,
    entries: &[StateEntry],
    weights: &Weights,
    options: &LoadOptions<'_>,
) -> Result<LoadAction> {
    let name = &entry.name;
    let in_head = belongs_to_layer(name, options.classifier);
    if options.reset_classifier && in_head {
        return Ok(LoadAction::Keep(Some(format!("{name} is re-initialised"))));
    }
    let in_fresh_head = options.adapt && in_head;
    let Some(stored) = weights.get(name) else {
        return Ok(if in_fresh_head {
            LoadAction::Keep(Some(format!("{name} is not in the file: it keeps its initial value")))
        } else if name.contains(".aux_bn.") {
            // Layers of augmentation splits start as copies of the layer.
            LoadAction::Keep(None)
        } else if name.ends_with(".num_batches_tracked") {
            // Files of old PyTorch versions lack this counter; PyTorch accepts that too.
            LoadAction::Keep(None)
        } else {
            LoadAction::Mismatch
        });
    };
    let (dtype, shape) = (entry.tensor.dtype(), torch_shape(entry));
    if stored.dtype != dtype && !(stored.dtype.is_float() && dtype.is_float()) {
        return Ok(LoadAction::Mismatch);
    }
    if stored.shape == shape {
        return Ok(LoadAction::Load(weights.tensor(name)?, None));
    }
    if in_fresh_head && stored.shape.get(1..) == shape.get(1..) {
        let (from, to) = (stored.shape[0], shape[0]);
        let note = format!(
            "{name} is for {}, the model has {to}: it keeps its initial value",
            count(from as u64, "class")
        );
        return Ok(LoadAction::Keep(Some(note)));
    }
    let adapted = adapt::adapt_tensor(entry, entries, options, || weights.tensor(name), &stored.shape)?;
    Ok(adapted.map_or(LoadAction::Mismatch, |(tensor, note)| LoadAction::Load(tensor, Some(note))))
}

fn belongs_to_layer(name: &str, layer: &str) -> bool {
    name.strip_prefix(layer).is_some_and(|rest| !layer.is_empty() && rest.starts_with('.'))
}

fn conversions(converted: &[DType]) -> Vec<String> {
    let count = |dtype: DType| converted.iter().filter(|d| **d == dtype).count();
    let verb = |dtype: DType| if dtype == DType::F64 { "rounded" } else { "widened" };
    let dtypes = [DType::F16, DType::BF16, DType::F64].into_iter().filter(|d| count(*d) > 0);
    dtypes.map(|d| format!("{} tensors of {d} were {} to f32", count(d), verb(d))).collect()
}

/// A summary for the user, one line per note.
impl std::fmt::Display for LoadReport {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} tensors loaded", self.loaded)?;
        self.notes.iter().try_for_each(|note| write!(f, "\n{note}"))
    }
}

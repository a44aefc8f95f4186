//! Weights from elsewhere: files of timm's names and PyTorch's shapes, made by timm or by Fornax, into a model.
mod adapt;
mod file;
mod mismatch;
mod source;

pub use file::WeightsFile;
pub use source::Source;

use crate::{Error, Result};
use fornax_engine::DType;
use fornax_nn::state_dict::{load_entry, torch_shape};
use fornax_nn::{Entry, Module, entries};
use mismatch::Mismatch;
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
    let entries = entries(model);
    let weights = file.weights(options.ema)?;
    let mut report = LoadReport::default();
    let (mut mismatch, mut loads, mut converted) = (Mismatch::default(), vec![], vec![]);
    for entry in &entries {
        let Some(stored) = weights.get(&entry.name) else {
            // PyTorch does not ask for this counter either where a file is from before there was one.
            if entry.name.ends_with(".num_batches_tracked") {
                report.kept.push(entry.name.clone());
            } else if options.adapt && in_classifier(entry, options) {
                report.kept.push(entry.name.clone());
                report.notes.push(format!("{} is not in the file: it keeps its initial value", entry.name));
            } else {
                mismatch.missing.push(entry.name.clone());
            }
            continue;
        };
        let (dtype, shape) = (entry.tensor.dtype(), torch_shape(entry));
        if dtype.is_float() != stored.dtype.is_float() || (!dtype.is_float() && dtype != stored.dtype) {
            mismatch.other(entry, stored.dtype, &stored.shape);
        } else if stored.shape == shape {
            loads.push((entry, weights.tensor(&entry.name)?));
            converted.extend((stored.dtype != dtype).then_some(stored.dtype));
        } else if options.adapt && in_classifier(entry, options) && stored.shape.get(1..) == shape.get(1..) {
            report.kept.push(entry.name.clone());
            report.notes.push(format!(
                "{} is for {} classes, the model has {}: it keeps its initial value",
                entry.name, stored.shape[0], shape[0]
            ));
        } else {
            match adapt::adapted(entry, &entries, options, || weights.tensor(&entry.name), &stored.shape)? {
                Some((tensor, note)) => {
                    loads.push((entry, tensor));
                    converted.extend((stored.dtype != dtype).then_some(stored.dtype));
                    report.notes.push(note);
                }
                None => mismatch.other(entry, stored.dtype, &stored.shape),
            }
        }
    }
    mismatch.unexpected =
        weights.names().filter(|n| !entries.iter().any(|e| e.name == **n)).cloned().collect();
    if options.adapt {
        // A model without a head takes the weights of one that has it.
        let head = |name: &String| {
            of_layer(name, options.classifier)
                && !entries.iter().any(|e| of_layer(&e.name, options.classifier))
        };
        let dropped: Vec<String> = mismatch.unexpected.extract_if(.., |name| head(name)).collect();
        report
            .notes
            .extend(dropped.iter().map(|name| format!("{name} is left out: the model has no classifier")));
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

fn in_classifier(entry: &Entry, options: &LoadOptions<'_>) -> bool {
    of_layer(&entry.name, options.classifier)
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

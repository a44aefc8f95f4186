//! What does not fit between a file and a model, told so that a person sees why.
use crate::nearest::nearest;
use fornax_nn::StateEntry;
use fornax_nn::state_dict::{TensorInfo, torch_shape};

/// How many names of a kind are told.
const TOLD: usize = 10;

/// Names that do not fit, by what is wrong with them.
#[derive(Default)]
pub struct Mismatch {
    /// In the model, not in the file.
    pub missing: Vec<String>,
    /// In the file, not in the model.
    pub unexpected: Vec<String>,
    /// In both, with what they are.
    pub misshapen: Vec<(String, String)>,
}

impl Mismatch {
    /// True when all fits.
    pub fn is_empty(&self) -> bool {
        self.missing.is_empty() && self.unexpected.is_empty() && self.misshapen.is_empty()
    }

    /// Adds an entry of the model that the file lacks, or has in another dtype or shape.
    pub fn add(&mut self, entry: &StateEntry, stored: Option<&TensorInfo>) {
        let Some(stored) = stored else {
            self.missing.push(entry.name.clone());
            return;
        };
        let (dtype, needed) = (entry.tensor.dtype(), torch_shape(entry));
        let text = format!("is {}{:?}, the model needs {dtype}{needed:?}", stored.dtype, stored.shape);
        self.misshapen.push((entry.name.clone(), text));
    }

    /// A line for each kind, with at most ten names and for each the nearest that it may have been meant to be.
    pub fn text(&self, entries: &[StateEntry]) -> String {
        let near =
            |name: &str, all: &[String], where_: &str| match nearest(name, all.iter().map(String::as_str)) {
                Some(near) => format!("{name} ({where_} {near})"),
                None => name.to_string(),
            };
        let names: Vec<String> = entries.iter().map(|e| e.name.clone()).collect();
        // What the other side has and this one does not is the better guess; the whole model the next best.
        let candidates = if self.missing.is_empty() { &names } else { &self.missing };
        let missing = self.missing.iter().map(|name| near(name, &self.unexpected, "the file has"));
        let unexpected = self.unexpected.iter().map(|name| near(name, candidates, "the model has"));
        let misshapen = self.misshapen.iter().map(|(name, text)| format!("{name} {text}"));
        let lines = [
            told("missing", self.missing.len(), missing),
            told("not part of the model", self.unexpected.len(), unexpected),
            told("of another dtype or shape", self.misshapen.len(), misshapen),
        ];
        lines.into_iter().flatten().collect::<Vec<_>>().join("\n")
    }
}

fn told(what: &str, count: usize, items: impl Iterator<Item = String>) -> Option<String> {
    let mut text = items.take(TOLD).collect::<Vec<_>>().join(", ");
    if count > TOLD {
        text += &format!(", … and {} more", count - TOLD);
    }
    (count > 0).then(|| format!("{count} {what}: {text}"))
}

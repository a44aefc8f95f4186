//! Report of mismatches between the tensors of a file and of a model.
use crate::nearest::nearest;
use fornax_nn::StateEntry;
use fornax_nn::state_dict::{TensorInfo, torch_shape};

/// Maximum number of names listed per kind of mismatch.
const MAX_NAMES: usize = 3;

/// Mismatched tensor names by kind of mismatch.
#[derive(Default)]
pub struct Mismatch {
    /// In the model, not in the file.
    pub missing: Vec<String>,
    /// In the file, not in the model.
    pub unexpected: Vec<String>,
    /// In both, with different dtype or shape, and a description.
    pub mismatched: Vec<(String, String)>,
    /// In both, but not readable, with the reason.
    pub rejected: Vec<(String, String)>,
}

impl Mismatch {
    /// True if everything matches.
    pub fn is_empty(&self) -> bool {
        self.missing.is_empty()
            && self.unexpected.is_empty()
            && self.mismatched.is_empty()
            && self.rejected.is_empty()
    }

    /// Adds a tensor of the model that is missing in the file or has another dtype or shape there.
    pub fn add(&mut self, entry: &StateEntry, stored: Option<&TensorInfo>) {
        let Some(stored) = stored else {
            self.missing.push(entry.name.clone());
            return;
        };
        let (dtype, needed) = (entry.tensor.dtype(), torch_shape(entry));
        let text = format!("is {}{:?}, the model needs {dtype}{needed:?}", stored.dtype, stored.shape);
        self.mismatched.push((entry.name.clone(), text));
    }

    /// True if the only difference is the number of classes of the layer `classifier`.
    pub fn is_of_classes(&self, classifier: &str) -> bool {
        let is_of_head = |(name, _): &(String, String)| super::belongs_to_layer(name, classifier);
        self.missing.is_empty()
            && self.unexpected.is_empty()
            && self.rejected.is_empty()
            && self.mismatched.iter().all(is_of_head)
    }

    /// One line per kind of mismatch, with a few names, each with the most similar name of the other side.
    pub fn text(&self, entries: &[StateEntry]) -> String {
        let near =
            |name: &str, all: &[String], where_: &str| match nearest(name, all.iter().map(String::as_str)) {
                Some(near) => format!("{name} ({where_} {near})"),
                None => name.to_string(),
            };
        let names: Vec<String> = entries.iter().map(|e| e.name.clone()).collect();
        // Suggest a missing name first, else any name of the model.
        let candidates = if self.missing.is_empty() { &names } else { &self.missing };
        let missing = self.missing.iter().map(|name| near(name, &self.unexpected, "the file has"));
        let unexpected = self.unexpected.iter().map(|name| near(name, candidates, "the model has"));
        let misshapen = self.mismatched.iter().map(|(name, text)| format!("{name} {text}"));
        let rejected = self.rejected.iter().map(|(name, why)| format!("{name} ({why})"));
        let lines = [
            summary_line("cannot be read", self.rejected.len(), rejected),
            summary_line("missing", self.missing.len(), missing),
            summary_line("not part of the model", self.unexpected.len(), unexpected),
            summary_line("of another dtype or shape", self.mismatched.len(), misshapen),
        ];
        lines.into_iter().flatten().collect::<Vec<_>>().join("\n")
    }
}

fn summary_line(what: &str, count: usize, items: impl Iterator<Item = String>) -> Option<String> {
    let mut text = items.take(MAX_NAMES).collect::<Vec<_>>().join(", ");
    if count > MAX_NAMES {
        text += &format!(", … and {} more", count - MAX_NAMES);
    }
    (count > 0).then(|| format!("{count} {what}: {text}"))
}

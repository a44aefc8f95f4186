//! Choices made by timing, for later processes: in memory, on disk, and as a record for checkpoints.
use super::problem::{ConvPlanChoice, ConvProblem};
use fornax_kernels::cache;
use std::collections::BTreeMap;

/// Convolution plans of a device that were chosen by timing. A process that restores them computes the same bits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConvPlanRecord {
    /// Name of the GPU.
    pub gpu: String,
    /// cuDNN's version, as 10000 major + 100 minor + patch.
    pub cudnn: usize,
    /// Choices by problem, both as texts.
    pub choices: BTreeMap<String, String>,
}

/// Choice for one [`ConvProblem`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum ConvChoice {
    /// A plan, by cuDNN's JSON representation.
    Plan(String),
    /// The caller's fallback: the problem is unsupported, or a fusion is slower than separate operations.
    Fallback,
}

/// Text of [`ConvChoice::Fallback`]; plans are JSON objects.
const FALLBACK: &str = "fallback";
/// Subfolder of the cache folder.
const CACHE: &str = "convolutions";

impl ConvChoice {
    fn text(&self) -> &str {
        match self {
            ConvChoice::Plan(json) => json,
            ConvChoice::Fallback => FALLBACK,
        }
    }

    fn of_text(text: &str) -> ConvChoice {
        match text {
            FALLBACK => ConvChoice::Fallback,
            json => ConvChoice::Plan(json.into()),
        }
    }
}

/// Choices of one device and version of cuDNN.
pub(super) struct ConvChoices(ConvPlanRecord);

impl ConvChoices {
    pub(super) fn new(gpu: &str, cudnn: usize) -> ConvChoices {
        ConvChoices(ConvPlanRecord { gpu: gpu.into(), cudnn, choices: BTreeMap::new() })
    }

    /// The choice that was made or restored in this process.
    pub(super) fn get(&self, problem: &ConvProblem) -> Option<ConvChoice> {
        self.0.choices.get(&key(problem)).map(|text| ConvChoice::of_text(text))
    }

    /// The choice of an earlier process, from the cache folder.
    pub(super) fn load(&self, problem: &ConvProblem) -> Option<ConvChoice> {
        cache::load_text(CACHE, &self.file_key(problem)).map(|text| ConvChoice::of_text(&text))
    }

    pub(super) fn insert(&mut self, problem: &ConvProblem, choice: &ConvChoice) {
        self.0.choices.insert(key(problem), choice.text().into());
    }

    /// Stores a choice in the cache folder.
    pub(super) fn store(&self, problem: &ConvProblem, choice: &ConvChoice) {
        cache::store_text(CACHE, &self.file_key(problem), choice.text());
    }

    pub(super) fn record(&self) -> &ConvPlanRecord {
        &self.0
    }

    /// Adds a record's choices and returns true if it is of the same GPU and cuDNN version.
    pub(super) fn restore(&mut self, record: &ConvPlanRecord) -> bool {
        let is_same = (&record.gpu, record.cudnn) == (&self.0.gpu, self.0.cudnn);
        if is_same {
            self.0.choices.extend(record.choices.clone());
        }
        is_same
    }

    fn file_key(&self, problem: &ConvProblem) -> String {
        format!("{}, cuDNN {}, {}", self.0.gpu, self.0.cudnn, key(problem))
    }
}

/// Text with every field of the problem except for how its plan is chosen.
fn key(problem: &ConvProblem) -> String {
    let mut problem = *problem;
    problem.options.choice = ConvPlanChoice::Heuristic;
    format!("{problem:?}")
}

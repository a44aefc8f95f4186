//! Choices made by timing, for later processes: in memory, on disk, and as a record for checkpoints.
use super::problem::{ConvEngineOptions, ConvPlanChoice, ConvProblem};
use crate::ConvShape;
use fornax_kernels::cache;
use std::collections::{BTreeMap, BTreeSet};

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
    /// Fornax's own kernel.
    Own,
}

/// Text of [`ConvChoice::Fallback`]; plans are JSON objects.
const FALLBACK: &str = "fallback";
/// Text of [`ConvChoice::Own`].
const OWN: &str = "own kernel";
/// Subfolder of the cache folder.
const CACHE: &str = "convolutions";

impl ConvChoice {
    fn text(&self) -> &str {
        match self {
            ConvChoice::Plan(json) => json,
            ConvChoice::Fallback => FALLBACK,
            ConvChoice::Own => OWN,
        }
    }

    fn of_text(text: &str) -> ConvChoice {
        match text {
            FALLBACK => ConvChoice::Fallback,
            OWN => ConvChoice::Own,
            json => ConvChoice::Plan(json.into()),
        }
    }
}

/// Choices of one device and version of cuDNN.
pub(super) struct ConvChoices {
    record: ConvPlanRecord,
    /// Problems whose choice this process has stored in the cache folder.
    stored: BTreeSet<String>,
}

impl ConvChoices {
    pub(super) fn new(gpu: &str, cudnn: usize) -> ConvChoices {
        let record = ConvPlanRecord { gpu: gpu.into(), cudnn, choices: BTreeMap::new() };
        ConvChoices { record, stored: BTreeSet::new() }
    }

    /// The choice that was made or restored in this process.
    pub(super) fn get(&self, problem: &ConvProblem) -> Option<ConvChoice> {
        let get = |problem: &ConvProblem| self.record.choices.get(&key(problem));
        // Stored choices were made by timing all plans, or in comparison with the heuristics' plan.
        let by_heuristics = || {
            let options = ConvEngineOptions { choice: ConvPlanChoice::Heuristic, ..problem.options };
            get(&ConvProblem { options, ..*problem })
                .filter(|_| problem.options.choice == ConvPlanChoice::Stored)
        };
        get(problem).or_else(by_heuristics).map(|text| ConvChoice::of_text(text))
    }

    /// The choice of an earlier process, from the cache folder.
    pub(super) fn load(&self, problem: &ConvProblem) -> Option<ConvChoice> {
        cache::load_text(CACHE, &self.file_key(&key(problem))).map(|text| ConvChoice::of_text(&text))
    }

    pub(super) fn insert(&mut self, problem: &ConvProblem, choice: &ConvChoice) {
        self.record.choices.insert(key(problem), choice.text().into());
    }

    /// Stores a choice in the cache folder.
    pub(super) fn store(&mut self, problem: &ConvProblem, choice: &ConvChoice) {
        let key = key(problem);
        cache::store_text(CACHE, &self.file_key(&key), choice.text());
        self.stored.insert(key);
    }

    pub(super) fn record(&self) -> &ConvPlanRecord {
        &self.record
    }

    /// Takes a record's choices, also in the cache folder where this process has stored others. Returns the keys of the problems whose
    /// choice has changed; `None`, without effect, if the record is of another GPU or cuDNN version.
    pub(super) fn restore(&mut self, record: &ConvPlanRecord) -> Option<BTreeSet<String>> {
        let own = &self.record;
        if (&record.gpu, record.cudnn) != (&own.gpu, own.cudnn) {
            return None;
        }
        let changed = record.choices.iter().filter(|(key, text)| own.choices.get(*key) != Some(*text));
        for (key, text) in changed.clone().filter(|(key, _)| self.stored.contains(*key)) {
            cache::store_text(CACHE, &self.file_key(key), text);
        }
        let changed = changed.map(|(key, _)| key.clone()).collect();
        self.record.choices.extend(record.choices.clone());
        Some(changed)
    }

    fn file_key(&self, key: &str) -> String {
        format!("{}, cuDNN {}, {key}", self.record.gpu, self.record.cudnn)
    }
}

/// Key of a choice: text with every field of the problem except for the algorithm of the CPU; of how its plan is chosen it has only whether
/// by the heuristics. Cache folders and checkpoints have it.
pub(super) fn key(problem: &ConvProblem) -> String {
    let ConvProblem { kind, shape, dtype, alignment, fusion, options } = *problem;
    // The fused plan of the heuristics, which is compared with separate operations, is another one than the fastest.
    let origin = if options.choice == ConvPlanChoice::Heuristic { "heuristic " } else { "" };
    let options = ConvEngineOptions { choice: ConvPlanChoice::Heuristic, ..options };
    let ConvShape { n, h, w, c_in, c_out, kernel, stride, padding, dilation, groups, algorithm: _ } = shape;
    let maps = format!("n: {n}, h: {h}, w: {w}, c_in: {c_in}, c_out: {c_out}");
    let windows =
        format!("stride: {stride:?}, padding: {padding:?}, dilation: {dilation:?}, groups: {groups}");
    let shape = format!("ConvShape {{ {maps}, kernel: {kernel:?}, {windows} }}");
    let rest = format!("dtype: {dtype:?}, alignment: {alignment}, fusion: {fusion:?}, options: {options:?}");
    format!("{origin}ConvProblem {{ kind: {kind:?}, shape: {shape}, {rest} }}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cuda::cudnn::{ConvBenchmark, ConvFusion, ConvKind};
    use crate::{ConvAlgorithm, DType};

    #[test]
    fn keys_of_stored_choices_keep_their_text_and_lack_the_algorithm_of_the_cpu() {
        let choice = ConvPlanChoice::Benchmark(ConvBenchmark::default());
        let problem = |algorithm| ConvProblem {
            kind: ConvKind::DataGradient,
            shape: ConvShape {
                n: 2,
                h: 7,
                w: 5,
                c_in: 6,
                c_out: 8,
                kernel: [3, 1],
                stride: [1, 2],
                padding: [1, 0],
                dilation: [1, 1],
                groups: 2,
                algorithm,
            },
            dtype: DType::F16,
            alignment: 16,
            fusion: ConvFusion { statistics: false, accumulate: true },
            options: ConvEngineOptions { tf32: true, deterministic: false, choice },
        };
        let expected = "ConvProblem { kind: DataGradient, shape: ConvShape { n: 2, h: 7, w: 5, c_in: 6, c_out: 8, \
            kernel: [3, 1], stride: [1, 2], padding: [1, 0], dilation: [1, 1], groups: 2 }, dtype: F16, alignment: 16, \
            fusion: ConvFusion { statistics: false, accumulate: true }, \
            options: ConvEngineOptions { tf32: true, deterministic: false, choice: Heuristic } }";
        assert_eq!(key(&problem(ConvAlgorithm::Auto)), expected);
        assert_eq!(key(&problem(ConvAlgorithm::Direct)), expected);
    }
}

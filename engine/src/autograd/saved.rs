//! Tensors that an operation saves for its backward pass.
use super::saved_versions::SavedVersions;
use super::{AutogradMeta, Node};
use crate::{DType, Result, Shape, Tensor};
use std::sync::Arc;

/// Operands and results that a derivative reads, by their positions, which are less than 64.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Saves {
    operands: u64,
    all_operands: bool,
    results: u64,
}

impl Saves {
    /// Some operands.
    pub(crate) fn operands(positions: &[usize]) -> Saves {
        Saves { operands: bits(positions), ..Saves::default() }
    }

    /// All operands, of any number.
    pub(crate) fn all_operands() -> Saves {
        Saves { all_operands: true, ..Saves::default() }
    }

    /// Some results.
    pub(crate) fn results(positions: &[usize]) -> Saves {
        Saves { results: bits(positions), ..Saves::default() }
    }

    /// These and some results.
    pub(crate) fn and_results(self, positions: &[usize]) -> Saves {
        Saves { results: self.results | bits(positions), ..self }
    }

    /// Operand `i` where `condition` holds.
    pub(crate) fn and_operand_if(self, condition: bool, i: usize) -> Saves {
        Saves { operands: self.operands | (u64::from(condition) << i), ..self }
    }
}

fn bits(positions: &[usize]) -> u64 {
    positions.iter().fold(0, |bits, i| bits | 1 << i)
}

/// What an operation has saved, and shape and dtype of all its operands.
pub(crate) struct Saved {
    operands: Vec<Option<Tensor>>,
    results: Vec<Option<Tensor>>,
    infos: Vec<(Shape, DType)>,
    versions: SavedVersions,
}

impl Saved {
    /// Saves the chosen operands with their place in the graph, and the chosen results without (a tracked result would be a cycle of references).
    pub(super) fn new(saves: Saves, operands: &[&Tensor], results: &[Tensor]) -> Saved {
        let chosen = |bits: u64, i: usize| i < 64 && bits >> i & 1 == 1;
        let operand = |(i, t): (usize, &&Tensor)| {
            (saves.all_operands || chosen(saves.operands, i)).then(|| (*t).clone())
        };
        let result = |(i, t): (usize, &Tensor)| chosen(saves.results, i).then(|| t.detach());
        let mut saved = Saved {
            operands: operands.iter().enumerate().map(operand).collect(),
            results: results.iter().enumerate().map(result).collect(),
            infos: operands.iter().map(|t| (*t.shape(), t.dtype())).collect(),
            versions: SavedVersions::default(),
        };
        let tensors: Vec<&Tensor> = saved.operands.iter().chain(&saved.results).flatten().collect();
        saved.versions = SavedVersions::of(&tensors);
        saved
    }

    /// A saved operand.
    ///
    /// # Panics
    /// If [`Saves`] does not name it.
    pub(crate) fn operand(&self, i: usize) -> &Tensor {
        self.operands[i].as_ref().unwrap_or_else(|| panic!("operand {i} was not saved"))
    }

    /// A saved result. With `create_graph` the first one is tracked.
    ///
    /// # Panics
    /// If [`Saves`] does not name it.
    pub(crate) fn result(&self, i: usize) -> &Tensor {
        self.results[i].as_ref().unwrap_or_else(|| panic!("result {i} was not saved"))
    }

    /// Shape of an operand, saved or not.
    pub(crate) fn shape(&self, i: usize) -> Shape {
        self.infos[i].0
    }

    /// Dtype of an operand, saved or not.
    pub(crate) fn dtype(&self, i: usize) -> DType {
        self.infos[i].1
    }

    /// The same tensors, the first result as the output of `node`.
    pub(super) fn with_tracked_result(&self, node: &Arc<Node>) -> Saved {
        let mut results = self.results.clone();
        if let Some(Some(first)) = results.first_mut() {
            *first = first.with_autograd_meta(AutogradMeta::Node(node.clone()));
        }
        Saved {
            operands: self.operands.clone(),
            results,
            infos: self.infos.clone(),
            versions: SavedVersions::default(),
        }
    }

    /// Adds the versions of tensors that the derivative holds itself.
    pub(super) fn extend_versions(&mut self, tensors: &[&Tensor]) {
        self.versions.extend(tensors);
    }

    /// Errors if a saved tensor was written to since the forward pass of `op`.
    pub(super) fn check(&self, op: &str) -> Result<()> {
        self.versions.check(op)
    }
}

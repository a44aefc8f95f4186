//! `--valid-labels`: the logits of some classes, in an order of their own, for datasets of a part of a model's classes.
use crate::error::ErrorKind;
use crate::{Error, Result};
use fornax_engine::Tensor;
use fornax_nn::{Context, Module, Visitor};
use std::path::Path;

/// Reads the class indices of a file, one per line.
pub fn read(path: &Path) -> Result<Vec<usize>> {
    let what = "the valid labels cannot be read";
    let text =
        std::fs::read_to_string(path).map_err(|e| Error::unreadable(ErrorKind::Usage, what, path, &e))?;
    let lines = text.lines().map(str::trim).enumerate().filter(|(_, line)| !line.is_empty());
    let labels: Vec<usize> = lines
        .map(|(number, line)| {
            line.parse().map_err(|_| {
                Error::usage(what)
                    .at(format!("{}, line {}", path.display(), number + 1))
                    .because(format!("{line:?} is not a class index"))
                    .remedy("list one index of the model's classes per line")
            })
        })
        .collect::<Result<_>>()?;
    match labels.is_empty() {
        true => Err(Error::usage(what)
            .at_path(path)
            .because("it lists no class")
            .remedy("list one index per line")),
        false => Ok(labels),
    }
}

/// Model with the logits of some classes.
pub struct ValidLabels<'a> {
    model: &'a dyn Module,
    /// Matrix `[classes, labels]` that selects columns.
    selection: Tensor,
}

impl<'a> ValidLabels<'a> {
    /// Selects logits of a model. Errors if the model has less classes than an index needs.
    pub fn new(model: &'a dyn Module, labels: &[usize], classes: usize) -> Result<ValidLabels<'a>> {
        if let Some(label) = labels.iter().find(|label| **label >= classes) {
            return Err(Error::usage(format!("{label} is not a class of the model"))
                .at("--valid-labels")
                .because(format!("it has {classes} classes, counted from 0"))
                .remedy("list indices of the model's classes"));
        }
        let mut selection = vec![0.0f32; classes * labels.len()];
        for (column, label) in labels.iter().enumerate() {
            selection[label * labels.len() + column] = 1.0;
        }
        Ok(ValidLabels { model, selection: Tensor::from_vec(selection, [classes, labels.len()])? })
    }

    /// Number of selected logits.
    pub fn len(&self) -> usize {
        self.selection.dims()[1]
    }
}

impl Module for ValidLabels<'_> {
    fn forward(&self, x: &Tensor, cx: &mut Context) -> fornax_engine::Result<Tensor> {
        let logits = self.model.forward(x, cx)?;
        let selection = self.selection.to_device(&logits.device())?.to_dtype(logits.dtype())?;
        logits.matmul(&selection)
    }

    fn visit(&self, visitor: &mut Visitor) {
        self.model.visit(visitor);
    }
}

//! Versions of the tensors that an operation has saved for its backward pass, as PyTorch's version counters.
use crate::storage::Storage;
use crate::{Error, Result, Shape, Tensor};
use std::sync::{Arc, Weak};

/// Versions of saved tensors at the time of the forward pass. They do not keep the tensors alive: a tensor that was dropped was not saved.
#[derive(Default)]
pub(super) struct SavedVersions(Vec<SavedVersion>);

struct SavedVersion {
    storage: Weak<Storage>,
    shape: Shape,
    version: u64,
}

impl SavedVersions {
    pub(super) fn of(tensors: &[&Tensor]) -> SavedVersions {
        let mut versions = SavedVersions::default();
        versions.extend(tensors);
        versions
    }

    pub(super) fn extend(&mut self, tensors: &[&Tensor]) {
        self.0.extend(tensors.iter().map(|t| SavedVersion {
            storage: Arc::downgrade(t.storage()),
            shape: *t.shape(),
            version: t.version(),
        }));
    }

    /// Errors if a tensor was written to since the forward pass: the gradient would be wrong.
    pub(super) fn check(&self, op: &str) -> Result<()> {
        for SavedVersion { storage, shape, version } in &self.0 {
            if let Some(now) = storage.upgrade().map(|storage| storage.version())
                && now != *version
            {
                return Err(Error::Autograd {
                    why: format!(
                        "{op} saved a tensor of shape {shape} for its backward pass, and the tensor was written to afterwards (version \
                         {now}, expected {version}); write before the forward pass, or to a copy"
                    ),
                });
            }
        }
        Ok(())
    }
}

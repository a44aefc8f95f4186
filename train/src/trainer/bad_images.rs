//! Bad images of a run: counted and listed over all ranks, and kept by checkpoints.
use super::Trainer;
use crate::Result;
use crate::data::bad_images::BadImage;
use crate::data::{BadImagePolicy, BadImages};
use crate::distributed::ProcessGroup;
use crate::loader::Loader;
use serde::{Deserialize, Serialize};

/// Indices of the bad images that a run has met, by split.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BadImageIndices {
    /// Training images.
    pub training: Vec<usize>,
    /// Validation images.
    pub validation: Vec<usize>,
}

impl BadImageIndices {
    /// True if no image is bad.
    pub fn is_empty(&self) -> bool {
        *self == BadImageIndices::default()
    }
}

/// Makes the bad images that a rank has met since the last call known to all ranks; rank 0 lists them. Errors on every rank alike if there
/// are too many.
pub(super) fn gather(group: &ProcessGroup, record: &BadImages) -> Result<()> {
    let of_ranks = group.gather("the bad images", &record.take_unshared())?;
    let all: Vec<(usize, BadImage)> = of_ranks.into_iter().flatten().collect();
    let is_checked = !all.is_empty() && record.policy() != BadImagePolicy::Error;
    all.into_iter().for_each(|(index, bad)| record.record(index, bad));
    if is_checked { record.check() } else { Ok(()) }
}

impl Trainer<'_> {
    /// True if this rank has met bad training images that other ranks do not know.
    pub(super) fn has_unshared_bad_images(&self) -> bool {
        record(self.train).is_some_and(BadImages::has_unshared)
    }

    /// Makes the bad training images of every rank known to all. Errors on every rank alike if there are too many.
    pub(super) fn gather_bad_images(&self) -> Result<()> {
        match (self.distributed, record(self.train)) {
            (Some(run), Some(record)) => gather(&run.group, record),
            _ => Ok(()),
        }
    }

    /// The bad images that are known to this rank.
    pub(super) fn bad_images(&self) -> BadImageIndices {
        let of = |loader| record(loader).map_or(vec![], BadImages::indices);
        BadImageIndices { training: of(self.train), validation: of(self.validation) }
    }

    /// Records the bad images of the state, without images that were repaired since. Of several ranks each reads its part of them. Errors on
    /// every rank alike if there are too many.
    pub(super) fn restore_bad_images(&mut self) -> Result<()> {
        let BadImageIndices { training, validation } = std::mem::take(&mut self.state.bad_images);
        for (loader, indices) in [(self.train, training), (self.validation, validation)] {
            let Some(record) = record(loader).filter(|_| !indices.is_empty()) else { continue };
            let (rank, world) = self.distributed.map_or((0, 1), |run| (run.rank(), run.world_size()));
            let own: Vec<usize> = indices.into_iter().skip(rank).step_by(world).collect();
            let bad = loader.still_bad(&own)?;
            let bad = match self.distributed {
                Some(run) => run.gather("the bad images of the run so far", &bad)?.concat(),
                None => bad,
            };
            bad.into_iter().for_each(|(index, bad)| record.record(index, bad));
            if record.policy() != BadImagePolicy::Error {
                record.check()?;
            }
        }
        Ok(())
    }
}

fn record(loader: &Loader) -> Option<&BadImages> {
    loader.options().bad_images.as_deref()
}

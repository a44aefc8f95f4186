//! Treatment of options that a resumed run has other values of.

/// Treatment of an option whose value differs from the checkpoint's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnResume {
    /// The change is accepted and listed.
    Accepted,
    /// The change is accepted and listed at the start of an epoch; within an epoch it is an error, for this reason.
    AtEpochStart(&'static str),
    /// The change is an error, for this reason.
    Rejected(&'static str),
}

use OnResume::{AtEpochStart, Rejected};

pub(super) const DATASET: OnResume = Rejected("a run has one dataset");
pub(super) const ARCHITECTURE: OnResume = Rejected("the weights of the checkpoint are of this network");
pub(super) const INITIAL_WEIGHTS: OnResume = Rejected("a resumed run has its weights from the checkpoint");
pub(super) const OPTIMIZER: OnResume =
    Rejected("the optimizer's state in the checkpoint is of this optimizer");
pub(super) const RANDOM_NUMBERS: OnResume =
    Rejected("the order of the samples and all random numbers depend on it");
pub(super) const RANKING: OnResume = Rejected("the checkpoints of the run are ranked by it");
pub(super) const SAMPLE_ORDER: OnResume = AtEpochStart(
    "the order of the samples depends on it: some would be used twice in this epoch, and others never",
);
pub(super) const UPDATE_COUNT: OnResume = AtEpochStart("the updates of this epoch are counted by it");

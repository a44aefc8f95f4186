//! Convolution plans in a checkpoint's metadata.
use fornax_engine::cuda::cudnn::ConvPlanRecord;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Convolution plans that a run has chosen by timing; a resumed run restores them, and with them its results bit for bit.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConvPlans {
    /// Name of the GPU.
    pub gpu: String,
    /// cuDNN's version, as 10000 major + 100 minor + patch.
    pub cudnn: usize,
    /// Choices by problem, as texts of the engine.
    pub choices: BTreeMap<String, String>,
}

impl From<ConvPlanRecord> for ConvPlans {
    fn from(record: ConvPlanRecord) -> ConvPlans {
        ConvPlans { gpu: record.gpu, cudnn: record.cudnn, choices: record.choices }
    }
}

impl From<ConvPlans> for ConvPlanRecord {
    fn from(plans: ConvPlans) -> ConvPlanRecord {
        ConvPlanRecord { gpu: plans.gpu, cudnn: plans.cudnn, choices: plans.choices }
    }
}

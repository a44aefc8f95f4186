//! Convolution plans in a checkpoint's metadata.
use crate::Result;
use fornax_engine::cuda::cudnn::ConvPlanRecord;
use fornax_engine::{Device, cuda};
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

impl ConvPlans {
    /// The plans that a device has timed; `None` if there are none.
    pub fn of_device(device: &Device) -> Result<Option<ConvPlans>> {
        if *device == Device::Cpu {
            return Ok(None);
        }
        let record = cuda::conv_plan_record(device)?;
        Ok(record.filter(|record| !record.choices.is_empty()).map(ConvPlans::from))
    }
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

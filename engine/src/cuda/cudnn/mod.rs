//! Convolutions by cuDNN's backend graph API: forward, data gradient and weight gradient in f32 (strict or TF32), f16 and bf16,
//! channels-last, with groups; forward with the output's statistics, or of an image that is normalised as it is read, where cuDNN
//! has one kernel for that.
//!
//! A [`Problem`] is described as an operation graph (`graph`), cuDNN's heuristics hand out engine configurations for it
//! (`planner`), the first one that builds and runs, or the fastest of several, becomes the plan that [`Dnn`] keeps for that
//! problem (`conv`). Everything but running works without a device, for one that is described by [`DeviceProperties`].
mod api;
mod conv;
mod descriptor;
mod device_properties;
mod graph;
mod planner;
mod problem;
mod timing;

pub use conv::{ChannelAffine, ChannelSums, Cudnn};
pub use device_properties::DeviceProperties;
pub use planner::{ConvPlanner, Survey};
pub use problem::{ConvEngineOptions, ConvFusion, ConvKind, ConvPlanChoice, ConvProblem};

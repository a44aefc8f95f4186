//! Convolution by cuDNN's backend graph API: forward, data gradient and weight gradient in f32 (strict or TF32), f16 and bf16,
//! channels-last, with groups. Where cuDNN has a kernel for it, the convolution is fused with the statistics of its output.
//!
//! A [`ConvProblem`] is described as an operation graph (`graph`). cuDNN's heuristics return engine configurations for it (`planner`). The
//! first one that builds and runs, or the fastest of several (`selection`), becomes the plan that [`Cudnn`] caches (`conv`). Choices made by
//! timing are stored on disk and in checkpoints (`choices`). Planning also works without a device, for one described by
//! [`DeviceProperties`]; such plans are `candidates` for timing.
mod api;
mod candidates;
mod choices;
mod conv;
mod descriptor;
mod device_properties;
mod graph;
mod operands;
mod planner;
mod problem;
mod selection;
mod timing;

pub use candidates::{GpuKind, PlanCounts, plan_counts, store_plan_candidates};
pub use choices::ConvPlanRecord;
pub use conv::Cudnn;
pub use device_properties::DeviceProperties;
pub use operands::{ChannelSums, FusionAlternative};
pub use planner::{ConvPlanner, EngineSurvey};
pub use problem::{ConvBenchmark, ConvEngineOptions, ConvFusion, ConvKind, ConvPlanChoice, ConvProblem};

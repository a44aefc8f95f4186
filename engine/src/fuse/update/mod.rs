//! Update rules of optimizers: formulas, divided into stages at their reductions, and what an update does to gradients before them.
mod chunk_layout;
pub(crate) mod formula;
mod gradient_rule;
mod rule;
mod scalar;
mod source;
pub(crate) mod stage;

pub use formula::{Formula, NextState};
pub use gradient_rule::{GradClip, GradientRule, LossScaling};
pub use rule::{CpuLoop, Factoring, OptimizerStateSpec, UpdateRule};

pub(crate) use chunk_layout::ChunkLayout;
pub(crate) use scalar::{UPDATE_SCALARS, UpdateScalar};

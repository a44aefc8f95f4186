//! What Fornax's speed is measured on, and how; the feature `libtorch` runs the same work through libtorch beside it.
//!
//! [`cases`] is the table of rows, [`networks`] describes the networks of the step rows as data, [`measure`] times the
//! sides of a row in turn, [`report`] prints and records what it found. A row's name is a path
//! (`conv2d/…/forward`, `step/resnet18-b16`), so that a pattern chooses a family or a single row.
pub mod cases;
pub mod fornax;
pub mod gpu;
#[cfg(feature = "libtorch")]
pub mod libtorch;
pub mod machine;
pub mod measure;
pub mod networks;
pub mod report;

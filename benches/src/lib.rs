//! Benchmarks of Fornax; the feature `libtorch` compares them with libtorch.
//!
//! [`rows`] is the table of rows, [`networks`] describes the networks of the step rows as data, [`measure`] times the sides of a row,
//! interleaved, and [`report`] prints and stores the results. A row's name is a path (`conv2d/…/forward`, `step/resnet18-b16`), so that a
//! pattern selects a group or a single row.
pub mod fornax;
pub mod gpu;
#[cfg(feature = "libtorch")]
pub mod libtorch;
pub mod machine;
pub mod measure;
pub mod networks;
pub mod report;
pub mod rows;

//! Training image models from one binary.
//!
//! [`data`] makes batches, a model of [`nn`] turns them into losses, an [optimizer](optim) at the rate of a
//! [schedule] updates the parameters; [`trainer`] does that for as many epochs as the [configuration](config) says,
//! and saves [checkpoints](checkpoint) and [reports](report). `cli` is the `fornax` command.
#![forbid(unsafe_code)]

pub mod augment;
pub mod data;
pub mod error;
pub mod optim;
pub mod schedule;

pub use error::{Error, Result};
pub use fornax_engine as engine;
pub use fornax_nn as nn;

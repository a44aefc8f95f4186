//! Training image models from one binary.
//!
//! [`data`] makes batches, a model of [`nn`] turns them into losses, an [optimizer](optim) at the rate of a
//! [schedule] updates the parameters; the [trainer] does that for as many epochs as the [configuration](config) says,
//! saves [checkpoints](checkpoint) and [reports](report). [`cli`] is the `fornax` command.
#![forbid(unsafe_code)]

pub mod augment;
pub mod checkpoint;
pub mod cli;
pub mod config;
pub mod data;
pub mod device;
pub mod error;
mod nearest;
pub mod optim;
pub mod report;
pub mod schedule;
pub mod settings;
pub mod trainer;

pub use error::{Error, Result};
pub use fornax_engine as engine;
pub use fornax_nn as nn;

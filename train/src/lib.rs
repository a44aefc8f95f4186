//! Trainer for image models: library and `fornax` command.
//!
//! A [loader] makes batches of [`data`], a model of [`nn`] computes the loss, an [optimizer](optim) with the learning rate of a
//! [schedule] updates the parameters. The [trainer] repeats this for the epochs of the [configuration](config),
//! saves [checkpoints](checkpoint) and calls [callbacks], such as the [reports](report). An [experiment] builds all parts from a
//! configuration, each of them replaceable, and runs them. [`cli`] is the `fornax` command.
//!
//! ```
//! use fornax::engine::{DType, Device, Tensor};
//! use fornax::nn::{Context, ModelOptions, Module, create_model, named_parameters};
//!
//! # fn main() -> fornax::Result<()> {
//! let model = create_model("resnet18", &ModelOptions { num_classes: 10, ..ModelOptions::default() })?;
//! let images = Tensor::zeros([4, 64, 64, 3], DType::F32, &Device::Cpu)?; // [n, h, w, c]
//! let targets = Tensor::from_slice(&[0i64, 1, 2, 3], [4])?;
//! let logits = model.forward(&images, &mut Context::train())?;
//! logits.cross_entropy(&targets, 0.1)?.backward()?;
//! assert!(named_parameters(&*model).iter().all(|(_, parameter)| parameter.grad().is_some()));
//! # Ok(()) }
//! ```
#![forbid(unsafe_code)]
// A closed stderr must not end a run: `message!` instead.
#![cfg_attr(not(test), warn(clippy::print_stderr))]

#[macro_use]
mod message;

pub mod augment;
pub mod batch_size_finder;
pub mod callbacks;
pub mod checkpoint;
pub mod cli;
pub mod config;
pub mod data;
pub mod device;
pub mod distributed;
pub mod ema;
pub mod error;
pub mod experiment;
pub mod hub;
pub mod loader;
pub mod lr_finder;
mod nearest;
pub mod optim;
pub mod report;
pub(crate) mod run_files;
pub mod schedule;
pub mod settings;
pub mod short_run;
mod text;
pub mod train_step;
pub mod trainer;
pub mod weights;

/// What a program with tensors and models of its own needs.
///
/// ```
/// use fornax::prelude::*;
///
/// # fn main() -> fornax::Result<()> {
/// let x = Tensor::randn([2, 3], DType::F32, &Device::Cpu, 0)?;
/// println!("{}", ((&x * 2.0)? + 1.0)?.i((.., -1))?);
/// # Ok(()) }
/// ```
pub mod prelude {
    pub use fornax_engine::{Activation, DType, Device, Tensor, no_grad};
    pub use fornax_nn::{Context, ModelOptions, Module, Visitor, create_model, named_parameters};
}

pub use error::{Error, Result};
pub use fornax_engine as engine;
pub use fornax_engine::op::{CustomOp, Kernel};
#[cfg(feature = "testing")]
pub use fornax_engine::testing;
pub use fornax_nn as nn;

/// The README's examples, compiled and run as documentation tests.
#[cfg(doctest)]
#[doc = include_str!("../../README.md")]
pub struct Readme;

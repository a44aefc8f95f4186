//! Layers, losses, initialisation, state dicts and the model zoo of Fornax.
//!
//! A module is a plain struct. Its [`Module::visit`] registers parameters, buffers and children under timm's names.
#![forbid(unsafe_code)]

pub mod capture;
mod context;
mod error;
pub mod init;
pub mod layers;
pub mod loss;
pub mod models;
mod module;
pub mod precision;
pub mod state_dict;

pub use context::Context;
pub use error::{Error, Result};
pub use models::{Model, ModelOptions, create_model};
pub use module::{
    Module, StateEntry, StateKind, StateLayout, Visitor, increment_num_batches_tracked, layer_names, move_to,
    named_buffers, named_parameters, state_entries,
};
pub use precision::{OptLevel, Precision};

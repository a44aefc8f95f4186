//! Layers, initialisation, state dicts and the model zoo of Fornax.
//!
//! A module is a plain struct whose [`Module::visit`] names its parameters and buffers as timm does.
#![forbid(unsafe_code)]

mod context;
mod error;
pub mod init;
pub mod layers;
pub mod loss;
pub mod models;
mod module;
pub mod observe;
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

//! The golden folder: reference values made with PyTorch and timm, read from `<topic>.json` and `<topic>.safetensors`.
//!
//! A topic is implemented by a function that runs every case of its file; an unknown case or operation is a failure. `TOPICS` lists all
//! topics.
mod checkpoint_files;
mod compare;
mod ema;
mod file;
pub mod formula;
mod grad_clip;
mod images;
pub mod loss_scale;
pub mod mixup_modes;
mod model_state_dicts;
mod models;
mod ops_activation;
mod ops_basic;
mod ops_conv;
mod ops_loss;
mod ops_norm;
mod ops_pool;
mod ops_regularizer;
mod optim_adahessian;
mod optim_param_groups;
pub mod optim_trajectories;
mod replica_norm;
mod run;
mod schedulers;
mod training_trajectory;

pub use compare::Mismatch;
pub use file::{GoldenCase, StoredTensor, Topic, folder};

/// Result of a topic's check: the number of cases that passed, or a description of every failure.
pub type Outcome = Result<usize, String>;

/// Name of a topic and the function that checks it; `None` if it is not implemented yet.
pub type TopicCheck = (&'static str, Option<fn(&Topic) -> Outcome>);

/// All topics of the golden folder.
pub const TOPICS: &[TopicCheck] = &[
    ("checkpoint_files", Some(checkpoint_files::check)),
    ("ema", Some(ema::check)),
    ("grad_clip", Some(grad_clip::check)),
    ("images", Some(images::check)),
    ("mixup_modes", Some(mixup_modes::check)),
    ("model_state_dicts", Some(model_state_dicts::check)),
    ("models", Some(models::check)),
    ("ops_activation", Some(ops_activation::check)),
    ("ops_basic", Some(ops_basic::check)),
    ("ops_conv", Some(ops_conv::check)),
    ("ops_loss", Some(ops_loss::check)),
    ("ops_norm", Some(ops_norm::check)),
    ("ops_pool", Some(ops_pool::check)),
    ("ops_regularizer", Some(ops_regularizer::check)),
    ("optim_adahessian", Some(optim_adahessian::check)),
    ("optim_param_groups", Some(optim_param_groups::check)),
    ("optim_trajectories", Some(optim_trajectories::check)),
    ("replica_norm", Some(replica_norm::check)),
    ("schedulers", Some(schedulers::check)),
    ("training_trajectory", Some(training_trajectory::check)),
];

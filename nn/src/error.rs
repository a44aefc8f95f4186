//! What can go wrong when a model is named, built, loaded or saved.

/// The result of a fallible call of this crate.
pub type Result<T> = std::result::Result<T, Error>;

/// An error of this crate.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// An operation failed.
    #[error(transparent)]
    Engine(#[from] fornax_engine::Error),
    /// No model of this name.
    #[error("there is no model {name:?}; {hint}")]
    UnknownModel {
        /// The name asked for.
        name: String,
        /// The nearest names, or where to see all.
        hint: String,
    },
    /// An option that the model does not have, or that has no such value.
    #[error("the model does not take {option}: {why}")]
    ModelOption {
        /// The option and its value.
        option: String,
        /// What is possible.
        why: String,
    },
    /// The weights do not belong to the model.
    #[error("the weights do not fit the model: {}", .problems.join("; "))]
    StateDict {
        /// Every missing, unexpected or misshapen name.
        problems: Vec<String>,
    },
    /// Bytes that are not a readable safetensors file.
    #[error("not a readable safetensors file: {0}")]
    Safetensors(String),
}

//! Errors of creating, loading and saving models.

/// Result of this crate.
pub type Result<T> = std::result::Result<T, Error>;

/// Error of this crate.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// An operation failed.
    #[error(transparent)]
    Engine(#[from] fornax_engine::Error),
    /// Unknown model name.
    #[error("unknown model {name:?}; {hint}")]
    UnknownModel {
        /// The requested name.
        name: String,
        /// The nearest name, and the list of models.
        hint: String,
    },
    /// Option that the model does not support, or invalid value.
    #[error("invalid model option {option}: {why}")]
    ModelOption {
        /// The option and its value.
        option: String,
        /// The reason, and the values that are accepted.
        why: String,
    },
    /// Mismatch between the weights and the model.
    #[error("the weights do not fit the model: {}", .problems.join("; "))]
    StateDict {
        /// Every missing or unexpected name, and every wrong shape or dtype.
        problems: Vec<String>,
    },
    /// Invalid safetensors file.
    #[error("invalid safetensors file: {0}")]
    Safetensors(String),
}

//! Launchers of elementwise operations.
pub(crate) mod activation;
pub(crate) mod binary;
pub(crate) mod compare;
pub(crate) mod unary;

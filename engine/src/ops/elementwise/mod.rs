//! Elementwise operations.
mod activation;
mod binary;
mod unary;

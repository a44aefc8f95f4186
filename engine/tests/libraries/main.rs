//! cuBLASLt and cuDNN, as the engine calls them, against plain loops.
mod blas;
mod device;
mod dnn;
mod fused;
mod numbers;
mod refusals;

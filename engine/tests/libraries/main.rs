//! cuBLASLt and cuDNN, as the engine calls them, against plain loops.
mod cublaslt;
mod cudnn;
mod cudnn_errors;
mod cudnn_fused;
mod device;
mod numbers;

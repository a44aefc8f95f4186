//! Scalar functions, each declared once: [`table`] has a row for each primitive function (values, CUDA text, gradient) and for each
//! function made of them (value, and the derivative of activations). Tensor operations, activations, fused expressions and the CUDA
//! kernels of `kernels/cu/{activation,unary,binary}.cu` follow from the rows.
pub(crate) mod activation;
pub mod elementary;
pub(crate) mod function;
pub(crate) mod power;
mod primitive;
pub(crate) mod table;

pub use activation::Activation;
pub use elementary::Elementary;
pub use primitive::{Binary, Precision, Scalar, Unary};
pub(crate) use table::{activation_rows, binary_rows, unary_rows};

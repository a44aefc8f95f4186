//! Linear layers on the CPU.
mod bias_act;
mod matmul;

pub(super) use bias_act::{add_bias, add_bias_activate};
pub(super) use matmul::{CONV_MIN_MACS, matmul};

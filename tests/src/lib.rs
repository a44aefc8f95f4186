//! What the whole-system tests share: the golden files and the one table of cases.
pub mod cases;
pub mod golden;
pub mod parity;
pub mod second_order;

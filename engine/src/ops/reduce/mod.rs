//! Operations that reduce or reorder elements along axes.
mod axis;
pub(crate) mod cpu;
pub(crate) mod cuda;
mod extrema;
mod gather;
mod lines;
mod scan;
mod softmax;
mod statistics;
mod sum;

pub(crate) use lines::Lines;
pub(super) use scan::identity;

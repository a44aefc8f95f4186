//! Launchers of pooling.
pub(crate) mod adaptive;
mod window;

pub(crate) use window::{avg_backward, avg_forward, geometry, max_backward, max_forward, pick_maxima};

//! Streams: events, captures and their replay, communication, times of kernels.
pub(crate) mod capture_lock;
pub(crate) mod communication;
pub(crate) mod graph;
pub(crate) mod interval;
pub(crate) mod profile;
pub(crate) mod stream_event;
pub(crate) mod timing_event;

//! Operations on images on the CPU.
mod resample;

pub(crate) use resample::resample;

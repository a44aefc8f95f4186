//! Largest batch size that fits: `--batch-size auto`.
//!
//! The memory of a training step grows linearly with the batch size, so its peak is measured in updates of two small batches. The result is
//! the largest power of two whose predicted peak is within 90% of the memory of a CUDA device, or within half of the available memory of
//! the host; on the CPU at most 256, as larger batches do not compute faster there. It is at most the number of training images.
use crate::config::Config;
use crate::error::ErrorKind;
use crate::experiment::Experiment;
use crate::report::{MemoryMetrics, available_memory};
use crate::settings::Settings;
use crate::short_run::train_updates;
use crate::{Error, Result};
use fornax_engine::{Device, cuda};
use std::cell::Cell;

/// Batch sizes of the measurement.
const MEASURED: [u32; 2] = [2, 8];
/// Largest batch size on the CPU.
const MAX_ON_CPU: u32 = 256;
/// Learning rate of the measured updates; their model is dropped.
const LR: f64 = 1e-9;

/// Batch size that fits, and its memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FittingBatchSize {
    /// The batch size.
    pub batch_size: u32,
    /// Predicted peak of the memory of tensors, in bytes.
    pub memory: u64,
    /// Limit of the memory, in bytes.
    pub limit: u64,
}

/// Finds the largest batch size of a run that fits.
pub fn find_batch_size(settings: &Settings, device: Device) -> Result<FittingBatchSize> {
    let images = Cell::new(usize::MAX);
    let measure = |batch_size: u32| -> Result<u64> {
        let settings = Settings { batch_size: Some(batch_size), ..settings.clone() };
        let mut experiment = Experiment::new(Config::resolve(&settings)?);
        experiment.device = device;
        train_updates(&mut experiment, |update| (update < 2).then_some(LR), |_, _| true)?;
        images.set(experiment.build_data()?.splits.train.len());
        Ok(MemoryMetrics::of(device).peak_allocated as u64)
    };
    let peaks = [measure(MEASURED[0])?, measure(MEASURED[1])?];
    let limit = limit(device)?;
    let most = if device == Device::Cpu { MAX_ON_CPU } else { u32::MAX };
    let mut found = fitting(peaks, limit, most.min(u32::try_from(images.get()).unwrap_or(u32::MAX)))?;
    // The libraries' workspaces are not proportional to the batch: on a GPU the prediction is tried.
    while device != Device::Cpu && found.batch_size > MEASURED[1] {
        match measure(found.batch_size) {
            Ok(memory) => {
                found.memory = memory;
                break;
            }
            Err(error) if error.kind() == ErrorKind::Memory => found.batch_size /= 2,
            Err(error) => return Err(error),
        }
    }
    Ok(found)
}

/// Memory that a run may use.
fn limit(device: Device) -> Result<u64> {
    let Device::Cuda(ordinal) = device else { return Ok(available_memory() / 2) };
    let devices = cuda::devices().map_err(|why| Error::new(ErrorKind::Device, why))?;
    Ok(devices.get(ordinal).map_or(0, |device| device.memory as u64 / 10 * 9))
}

/// The largest power of two, at most `most`, whose predicted peak is within the limit.
fn fitting(peaks: [u64; 2], limit: u64, most: u32) -> Result<FittingBatchSize> {
    let per_image = peaks[1].saturating_sub(peaks[0]) / u64::from(MEASURED[1] - MEASURED[0]);
    let constant = peaks[0].saturating_sub(per_image * u64::from(MEASURED[0]));
    let predicted = |batch_size: u32| constant + per_image * u64::from(batch_size);
    let sizes = (1..31).map(|power| 1u32 << power).take_while(|size| *size <= most);
    match sizes.filter(|size| predicted(*size) <= limit).last() {
        Some(batch_size) => Ok(FittingBatchSize { batch_size, memory: predicted(batch_size), limit }),
        None => Err(Error::new(ErrorKind::Memory, "no batch size fits")
            .at("--batch-size auto")
            .because(format!("a batch of 2 images takes {} bytes, and {limit} may be used", predicted(2)))
            .remedy("choose a smaller --model or --img-size, or add --grad-checkpointing or --amp")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn largest_power_of_two_within_the_limit_is_found() {
        // 100 bytes and 10 per image.
        let peaks = [120, 180];
        let size = |limit, most| fitting(peaks, limit, most).map(|found| (found.batch_size, found.memory));
        assert_eq!(size(740, 1000).expect("fits"), (64, 740));
        assert_eq!(size(739, 1000).expect("fits"), (32, 420));
        assert_eq!(size(1 << 40, 1000).expect("fits"), (512, 5220));
        assert_eq!(size(1 << 40, 512).expect("fits"), (512, 5220));
        let error = size(119, 1000).expect_err("too large");
        assert_eq!(error.kind(), ErrorKind::Memory);
        assert!(size(1 << 40, 1).is_err());
    }
}

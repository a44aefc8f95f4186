//! Launches of a training step: the time of each on a device, or the bytes that it moves, counted by the emulated device.
use super::StepRow;
use fornax::train_step::CudaGraphMode;
use fornax_engine::Device;
use fornax_engine::cuda::{DeviceInterval, KernelProfile, StreamKind};
use fornax_kernels::emulator;
use fornax_tests::model_step::ModelStep;

/// Launch of a kernel or library call.
pub struct Launch {
    /// Name.
    pub name: String,
    /// Seconds by events around it.
    pub seconds: f64,
    /// Bytes of device memory that it reads and writes, if they were counted.
    pub bytes: Option<u64>,
}

/// Launches of the compute stream in one eager step, in order. The first steps compile kernels and plan convolutions.
pub fn timed_launches(row: &StepRow, device: &Device) -> Result<Vec<Launch>, fornax::Error> {
    let (mut step, batch) = row.create(CudaGraphMode::Never, device)?;
    for _ in 0..2 {
        step.run(&batch)?;
    }
    let profile = KernelProfile::start(device)?;
    step.run(&batch)?;
    Ok(compute_launches(profile.finish_timeline()?))
}

/// Side of the images of counted steps; all stages of the network divide it.
const COUNTED_SIDE: usize = 64;

/// Launches of one eager step of a row with the bytes that each moves, from the counts of steps with one and with two small images: bytes per
/// image grow with the number of pixels, the others are of parameters. The device is the emulated one.
pub fn counted_launches(row: &StepRow, device: &Device) -> Result<Vec<Launch>, Box<dyn std::error::Error>> {
    emulator::set_counted(true)?;
    let (mut step, _) =
        StepRow { images: 1, side: COUNTED_SIDE, ..*row }.create(CudaGraphMode::Never, device)?;
    let [one, two] = [counted_step(&mut step, 1, device)?, counted_step(&mut step, 2, device)?];
    if one.len() != two.len() || one.iter().zip(&two).any(|(a, b)| a.name != b.name) {
        return Err(format!(
            "a step with one image has other launches than one with two: {}, {}",
            one.len(),
            two.len()
        )
        .into());
    }
    let scale = row.images as f64 * (row.side * row.side) as f64 / (COUNTED_SIDE * COUNTED_SIDE) as f64;
    let scaled = |(one, two): (Launch, Launch)| {
        let (a, b) = (one.bytes.unwrap_or(0) as f64, two.bytes.unwrap_or(0) as f64);
        let bytes = (2.0 * a - b).max(0.0) + (b - a).max(0.0) * scale;
        Launch { bytes: Some(bytes as u64), ..one }
    };
    Ok(one.into_iter().zip(two).map(scaled).collect())
}

fn counted_step(step: &mut ModelStep, images: usize, device: &Device) -> Result<Vec<Launch>, fornax::Error> {
    let batch = step.batch(images, COUNTED_SIDE)?;
    step.run(&batch)?;
    let profile = KernelProfile::start(device)?;
    step.run(&batch)?;
    Ok(compute_launches(profile.finish_timeline()?))
}

fn compute_launches(timeline: Vec<DeviceInterval>) -> Vec<Launch> {
    let compute = timeline.into_iter().filter(|interval| interval.stream == StreamKind::Compute);
    compute.map(|DeviceInterval { name, seconds, bytes, .. }| Launch { name, seconds, bytes }).collect()
}

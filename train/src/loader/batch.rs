//! Batches of images and targets.
use crate::Result;
use fornax_engine::{Device, Tensor};

/// A batch of images and targets.
#[derive(Clone, Debug)]
pub struct Batch {
    /// Images `[images, h, w, c]`: u8, prepared later on the device, or floats that are already prepared. Training batches hold all samples
    /// of the first augmentation split first; evaluation batches hold all views of the first sample first. The frames of a clip are
    /// consecutive.
    pub images: Tensor,
    /// Targets: class indices, i64 `[n]`, or class probabilities, f32 `[n, classes]`.
    pub target: Tensor,
    /// Mixing and erasing of u8 images, encoded by [`fornax_engine::ImageChange::rows`]; `None` if they are only normalised.
    pub changes: Option<Tensor>,
    /// Number of consecutive outputs of the model that are averaged to one prediction: the frames of a clip, and in evaluation the views
    /// of test-time augmentation.
    pub outputs_per_target: usize,
    /// Row of each image in the batch of all ranks, i64 `[images]`, for random masks; `None`: this is the whole batch.
    pub global_rows: Option<Tensor>,
    /// Dataset indices of this rank's samples of the batch that were skipped as bad images.
    pub skipped: Vec<u32>,
}

impl Batch {
    /// Creates a batch with one image per target and without changes.
    pub fn new(images: Tensor, target: Tensor) -> Batch {
        Batch { images, target, changes: None, outputs_per_target: 1, global_rows: None, skipped: vec![] }
    }

    /// The same batch on a device.
    pub fn to_device(&self, device: &Device) -> Result<Batch> {
        self.map(|tensor| Ok(tensor.to_device(device)?))
    }

    /// Averages the model's outputs `[n * outputs_per_target, classes]` to predictions `[n, classes]`.
    pub fn predictions(&self, outputs: &Tensor) -> fornax_engine::Result<Tensor> {
        match (self.outputs_per_target, outputs.dims()) {
            (1, _) => Ok(outputs.clone()),
            (count, &[rows, classes]) => outputs.reshape([rows / count, count, classes])?.mean(&[1], false),
            _ => Err(fornax_engine::Error::shape(
                "predictions",
                &[("outputs", outputs)],
                "outputs must be [rows, classes]",
            )),
        }
    }

    /// The batch with each tensor replaced.
    pub(crate) fn map(&self, change: impl Fn(&Tensor) -> Result<Tensor>) -> Result<Batch> {
        Ok(Batch {
            images: change(&self.images)?,
            target: change(&self.target)?,
            changes: self.changes.as_ref().map(&change).transpose()?,
            outputs_per_target: self.outputs_per_target,
            global_rows: self.global_rows.as_ref().map(&change).transpose()?,
            skipped: self.skipped.clone(),
        })
    }
}

//! Staging of batches on a device: each batch is uploaded on the copy stream while the steps before it compute.
use super::{Batch, EpochBatches};
use crate::Result;
use fornax_engine::cuda::{self, PendingUpload};
use fornax_engine::{Device, Tensor};
use std::collections::VecDeque;

/// Batches uploaded ahead of the one that is taken.
const STAGED_AHEAD: usize = 2;

/// Batches of an epoch on a device, in order. On a CUDA device up to two batches are uploaded ahead, from page-locked memory and on the copy
/// stream; a step that is captured as a CUDA graph copies them on the device into its static inputs, which costs little and leaves one
/// graph for any number of staged batches.
pub struct StagedBatches<'a> {
    batches: EpochBatches,
    device: Device,
    prepare: Box<dyn Fn(Batch) -> Result<Batch> + 'a>,
    staged: VecDeque<StagedBatch>,
}

/// Batch whose tensors are being uploaded.
struct StagedBatch {
    images: PendingUpload,
    target: PendingUpload,
    changes: Option<PendingUpload>,
    global_rows: Option<PendingUpload>,
    outputs_per_target: usize,
    skipped: Vec<u32>,
}

impl<'a> StagedBatches<'a> {
    pub(super) fn new(
        batches: EpochBatches,
        device: Device,
        prepare: Box<dyn Fn(Batch) -> Result<Batch> + 'a>,
    ) -> StagedBatches<'a> {
        StagedBatches { batches, device, prepare, staged: VecDeque::new() }
    }

    /// Waits for the next batch, like [`EpochBatches::next_batch`], and makes the device wait for its upload.
    pub fn next_batch(&mut self, check_interrupt: &dyn Fn() -> Result<()>) -> Option<Result<Batch>> {
        if self.device == Device::Cpu {
            let batch = self.batches.next_batch(check_interrupt)?;
            return Some(batch.and_then(&self.prepare));
        }
        self.next_staged(check_interrupt).transpose()
    }

    fn next_staged(&mut self, check_interrupt: &dyn Fn() -> Result<()>) -> Result<Option<Batch>> {
        while self.staged.is_empty() || (self.staged.len() <= STAGED_AHEAD && self.batches.is_ready()) {
            match self.batches.next_batch(check_interrupt) {
                Some(batch) => {
                    let batch = (self.prepare)(batch?)?;
                    self.staged.push_back(StagedBatch::upload(&batch, &self.device)?);
                }
                None => break,
            }
        }
        self.staged.pop_front().map(StagedBatch::into_batch).transpose()
    }
}

impl StagedBatch {
    fn upload(batch: &Batch, device: &Device) -> Result<StagedBatch> {
        let upload = |tensor: &Tensor| cuda::upload(tensor, device);
        Ok(StagedBatch {
            images: upload(&batch.images)?,
            target: upload(&batch.target)?,
            changes: batch.changes.as_ref().map(upload).transpose()?,
            global_rows: batch.global_rows.as_ref().map(upload).transpose()?,
            outputs_per_target: batch.outputs_per_target,
            skipped: batch.skipped.clone(),
        })
    }

    fn into_batch(self) -> Result<Batch> {
        Ok(Batch {
            images: self.images.into_tensor()?,
            target: self.target.into_tensor()?,
            changes: self.changes.map(PendingUpload::into_tensor).transpose()?,
            global_rows: self.global_rows.map(PendingUpload::into_tensor).transpose()?,
            outputs_per_target: self.outputs_per_target,
            skipped: self.skipped,
        })
    }
}

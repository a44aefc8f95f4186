//! Tables that kernels read, uploaded at their first use.
use crate::DType;
use crate::cuda::{DeviceBuffer, Gpu, Result};
use std::collections::HashMap;
use std::sync::{Arc, Mutex};

/// Uploaded tables, by content. They stay on the device.
#[derive(Default)]
pub(in crate::cuda) struct ConstantTables(Mutex<HashMap<Vec<u32>, Arc<DeviceBuffer>>>);

impl Gpu {
    /// These words on the device. Their first use must be outside of the capture of a CUDA graph, which cannot record an upload.
    pub(crate) fn constant_table(self: &Arc<Gpu>, words: &[u32]) -> Result<Arc<DeviceBuffer>> {
        let mut tables = self.constant_tables.0.lock().unwrap_or_else(|e| e.into_inner());
        if let Some(table) = tables.get(words) {
            return Ok(table.clone());
        }
        let table = Arc::new(self.empty(words.len(), DType::F32)?);
        self.upload(bytemuck::cast_slice(words), table.as_slice(DType::F32))?;
        if !self.is_capturing() {
            tables.insert(words.to_vec(), table.clone());
        }
        Ok(table)
    }
}

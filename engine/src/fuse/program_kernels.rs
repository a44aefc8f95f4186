//! A program with the kernels that were generated for it.
use super::cuda_source::GeneratedKernel;
use super::graph::Program;
use super::signature::KernelSignature;
use std::collections::HashMap;
use std::sync::{Arc, Mutex};

/// Program with the kernels generated for it.
pub(crate) struct ProgramKernels {
    pub(crate) program: Program,
    generated: Mutex<HashMap<KernelSignature, Arc<GeneratedKernel>>>,
}

impl ProgramKernels {
    pub(super) fn new(program: Program) -> ProgramKernels {
        ProgramKernels { program, generated: Mutex::default() }
    }

    /// Kernel for a signature, generated at the first request.
    pub(crate) fn generated(&self, signature: KernelSignature) -> Arc<GeneratedKernel> {
        let mut known = self.generated.lock().unwrap_or_else(|e| e.into_inner());
        if let Some(generated) = known.get(&signature) {
            return generated.clone();
        }
        let generated = Arc::new(GeneratedKernel::new(&self.program, &signature));
        known.insert(signature, generated.clone());
        generated
    }
}

//! CUDA kernels on the CPU: the text of a kernel, compiled by g++.
#[cfg(feature = "cuda")]
use fornax_kernels::{
    KernelSource,
    host::{HostKernel, HostLaunch},
};
#[cfg(feature = "cuda")]
use std::{
    collections::HashMap,
    sync::{Arc, Mutex},
};

/// Runs the kernel `name` of a source, a name and a text, with the given blocks and threads per block. A source is compiled once per key.
/// The error is the cause, with a remedy.
///
/// # Safety
/// The arguments are the bytes of the kernel's parameters. Pointers among them are valid for all accesses of the kernel, and nothing else
/// writes to that memory meanwhile.
#[cfg(feature = "cuda")]
pub(crate) unsafe fn run(
    key: &str,
    name: &str,
    (source_name, text): (&str, &str),
    [grid, block]: [[u32; 3]; 2],
    shared_bytes: u32,
    arguments: &[Vec<u8>],
) -> Result<(), String> {
    static LOADED: Mutex<Option<HashMap<String, Arc<HostKernel>>>> = Mutex::new(None);
    let kernel = {
        let mut loaded = LOADED.lock().unwrap_or_else(|e| e.into_inner());
        let loaded = loaded.get_or_insert_default();
        match loaded.get(key) {
            Some(kernel) => kernel.clone(),
            None => {
                let source = KernelSource { name: source_name, text };
                let kernel = Arc::new(HostKernel::load(source, name).map_err(|e| e.to_string())?);
                loaded.insert(key.to_string(), kernel.clone());
                kernel
            }
        }
    };
    let bytes: Vec<&[u8]> = arguments.iter().map(Vec::as_slice).collect();
    // SAFETY: the caller vouches for the arguments.
    unsafe { kernel.run(&HostLaunch { grid, block, shared_bytes }, &bytes) }.map_err(|e| e.to_string())
}

/// An error: the runtime of such kernels is part of the emulated device.
///
/// # Safety
/// None is needed.
#[cfg(not(feature = "cuda"))]
pub(crate) unsafe fn run(
    _: &str,
    _: &str,
    _: (&str, &str),
    _: [[u32; 3]; 2],
    _: u32,
    _: &[Vec<u8>],
) -> Result<(), String> {
    Err("CUDA text runs on the CPU in builds with the Cargo feature `cuda` only: enable it, or give the kernel a CPU function".into())
}

//! `fornax doctor`.
use super::{print, table};
use crate::Result;
use crate::report::{Machine, bytes};
use fornax_engine::conv_kernels::half::bf16_instructions;
use fornax_engine::{cuda, self_tests};
use fornax_kernels::cache;

pub fn execute() -> Result<()> {
    let machine = Machine::detect();
    let memory = if machine.memory > 0 { bytes(machine.memory) } else { "unknown".into() };
    let rows = [
        ("fornax", machine.fornax.to_string()),
        ("platform", machine.platform),
        ("CPU", machine.cpu),
        ("SIMD", format!("{} (widest level with kernels on this CPU)", machine.simd)),
        ("bf16", bf16_instructions().unwrap_or("computed in f32").to_string()),
        ("threads", format!("{} (set with --threads; results do not depend on it)", machine.threads)),
        ("memory", memory),
    ];
    let mut rows = rows.map(|(name, value)| vec![name.to_string(), value]).to_vec();
    for library in cuda::libraries() {
        let found = library.found.map_or_else(
            |why| format!("not usable: {why}"),
            |(version, path)| format!("{version}, loaded from {path}"),
        );
        rows.push(vec![library.name.into(), found]);
    }
    let (folder, count) = cache::compiled_kernels();
    let kernels = if count == 1 { "kernel image" } else { "kernel images" };
    rows.push(vec!["kernel cache".into(), format!("{count} compiled {kernels} in {}", folder.display())]);
    match cuda::devices() {
        Ok(devices) => {
            for (i, device) in devices.iter().enumerate() {
                let (major, minor) = device.capability;
                let memory = bytes(device.memory as u64);
                let what = format!(
                    "{}, compute capability {major}.{minor}, {} multiprocessors, {memory}",
                    device.name, device.multiprocessors
                );
                rows.push(vec![format!("cuda:{i}"), what]);
                rows.extend(self_tests(i).into_iter().map(|test| {
                    let result = test.result.unwrap_or_else(|why| format!("failed: {why}"));
                    vec![format!("cuda:{i} {}", test.name), result]
                }));
            }
        }
        Err(why) => rows.push(vec!["CUDA devices".into(), format!("none: {why}")]),
    }
    for kernel in fornax_kernels::cache::declared_kernels() {
        let what = format!("compiled for {}, {} in the cache", kernel.target, bytes(kernel.bytes));
        rows.push(vec![format!("kernel {}", kernel.name), what]);
    }
    print(&table(&rows, &[]))
}
